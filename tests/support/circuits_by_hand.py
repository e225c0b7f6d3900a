"""Circuits by their definition, reader by reader, each in a whole forward pass of one unpadded prompt with the stream written.

Every reader's input is the sum of what writers say, in this row where the edge is kept and in the source's run where it is not.
Nothing of the wave, of gaps or of projections is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from interp.circuits import At, Circuit, Coordinates, Graph, bare, node
from interp.models import Model
from interp.models.taps import Write
from interp.sites import Site

EMBEDDED = Site("resid_pre", layer=0)


class ByHand:
    """One example.

    Args:
        zero: what is left out says 0 instead of what it says on the other prompt.
        split: tokens and positions are two writers.
        graph: in which nodes are told apart, and ``columns``, those of each of its spans but the rest.
    """

    def __init__(
        self,
        model: Model,
        base: Sequence[int],
        source: Sequence[int],
        *,
        zero: bool = False,
        split: bool = False,
        graph: Graph | None = None,
        columns: Sequence[Sequence[int]] = (),
    ) -> None:
        self.model, self.roots = model, ("embed", "pos_embed") if split else ("embed",)
        self.coordinates = () if graph is None else graph.coordinates
        of_column = {column: number for number, some in enumerate(columns) for column in some}
        self.spans = [of_column.get(column, len(columns)) for column in range(len(base))]
        self.names = graph.spans if graph is not None and graph.spans else (None,)
        tokens = model.encode([tuple(base), tuple(source)])
        self.inputs, theirs = model.inputs(tokens.take([0])), model.inputs(tokens.take([1]))
        self.layers = range(model.sizes["layer"])
        self.parallel = not model.has(Site("resid_mid", layer=0))
        own, other = self._said(self.inputs), self._said(theirs)
        self.rest = {layer: own[f"rest {layer}"] for layer in self.layers}
        self.other = {site: 0 * tensor if zero else tensor for site, tensor in other.items()}

    def logits(self, circuit: Circuit) -> Tensor:
        """The last logits of a circuit."""
        kept = {
            (node(bare(edge.sender)), node(bare(edge.receiver)), edge.sender.span if isinstance(edge.sender, At) else None)
            for edge in circuit.edges
        }
        here = self._said(self.inputs)
        own = {name: said for name, said in here.items() if name.partition("[")[0] in self.roots}

        def read(receiver: Site, before: Mapping[str, Tensor]) -> Tensor:
            found = torch.stack(
                [self.rest[layer] for layer in self.layers if self._behind(receiver, layer)] or [0 * here["embed"]]
            )
            found = found.sum(0).clone()
            for name in before:
                for column, span in enumerate(self.spans):
                    said = own if (name, node(receiver), self.names[span]) in kept else self.other
                    found[:, column] += said[name][:, column]
            return found

        for layer in self.layers:
            before, seen = dict(own), dict[Site, Tensor]()
            for slot in "qkv":
                site = Site(slot, layer=layer)
                heads = [
                    self._run({Site("resid_pre", layer=layer): read(site.at(head=head), before)}, [site])[site][:, :, head]
                    for head in range(self.model.anatomy.size(site, "head"))
                ]
                seen[site] = torch.stack(heads, dim=2)
            z = Site("z", layer=layer)
            given = self._run({}, [z], seen)[z]
            for head, said in enumerate(self._through(layer, given)):
                own |= self._apart(z.at(head=head), said, given[:, :, head], given)
            out, reader = Site("mlp_out", layer=layer), Site("mlp_pre", layer=layer)
            if self.model.has(out):
                stream = read(reader, before if self.parallel else dict(own))
                at = Site("resid_pre" if self.parallel else "resid_mid", layer=layer)
                post = Site("mlp_post", layer=layer)
                made = self._run({at: stream}, [out, *([post] if self.model.has(post) else [])])
                own |= self._apart(out, made[out], made[out], made.get(post))
        last, logits = Site("resid_post", layer=self.layers[-1]), Site("logits")
        return self._run({last: read(logits, own)}, [logits])[logits][0, -1]

    def _behind(self, receiver: Site, layer: int) -> bool:
        """Whether a receiver reads what a layer's attention adds beside its heads."""
        beside = receiver.layer == layer and receiver.name == "mlp_pre" and not self.parallel
        return receiver.layer is None or receiver.layer > layer or beside

    def _said(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What every writer says, and what attention adds beside its heads."""
        names = [name for name in ("z", "attn_out", "mlp_out", "mlp_post") if self.model.has(Site(name, layer=0))]
        embedded = [EMBEDDED] if len(self.roots) == 1 else [Site(name) for name in self.roots]
        sites = [*embedded, *(Site(name, layer=layer) for layer in self.layers for name in names)]
        found = self._run({}, sites, inputs=inputs)
        said: dict[str, Tensor] = {}
        for name, site in zip(self.roots, embedded, strict=True):
            said |= self._apart(Site(name), found[site], found[site])
        for layer in self.layers:
            z = Site("z", layer=layer)
            for head, tensor in enumerate(self._through(layer, found[z])):
                said |= self._apart(z.at(head=head), tensor, found[z][:, :, head], found[z])
            linear = self.model.module.get_submodule(self.model.anatomy.w_o[layer])
            with torch.no_grad():
                said[f"rest {layer}"] = linear(torch.zeros_like(found[Site("z", layer=layer)]).flatten(2))
            if "mlp_out" in names:
                out, post = Site("mlp_out", layer=layer), Site("mlp_post", layer=layer)
                said |= self._apart(out, found[out], found[out], found.get(post))
        return said

    def _apart(self, writer: Site, added: Tensor, own: Tensor, whole: Tensor | None = None) -> dict[str, Tensor]:
        """What a writer adds, told apart: coordinate by coordinate through the writer's own output map.

        Args:
            own: what it says where its coordinates are seen, unless these are neurons.
            whole: of a head, z of all heads; of an MLP, its neurons.
        """
        found, rest = dict[str, Tensor](), added
        for one in (one for one in self.coordinates if one.writer == writer):
            found[node(one)] = part = self._part(one, own, whole)
            rest = rest - part
        return found | {node(writer): rest}

    def _part(self, one: Coordinates, own: Tensor, whole: Tensor | None) -> Tensor:
        seen = whole if one.site.name == "mlp_post" else own
        assert seen is not None
        if one.featurizer is None:
            alone = torch.zeros_like(seen)
            alone[..., list(one.features)] = seen[..., list(one.features)]
        else:  # a subspace
            basis = one.featurizer.basis[:, list(one.features)].to(seen)
            alone = seen @ basis @ basis.mT
        if one.site.name == "z":
            assert whole is not None
            return self._head_alone(one.site, alone, whole)
        if one.site.name != "mlp_post":
            return alone
        layer = one.layer or 0
        linear = self.model.module.get_submodule(self.model.anatomy.w_out[layer])
        with torch.no_grad():
            return self._shared(layer, "mlp", linear(seen), linear(alone) - linear(torch.zeros_like(alone)))

    def _head_alone(self, site: Site, z: Tensor, every: Tensor) -> Tensor:
        """What some of one head's z adds, beside what all heads say."""
        layer = site.layer or 0
        linear, alone = self.model.module.get_submodule(self.model.anatomy.w_o[layer]), torch.zeros_like(every)
        alone[:, :, site.head] = z
        with torch.no_grad():
            added = linear(alone.flatten(2)) - linear(torch.zeros_like(alone).flatten(2))
            return self._shared(layer, "attn", linear(every.flatten(2)), added)

    def _through(self, layer: int, z: Tensor) -> list[Tensor]:
        """What each head adds to the stream: what its own z makes of the output map, less what nothing makes of it."""
        self.model.module.get_submodule(self.model.anatomy.w_o[layer])
        return [self._head_alone(Site("z", layer=layer, head=head), z[:, :, head], z) for head in range(z.shape[2])]

    def _shared(self, layer: int, of: str, whole: Tensor, alone: Tensor) -> Tensor:
        """What of an output map's result reaches the stream: where an RMSNorm follows, by the same factors as the whole."""
        tap = self.model.taps(Site(f"{of}_out", layer=layer))
        path = (self.model.anatomy.attention if of == "attn" else self.model.anatomy.mlp)[layer]
        if f"{tap.path}.".startswith(f"{path}."):
            return alone
        return torch.where(whole == 0, 0.0, self.model.module.get_submodule(tap.path)(whole) / whole) * alone

    def _run(
        self,
        streams: Mapping[Site, Tensor],
        reads: Sequence[Site],
        more: Mapping[Site, Tensor] | None = None,
        inputs: Mapping[str, Tensor] | None = None,
    ) -> dict[Site, Tensor]:
        writes: dict[Site, Write] = {site: _instead(tensor) for site, tensor in (dict(streams) | dict(more or {})).items()}
        with torch.no_grad(), self.model.prepared():
            found = self.model.backend.run(dict(self.inputs if inputs is None else inputs), reads=reads, writes=writes)
        return {site: tensor.clone() for site, tensor in found.items()}


def _instead(tensor: Tensor) -> Write:
    return lambda h: tensor.to(h)
