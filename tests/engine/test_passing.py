"""Runs with something in force, read in passing: the numbers are those of whole forward passes, of which there are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sweeps
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st

from interp.engine import patch, pieces
from interp.engine.passing import Passing
from interp.engine.runs import Runs
from interp.engine.single.at_one import at_one
from interp.interventions import Activation, Add, Change, Constant, Intervention, Scale, zero
from interp.models import Model
from interp.sites import Site

SENT = ("embed", "resid_pre", "q", "k", "v", "z", "attn_out", "resid_mid", "mlp_pre", "mlp_post", "mlp_out", "resid_post")
WIDE = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
"""Sites as wide as the stream, any of which may be written where another was read."""
INSIDE = ("q", "k", "v", "z", "mlp_pre", "mlp_post")


def there(model: Model, name: str, layer: int) -> Site:
    """The site, or the stream before the block where a model does not have it; what is read has a run with it to read."""
    site = Site(name) if name == "embed" else Site(name, layer=layer)
    return site if model.has(site) else Site("resid_pre", layer=layer)


@st.composite
def changes(draw: Any) -> tuple[str, int, int, int]:
    return draw(st.tuples(st.sampled_from(SENT), st.integers(0, 2), st.integers(-4, -1), st.integers(0, 3)))


def sent(model: Model, one: tuple[str, int, int, int]) -> Change:
    name, layer, position, how = one
    site = there(model, name, layer)
    if how == 0:
        return Change(site, position)
    if how == 1:
        return Change(site, position, Constant(0.7), Add())
    return Change(site, position, edit=Scale(0.0)) if how == 2 else Change(site, source=Activation("base", pool="mean"))


@given(
    kind=st.sampled_from(["gpt2", "llama", "mistral", "neox", "zoo", "qwen3"]),
    seed=st.integers(0, 2**16),
    lengths=st.lists(st.integers(5, 8), min_size=1, max_size=4),
    patching=st.sampled_from(["noising", "denoising"]),
    senders=st.lists(st.lists(changes(), min_size=1, max_size=2), min_size=1, max_size=3),
    reads=st.lists(
        st.tuples(st.sampled_from((*WIDE, *INSIDE)), st.integers(0, 2), st.integers(-4, -1)), min_size=1, max_size=3
    ),
    before=st.none() | changes(),
    which=st.sampled_from(["base", "base", "source"]),
    room=st.sampled_from([1 << 30, 100_000]),
    piece=st.sampled_from([2, 4096]),
)
@settings(max_examples=40, deadline=None)
def test_what_is_read_in_passing_is_what_a_whole_run_holds(
    kind: str,
    seed: int,
    lengths: list[int],
    patching: Any,
    senders: list[list[tuple[str, int, int, int]]],
    reads: list[tuple[str, int, int]],
    before: tuple[str, int, int, int] | None,
    which: Any,
    room: int,
    piece: int,
) -> None:
    """Several senders, several sites read of each, on padded prompts, in shards or pieces; upstream of a sender too."""
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, lengths, early=bool(seed % 2))
    last = model.sizes["layer"] - 1
    asked = []
    for group in senders:
        source = Activation(which, given=Intervention(tuple(sent(model, one) for one in group), ordered=True))
        for name, layer, position in reads:
            site = there(model, name, layer)
            if site.name in WIDE:
                read = Activation(which, given=source.given, site=site.at(layer=None), layer=site.layer)
                asked.append(Change(Site("resid_post", layer=last), position, read))
            else:
                asked.append(Change(site, position, source))
    note(repr(asked))
    options: dict[str, Any] = {"patching": patching, "given": None if before is None else sent(model, before)}
    serial = patch(model, pairs, asked, ["logit_diff", "kl"], strategy="serial", **options)
    with pytest.MonkeyPatch.context() as limited:
        limited.setenv("INTERP_MEMORY_BYTES", str(room))
        limited.setitem(pieces.SIZE, "cpu", piece)
        found = patch(model, pairs, asked, ["logit_diff", "kl"], **options)
    size = float(abs(serial["value"]).max())
    np.testing.assert_allclose(found["value"], serial["value"], rtol=0, atol=3e-5 * (1 + size))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
def test_no_sender_takes_a_forward_pass(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of the base and of its partner alone are whole, however many paths there are, two stops deep."""
    model, pairs = sweeps.model(kind, torch.float64), sweeps.random_pairs(3, [7, 7])
    whole: list[int] = []
    run = Runs._batches
    monkeypatch.setattr(Runs, "_batches", lambda self, *rest: whole.append(1) or run(self, *rest))

    def paths(heads: int) -> list[Change]:
        first = [Activation("base", given=Change(f"L0H{head}.z", -1)) for head in range(heads)]
        second = [Activation("base", given=Change("L1.q", -1, source)) for source in first]
        return [Change("L2.mlp_out", -1, source) for source in second]

    many = []
    for heads in (1, 4):
        whole.clear()
        found = patch(model, pairs, paths(heads), patching="noising")
        many.append(len(whole))
        serial = patch(model, pairs, paths(heads), patching="noising", strategy="serial")
        np.testing.assert_allclose(found["value"], serial["value"], rtol=0, atol=1e-6)
    assert many[0] == many[1] == 2


