"""Edges on a base that is changed already, or with parts held, each against whole forward passes (:mod:`edges_by_hand`).

Tolerance: 1e-5 × (1 + max |logit|) in float32, unless a test says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
from edges_by_hand import ByHand, Write, instead
from torch import Tensor
from transformers import Olmo2Config

from interp import effects, grid, load
from interp.engine import edited, patch, patch_edges
from interp.engine.graph.edges import LOGITS, Edge, edges
from interp.errors import EdgesError
from interp.interventions import Activation, Add, Change, Constant, Intervention, Scale
from interp.models import Model
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Site
from interp.store import Store


def at(where: Any, new: Callable[[Tensor], Tensor]) -> Write:
    """A write of a part of the tensor."""

    def write(h: Tensor) -> Tensor:
        h = h.clone()
        h[where] = new(h[where])
        return h

    return write


EVERY, LAST = slice(None), (slice(None), -1)
GIVEN: dict[str, tuple[Any, dict[str, Write]]] = {
    "head": (Change("L1H2.z", source=Constant(0.0)), {"L1.z": at((EVERY, EVERY, 2), torch.zeros_like)}),
    "stream": (
        [
            Change("L1.resid_pre", edit=Scale(0.5)),
            Change("L0.resid_post", -1, Constant(0.7), Add(1.0)),
            Change("L2.resid_mid", edit=Scale(2.0)),
        ],
        {"L1.resid_pre": lambda h: h / 2, "L0.resid_post": at(LAST, lambda h: h + 0.7), "L2.resid_mid": lambda h: 2 * h},
    ),
    "overwritten": (Change("L2.resid_pre", -1, source=Constant(0.3)), {"L2.resid_pre": at(LAST, lambda h: 0 * h + 0.3)}),
    "inputs": (
        [Change("L1.q", -1, edit=Scale(3.0)), Change("L2.k", -2, edit=Scale(-1.0)), Change("L2.v", edit=Scale(0.7))],
        {"L1.q": at(LAST, lambda h: 3 * h), "L2.k": at((EVERY, -2), torch.neg), "L2.v": lambda h: 0.7 * h},
    ),
    "added": (
        [
            Change("L1.attn_out", edit=Scale(0.5)),
            Change("L1.mlp_out", -1, edit=Scale(-1.0)),
            Change("L2.result", edit=Scale(0.3)),
        ],
        {"L1.attn_out": lambda h: h / 2, "L1.mlp_out": at(LAST, torch.neg), "L2.result": lambda h: 0.3 * h},
    ),
    "heads together": (
        [Change(f"L1.{name}", edit=lambda h, ctx: h.flip(ctx.axes.index("head"))) for name in ("q", "z")],
        {f"L1.{name}": lambda h: h.flip(2) for name in ("q", "z")},
    ),
    "tokens together": (
        Change("L2.resid_post", edit=lambda h, ctx: h + h.mean(1, keepdim=True)),
        {"L2.resid_post": lambda h: h + h.mean(1, keepdim=True)},
    ),
    "pattern": (Change("L1H1.pattern", edit=Scale(0.5)), {"L1.pattern": at((EVERY, 1), lambda h: h / 2)}),
    "norms": (
        [Change(site, edit=Scale(2.0)) for site in ("L1.ln1_scale", "L2.ln2_scale", "ln_final_scale")],
        {site: lambda h: 2 * h for site in ("L1.ln1_scale", "L2.ln2_scale", "ln_final_scale")},
    ),
    "ends": (
        [Change("embed", 1, edit=Scale(2.0)), Change("L0.resid_pre", edit=Scale(2.0)), Change("logits", edit=Scale(2.0))],
        {"embed": at((EVERY, 1), lambda h: 2 * h), "L0.resid_pre": lambda h: 2 * h, "logits": lambda h: 2 * h},
    ),
}
FAMILIES = ("gpt2", "llama", "neox", "gemma2", "bloom")
"""Sequential and parallel blocks, norms behind parts, and parts that add to the stream themselves."""


def some(model: Model, seed: int, many: int = 6) -> list[Edge]:
    """Edges drawn at random, with some into MLPs and the unembedding, which have fewer."""
    every, generator = edges(model), torch.Generator().manual_seed(seed)
    kinds = [every, [e for e in every if e.receiver.name == "mlp_pre"], [e for e in every if e.receiver == LOGITS]]
    return [kind[i] for kind in kinds for i in torch.randperm(len(kind), generator=generator)[:many].tolist()]


def close(model: Model, pairs: Any, chosen: list[Edge], found: Any, given: dict[Site, Write], hold: list[Site]) -> None:
    """Fail unless every edge is what whole passes say."""
    encoded = model.encode(pairs)
    for example, pair in enumerate(pairs):
        base, source = (list(prompt.text) for prompt in (pair.clean, pair.corrupted))
        reference = ByHand(model, base, source, given=given, hold=hold)
        answers, wrong = (ids[example][ids[example] >= 0] for ids in (encoded.answers, encoded.wrong))
        for cell, edge in [*enumerate(chosen), (None, None)]:
            logits = reference.logits(edge)
            expected = float(logits[answers].max() - logits[wrong].max())
            own = found["value"][0, cell, example] if edge is not None else found["given" if given else "clean"][0, example]
            assert abs(float(own) - expected) <= 1e-5 * (1 + float(logits.abs().max())), edge


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("kind", FAMILIES)
def test_what_is_given_is_in_force_in_every_row(kind: str, name: str, seed: int) -> None:
    model, (given, writes) = sweeps.model(kind), GIVEN[name]
    if kind == "neox" and name in ("stream", "norms"):  # nothing is between attention and MLP
        given, writes = given[:1], dict([next(iter(writes.items()))])
    pairs, chosen = sweeps.random_pairs(seed, [6, 4]), some(model, seed)
    found = patch_edges(model, pairs, edges=chosen, given=given)
    close(model, pairs, chosen, found, {Site.parse(site): write for site, write in writes.items()}, [])
    assert found.attrs["noise_floor"]["logit_diff"] <= 1e-4
    assert float(abs(effects.effect(found)).max()) > 1e-3
    assert float(abs(found["given"] - found["clean"]).max()) > 1e-3


@pytest.mark.parametrize("hold", ["pattern", "ln_scale", "mlp_out", "z", "resid_mid"])
@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
def test_what_is_held_stays_in_every_row(kind: str, hold: str, seed: int) -> None:
    model, pairs = sweeps.model(kind), sweeps.random_pairs(seed, [5])
    chosen, given = some(model, seed), (Change("L1H2.z", source=Constant(0.0)), Change("L1.resid_pre", edit=Scale(0.5)))
    writes = {"L1.z": at((EVERY, EVERY, 2), torch.zeros_like), "L1.resid_pre": lambda h: h / 2}
    sites = [s for s in model.sites() if s.name == hold or (hold == "ln_scale" and s.name.endswith("_scale"))]
    held = patch_edges(model, pairs, edges=chosen, hold=hold)
    close(model, pairs, chosen, held, {}, sites)
    assert "given" not in held
    both = patch_edges(model, pairs, edges=chosen, hold=hold, given=given)
    close(model, pairs, chosen, both, {Site.parse(site): write for site, write in writes.items()}, sites)
    free = patch_edges(model, pairs, edges=chosen)
    assert float(abs(free["value"] - held["value"]).max()) > 1e-4


def test_the_trained_net(seed: int) -> None:
    """The zoo's induction heads: the edge through which they see the token before, on a base that is changed."""
    model = load("zoo/induction-2l")
    generator = torch.Generator().manual_seed(seed)
    special = model.tokenizer.all_special_ids
    known = torch.tensor([token for token in range(model.anatomy.outputs) if token not in special])
    different = known[torch.randperm(len(known), generator=generator)]  # heads see the one token before, not one of two
    clean, corrupted = different[:18].reshape(2, 9).tolist()
    pair = [(*clean, *clean[:4]), (*corrupted, *corrupted[:4])]
    given = [Change("L0.resid_post", edit=Scale(0.5)), Change("L1H0.k", -2, edit=Scale(2.0))]
    writes = {"L0.resid_post": lambda h: h / 2, "L1.k": at((EVERY, -2, 0), lambda h: 2 * h)}
    pairs = Pairs((Pair(Prompt(pair[0]), Prompt(pair[1]), (pair[0][4],), (pair[1][4],)),), "toy", {})
    chosen = some(model, seed) + [e for e in edges(model) if e.receiver.name == "k" and e.sender.name == "z"]
    found = patch_edges(model, pairs, edges=chosen, given=given)
    close(model, pairs, chosen, found, {Site.parse(site): write for site, write in writes.items()}, [])
    assert float(abs(effects.effect(found)).max()) > 1e-3


