"""Circuits by their definition, reader by reader, each in a whole forward pass of one unpadded prompt with the stream written.

Every reader's input is the sum of what writers say, in this row where the edge is kept and in the source's run where it is not.
Nothing of the wave, of gaps or of projections is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from interp.circuits import Circuit
from interp.models import Model
from interp.models.taps import Write
from interp.sites import Site

EMBEDDED = Site("resid_pre", layer=0)


class ByHand:
    """One example.

    Args:
        zero: what is left out says 0 instead of what it says on the other prompt.
        split: tokens and positions are two writers.
    """

    def __init__(
        self, model: Model, base: Sequence[int], source: Sequence[int], *, zero: bool = False, split: bool = False
    ) -> None:
        self.model, self.roots = model, ("embed", "pos_embed") if split else ("embed",)
        tokens = model.encode([tuple(base), tuple(source)])
        self.inputs, theirs = model.inputs(tokens.take([0])), model.inputs(tokens.take([1]))
        self.layers = range(model.sizes["layer"])
        self.parallel = not model.has(Site("resid_mid", layer=0))
        own, other = self._said(self.inputs), self._said(theirs)
        self.rest = {layer: own[f"rest {layer}"] for layer in self.layers}
        self.other = {site: 0 * tensor if zero else tensor for site, tensor in other.items()}

    def logits(self, circuit: Circuit) -> Tensor:
        """The last logits of a circuit."""
        kept = {(repr(edge.sender), repr(edge.receiver)) for edge in circuit.edges}
        here = self._said(self.inputs)
        own = {name: here[name] for name in self.roots}

        def read(receiver: Site, before: Mapping[str, Tensor]) -> Tensor:
            rest = [self.rest[layer] for layer in self.layers if self._behind(receiver, layer)]
            said = [own[name] if (name, repr(receiver)) in kept else self.other[name] for name in before]
            return torch.stack([*said, *rest]).sum(0)

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
                own[repr(z.at(head=head))] = said
            out, reader = Site("mlp_out", layer=layer), Site("mlp_pre", layer=layer)
            if self.model.has(out):
                stream = read(reader, before if self.parallel else dict(own))
                at = Site("resid_pre" if self.parallel else "resid_mid", layer=layer)
                own[repr(out)] = self._run({at: stream}, [out])[out]
        last, logits = Site("resid_post", layer=self.layers[-1]), Site("logits")
        return self._run({last: read(logits, own)}, [logits])[logits][0, -1]

    def _behind(self, receiver: Site, layer: int) -> bool:
        """Whether a receiver reads what a layer's attention adds beside its heads."""
        beside = receiver.layer == layer and receiver.name == "mlp_pre" and not self.parallel
        return receiver.layer is None or receiver.layer > layer or beside

    def _said(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What every writer says, and what attention adds beside its heads."""
        names = [name for name in ("z", "attn_out", "mlp_out") if self.model.has(Site(name, layer=0))]
        embedded = [EMBEDDED] if len(self.roots) == 1 else [Site(name) for name in self.roots]
        sites = [*embedded, *(Site(name, layer=layer) for layer in self.layers for name in names)]
        found = self._run({}, sites, inputs=inputs)
        said = {name: found[site] for name, site in zip(self.roots, embedded, strict=True)}
        for layer in self.layers:
            heads = self._through(layer, found[Site("z", layer=layer)])
            said |= {f"L{layer}H{head}.z": tensor for head, tensor in enumerate(heads)}
            linear = self.model.module.get_submodule(self.model.anatomy.w_o[layer])
            with torch.no_grad():
                said[f"rest {layer}"] = linear(torch.zeros_like(found[Site("z", layer=layer)]).flatten(2))
            if "mlp_out" in names:
                said[f"L{layer}.mlp_out"] = found[Site("mlp_out", layer=layer)]
        return said

    def _through(self, layer: int, z: Tensor) -> list[Tensor]:
        """What each head adds to the stream: what its own z makes of the output map, less what nothing makes of it."""
        linear = self.model.module.get_submodule(self.model.anatomy.w_o[layer])
        found = []
        for head in range(z.shape[2]):
            alone = torch.zeros_like(z)
            alone[:, :, head] = z[:, :, head]
            with torch.no_grad():
                found.append(linear(alone.flatten(2)) - linear(torch.zeros_like(alone).flatten(2)))
        tap, path = self.model.taps(Site("attn_out", layer=layer)), self.model.anatomy.attention[layer]
        if not f"{tap.path}.".startswith(f"{path}."):  # an RMSNorm follows: by the same factors as the whole
            with torch.no_grad():
                whole = linear(z.flatten(2))
                factors = torch.where(whole == 0, 0.0, self.model.module.get_submodule(tap.path)(whole) / whole)
            found = [factors * alone for alone in found]
        return found

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
