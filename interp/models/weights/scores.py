"""What attention makes of queries and keys before its softmax: a form of both, measured on the model itself.

>>> form = score_forms(model, [3], distance=2)[3]                                             # doctest: +SKIP
>>> form.form.shape, form.scale, form.normed                 # head, d_q, d_k                 # doctest: +SKIP
(torch.Size([9, 64, 64]), None, '')

Of most models ``scores = q F kᵀ + c``, where ``c`` (a mask, an alibi, a learned position bias) knows nothing of q and k. F is
``scale · I``, or ``scale`` times the rotation of rotary position embeddings over the distance between query and key. F is not
written anew for every architecture: queries and keys are written into the model (unit vectors as keys, one a row), and F is the
derivative of the scores that come out. Then other queries and keys are written, and the form must predict their scores.

Where queries and keys are normed head by head, or all heads together (Qwen3, Gemma 3, OLMo 2), the form is of ``q / rms(q)``
and ``k / rms(k)``, with the norms' gains in it. A cap on the scores (Gemma 2) is monotone, and the form is of what it caps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from einops import einsum, repeat
from jaxtyping import Float
from torch import Tensor

from interp.errors import WeightsError
from interp.models.deviation import rounding
from interp.models.examples import BATCH, text_config
from interp.models.hooks import Hooks
from interp.models.model import Model
from interp.models.weights.projections import wide
from interp.sites import MAIN, Site

_LARGE = 2.0**10
"""Of queries and keys that are normed: the norm's epsilon is nothing beside it."""


class ScoreForm(NamedTuple):
    """Scores as a form of queries and keys."""

    form: Float[Tensor, "head d_q d_k"]
    scale: float | None
    """Where the form is this number times the identity; None where it is not."""
    normed: Literal["", "each head", "all heads"]
    """Whether the form is of queries and keys that are divided by their root mean square, and over what that is taken."""


def score_forms(model: Model, layers: Sequence[int], stream: str = MAIN, distance: int = 0) -> dict[int, ScoreForm]:
    """The form of some layers' scores, of a query ``distance`` positions behind its key.

    Raises:
        UnknownSiteError: a layer without queries, keys or scores that are known.
        WeightsError: scores that are no such form, or a distance that cannot be had.
    """
    if not isinstance(distance, int) or distance < 0:
        raise WeightsError(f"distance={distance!r}: how many positions the key is before the query, a whole number from 0")
    kinds: dict[tuple[int, ...], list[int]] = {}
    for layer in layers:
        kinds.setdefault(_sizes(model, layer, stream), []).append(layer)
    found: dict[int, ScoreForm] = {}
    for sizes, some in kinds.items():
        found |= _Trial(model, some, stream, sizes, distance).forms()
    return {layer: found[layer] for layer in layers}


def _sizes(model: Model, layer: int, stream: str) -> tuple[int, ...]:
    """Heads and width of queries, and of keys."""
    sites = [Site(name, layer=layer, stream=stream) for name in ("q", "k", "scores")]
    for site in sites:
        model.check(site)
    q, k = ((model.anatomy.size(site, "head"), model.anatomy.size(site, "d_head")) for site in sites[:2])
    return (*q, *k)


def _inputs(model: Model, stream: str, distance: int) -> tuple[Mapping[str, Tensor], tuple[int, int]]:
    """One example, and the positions of a query and a key so far apart."""
    example = {name: tensor.chunk(BATCH)[0] for name, tensor in model.example.items()}
    if not example:
        raise WeightsError(f"scores are measured in a forward pass, and nothing is known of what that of {model.name} takes")
    if any(times.calls * times.halves > 1 for times in model.anatomy.repeated.values()):
        raise WeightsError(f"one pass of {model.name} calls its attention several times; its scores are not measured")
    ids = example.get("input_ids")
    text = stream == MAIN and ids is not None and all(tensor.shape == ids.shape for tensor in example.values())
    if ids is not None and text and (distance == 0 or "position_ids" in model.arguments):
        count = min(2, distance + 1)
        placed = {name: tensor[:, :count] for name, tensor in example.items()}
        if distance:
            placed["position_ids"] = torch.tensor([[0, distance]], device=ids.device)
        return placed, (count - 1, 0)
    positions = model.anatomy.streams[stream].positions or 1
    if distance >= positions:
        raise WeightsError(
            f"distance={distance}: {model.name} takes no position_ids there, and the example on which its scores are measured "
            f"has {positions} positions"
        )
    return example, (distance, 0)


