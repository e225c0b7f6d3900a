"""What identifies a run: BOS, the policy that put it there, and the tokens of chats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import xarray as xr
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from interp.engine import patch
from interp.models import Model, load
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import grid
from interp.store import Store

WORDS = ["<s>", "</s>", "a", "b", "c", "d", "user:", "bot:", "1", "2", "<unk>"]
PAIRS = Pairs((Pair("a b", "a c", "d", "b"),))


def model(ends: bool = False, template: str | None = None, words: Sequence[str] = WORDS) -> Model:
    """One word a token; the tokenizer adds either nothing or an end."""
    inner = Tokenizer(tokenizer_models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if ends:
        inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made.chat_template = template
    return load(tiny.llama(0), tokenizer=made, name="tiny")


def run(tested: Model, pairs: Pairs, bos: Any = "model") -> xr.Dataset:
    return patch(tested, tested.encode(pairs, bos=bos), grid("resid_post", layer=0, position=-1))


def test_bos_is_in_the_id_of_a_run(tmp_path: Path) -> None:
    tested, store = model(), Store(tmp_path)
    with_bos, without, by_itself = (run(tested, PAIRS, bos) for bos in (True, False, "model"))
    assert (with_bos.attrs["spec"]["bos"], without.attrs["spec"]["bos"]) == (True, False)
    assert len({store.save(result) for result in (with_bos, without, by_itself)}) == 3
    assert store.save(run(tested, PAIRS, True)) == store.save(with_bos)
    assert "bos_asked" not in by_itself.attrs["spec"], "so that ids of runs with the default stay as they were"


def test_positions_have_the_role_that_all_prompts_have_there() -> None:
    """Beside BOS: "a" is first in both prompts, "last" is the third word of one and the fourth of the other."""
    one, other = Prompt("a b c d", {"first": "a", "last": "c"}), Prompt("c d b a", {"first": "c", "last": "a"})
    pairs = Pairs((Pair(one, one, "d", "b"), Pair(other, other, "d", "b")))
    tested = model()
    found = patch(tested, tested.encode(pairs, bos=True), grid("resid_post", layer=0, position=...))
    assert found["role"].dims == ("position",)
    assert found["role"].values.tolist() == ["", "first", "", "", ""]
    from_the_end = patch(tested, tested.encode(pairs, bos=True), grid("resid_post", layer=0, position=[-4, -1]))
    assert from_the_end["role"].values.tolist() == ["first", ""]
    assert "role" not in run(tested, PAIRS).coords


def test_answers_are_coordinates_as_they_were_asked() -> None:
    """Words, ids, and alternatives; without any there is no coordinate."""
    several = Pairs((Pair("a b", "a c", ["d", 8]), Pair("b a", "c a", "a", [3])))
    found = patch(model(), several, grid("z", layer=...), "logprob")
    assert found["answer"].dims == ("example",)
    assert found["answer"].values.tolist() == ["d | 8", "a"]
    assert found["wrong"].values.tolist() == ["", "3"]
    one_word_more = patch(model(), Pairs((Pair("a b", "a c", [(2, 3)]),)), grid("z", layer=...), "logprob")
    assert one_word_more["answer"].values.tolist() == ["2 3"]
    unasked = patch(model(), Pairs((Pair("a b", "a c"),)), grid("z", layer=...), "kl")
    assert not {"answer", "wrong"} & set(unasked.coords)


def test_other_special_tokens_are_in_it_too() -> None:
    """An end that the tokenizer adds, and that bos=False leaves out, changes the numbers though neither begins with BOS."""
    tested = model(ends=True)
    one, other = run(tested, PAIRS), run(tested, PAIRS, False)
    assert float(abs(one.clean - other.clean).max()) > 1e-3
    assert one.attrs["bos"] == other.attrs["bos"]
    assert one.attrs["spec"] != other.attrs["spec"]


@pytest.mark.parametrize("words", ["a", "d"])
def test_another_tokenizer_makes_another_run(words: str, tmp_path: Path) -> None:
    """The weights and the texts are the same; a word of the prompts, or an answer, has another id."""
    one, other = model(), model(words=[{words: "1", "1": words}.get(word, word) for word in WORDS])
    assert one.digest == other.digest
    found = [patch(tested, PAIRS, "L0.z", store=tmp_path) for tested in (one, other, one)]
    assert float(abs(found[0].clean - found[1].clean).max()) > 1e-3
    assert found[0].identical(found[2])
    assert len(list(Store(tmp_path))) == 2


@pytest.mark.parametrize("same", [True, False])
def test_a_chat_is_known_by_its_tokens(same: bool) -> None:
    """The same messages written by another template are another run."""
    template = "{% for m in messages %}user: {{ m['content'] }} {% endfor %}bot:"
    chats = Pairs((Pair([{"role": "user", "content": "a b"}], [{"role": "user", "content": "a c"}], "d", "b"),))
    one = run(model(template=template), chats)
    other = run(model(template=template if same else "1 " + template), chats)
    assert one.attrs["pairs_digest"] == other.attrs["pairs_digest"]
    assert (one.attrs["spec"] == other.attrs["spec"]) is same
    assert one.clean_prompt.values.tolist() == ["user: a b"]
