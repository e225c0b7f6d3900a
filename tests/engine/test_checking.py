"""What a model does on pairs: against its raw module one prompt at a time, and in the words in which it is said."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import sweeps
import tiny
import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

import interp
from interp.engine import check, patch
from interp.errors import AnswerError, UnknownNameError
from interp.models import Model, load
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import grid
from interp.stats import bootstrap_mean

WORDS = ["<s>", "the", "of", "is", "in", "Paris", "Rome", "Lima", "France", "Italy", "Peru", "a", "b", "c", "d", "<unk>"]


@cache
def tokenizer(adds_bos: bool = False, bos: bool = True) -> PreTrainedTokenizerFast:
    """One word a token."""
    inner = Tokenizer(tokenizer_models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if adds_bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>" if bos else None, unk_token="<unk>", clean_up_tokenization_spaces=False
    )


@cache
def model(seed: int = 0, adds_bos: bool = False, bos: bool = True) -> Model:
    return load(tiny.llama(seed), tokenizer=tokenizer(adds_bos, bos), name="tiny")


def pairs(unequal: bool = False) -> Pairs:
    more = "the " if unequal else ""
    items = [
        Pair(
            Prompt(f"{more}{city} is in", {"city": city}),
            Prompt(f"{other} is in", {"city": other}),
            right,
            wrong,
            template=f"t{i % 2}",
        )
        for i, (city, other, right, wrong) in enumerate(
            [
                ("Paris", "Rome", "France", "Italy"),
                ("Rome", "Lima", "Italy", "Peru"),
                ("Lima", "Paris", "Peru", "France"),
                ("Paris", "Lima", "France", "Peru"),
            ]
        )
    ]
    return Pairs(tuple(items), "cities", {"seed": 1})


def logits(tested: Model, text: str, bos: bool) -> torch.Tensor:
    """Of the raw module, one prompt, no padding."""
    ids = [WORDS.index(word) for word in text.split()]
    with torch.no_grad():
        return tested.module(input_ids=torch.tensor([[0, *ids] if bos else ids])).logits[0, -1]  # type: ignore[operator]


@pytest.mark.parametrize("bos", [False, True])
def test_the_numbers_are_the_raw_modules(bos: bool) -> None:
    tested = model()
    found = check(tested, pairs(unequal=True), bos=bos)
    for side, measured in (("clean", found.clean), ("corrupted", found.corrupted)):
        for i, pair in enumerate(pairs(unequal=True)):
            raw = logits(tested, str(getattr(pair, side).text), bos)
            right, wrong = (WORDS.index(str(one[0])) for one in (pair.answers, pair.wrong))
            close = {"rtol": 0, "atol": 1e-5 * (1 + float(raw.abs().max()))}
            np.testing.assert_allclose(measured["margin"][i], raw[right] - raw[wrong], **close)
            np.testing.assert_allclose(measured["logprob"][i], raw.log_softmax(-1)[right], **close)
            assert measured["top1"][i] == float(raw.argmax() == right)
            assert measured["says"][i] == int(raw.argmax())
    margins = found.clean["margin"]
    assert found.right.tolist() == (margins > 0).tolist()
    assert (found.passed, found.n) == (int((margins > 0).sum()), 4)
    assert found.unequal == [0, 1, 2, 3]


def test_kept_pairs_remember_how_many_of_how_many() -> None:
    """A seed for which some are right and some are not."""
    tested = next(one for one in map(model, range(50)) if 0 < check(one, pairs()).passed < 4)
    found = check(tested, pairs())
    assert [pair in found.kept for pair in pairs()] == found.right.tolist()
    said = found.kept.made_by["check"]
    assert (said["correct"], said["of"], said["model"]) == (found.passed, 4, "tiny")
    assert said["model_digest"] == tested.digest
    assert found.kept.made_by["seed"] == 1
    result = patch(tested, found.kept, grid("resid_post", layer=0, position="city"))
    assert json.loads(json.dumps(result.attrs["task_made_by"]))["check"]["correct"] == found.passed
    failed = int(np.flatnonzero(~found.right)[0])
    pair, margin = pairs()[failed], found.clean["margin"][failed]
    line = (
        f"    {failed:>3}  …{str(pair.clean.text)!r} says {found.says(failed)!r}, not {pair.answers[0]!r}, margin {margin:+.2f}"
    )
    assert line in repr(found).splitlines()
    assert f"{found.passed} of 4 correct (the answer's logit above the wrong one's on the clean prompt)" in repr(found)
    assert found.says(failed) == tested.tokenizer.decode([int(logits(tested, str(pair.clean.text), False).argmax())])  # type: ignore[union-attr]


def test_the_page() -> None:
    found = check(model(adds_bos=True), pairs(unequal=True))
    page = repr(found).splitlines()
    low, high = (float(end) for end in bootstrap_mean(found.clean["margin"], ["t0", "t1"] * 2)[1:3])
    share, mean = (found.clean["margin"] > 0).mean(), found.clean["margin"].mean()
    start = (
        f"  clean           answer above wrong {share:4.0%}, margin {mean:+.2f} [{low:+.2f}, {high:+.2f}] logits, answer on top"
    )
    assert page[1].startswith(start)
    assert page[2].startswith("  counterfactual  answer above wrong ")
    assert page[3] == "  prompts of 4 to 5 tokens; all begin with BOS '<s>' (bos='model')"
    assert page[4] == (
        "  4 of 4 pairs differ in their number of tokens (0, 1, 2, 3): sweep roles or negative positions, not raw ones"
    )
    at = page.index("  pair 0")
    assert page[at + 1 : at + 7] == [
        "   pos  clean    roles   pos  counterfactual  roles",
        "     0  '<s>'              0  '<s>'",
        "     1  'the'                 –                      ←",
        "     2  'Paris'  city      1  'Rome'          city   ←",
        "     3  'is'               2  'is'",
        "     4  'in'               3  'in'",
    ]
    says = [found.says(0), found.says(0, "corrupted")]
    assert page[-1] == (f"  answer 'France', wrong 'Italy'; the model says {says[0]!r}, and {says[1]!r} to the counterfactual")


@pytest.mark.parametrize(
    ("kind", "bos", "said"),
    [
        ({}, None, "none begin with BOS '<s>' (bos='model'; bos=True puts it in front)"),
        ({}, True, "all begin with BOS '<s>' (bos=True)"),
        ({"adds_bos": True}, False, "none begin with BOS '<s>' (bos=False; bos=True puts it in front)"),
        ({"bos": False}, None, "no BOS, which the tokenizer does not have"),
    ],
)
def test_bos_is_said(kind: dict[str, bool], bos: bool | None, said: str) -> None:
    assert f"  prompts of {4 if bos is True else 3} tokens; {said}" in repr(check(model(**kind), pairs(), bos=bos)).splitlines()


def test_some_with_bos_and_token_ids() -> None:
    items = Pairs((Pair((0, 5, 3), (5, 3), 8, 9), Pair((6, 3), (5, 3), 8, 9)))
    assert "only some begin with BOS" in repr(check(model(), items))
    plain = load(tiny.llama(0))
    page = repr(check(plain, items))
    assert "no tokenizer, so no BOS" in page
    assert re.search(r"says '\d+', not 8|answer 8, wrong 9", page)


def test_without_wrong_answers_right_is_on_top() -> None:
    only = Pairs(tuple(replace(pair, wrong=()) for pair in pairs()))
    found = check(model(), only)
    assert found.by == "top1"
    assert found.passed == int(found.clean["top1"].sum())
    assert "margin" not in found.clean
    assert "margin" not in repr(found)
    top = check(model(), pairs(), by="top1")
    assert top.right.tolist() == (top.clean["top1"] > 0).tolist()


def test_a_table() -> None:
    found = check(model(), pairs())
    table = found.table()
    assert table.index.name == "example"
    assert table["right"].tolist() == found.right.tolist()
    assert table["clean"].tolist() == [str(pair.clean.text) for pair in pairs()]
    np.testing.assert_array_equal(table["margin"], found.clean["margin"])
    np.testing.assert_array_equal(table["margin_counterfactual"], found.corrupted["margin"])
    assert table["says"].tolist() == [found.says(i) for i in range(4)]
    assert (table["answer_tokens"].tolist(), table["tokens"].tolist()) == ([1] * 4, [3] * 4)


def test_long_stretches_that_show_nothing_are_left_out() -> None:
    same = " ".join(["a", "b"] * 10)
    one = Pairs((Pair(Prompt(f"{same} Paris is", {"city": "Paris"}), f"{same} Rome is", "France", "Italy"),))
    page = repr(check(model(), one)).splitlines()
    assert "   ⋮  16 more, the same in both" in page
    assert sum("'a'" in line or "'b'" in line for line in page) == 4


def test_answers_of_several_tokens_and_alike() -> None:
    answers = [(" France", " Italy"), (" a b", " a c"), (" Peru", " Lima"), (" c d", " d")]
    told = Pairs(tuple(replace(p, answers=(a,), wrong=(w,)) for p, (a, w) in zip(pairs(), answers, strict=True)))
    other = check(model(), told)
    assert other.answer_tokens == [("France",), ("a", "b"), ("Peru",), ("c", "d")]
    assert (other.several, other.alike) == ([1, 3], [1])
    page = repr(other).splitlines()
    assert "  2 answers are several tokens (1, 3), such as 'a' + 'b'" in page
    assert "  1 answers begin with the same token as the wrong one (1), such as 'a'" in page


def test_it_is_asked_of_pairs_too_and_of_what_was_encoded() -> None:
    tested = model()
    assert interp.check is check
    assert repr(pairs().check(tested)) == repr(check(tested, pairs())) == repr(check(tested, tested.encode(pairs())))
    assert repr(pairs().check(tested, bos=True)) == repr(check(tested, pairs(), bos=True))
    assert check(tested, pairs()[0]).n == 1


def test_mistakes_are_named() -> None:
    with pytest.raises(AnswerError, match=r"1 of 2 pairs have no answer \(examples 1\), so nothing is right"):
        check(model(), [pairs()[0], Pair("a", "b")])
    with pytest.raises(
        AnswerError, match="by='margin' compares with a wrong answer, which some pairs lack; by='top1' needs none"
    ):
        check(model(), [Pair("a", "b", "c")], by="margin")
    with pytest.raises(UnknownNameError, match="unknown by 'margins'; did you mean 'margin'"):
        sweeps.unchecked(check)(model(), pairs(), by="margins")


def test_smollm2_knows_capitals(loaded_smollm2: Model) -> None:
    capitals = {"France": " Paris", "Italy": " Rome", "Spain": " Madrid", "Germany": " Berlin"}
    names = list(capitals)
    others = names[1:] + names[:1]
    made = interp.pairs(
        [f"The capital of {name} is" for name in names],
        [f"The capital of {name} is" for name in others],
        [capitals[name] for name in names],
        [capitals[name] for name in others],
        roles={"country": list(zip(names, others, strict=True))},
    )
    found = made.check(loaded_smollm2)
    assert (found.passed, found.n) == (4, 4)
    assert (found.corrupted["margin"] < 0).all()
    assert found.says(0) == " Paris"