def test_torch_hooks_say_the_same(seed: int) -> None:
    """L0's MLP into a query of L2, with a block's output halved in between, in Llama's own modules.

    What the reader sees of the writer is half of its difference; that goes through the norm and W_Q alone.
    """
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [6])
    found = patch_edges(
        model, pairs, FIRST, edges=Edge.of("L0.mlp_out", "L2H1.q"), given=Change("L1.resid_post", edit=Scale(0.5))
    )
    module: Any = model.module
    blocks, (base, source) = module.model.layers, (p.text for p in (pairs[0].clean, pairs[0].corrupted))
    theirs = sweeps.record(module, "model.layers.0.mlp", source)
    halved = blocks[1].register_forward_hook(lambda m, args, out: (out[0] / 2, *out[1:]) if isinstance(out, tuple) else out / 2)
    try:
        own = sweeps.record(module, "model.layers.0.mlp", base)
        stream = sweeps.record(module, "model.layers.2", base, "input")
        with torch.no_grad():
            query = blocks[2].self_attn.q_proj(blocks[2].input_layernorm(stream + (theirs - own) / 2))

        def head(q: Tensor) -> Tensor:
            width = model.sizes["d_head"]
            return torch.cat([q[..., :width], query[..., width : 2 * width], q[..., 2 * width :]], dim=-1)

        logits = sweeps.rerun(module, "model.layers.2.self_attn.q_proj", base, head)
    finally:
        halved.remove()
    assert abs(float(found["value"][0, 0, 0]) - float(logits[0])) <= 1e-5 * (1 + float(logits.abs().max()))
    assert float(abs(effects.effect(found)).max()) > 1e-5


