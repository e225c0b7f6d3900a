"""Pairs of different token length by role: the rule for unequal spans, against the raw module with plain torch hooks.

Tolerance: 1e-5 × (1 + max |logit|) in float32; these models' logits are below 10.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
from torch import Tensor

import interp
from interp import effects
from interp.engine import attribute, explain, generate, patch
from interp.errors import ShapeMismatchError, UnequalLengthsError, UnknownNameError
from interp.interventions import Activation, Add, Change, Interpolate, Intervention, Rotation, mean, resample
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import grid
from interp.views import labels

ATOL = 1e-5 * 11
KINDS = {"gpt2": "transformer.h.{}", "llama": "model.layers.{}"}
STRATEGIES = ("serial", "batched", "wavefront")
SPANS = [(1, 3), (3, 1), (2, 2), (2, 3), (1, 1)]
"""Tokens of the role "city" in the clean and in the corrupted prompt, pair by pair."""


def third(logits: Tensor) -> Tensor:
    return logits[..., 3]


@pytest.fixture
def pairs(seed: int) -> Pairs:
    """Prompts ``a a CITY b b`` with cities of different length; all other tokens are the same in both prompts of a pair."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> list[int]:
        return torch.randint(0, tiny.VOCAB, (n,), generator=generator).tolist()

    items = []
    for clean, corrupted in SPANS:
        before, behind = draw(2), draw(2)
        sides = [
            Prompt((*before, *draw(n), *behind), {"city": (2, 2 + n), "end": (n + 3, n + 4), "start": (0, 1)})
            for n in (clean, corrupted)
        ]
        items.append(Pair(*sides, (3,), (4,)))
    return Pairs(tuple(items))


def by_hand(
    kind: str, pair: Pair, layer: int, role: str, rule: str, source: Prompt | None = None, weight: float = 1.0
) -> float:
    """Logit 3 of the corrupted prompt, block ``layer``'s output taken from the clean one at a role by a rule, with hooks."""
    module, path = sweeps.model(kind).module, KINDS[kind].format(layer)
    source = pair.clean if source is None else source
    given = sweeps.record(module, path, source.text)[0]
    (a, b), (c, d) = source.roles[role], pair.corrupted.roles[role]

    def change(h: Tensor) -> Tensor:
        h = h.clone()
        new = h[0].clone()
        if b - a == d - c:
            new[c:d] = given[a:b]
        elif rule == "last":
            new[d - 1] = given[b - 1]
        else:
            new[c:d] = given[a:b].mean(0)
        h[0] = h[0] + weight * (new - h[0])
        return h

    return float(sweeps.rerun(module, path, pair.corrupted.text, change)[3])


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("rule", ["last", "mean"])
def test_every_strategy_is_a_plain_hook(kind: str, rule: Any, pairs: Pairs) -> None:
    where = grid("resid_post", layer=..., position=["city", "end", "start"])
    expected = [
        [[by_hand(kind, pair, layer, role, rule) for pair in pairs] for role in ("city", "end", "start")] for layer in range(3)
    ]
    for strategy in STRATEGIES:
        found = patch(sweeps.model(kind), pairs, where, third, strategy=strategy, unequal=rule)
        close(found["value"].values[0], expected)
        assert found.attrs["unequal"] == {"rule": rule, "examples": 3}
        assert max(found.attrs["noise_floor"].values()) <= ATOL
    assert np.abs(np.array(expected)[0, 0] - found["corrupt"].values).min() > 1e-3, "each pair's city matters"


def test_the_two_rules_differ_where_a_rule_is_needed_alone(pairs: Pairs) -> None:
    last, mean_ = (
        patch(sweeps.model("gpt2"), pairs, grid("L0.resid_post", position="city"), third, unequal=rule)["value"].values[0]
        for rule in ("last", "mean")
    )
    assert (np.abs(last - mean_) > 1e-4).tolist() == [a != b for a, b in SPANS]


def test_the_last_token_alone_is_changed(pairs: Pairs) -> None:
    """Without a rule the other tokens of the span would be written too: at ``city[-1]`` the numbers are the same."""
    unequal = Pairs(tuple(pair for pair, (a, b) in zip(pairs, SPANS, strict=True) if a != b))
    by_rule = patch(sweeps.model("gpt2"), unequal, grid("resid_pre", layer=..., position=["city"]), third)
    picked = patch(sweeps.model("gpt2"), unequal, grid("resid_pre", layer=..., position=["city[-1]"]), third)
    close(by_rule["value"], picked["value"])
    assert "unequal" not in picked.attrs