def test_a_run_ends_where_nothing_more_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = sweeps.model("llama", torch.float64), sweeps.random_pairs(4, [7])
    ran: list[int] = []
    assert model.stack is not None
    run = type(model.stack).run
    monkeypatch.setattr(
        type(model.stack), "run", lambda self, layer, *rest, **more: ran.append(layer) or run(self, layer, *rest, **more)
    )
    source = Activation("base", given=Change("L0H1.z", -1))
    patch(model, pairs, Change("L2.mlp_out", -1, Activation("base", given=source.given, site="resid_mid", layer=1)))
    assert sorted(set(ran)) == [0, 1, 2]
    assert ran.count(0) == 1  # the sender's block; its patch joins behind the MLP of the last


@pytest.mark.parametrize(("kind", "lengths"), [("gpt2", [6, 6, 8]), ("llama", [7, 7])])
def test_runs_at_one_position_are_those_by_themselves(kind: str, lengths: list[int]) -> None:
    """The last norm's scale is read too; ablated are that scale, the embedding and attention among others."""
    model, prompts = sweeps.model(kind, torch.float64), sweeps.random_pairs(5, lengths)
    sites = [Site("resid_post", layer=2), Site("ln_final_scale"), Site("embed"), Site("z", layer=1), Site("resid_pre", layer=0)]
    ablations = [
        Intervention.of("L0H1.z", source=zero()),
        Intervention.of("L2.mlp_out", source=zero()),
        Intervention.of("L1.pattern@-1", source=zero()),
        Intervention.of("ln_final_scale", edit=Scale(2.0)),
        Intervention.of("embed@-2", edit=Scale(0.5)),
    ]
    with torch.no_grad(), model.prepared([Site("pattern", layer=1)], beside=True):
        asked = at_one(model, prompts)
        for intervention, run in zip(ablations, asked.under(ablations, sites), strict=True):
            alone = at_one(model, prompts, given=intervention)
            alone.want(sites)
            for site in sites:
                np.testing.assert_allclose(
                    run.read(site), alone.read(site), rtol=0, atol=1e-5, err_msg=f"{intervention} {site}"
                )


def test_what_is_not_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention inside, and gradients, take whole forward passes; the numbers are there all the same."""
    model, pairs = sweeps.model("llama", torch.float64), sweeps.random_pairs(6, [6])
    asked: list[int] = []
    of = Passing.of.__func__  # type: ignore[attr-defined]

    def counted(cls: Any, *rest: Any) -> Passing:
        found: Passing = of(cls, *rest)
        asked.append(len(found.begins))
        return found

    monkeypatch.setattr(Passing, "of", classmethod(counted))
    for inner in (Change("L0.pattern", -1, edit=Scale(0.0)), Change("L0.z", -1, edit=Scale(0.0))):
        patch(model, pairs, Change("L1.mlp_out", -1, Activation("base", given=inner)))
    assert asked == [0, 1]