def FIRST(logits: Tensor) -> Tensor:  # noqa: N802
    return logits[..., 0]


# properties


@pytest.mark.parametrize("where", ["L1.z", "L1.resid_pre", "L1.resid_mid", "L2.q", "L2.mlp_out", "L2.resid_post"])
def test_an_edit_that_changes_nothing(where: str, seed: int) -> None:
    """Expected: the numbers without it, to rounding, though its block runs as a whole."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 5])
    chosen = edges(model)[::9]
    plain = patch_edges(model, pairs, edges=chosen)
    same = patch_edges(model, pairs, edges=chosen, given=Change(where, edit=Scale(1.0)))
    np.testing.assert_allclose(same["value"], plain["value"], rtol=0, atol=2e-5)
    assert effects.effect(same).equals(same["value"] - same["given"])


def test_what_a_constant_took_away_is_not_taken_away_again(seed: int) -> None:
    """Expected: an ablated head has no edges left to ablate, and those into it do nothing; the other prompt's comes back."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 5])
    given = Change("L1H2.z", source=Constant(0.0))
    out = [e for e in edges(model) if e.sender == Site("z", layer=1, head=2)]
    into = [e for e in edges(model) if e.receiver.layer == 1 and e.receiver.head == 2]
    taken = effects.effect(patch_edges(model, pairs, edges=out, source=Constant(0.0), given=given))
    blind = effects.effect(patch_edges(model, pairs, edges=into, given=given))
    back = effects.effect(patch_edges(model, pairs, edges=out, given=given))
    assert float(abs(taken).max()) <= 2e-5
    assert float(abs(blind).max()) <= 2e-5
    assert float(abs(back).max()) > 1e-2


def test_nothing_passes_a_stream_that_is_overwritten(seed: int) -> None:
    """Expected: edges across it have no effect; those behind it and in front of it have."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 5])
    every = edges(model)
    across = [e for e in every if e.sender.layer in (None, 0) and e.receiver.layer in (None, 1, 2)]
    other = [e for e in every if e.sender.layer in (1, 2)]
    given = Change("L1.resid_pre", source=Constant(0.1))
    found = effects.effect(patch_edges(model, pairs, edges=[*across, *other], given=given))
    assert float(abs(found[0, : len(across)]).max()) <= 2e-5
    assert float(abs(found[0, len(across) :]).max()) > 1e-2


def test_the_bases_own_values_do_nothing(seed: int) -> None:
    """``Activation("base")`` is the changed base's, as in :func:`interp.patch`."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 5])
    given = [Change("L0.resid_pre", edit=Scale(2.0)), Change("L1H2.z", edit=Scale(-1.0)), Change("L1.mlp_out", edit=Scale(0.5))]
    found = patch_edges(model, pairs, edges=edges(model)[::9], given=given, source=Activation("base"))
    assert float(abs(effects.effect(found)).max()) <= 2e-5