def test_a_pairs_numbers_do_not_depend_on_the_others(pairs: Pairs) -> None:
    """One token a source in all pairs, or not: the rule is each pair's own."""
    model, where = sweeps.model("gpt2"), grid("resid_post", layer=[0, 2], position=["city"])
    together = patch(model, pairs, where, third)["value"].values[..., :]
    for i, pair in enumerate(pairs):
        close(patch(model, [pair], where, third)["value"].values[..., 0], together[..., i])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_other_edits_bases_and_sources(strategy: Any, pairs: Pairs) -> None:
    model, module = sweeps.model("gpt2"), sweeps.model("gpt2").module
    half = patch(
        model, pairs, Change("L1.resid_post", "city", Activation(unequal="mean"), Interpolate(0.5)), third, strategy=strategy
    )
    close(half["value"].values[0, 0], [by_hand("gpt2", pair, 1, "city", "mean", weight=0.5) for pair in pairs])
    other = Prompt((9, 8, 7, 6, 5), {"city": (1, 3)})
    one = patch(model, pairs, Change("L1.resid_post", "city", Activation(other)), third, strategy=strategy)
    close(one["value"].values[0, 0], [by_hand("gpt2", pair, 1, "city", "last", other) for pair in pairs])
    rotated = Change("L1.resid_post", "city", featurizer=Rotation(tiny.WIDTH, tiny.WIDTH, seed=0))
    whole = patch(model, pairs, rotated, third, strategy=strategy)
    close(whole["value"].values[0, 0], [by_hand("gpt2", pair, 1, "city", "last") for pair in pairs])
    noising = patch(model, pairs, Change("L1.resid_post", "city"), third, patching="noising", strategy=strategy)
    close(noising["value"].values[0, 0], [by_hand("gpt2", pair.swap(), 1, "city", "last") for pair in pairs])
    heads = patch(model, pairs, grid("z", layer=[1], head=..., position=["city"]), third, strategy=strategy, unequal="mean")
    for i, (pair, (a, b)) in enumerate(zip(pairs, SPANS, strict=True)):
        given = sweeps.record(module, "transformer.h.1.attn.c_proj", pair.clean.text, "input")[0, 2 : 2 + a, 8:16]

        def change(h: Tensor, given: Tensor = given, a: int = a, b: int = b) -> Tensor:
            h = h.clone()
            h[0, 2 : 2 + b, 8:16] = given if a == b else given.mean(0)
            return h

        expected = sweeps.rerun(module, "transformer.h.1.attn.c_proj", pair.corrupted.text, change, "input")[3]
        close(heads["value"].values[0, 0, 1, 0, i], float(expected))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_resampling_between_spans_of_different_length(strategy: Any, pairs: Pairs) -> None:
    """Each example's value is that of some other example's clean prompt, by the rule."""
    found = patch(
        sweeps.model("gpt2"), pairs, grid("L1.resid_post", position="city"), third, source=resample(seed=1), strategy=strategy
    )
    partners = []
    for i, pair in enumerate(pairs):
        every = [by_hand("gpt2", pair, 1, "city", "last", other.clean) for other in pairs]
        partners.append(int(np.abs(np.array(every) - found["value"].values[0, i]).argmin()))
        close(found["value"].values[0, i], every[partners[-1]])
    assert sorted(partners) == list(range(5))
    assert all(i != partner for i, partner in enumerate(partners))


def test_one_token_that_a_source_names_serves_the_whole_span(pairs: Pairs) -> None:
    """``end`` has one token, so nothing is unequal, whatever the span; a rule would write its last token alone."""
    found = patch(sweeps.model("gpt2"), pairs, Change("L1.resid_post", "city", Activation(positions="end")), third)
    assert "unequal" not in found.attrs
    for i, pair in enumerate(pairs):
        given = sweeps.record(sweeps.model("gpt2").module, "transformer.h.1", pair.clean.text)[0, -1]

        def write(h: Tensor, given: Tensor = given, span: tuple[int, int] = pair.corrupted.roles["city"]) -> Tensor:
            h = h.clone()
            h[0, slice(*span)] = given
            return h

        logits = sweeps.rerun(sweeps.model("gpt2").module, "transformer.h.1", pair.corrupted.text, write)
        close(found["value"].values[0, 0, i], float(logits[3]))


