"""Networks that are made by formulas load by their name, as those that ship do.

Expected numbers are those of the network itself, which its own tests hold against its program.
"""

from __future__ import annotations

import pytest
import torch

import interp
from interp.errors import LoadError, UnknownNameError
from interp.models import zoo
from interp.models.digest import of_module


@pytest.mark.parametrize("name", zoo.KNOWN)
def test_the_name_gives_the_network_with_its_tokenizer(name: str) -> None:
    known, model = zoo.KNOWN[name](), interp.load(f"zoo/{name}", progress=False)
    assert (model.name, model.dtype) == (f"zoo/{name}", torch.float64)
    assert of_module(model.module) == of_module(known.net)
    ids = list(known.pairs[0].clean.text)
    with torch.no_grad():
        torch.testing.assert_close(model.module(torch.tensor([ids])).logits[0, -1], known.expected[0], rtol=0, atol=1e-12)
    assert model.tokenizer is not None
    assert model.tokenizer(" ".join(known.vocabulary[i] for i in ids))["input_ids"] == ids


def test_it_can_be_loaded_again_and_in_another_type() -> None:
    model = interp.load("zoo/or", dtype="float32", name="gate", progress=False)
    assert (model.name, model.dtype) == ("gate", torch.float32)
    again = interp.load(**model.origin.arguments, progress=False)
    assert model.origin.why_not == ""
    assert (again.name, again.digest) == (model.name, model.digest)


def test_what_is_of_files_is_refused() -> None:
    with pytest.raises(LoadError, match="zoo/or is made by formulas and not read from files, so device_map, revision cannot"):
        interp.load("zoo/or", device_map="auto", revision="main")
    with pytest.raises(LoadError, match="so remote cannot apply"):
        interp.load("zoo/or", remote=True, backend="nnsight")


def test_unknown_names_are_answered_with_all_there_are() -> None:
    with pytest.raises(
        UnknownNameError, match=r"'revers'; did you mean 'reverse'\? \(known: induction-2l, language-4l,.* or, and"
    ):
        interp.load("zoo/revers")
    with pytest.raises(UnknownNameError, match=r"made by formulas and has no folder; interp.load\('zoo/reverse'\) makes it"):
        zoo.path("zoo/reverse")
