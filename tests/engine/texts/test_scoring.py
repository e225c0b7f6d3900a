"""Given texts scored token by token: against transformers' loss, passes of the raw module with plain hooks, and generation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sweeps
import tiny
import torch
from generation_by_hand import SINGLE, ids, model, prompts, said, share, steered, write
from texts_by_hand import BLOCKS, kl, logprobs, says, steered_run
from torch import Tensor

from interp.doctor import architectures
from interp.engine import pieces, score
from interp.errors import GenerationError, HeadOutOfRangeError, InputError, PositionError, UnequalLengthsError, UnknownNameError
from interp.interventions import Activation, Add, Change, Constant, Intervention, Scale, doses, mean
from interp.models import load
from interp.prompts import Pair, Prompt

SITE = "L1.resid_post"


def near(kind: str, got: Any, expected: Tensor) -> None:
    """To the rounding of the model's own dtype."""
    dtype = torch.float32 if kind in SINGLE else torch.float64
    atol = share(kind, dtype) * (1 + float(expected.abs().max()))
    np.testing.assert_allclose(np.asarray(got), expected.numpy(), rtol=0, atol=atol)


def after_first(prompt: Prompt) -> tuple[Prompt, list[int]]:
    """The first token of a text, and the others."""
    first, *others = said(prompt)
    begun = Prompt((first,)) if prompt.target is None else Prompt(prompt.text, target=(first,))
    return begun, others


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_text_under_interventions(kind: str, seed: int) -> None:
    """Each alone in the raw module, whole; ragged, with a hook on a block; the divergence of every distribution."""
    given = prompts(kind, seed)
    vector = 4 * torch.randn(tiny.WIDTH, generator=torch.Generator().manual_seed(seed), dtype=model(kind).dtype)
    where = {"nowhere": lambda p: False, "1": lambda p: p == 1, "everywhere": lambda p: True}
    change = [Change(SITE, 1, Constant(vector), Add()), Change(SITE, source=Constant(vector), edit=Add())]
    found = score(model(kind), given, [None, *change], compare=True)
    assert found.logprob.dims == ("cell", "example", "position")
    for row, prompt in enumerate(given):
        begun, others = after_first(prompt)
        unedited = says(begun, others, steered_run(kind, lambda p, n: False, vector, begun))
        n = 1 + len(others)
        for cell, chosen in enumerate(where.values()):
            edited = says(begun, others, steered_run(kind, lambda p, n, chosen=chosen: chosen(p), vector, begun))  # type: ignore[misc]
            expected = logprobs(edited, others)
            one = found.isel(cell=cell, example=row)
            near(kind, one.logprob[1:n], expected)
            near(kind, one.kl[1:n], kl(edited, unedited))
            near(kind, one.reverse_kl[1:n], kl(unedited, edited))
            near(kind, one.nll, -expected.mean())
            assert float(one.perplexity) == pytest.approx(float((-expected.mean()).exp()), rel=1e-4)
            assert int(one.tokens) == len(others)
            assert np.isnan(one.logprob.values[[0, *range(n, found.sizes["position"])]]).all()
    assert float(found.kl[0].max()) < 1e-10
    assert float(found.kl[2].max()) > 1e-3


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral", "gemma2", "mixtral", "mamba", "bloom"])
def test_the_unedited_model_is_transformers_loss(kind: str, seed: int) -> None:
    given = prompts(kind, seed)
    found = score(model(kind), given)
    for row, prompt in enumerate(given):
        tokens = torch.tensor([said(prompt)])
        with torch.no_grad():
            loss = model(kind).module(input_ids=tokens, labels=tokens).loss
        assert float(found.nll[0, row]) == pytest.approx(float(loss), abs=1e-5 * (1 + float(loss)))  # transformers': float32