def test_several_changes_and_what_is_given(pairs: Pairs) -> None:
    model = sweeps.model("gpt2")
    both = Intervention.of("L1H2.z@city", "L2.mlp_out@city", source=Activation(unequal="mean"))
    given = Intervention.of(Change("L0.resid_post", "city", edit=Add(0.5)))
    found = [patch(model, pairs, both, third, given=given, strategy=strategy) for strategy in STRATEGIES]
    for one in found[1:]:
        close(one["value"], found[0]["value"])
        close(one["given"], found[0]["given"])
    assert found[0].attrs["unequal"] == {"rule": "last+mean", "examples": 3}


def test_attribution_takes_the_rule(pairs: Pairs) -> None:
    """Σ g · (h' − h), by hand: the gradient of a raw module at its block's output."""
    model, module = sweeps.model("gpt2"), sweeps.model("gpt2").module
    for rule in ("last", "mean"):
        found = attribute(model, pairs, grid("L1.resid_post", position="city"), third, unequal=rule)
        for i, (pair, (a, b)) in enumerate(zip(pairs, SPANS, strict=True)):
            given = sweeps.record(module, "transformer.h.1", pair.clean.text)[0, 2 : 2 + a]
            offset = torch.zeros(len(pair.corrupted.text), tiny.WIDTH, requires_grad=True)
            kept: list[Tensor] = []

            def write(block: Any, args: Any, output: Any, offset: Tensor = offset, kept: list[Tensor] = kept) -> Any:
                h = output[0] if isinstance(output, tuple) else output
                kept.append(h.detach()[0])
                return (h + offset, *output[1:]) if isinstance(output, tuple) else h + offset

            handle = module.get_submodule("transformer.h.1").register_forward_hook(write)
            value = module(torch.tensor([list(pair.corrupted.text)])).logits[0, -1, 3]
            handle.remove()
            slope = torch.autograd.grad(value, offset)[0]
            new = kept[0].clone()
            if a == b:
                new[2 : 2 + b] = given
            elif rule == "last":
                new[1 + b] = given[-1]
            else:
                new[2 : 2 + b] = given.mean(0)
            close(found["value"].values[0, i], float((value + (slope * (new - kept[0])).sum()).detach()))


def test_generating_by_the_rule(pairs: Pairs) -> None:
    model = sweeps.model("gpt2")
    change = Change("L1.resid_post", "city", Activation(unequal="mean"))
    made = generate(model, pairs, change, max_new_tokens=1)
    for i, pair in enumerate(pairs):
        (a, b), (c, d) = pair.clean.roles["city"], pair.corrupted.roles["city"]
        given = sweeps.record(model.module, "transformer.h.1", pair.clean.text)[0, a:b]

        def write(h: Tensor, given: Tensor = given, c: int = c, d: int = d) -> Tensor:
            h = h.clone()
            h[0, c:d] = given if len(given) == d - c else given.mean(0)
            return h

        logits = sweeps.rerun(model.module, "transformer.h.1", pair.corrupted.text, write)
        assert int(made.ids[0, i, 0]) == int(logits.argmax())
    assert made.attrs["unequal"] == {"rule": "mean", "examples": 3}


# what is said of it


def test_it_is_recorded_and_said(pairs: Pairs) -> None:
    model, where = sweeps.model("gpt2"), grid("resid_pre", layer=..., position=["city"])
    said = str(explain(model, pairs, where, unequal="mean"))
    assert "in 3 of 5 examples source and target spans differ in length: the mean over the source's span" in said
    found = patch(model, pairs, where)
    assert "unequal spans in 3: last token" in labels.provenance(found, effects.summary(found))
    equal = Pairs(tuple(pair for pair, (a, b) in zip(pairs, SPANS, strict=True) if a == b))
    same = patch(model, equal, where)
    assert "unequal" not in same.attrs
    assert "unequal" not in labels.provenance(same, effects.summary(same))
    assert "differ in length" not in str(explain(model, equal, where))
    assert found.attrs["spec"] != patch(model, pairs, where, unequal="mean").attrs["spec"]