def test_edges_into_logits_are_their_writers_with_all_else_held(seed: int) -> None:
    """Expected: :func:`interp.patch` of the heads on the same base, with what later parts add held."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 5])
    given, held = Change("L1.resid_post", edit=Scale(0.5)), ("L1.attn_out", "L2.attn_out", "mlp_out")
    found = patch_edges(model, pairs, edges=[Edge.of(f"L0H{head}.z", "logits") for head in range(4)], given=given)
    whole = patch(model, pairs, grid("L0.z", head=...), patching="noising", given=given, hold=held)
    np.testing.assert_allclose(found["value"], whole["value"], rtol=0, atol=2e-5)
    assert float(abs(effects.effect(found)).max()) > 1e-3


def test_given_from_the_other_prompt(seed: int) -> None:
    """A source run is as it is without what is given, for what is given and for what edges bring."""
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6])
    base, source = (list(prompt.text) for prompt in (pairs[0].clean, pairs[0].corrupted))
    theirs = ByHand(model, source, base).base[Site("mlp_out", layer=0)]
    chosen = some(model, seed)
    found = patch_edges(model, pairs, edges=chosen, given=Change("L0.mlp_out"))
    close(model, pairs, chosen, found, {Site("mlp_out", layer=0): instead(theirs)}, [])


@pytest.mark.parametrize("name", ["head", "stream", "added"])
def test_rows_do_not_change_the_numbers(name: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = sweeps.model("llama"), sweeps.random_pairs(seed, [5, 6, 5])
    options: dict[str, Any] = {"edges": edges(model)[::11], "given": GIVEN[name][0], "metric": ["logit_diff", "kl"]}
    whole, one = patch_edges(model, pairs, **options), patch_edges(model, pairs, rows=1, **options)
    np.testing.assert_allclose(one["value"], whole["value"], atol=2e-5)
    monkeypatch.setenv("INTERP_MEMORY_BYTES", "20000")
    np.testing.assert_allclose(patch_edges(model, pairs, **options)["value"], whole["value"], atol=2e-5)


def test_an_edited_model_is_a_given_one(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 5])
    chosen, one, other = edges(model)[::19], Change("L1H2.z", edit=Scale(0.0)), Change("L2.resid_pre", edit=Scale(0.5))
    expected = patch_edges(model, pairs, edges=chosen, given=[one, other])
    with edited(model, one):
        found = patch_edges(model, pairs, edges=chosen, given=other)
    assert found.equals(expected)
    assert found.attrs["spec"] == expected.attrs["spec"]


def test_a_norm_over_the_queries_of_all_heads(seed: int) -> None:
    """OLMo-2's: a head's query is what it is where the norm sees the writer in all heads, with something given there or not."""
    sizes = {"vocab_size": tiny.VOCAB, "hidden_size": tiny.WIDTH, "intermediate_size": tiny.MLP, "num_hidden_layers": 3}
    model = load(tiny.random_model(Olmo2Config(num_attention_heads=4, num_key_value_heads=2, **sizes), seed), name="olmo2")
    pairs, chosen = sweeps.random_pairs(seed, [6, 5]), [e for e in edges(model) if e.receiver.name in ("q", "k")][::3]
    plain = patch_edges(model, pairs, edges=chosen)
    same = patch_edges(
        model, pairs, edges=chosen, given=[Change(f"L{i}.{name}", edit=Scale(1.0)) for i in (1, 2) for name in "qz"]
    )
    np.testing.assert_allclose(same["value"], plain["value"], rtol=0, atol=2e-5)
    assert float(abs(effects.effect(plain)).max()) > 1e-3


# what is said


def test_results_say_what_was_in_force_and_the_store_keeps_it(seed: int, tmp_path: Path) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [6, 5])
    chosen, given = edges(model)[:2], Intervention.of("L1H2.z", source=Constant(0.0))
    plain = patch_edges(model, pairs, edges=chosen)
    found = patch_edges(model, pairs, edges=chosen, given=given, hold="pattern")
    assert effects.validate(found) is found
    assert found.attrs["given"] == repr(given)
    assert found.attrs["hold"] == ["pattern"]
    assert found.attrs["spec"]["given"] == given.spec()
    assert "zero ablation of z" in found.attrs["gauge"]
    assert plain.attrs["given"] is None
    assert "given" not in plain.attrs["spec"]
    store = Store(tmp_path)
    one, other = store.save(plain), store.save(found)
    assert one.id != other.id
    kept = store.load(other.id)
    assert kept.attrs["given"] == repr(given)
    assert kept.attrs["hold"] == ["pattern"]
    np.testing.assert_array_equal(kept["given"], found["given"])


def test_what_rows_of_edges_do_not_meet_is_refused(seed: int) -> None:
    model, pairs = sweeps.model("gpt2"), sweeps.random_pairs(seed, [5])
    several = Change("logits", edit=lambda h, ctx: h)
    for given, why in (
        (Change("transformer.ln_f:output", edit=Scale(2.0)), "transformer.ln_f:output is not inside a block"),
        (Change("transformer.h.1:output", edit=Scale(2.0)), "in the same tensor as L1.resid_post; go by that name"),
        (Change("transformer.h.1.attn.c_attn:output", edit=Scale(2.0)), "as L1.q, L1.k, L1.v; go by that name"),
        (several, "at several tokens together"),
    ):
        with pytest.raises(EdgesError, match="cannot be in force in a sweep of edges") as error:
            patch_edges(model, pairs, edges=edges(model)[:1], given=[Change("L1.z", edit=Scale(0.5)), given])
        assert repr(given) in str(error.value)
        assert why in str(error.value)