class _Trial:
    """One forward pass with queries and keys of our own in some layers of one kind."""

    def __init__(self, model: Model, layers: list[int], stream: str, sizes: tuple[int, ...], distance: int) -> None:
        self.model, self.layers, self.stream, self.distance = model, layers, stream, distance
        self.inputs, (self.i, self.j) = _inputs(model, stream, distance)
        self.heads, self.d_q, self.kv_heads, self.d_k = sizes
        draw = torch.Generator().manual_seed(0)
        self.q = torch.randn(2, self.heads, self.d_q, generator=draw).to(model.device, model.dtype)
        self.k = torch.randn(self.kv_heads, self.d_k, generator=draw).to(model.device, model.dtype)

    def forms(self) -> dict[int, ScoreForm]:
        zero = torch.zeros_like(self.q[0])
        found = self._plain(*self._run(zero))
        missing = [layer for layer in self.layers if layer not in found]
        if missing:
            self.layers = missing
            start = self.q[1] * _LARGE
            found |= self._normed(start, *self._run(start, _LARGE))
        return found

    def _run(self, start: Tensor, size: float = 1.0) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Scores of each layer ``[row, head]``, and their derivative with respect to the query ``[row, head, d_q]``.

        Row 0 has no query and no key; in the next ``d_k`` rows the query is ``start`` and the keys of all heads are one unit
        vector after another, ``size`` times; in the last row both are random.
        """
        rows = self.d_k + 2
        query = torch.zeros(rows, *start.shape, dtype=start.dtype, device=start.device)
        query[1:-1], query[-1] = start, self.q[0]
        key = torch.zeros(rows, self.kv_heads, self.d_k, dtype=start.dtype, device=start.device)
        key[1:-1] = repeat(size * torch.eye(self.d_k).to(key), "row d -> row kv d", kv=self.kv_heads)
        key[-1] = self.k
        sites = {layer: Site("scores", layer=layer, stream=self.stream) for layer in self.layers}
        queries = {layer: query.clone().requires_grad_() for layer in self.layers}
        writes: dict[Site, Any] = {}
        for layer, site in sites.items():
            writes |= {site.at(name="q"): partial(_everywhere, queries[layer]), site.at(name="k"): partial(_everywhere, key)}
        inputs = {name: torch.cat([tensor] * rows) for name, tensor in self.inputs.items()}
        with torch.enable_grad(), self.model.prepared(sites.values()):
            taps = {site: self.model.taps(site) for site in (*sites.values(), *writes)}
            hooks = Hooks(self.model.module, taps, sites.values(), writes)
            try:
                with hooks:
                    self.model.module(**self.model.accepted({**inputs, "logits_to_keep": 1}))
            except IndexError:  # a table of positions that ends before
                raise self._too_far() from None
            if any(self.i >= hooks.found[site].shape[2] for site in sites.values()):
                raise self._too_far()
            scores = {layer: hooks.found[site][:, :, self.i, self.j] for layer, site in sites.items()}
            total = torch.stack([tensor.sum() for tensor in scores.values()]).sum()
            slopes = torch.autograd.grad(total, list(queries.values()))
        return {n: t.detach() for n, t in scores.items()}, dict(zip(self.layers, slopes, strict=True))

    def _plain(self, scores: Mapping[int, Tensor], slopes: Mapping[int, Tensor]) -> dict[int, ScoreForm]:
        found = {}
        key = repeat(self.k, "kv d -> (kv group) d", group=self.heads // self.kv_heads)
        for layer in self.layers:
            form = wide(slopes[layer][1:-1]).permute(1, 2, 0)
            predicted = einsum(wide(self.q[0]), form, wide(key), "head q, head q k, head k -> head")
            if self._holds(scores[layer], predicted):
                found[layer] = ScoreForm(form, self._scale(form), "")
        return found

    def _normed(self, start: Tensor, scores: Mapping[int, Tensor], slopes: Mapping[int, Tensor]) -> dict[int, ScoreForm]:
        """Of queries and keys of one root mean square. What the derivative has lost, along the query, is the score itself."""
        found: dict[int, ScoreForm] = {}
        ways: tuple[tuple[Literal["each head", "all heads"], int], ...] = (("each head", -1), ("all heads", -2))
        for layer in self.layers:
            for over, axes in ways:

                def normed(x: Tensor, axes: int = axes) -> tuple[Tensor, Tensor]:
                    root = wide(x).square().mean(tuple(range(axes, 0)), keepdim=True).sqrt()
                    return wide(x) / root, root

                unit, root = normed(start)
                own = wide(scores[layer][1:-1] - scores[layer][:1])
                if over == "all heads":  # each query has its share in the scores of every head
                    own = repeat(own.sum(-1) / self.heads, "row -> row head", head=self.heads)
                along = repeat(own, "row head -> row head 1") * unit / start.shape[-1]
                by_key = wide(slopes[layer][1:-1]) * root + along  # the form times a unit vector of root mean square 1 / √d_k
                many = self.d_k  # of unit vectors in all key heads the mean square is 1 / d_k, over one head or over all
                form = by_key.permute(1, 2, 0) / many**0.5
                key = repeat(normed(self.k)[0], "kv d -> (kv group) d", group=self.heads // self.kv_heads)
                predicted = einsum(normed(self.q[0])[0], form, key, "head q, head q k, head k -> head")
                if self._holds(scores[layer], predicted):
                    found[layer] = ScoreForm(form, None, over)
                    break
            else:
                self._refuse(layer)
        return found

    def _holds(self, scores: Tensor, predicted: Tensor) -> bool:
        """Whether the form tells the scores of other queries and keys, under the model's own cap if it has one."""
        moved = wide(scores[-1]) - wide(scores[0])
        cap = getattr(text_config(getattr(self.model.module, "config", None)), "attn_logit_softcapping", None)
        for expected in (predicted, *([] if cap is None else [cap * torch.tanh(predicted / cap)])):
            if float((moved - expected).abs().max()) <= rounding(self.model.dtype) * (1 + float(moved.abs().max())):
                return True
        return False

    def _scale(self, form: Tensor) -> float | None:
        if self.d_q != self.d_k:
            return None
        scale = float(form.diagonal(dim1=-2, dim2=-1).mean())
        rest = form - scale * torch.eye(self.d_q).to(form)
        return scale if float(rest.abs().max()) <= 1e-5 * abs(scale) else None

    def _too_far(self) -> WeightsError:
        return WeightsError(f"distance={self.distance} is past the end of what {self.model.name} attends to in one pass")

    def _refuse(self, layer: int) -> None:
        path = self.model.anatomy.streams[self.stream].attention[layer]
        inside = self.model.module.get_submodule(path).named_modules()
        norms = [name for name, part in inside if name and "norm" in type(part).__name__.lower()]
        why = f"; {' and '.join(norms)} of {path} stand between" if norms else ""
        raise WeightsError(
            f"the scores of layer {layer} of {self.model.name} are no form of queries and keys, normed or not{why}: they have "
            "no QK circuit in the weights alone"
        )


def _everywhere(value: Float[Tensor, "row head width"], h: Tensor) -> Tensor:
    """The same at every position."""
    return repeat(value, "row head width -> row position head width", position=h.shape[1])