def test_what_matters_by_rule_is_the_same_in_every_strategy(pairs: Pairs) -> None:
    """``start`` stands before everything that differs; padding on the left gives it another column, so it is run."""
    model, where = sweeps.model("gpt2"), grid("resid_pre", layer=[1], position=["start", "city"])
    found, every = (patch(model, pairs, where, third, skip_inert=skip) for skip in (True, False))
    close(found["value"], every["value"])
    close(found["value"].values[0, 0, 0], found["corrupt"].values[0])


# what is refused


REFUSED: list[tuple[Callable[[], dict[str, Any]], type[Exception], str]] = [
    (lambda: {"where": grid("L1.resid_pre", position="city"), "unequal": "refuse"}, ShapeMismatchError, "unequal='last'"),
    (lambda: {"where": Change("L1.resid_pre", "city", Activation(unequal="refuse"))}, ShapeMismatchError, "in example 0"),
    (lambda: {"where": grid("L1.resid_pre", position="city"), "unequal": "first"}, UnknownNameError, "'first'"),
    (lambda: {"where": grid("L1.z", position="city"), "unequal": "mean", "source": mean()}, ValueError, "says it itself"),
    (lambda: {"where": Change("L1.z", "city"), "unequal": "mean"}, ValueError, "interventions say their own source"),
    (lambda: {"where": grid("resid_pre", layer=..., position=...)}, UnequalLengthsError, "position=['city', 'end', 'start']"),
    (
        lambda: {"where": grid("resid_pre", layer=...)},
        UnequalLengthsError,
        "unequal= says what then",
    ),
    (lambda: {"where": grid("L1.resid_pre", position=2)}, UnequalLengthsError, "unequal="),
    (lambda: {"where": grid("L1.pattern", position="end")}, UnequalLengthsError, "patch z or result"),
    (lambda: {"where": grid("L1.scores", position="city")}, ShapeMismatchError, "along source_position too"),
    (lambda: {"where": Change("L1.resid_pre", "city", Activation(positions=[0, 1]))}, ShapeMismatchError, "equally long"),
]


@pytest.mark.parametrize(("asked", "error", "words"), REFUSED)
def test_refusals(asked: Callable[[], dict[str, Any]], error: type[Exception], words: str, pairs: Pairs) -> None:
    for ask in (patch, attribute):
        with pytest.raises(error) as caught:
            sweeps.unchecked(ask)(sweeps.model("gpt2"), pairs, metric=third, **asked())
        assert words in str(caught.value)


def test_an_unknown_rule_is_refused() -> None:
    source = Activation()
    object.__setattr__(source, "unequal", "first")
    with pytest.raises(ValueError, match="unequal='first'; expected 'last', 'mean' or 'refuse'"):
        source.__post_init__()


# the real model


def test_paris_and_new_york_city_on_a_real_model(loaded_smollm2: interp.Model) -> None:
    """The city's name carries the answer in early layers, the last token in late ones; a plain hook gives the same numbers."""
    model = loaded_smollm2
    texts = ["The city of Paris is in", "The city of New York City is in"]
    clean, corrupted = (Prompt(text, {"city": (12, text.index(" is")), "END": (len(text) - 2, len(text))}) for text in texts)
    pairs = Pairs((Pair(clean, corrupted, " France", " the"),))
    found = patch(model, pairs, grid("resid_pre", layer=..., position=["city", "END"]))
    assert found.attrs["unequal"] == {"rule": "last", "examples": 1}
    value = effects.recovery(found).values.squeeze()
    print(np.round(value, 2))
    assert value[0, 1] == pytest.approx(0, abs=1e-3), "every prompt ends with the same token, at the same place from the end"
    ids = [model.tokenizer(text)["input_ids"] for text in texts]
    given = sweeps.record(model.module, "model.layers.5", ids[0])[0, len(ids[0]) - 3]

    def write(h: Tensor) -> Tensor:
        h = h.clone()
        h[0, len(ids[1]) - 3] = given
        return h

    logits = sweeps.rerun(model.module, "model.layers.5", ids[1], write)
    france, the = (model.tokenizer(word)["input_ids"][0] for word in (" France", " the"))
    by_hook = float(logits[france] - logits[the])
    assert float(found["value"].sel(layer=6, position="city").squeeze()) == pytest.approx(by_hook, abs=1e-3)
