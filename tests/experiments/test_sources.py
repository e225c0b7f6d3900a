"""The examples of experiments/sources, run small: what they print is what the methods promise."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import interp

SOURCES = Path(__file__).parents[2] / "experiments" / "sources"


@pytest.fixture(scope="module")
def modules() -> Iterator[Any]:
    """Imports an example by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SOURCES))
        yield import_module


@pytest.fixture(scope="module")
def zoo() -> tuple[interp.Model, interp.Pairs]:
    model = interp.load("zoo/language-4l")
    return model, interp.tasks.ioi(4, seed=0, tokenizer=model.tokenizer)


def test_cross_model(modules: Any, zoo: tuple[interp.Model, interp.Pairs]) -> None:
    """Blocks 0 and 1 are the same in both models, so their streams are; the last stream at the end is the other model's."""
    model, pairs = zoo
    example = modules("cross_model")
    found = example.table(model, example.moved(model, layer=2, size=0.5), pairs)
    assert found.loc[[0, 1]].abs().to_numpy().max() == 0
    assert found.loc[3, "END"] == 1
    assert found.loc[3, "S2"] == 0


def test_prepending(modules: Any, zoo: tuple[interp.Model, interp.Pairs], capsys: pytest.CaptureFixture[str]) -> None:
    """In the last layer only the last token is read; there its state brings the logit difference behind the prefix."""
    model, pairs = zoo
    first, *others = pairs
    found = modules("prepending").table(model, interp.Pairs(tuple(others)), f"{first.clean.text}{first.answers[0]},")
    without, behind = (float(word) for word in capsys.readouterr().out.split()[-2:])
    assert found.loc[3, ["IO", "S1", "S2"]].abs().max() == 0
    assert found.loc[3, "END"] == pytest.approx(behind - without, abs=0.01)


def test_patchscopes(modules: Any, loaded_smollm2: interp.Model) -> None:
    """A state from the middle of the network says its own word; the prompt as it is repeats another."""
    found = modules("patchscopes").table(loaded_smollm2, layers=[5], into=[5])
    assert found["into layer 5"].tolist() == ["Paris", "violin", "dollars"]


def test_function_vector(modules: Any, loaded_smollm2: interp.Model) -> None:
    """Heads that the example finds, summed and added at a third of the depth and behind: the capital gains two nats."""
    model, example = loaded_smollm2, modules("function_vector")
    heads = [(20, 5), (14, 1), (20, 6), (17, 5), (17, 3), (20, 0), (20, 3)]
    countries = list(example.CAPITALS.items())[:4]
    pairs = interp.Pairs(tuple(interp.Pair(f"{country}:", f"{country}:", f" {capital}") for country, capital in countries))
    found = interp.patch(model, pairs, [example.function_vector(heads, 18)], "logprob")
    assert float(np.mean(interp.effect(found).values)) > 2
    text, answer = example.prompts(shuffled=False)[0]
    assert (text.endswith("France:"), answer, text.count("\n")) == (True, " Paris", 5)
