"""Issue 5, daily use: what its "Done when" says of generation, measured on a real model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from suites import require
from torch import Tensor

from interp import generate
from interp.engine import Generated, score
from interp.interventions import Add, AddPreservingNorm, Apply, Change, Constant, doses
from interp.models import Model, load

LINE = (
    "Generation: strength 0 gives identical tokens; cached equals uncached greedy text under an edit; the three scopes fire as "
    "predicted; ragged batch equals one at a time."
)
SITE = "L14.resid_post"
GLAD = ("I love this, it is wonderful and I am so happy.", "What a great and beautiful day, everything is perfect.")
SAD = ("I hate this, it is terrible and I am so sad.", "What an awful and ugly day, everything is ruined.")
PROMPTS = ("The weather today is", "My favourite thing about the city where I was born is", "I think that the movie was")
STRENGTHS = (0, 2, 4)
NEW = 20


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Model:
    return load(str(smollm2))


@pytest.fixture(scope="module")
def steer(model: Model) -> Change:
    """From sad to glad: the difference of the means over all tokens."""
    read = [generate(model, list(texts), max_new_tokens=1, capture=[SITE]) for texts in (GLAD, SAD)]
    glad, sad = (made.activation(SITE)[0].nanmean((0, 1)) for made in read)
    return Change(SITE, source=Constant(glad - sad), edit=Add())


def furthest(one: Tensor, other: Tensor) -> float:
    """Largest difference of numbers that are there in both."""
    assert torch.equal(one.isnan(), other.isnan())
    return float((one - other).nan_to_num().abs().max())


@pytest.mark.done_when(5, LINE)
def test_strength_zero_gives_identical_tokens(figures: dict[str, Any], model: Model, steer: Change) -> None:
    """Also of an addition that keeps the norm; log-probabilities to the last bit, and no divergence."""
    for edit in (Add(), AddPreservingNorm()):
        change = Change(SITE, source=steer.source, edit=edit)
        made = generate(model, list(PROMPTS), [None, *doses(change, STRENGTHS)], compare=True, max_new_tokens=NEW)
        name = type(edit).__name__
        figures[name] = made.table().groupby("strength")[["kl", "reverse_kl", "perplexity"]].mean().round(3).to_dict("index")
        figures[f"{name}, log-probabilities off at strength 0"] = furthest(made.logprobs[0], made.logprobs[1])
        figures[f"{name}, divergence at strength 0"] = float(made.kl[1].nan_to_num().max())
        assert torch.equal(made.ids[0], made.ids[1])
        assert figures[f"{name}, log-probabilities off at strength 0"] == 0
        assert figures[f"{name}, divergence at strength 0"] < 1e-9
        assert not torch.equal(made.ids[0], made.ids[3]), "the largest strength changes what is written"


@pytest.mark.done_when(5, LINE)
def test_cached_equals_uncached_greedy_text_under_an_edit(figures: dict[str, Any], model: Model, steer: Change) -> None:
    asked: list[Any] = [None, *doses(steer, STRENGTHS[1:])]
    kept, anew = (generate(model, list(PROMPTS), asked, max_new_tokens=NEW, use_cache=kept) for kept in (True, False))
    figures["rows"] = len(asked) * len(PROMPTS)
    figures["texts"] = [row[0] for row in kept.texts]
    figures["log-probabilities off"] = furthest(kept.logprobs, anew.logprobs)
    assert kept.texts == anew.texts
    assert torch.equal(kept.ids, anew.ids)
    assert figures["log-probabilities off"] < 1e-3


@pytest.mark.done_when(5, LINE)
def test_the_three_scopes_fire_as_predicted(figures: dict[str, Any], model: Model, steer: Change) -> None:
    """How many tokens each pass changes, from the lengths of the prompts; a spy that adds writes what an addition does."""
    lengths = [int(n) for n in model.encode(list(PROMPTS)).lengths]
    said, passes = sum(lengths), [len(PROMPTS)] * (NEW - 1)
    predicted = {"prompt": [said], "new": passes, "all": [said, *passes]}
    vector = steer.source.value  # type: ignore[union-attr]
    for scope, expected in predicted.items():
        fired: list[int] = []

        def spy(h: Tensor, s: Tensor, fired: list[int] = fired) -> Tensor:
            fired.append(len(h))
            return h + 4 * vector

        spying = Change(SITE, source=Constant(0.0), edit=Apply(spy))
        options: dict[str, Any] = {"scope": scope, "max_new_tokens": NEW, "min_new_tokens": NEW}
        seen = generate(model, list(PROMPTS), spying, **options)
        figures[scope] = dict(Counter(fired).most_common())
        assert fired == expected
        added = generate(model, list(PROMPTS), doses(steer, [4]), **options)
        assert torch.equal(seen.ids, added.ids)


@pytest.mark.done_when(5, LINE)
def test_a_ragged_batch_equals_one_at_a_time(figures: dict[str, Any], model: Model, steer: Change) -> None:
    """Prompts of different lengths, every strength, with what is compared; and the same texts scored in one pass each."""
    asked: list[Any] = [None, *doses(steer, STRENGTHS)]
    options: dict[str, Any] = {"max_new_tokens": NEW, "compare": True}
    together = generate(model, list(PROMPTS), asked, **options)
    figures["lengths of the prompts"] = [int(n) for n in model.encode(list(PROMPTS)).lengths]
    worst = dict.fromkeys(("logprobs", "unedited_logprobs", "kl"), 0.0)
    for row, prompt in enumerate(PROMPTS):
        for cell, one in enumerate(asked):
            alone = generate(model, prompt, one, **options)
            n = int(alone.lengths)
            assert alone.ids[0, 0].tolist() == together.ids[cell, row, :n].tolist()
            assert int(together.lengths[cell, row]) == n
            for name in worst:
                worst[name] = max(worst[name], furthest(getattr(alone, name)[0, 0], getattr(together, name)[cell, row, :n]))
    figures |= {f"{name} off": value for name, value in worst.items()}
    assert max(worst.values()) < 1e-3
    figures["scored off"] = scored_off(model, together, asked)
    assert figures["scored off"] < 1e-3


def scored_off(model: Model, made: Generated, asked: list[Any]) -> float:
    """How far log-probabilities of generation are from those of one pass of the whole text."""
    worst = 0.0
    for row, prompt in enumerate(PROMPTS):
        begun = model.tokenizer(prompt)["input_ids"]  # type: ignore[misc]
        for cell, one in enumerate(asked):
            new = [token for token in made.ids[cell, row].tolist() if token >= 0]
            found = score(model, [[*begun, *new]], [None, one]).logprob.values[:, 0, len(begun) :]
            for got, expected in ((found[1], made.logprobs), (found[0], made.unedited_logprobs)):
                worst = max(worst, float((torch.as_tensor(got) - expected[cell, row, : len(new)]).abs().max()))
    return worst


@pytest.mark.done_when(5, "Generate: log-probabilities, KL and perplexity against the unedited model")
def test_perplexity_of_the_unedited_model_is_transformers_loss(figures: dict[str, Any], model: Model) -> None:
    texts = [*GLAD, *SAD, *PROMPTS]
    found = score(model, texts)
    worst = 0.0
    for row, text in enumerate(texts):
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])  # type: ignore[misc]
        with torch.no_grad():
            loss = float(model.module(input_ids=ids, labels=ids).loss)
        worst = max(worst, abs(float(found.nll[0, row]) - loss))
    figures["nats a token off"] = worst
    figures["perplexities"] = [round(float(one), 2) for one in found.perplexity[0]]
    assert worst < 1e-4


@pytest.mark.done_when(5, LINE)
def test_on_many_architectures(figures: dict[str, Any]) -> None:
    require(figures, "tests/engine/texts", "tests/engine/test_generating.py", "tests/interventions/test_steering.py")
