"""What every backend must do as torch hooks do it: checks that compare a model with the same model under the default backend.

Deviations are fractions of what is allowed, 1e-5 × (1 + the largest number), so a check holds where none is above 1.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from interp.doctor import architectures
from interp.engine import attribute, patch
from interp.models import Model, load
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Site, grid

FAMILIES = ("gpt2", "llama", "gpt-neox", "mistral", "gemma2", "bloom")
LOGITS, VOCAB = Site("logits"), architectures.VOCAB


def network(family: str, seed: int) -> nn.Module:
    return architectures.build(family, seed)


def both(family: str, seed: int, backend: str) -> tuple[Model, Model]:
    """The reference on torch hooks, and the same weights under another backend."""
    made = network(family, seed)
    return load(copy.deepcopy(made), name=family), load(made, name=family, backend=backend)


@torch.no_grad()
def run(
    model: Model, reads: Collection[Site], writes: dict[Site, Callable[[Tensor], Tensor]] | None = None
) -> dict[Site, Tensor]:
    with model.prepared([*reads, *(writes or {})]):
        return model.backend.run(model.example, reads=reads, writes=writes or {})


IDS = torch.randint(1, VOCAB, (3, 6), generator=torch.Generator().manual_seed(5))


def fraction(got: Tensor, expected: Tensor) -> float:
    if got.shape != expected.shape:
        return float("inf")
    return float((got - expected).abs().max()) / (1e-5 * (1 + float(expected.abs().max())))


def shared(reference: Model, tested: Model) -> list[Site]:
    return [site for site in reference.sites() if tested.has(site)]


def reads(reference: Model, tested: Model) -> dict[str, float]:
    """Every common site of one pass, the largest fraction by component."""
    sites, worst = shared(reference, tested), {}
    with_mask = [site for site in sites if site.name.endswith("scores")]
    theirs = run(tested, sites)
    ours = _as(tested, reference, sites)
    for site in sites:
        one, other = theirs[site], ours[site]
        if site in with_mask:  # what the mask hides is −∞ in one program and the lowest number in another
            seen = ours[site.at(name=site.name.replace("scores", "pattern"))] > 0
            one, other = one.where(seen, 0), other.where(seen, 0)
        worst[site.name] = max(worst.get(site.name, 0.0), fraction(one, other))
    return worst


def _as(tested: Model, reference: Model, reads: Collection[Site], writes: Any = None) -> dict[Site, Tensor]:
    """The reference on the inputs that the tested model is run on, its attention eager as a bridge's always is."""
    with torch.no_grad(), reference.prepared(reference.sites()):
        return reference.backend.run(tested.example, reads=reads, writes=writes or {})


def writes(reference: Model, tested: Model, seed: int, every: bool = True) -> dict[str, float]:
    """The logits after random numbers at one site, for every common site or those of the last layer alone."""
    sites, worst = shared(reference, tested), {}
    base = _as(tested, reference, sites)
    last = max(site.layer for site in sites if site.layer is not None)
    for site in sites:
        if site == LOGITS or not (every or site.layer in (None, last)):
            continue
        drawn = torch.randn(base[site].shape, generator=torch.Generator().manual_seed(seed)).to(base[site])
        new = drawn.softmax(-1) if site.name.endswith("pattern") else base[site] + drawn
        change = {site: _constant(new)}
        found, expected = run(tested, [LOGITS], change)[LOGITS], _as(tested, reference, [LOGITS], change)[LOGITS]
        assert float((expected - base[LOGITS]).abs().max()) > 1e-3, f"nothing to see at {site!r}"
        worst[site.name] = max(worst.get(site.name, 0.0), fraction(found, expected))
    return worst


def _constant(new: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda h: new.to(h)


def own_values(tested: Model) -> float:
    """Every site given its own value, one at a time: the largest change of the logits, as a fraction."""
    sites = tested.sites()
    base = run(tested, sites)
    return max(fraction(run(tested, [LOGITS], {site: _constant(base[site])})[LOGITS], base[LOGITS]) for site in sites)


def pairs(seed: int) -> Pairs:
    draw = torch.Generator().manual_seed(seed)
    items = []
    for _ in range(3):
        clean, corrupted = torch.randint(1, VOCAB, (2, 6), generator=draw).tolist()
        corrupted[:2] = clean[:2]
        answer, wrong = torch.randperm(VOCAB, generator=draw)[:2].tolist()
        items.append(Pair(Prompt(tuple(clean)), Prompt(tuple(corrupted)), (answer,), (wrong,)))
    return Pairs(tuple(items), "random tokens")


SWEEPS: dict[str, dict[str, Any]] = {
    "resid_pre": {"position": [3, -1]},
    "resid_mid": {"position": -1},
    "blocks.{layer}.attn.hook_z": {"head": ..., "layer": 1},  # by TransformerLens' name
    "k": {"head": ...},
    "pattern": {"head": ...},
    "attn_out": {"position": [4]},
    "mlp_post": {"position": -1},
}


def sweeps(reference: Model, tested: Model, seed: int) -> dict[str, float]:
    """Sweeps of several components, in the metric."""
    found, prompts, largest = {}, pairs(seed), _largest(reference, seed)
    for name, axes in _there(tested):
        where = grid(name, **({"layer": ...} if "layer" not in axes else {}), **{a: v for a, v in axes.items() if a != "layer"})
        ours, theirs = (patch(model, prompts, where).value for model in (reference, tested))
        assert float(ours.max() - ours.min()) > 1e-2, f"nothing to see at {name}"
        found[name] = float(abs(ours - theirs).max()) / (1e-5 * (1 + largest))
    return found


def _there(tested: Model) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, axes in SWEEPS.items():
        if tested.has(Site.parse(name.format(layer=1)).at(layer=1)):
            yield name.format(**axes), axes


def _largest(reference: Model, seed: int) -> float:
    encoded = reference.encode(pairs(seed))
    with torch.no_grad(), reference.prepared():
        both = [reference.backend.run(reference.inputs(t), [LOGITS], {})[LOGITS] for t in (encoded.clean, encoded.corrupted)]
    return max(float(logits.abs().max()) for logits in both)


def gradients(reference: Model, tested: Model, seed: int) -> float:
    """Attribution by gradients: the largest deviation as a fraction."""
    where = grid("z", layer=..., head=...)
    ours, theirs = (attribute(model, pairs(seed), where).value for model in (reference, tested))
    assert float(abs(ours).max()) > 1e-2
    return float(abs(ours - theirs).max()) / (1e-5 * (1 + float(abs(ours).max())))


def wrong_shape(tested: Model) -> None:
    """A write of another shape; raises."""
    run(tested, [LOGITS], {Site("resid_post", layer=0): lambda h: h[:, :-1]})


class Twice(nn.Module):
    """A module that is called twice in one forward pass, and one that never is."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.again, self.idle = nn.Embedding(11, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.again(torch.tanh(self.again(self.embed(input_ids))))