@pytest.mark.parametrize(("kind", "change"), [("gpt2", SITE), ("llama", "L1H2.z"), ("t5", SITE), ("gpt2", "L1.pattern")])
def test_what_was_written_scores_what_it_was_written_with(kind: str, change: str, seed: int) -> None:
    """Generation with its cache and its rows beside, against one pass of the whole text: edits are everywhere in both."""
    edit = steered(3.0) if change == SITE else Change(change, edit=Scale(0.3))
    given = prompts(kind, seed)
    made = write(kind, given, [None, edit], compare=True)
    for row, prompt in enumerate(given):
        for cell in range(2):
            text = (*said(prompt), *made.ids[cell, row].tolist())
            whole = Prompt(text) if prompt.target is None else Prompt(prompt.text, target=text)
            found = score(model(kind), [whole], [None, edit], compare=True).isel(
                example=0, position=slice(len(said(prompt)), None)
            )
            np.testing.assert_allclose(found.logprob[cell], made.logprobs[cell, row], rtol=0, atol=1e-4)
            np.testing.assert_allclose(found.logprob[0], made.unedited_logprobs[cell, row], rtol=0, atol=1e-4)
            np.testing.assert_allclose(found.kl[cell], made.kl[cell, row], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_strength_of_zero_batches_and_one_at_a_time(kind: str, seed: int) -> None:
    given, asked = [Prompt(text) for text in ids(seed, 4, 9, 6)], [None, *doses(steered(1.0), [0, 2, 7])]
    found = score(model(kind), given, asked, compare=True)
    np.testing.assert_array_equal(found.logprob[0], found.logprob[1])
    assert float(found.kl[1].max()) < 1e-20
    assert found.strength.values.tolist()[1:] == [0, 2, 7]
    for other in (score(model(kind), given, asked, compare=True, rows=rows) for rows in (1, 5)):
        for name in ("logprob", "kl", "nll"):
            np.testing.assert_allclose(other[name], found[name], rtol=0, atol=1e-9)
    for row, prompt in enumerate(given):
        alone = score(model(kind), [prompt], asked)
        np.testing.assert_allclose(alone.logprob[:, 0], found.logprob[:, row, : len(said(prompt))], rtol=0, atol=1e-9)


def test_in_pieces_of_vocabulary_and_of_positions(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.engine.texts import scoring

    given, asked = [Prompt(text) for text in ids(seed, 12, 12)], [None, steered(3.0), Change("L1H2.z", edit=Scale(0.0))]
    whole = score(model("llama"), given, asked, compare=True)
    monkeypatch.setattr(scoring, "_AT_ONCE", 3 * tiny.VOCAB)
    monkeypatch.setitem(pieces.SIZE, "cpu", 2)
    few = score(model("llama"), given, asked, compare=True)
    for name in ("logprob", "kl", "reverse_kl"):
        np.testing.assert_allclose(few[name], whole[name], rtol=0, atol=1e-10)


def test_changes_behind_the_last_block(seed: int) -> None:
    """Logits, and a module by its path: they come from whole passes then."""
    given = prompts("gpt2", seed)
    lift = torch.nn.functional.one_hot(torch.tensor(7), tiny.VOCAB).double()
    plain = score(model("gpt2"), given)
    found = score(model("gpt2"), given, [None, Change("logits", source=Constant(lift), edit=Add(5.0))], compare=True)
    np.testing.assert_allclose(found.logprob[0], plain.logprob[0], rtol=0, atol=1e-10)
    for row, prompt in enumerate(given):
        begun, others = after_first(prompt)
        logits = says(begun, others, steered_run("gpt2", lambda p, n: False, torch.zeros(tiny.WIDTH), begun))
        near("gpt2", found.logprob[1, row, 1 : 1 + len(others)], logprobs(logits + 5 * lift, others))
        near("gpt2", found.kl[1, row, 1 : 1 + len(others)], kl(logits + 5 * lift, logits))
    one, other = (
        score(model("gpt2"), given, Change(site, edit=Scale(0.0))) for site in ("transformer.h.1.mlp:output", "L1.mlp_out")
    )
    np.testing.assert_allclose(one.logprob, other.logprob, rtol=0, atol=1e-10)


def test_what_is_given_and_pairs(seed: int) -> None:
    """Given first; the divergence is from the model with it; the other prompt's values come from the other prompt."""
    given, half = prompts("gpt2", seed), Change(SITE, edit=Scale(0.5))
    one = score(model("gpt2"), given, [None, steered(5.0)], given=half, compare=True)
    both = Intervention.of(half).then(Intervention.of(steered(5.0)))
    other = score(model("gpt2"), given, [half, both], compare=True)
    np.testing.assert_allclose(one.logprob, other.logprob, rtol=0, atol=1e-10)
    assert float(one.kl[0].max()) < 1e-20 < float(other.kl[0].max())
    assert one.intervention.values[0] == "what is given"
    clean, corrupted = ids(seed, 6, 6)
    patched = score(model("gpt2"), [Pair(clean, corrupted)], [None, Change("L2.resid_post")])
    first = np.asarray(score(model("gpt2"), [clean], None).logprob[0, 0])
    assert not np.allclose(patched.logprob[0, 0, 1:], first[1:])
    theirs = says(Prompt(clean[:1]), clean[1:], steered_run("gpt2", lambda p, n: False, torch.zeros(tiny.WIDTH), Prompt(clean)))
    near("gpt2", patched.logprob[1, 0, 1:], logprobs(theirs, corrupted[1:]))  # what leaves the last block is the clean prompt's
    noised = score(model("gpt2"), [Pair(clean, corrupted)], patching="noising")
    np.testing.assert_allclose(noised.logprob[0, 0], first, rtol=0, atol=1e-12)
    assert [found.attrs["side"] for found in (patched, noised, one)] == ["corrupted", "clean", None]
    assert {found.attrs["method"] for found in (patched, noised, one)} == {"score"}
    score(model("gpt2"), given, Change(SITE, source=mean("base", over=("example", "position"))))


def test_whose_tokens_are_meant(seed: int) -> None:
    texts = [Prompt(text, {"answer": span}) for text, span in zip(ids(seed, 5, 8), [(3, 5), (2, 7)], strict=True)]
    found = score(model("gpt2"), texts, of="answer")
    every = score(model("gpt2"), texts)
    assert found.tokens.values.tolist() == [2, 5]
    for row, (start, stop) in enumerate([(3, 5), (2, 7)]):
        assert float(found.nll[0, row]) == pytest.approx(-float(every.logprob[0, row, start:stop].mean()))
    np.testing.assert_array_equal(found.logprob, every.logprob)
    assert score(model("gpt2"), texts, of=(-1, -2)).tokens.values.tolist() == [2, 2]
    assert every.token.values[0].tolist() == [*map(str, said(texts[0])), "", "", ""]
    assert every.text.values[1] == " ".join(map(str, said(texts[1])))


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "first": ({"of": 0}, PositionError, "first token of example 0, which comes after nothing"),
    "one token": ({"texts": [(5,)]}, PositionError, "example 0 has no token that comes after another one"),
    "role": ({"of": "answer"}, UnknownNameError, "unknown role 'answer'"),
    "past": ({"of": 9}, PositionError, "of 9 is past the end of example 0"),
    "no text": ({"texts": []}, InputError, "prompts is empty"),
    "too long": ({"texts": [tuple(range(1, 70))]}, PositionError, "a text of 69 tokens takes 69 positions, but .* learned 64"),
    "texts": ({"texts": 3}, InputError, "is int; expected a text"),
    "no pair": ({"interventions": Change("L1.z")}, InputError, "source prompt, .* pass interp.Pair"),
    "layer": ({"interventions": Change("L7.z", edit=Scale())}, HeadOutOfRangeError, "layer 7"),
    "position": ({"interventions": steered(1.0, positions=7)}, PositionError, "7 is past the end of example 0"),
    "rows": ({"rows": 0}, ValueError, "rows=0"),
    "patching": ({"patching": "noisy"}, UnknownNameError, "unknown patching"),
    "lengths": (
        {"texts": [Pair((5, 6, 7), (5, 6, 7, 8))], "interventions": Change(SITE, source=Activation())},
        UnequalLengthsError,
        "differ in length",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_named(name: str) -> None:
    options, error, words = WRONG[name]
    given = {"texts": [Prompt((5, 6, 7, 8, 9))], "interventions": None} | options
    with pytest.raises(error, match=words):
        sweeps.unchecked(score)(model("gpt2"), **given)


def test_models_that_do_not_say_what_comes_next() -> None:
    with pytest.raises(GenerationError, match="a token's logits depend on later tokens"):
        score(load(architectures.build("bert")), [(5, 6)])
    with pytest.raises(GenerationError, match="no token ids enter the main stream"):
        score(load(architectures.build("vit")), [(5, 6)])
