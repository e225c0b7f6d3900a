"""What nodes that are told apart add to the stream: coordinates of what a writer says, and what is left of it.

>>> apart = Apart(writers, graph)                                                          # doctest: +SKIP
>>> apart.of_heads(3, said, here, raw).shape           # example, position, sender, d_model       # doctest: +SKIP
torch.Size([64, 17, 13, 768])

Of a writer that says h, coordinates K say v(h) = F⁻¹(F(h) at K, 0 elsewhere) − F⁻¹(0), and the rest says h − Σ v(h): together
they say h. Where a norm stands between a writer and the stream, each has its share of what the norm gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from interp.circuits import Coordinates, Graph
from interp.engine.graph.writers import Writers
from interp.engine.runs import Runs
from interp.errors import EdgesError
from interp.models.decoding import form_of
from interp.models.deviation import rounding
from interp.models.maps import matrix
from interp.models.norms import bias_of
from interp.sites import Positions, Site


class Apart:
    """Coordinates of the writers of a graph.

    Args:
        graph: whose nodes are one at all tokens.
    """

    def __init__(self, writers: Writers, graph: Graph) -> None:
        self.writers, self.model, self.graph = writers, writers.model, graph
        self._checked = set[int]()

    def of(self, writer: Site) -> list[Coordinates]:
        """What is told apart of a writer."""
        return [one for one in self.graph.coordinates if one.writer == writer]

    def units(self, layer: int) -> list[Site]:
        """Where an MLP's neurons are seen, if any of them are told apart."""
        return list(dict.fromkeys(one.site for one in self.of(Site("mlp_out", layer=layer)) if one.site.name == "mlp_post"))

    def of_heads(
        self,
        layer: int,
        said: Float[Tensor, "*row position head d_head"],
        here: Float[Tensor, "*row position head d_head"],
        given: Float[Tensor, "*row position d_model"],
    ) -> Float[Tensor, "*row position sender d_model"]:
        """How much more each sender of a layer's heads adds with one z than with another; see :meth:`Writers.parted`."""
        own = [self.of(site) for site in self.graph.heads(layer)]
        if not any(own):
            return self.writers.parted(layer, said, here, given)
        of = [head for head, some in enumerate(own) for _ in range(len(some) + 1)]

        def each(z: Tensor) -> Tensor:
            return torch.cat([_values(some, z[..., head, :]) for head, some in enumerate(own)], dim=-2)

        return self.writers.parted(layer, each(said), each(here), given, of)

    def of_mlp(
        self, layer: int, said: Callable[[Site], Tensor], here: Callable[[Site], Tensor]
    ) -> Float[Tensor, "sender *row position d_model"]:
        """How much more each sender of a layer's MLP adds, by what is seen at its sites."""
        out = Site("mlp_out", layer=layer)
        own, whole = self.of(out), said(out) - here(out)
        if not own:
            return whole[None]
        site = own[0].site
        if site == out:
            new, old = (_values(own, of(out))[..., :-1, :] for of in (said, here))
            parts = new - old
        else:
            self._check(layer, here(site), here(out))
            parts = self._through(layer, own, said(site)) - self._through(layer, own, here(site))
        return torch.cat([parts, (whole - parts.sum(-2))[..., None, :]], dim=-2).movedim(-2, 0)

    def of_root(self, root: Site, said: Tensor, here: Tensor) -> Float[Tensor, "sender *row position d_model"]:
        """How much more each sender of an embedding adds."""
        own = self.of(root)
        return (_values(own, said) - _values(own, here)).movedim(-2, 0)

    # MLPs, of which neurons are told apart in front of their output map

    def _out(self, layer: int) -> tuple[Float[Tensor, "unit d_model"], Tensor | float]:
        linear = self.model.module.get_submodule(self.model.anatomy.w_out[layer])
        units = self.model.anatomy.size(Site("mlp_post", layer=layer), "unit")
        return matrix(linear, units, self.model), bias_of(linear)

    def _through(
        self, layer: int, own: Sequence[Coordinates], post: Float[Tensor, "*row position unit"]
    ) -> Float[Tensor, "*row position part d_model"]:
        """What coordinates of an MLP's neurons add to the stream."""
        weight, bias = self._out(layer)
        added = einsum(_values(own, post)[..., :-1, :], weight, "... part unit, unit m -> ... part m")
        if self._normed_behind(layer) is None:
            return added
        form, norm = form_of(self.model, Site("ln2_post_scale", layer=layer))
        scale = form.scale(post @ weight + bias)[..., None, None]
        return (form.centre(added) / scale * form.gain(norm)).to(post.dtype)

    def _normed_behind(self, layer: int) -> str | None:
        """The path of the norm through which an MLP reaches the stream; None where it reaches it as it is."""
        tap, path = self.model.anatomy.taps[Site("mlp_out", layer=layer)], self.model.anatomy.mlp[layer]
        return None if f"{tap.path}.".startswith(f"{path}.") else tap.path

    def _check(self, layer: int, post: Tensor, out: Tensor) -> None:
        """Raise unless an MLP adds what its output map makes of its neurons.

        Raises:
            EdgesError: something else stands between.
        """
        if layer in self._checked:
            return
        weight, bias = self._out(layer)
        raw, path = post @ weight + bias, self._normed_behind(layer)
        found = raw if path is None else self.model.module.get_submodule(path)(raw)
        missed, size = float((found - out).detach().abs().max()), 1 + float(out.detach().abs().max())
        if not missed <= 100 * rounding(self.model.dtype) * size:
            raise EdgesError(
                f"neurons of layer {layer} cannot be told apart: what its MLP adds is not its output map of its neurons, off "
                f"by {missed:.1e} (of {size:.1e})"
            )
        self._checked.add(layer)


def _values(own: Sequence[Coordinates], h: Float[Tensor, "*row width"]) -> Float[Tensor, "*row part width"]:
    """What coordinates say of what their writer says, and what is left."""
    found = []
    for one in own:
        coordinates = h if one.featurizer is None else one.featurizer.encode(h)
        kept = torch.zeros_like(coordinates)
        at = torch.tensor(one.features, device=h.device)
        kept[..., at] = coordinates[..., at]
        if one.featurizer is not None:
            kept = one.featurizer.decode(kept) - one.featurizer.decode(torch.zeros_like(kept[..., :1, :]))
        found.append(kept.to(h.dtype))
    return torch.stack([*found, h - sum(found) if found else h], dim=-2)


class Tokens:
    """The tokens of each span of a graph, in the base's columns.

    Raises:
        PositionError: a span that prompts do not have.
        EdgesError: two spans share a token.
    """

    def __init__(self, runs: Runs, graph: Graph) -> None:
        self.runs, self.names = runs, graph.spans

    @cached_property
    def masks(self) -> Bool[Tensor, "span example position"] | None:
        """None where nodes are one at all tokens."""
        if not self.names:
            return None
        tokens, found = self.runs.base, list[Tensor]()
        real = tokens.mask.bool()
        for name in self.names[:-1]:
            columns = tokens.columns(Positions.parse(name))
            spare = torch.zeros(len(real), real.shape[1] + 1, dtype=torch.bool, device=real.device)
            mask = spare.scatter(1, torch.where(columns >= 0, columns, real.shape[1]), True)[:, :-1]
            for other, earlier in zip(self.names, found, strict=False):
                if bool((both := (mask & earlier).any(-1)).any()):
                    raise EdgesError(f"spans {other!r} and {name!r} share a token of example {int(both.nonzero()[0])}")
            found.append(mask)
        rest = real & ~torch.stack(found).any(0)
        return torch.stack([*found, rest])
