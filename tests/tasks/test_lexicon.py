"""The word lists, the test for single tokens, and the choice of words."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from interp import tasks
from interp.errors import UnequalLengthsError
from interp.tasks import lexicon


def test_digests_are_pinned() -> None:
    # A changed list changes every pair made from it: whoever changes one must say so here. The numbers are sha256 of the JSON.
    assert dict(lexicon.DIGESTS) == {
        "names": "53ae8a832ac79da6",
        "places": "2de00846ed798a8d",
        "objects": "1ef59a366a0b654b",
        "events": "4b898bdb0d010920",
        "words": "655e553bdf00a39c",
    }
    assert lexicon.digest(["a", "b"]) == hashlib.sha256(json.dumps(["a", "b"]).encode()).hexdigest()[:16]
    assert lexicon.digest(["a", "b"]) != lexicon.digest(["b", "a"])


@pytest.mark.parametrize(("name", "least"), [("names", 60), ("places", 20), ("objects", 20), ("events", 20), ("words", 60)])
def test_lists_are_long_enough_and_hold_plain_words_once(name: str, least: int) -> None:
    words = lexicon.LISTS[name]
    assert len(words) >= least  # sizes asked for by the issue
    assert len(set(words)) == len(words)
    assert all(re.fullmatch("[A-Z][a-z]+" if name == "names" else "[a-z]+", word) for word in words)


def test_no_word_stands_in_two_lists() -> None:
    everything = [word.lower() for words in lexicon.LISTS.values() for word in words]
    assert len(set(everything)) == len(everything)


def test_no_name_is_a_word_of_a_template() -> None:
    templates = " ".join(template.text for template in (*tasks.IOI_TEMPLATES, *tasks.GREATER_THAN_TEMPLATES))
    assert {name.lower() for name in lexicon.NAMES}.isdisjoint(re.findall(r"\w+", templates.lower()))


def test_objects_go_with_the_article_a() -> None:
    assert not [word for word in lexicon.OBJECTS if word[0] in "aeiou"]


def test_split_is_a_partition_that_depends_on_the_seed() -> None:
    parts = lexicon.split(lexicon.NAMES)
    assert [len(part) for part in parts] == [72, 24, 24]  # 60, 20 and 20 % of 120
    assert sorted(word for part in parts for word in part) == sorted(lexicon.NAMES)
    assert lexicon.split(lexicon.NAMES) == parts
    assert lexicon.split(lexicon.NAMES, seed=1) != parts


def test_split_gives_what_rounding_leaves_to_the_last_part() -> None:
    assert [len(part) for part in lexicon.split("abcdefg", (0.5, 0.25, 0.25))] == [4, 1, 2]  # cuts at round(3.5), round(5.25)


def test_split_refuses_shares_that_are_no_partition() -> None:
    with pytest.raises(ValueError, match=r"shares=\(0\.5, 0\.2\) must be positive and sum to 1"):
        lexicon.split(lexicon.NAMES, (0.5, 0.2))


def test_single_token_keeps_the_order_and_drops_unknown_words(word_tokenizer: Any) -> None:
    tokenizer = word_tokenizer(without=["John"])
    assert lexicon.single_token(["Tom", "John", "Mary"], tokenizer) == ("Tom", "Mary")
    assert lexicon.single_token(["1732", "17"], tokenizer, leading_space=False) == ("17",)


def test_single_token_counts_the_leading_space_as_part_of_the_word() -> None:
    """A byte-level tokenizer made here: " ab" is one token, "ab" and " c" + "d" are two."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["t", "h", "e", "Ġ", "a", "b", "c", "d", "Ġa", "Ġab", "Ġc"]
    inner = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [("Ġ", "a"), ("Ġa", "b"), ("Ġ", "c")]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=inner)
    assert lexicon.single_token(["ab", "cd"], tokenizer) == ("ab",)
    assert lexicon.single_token(["ab", "cd"], tokenizer, leading_space=False) == ()
    assert lexicon.following(" ab", tokenizer) == [pieces.index("Ġab")]


@pytest.mark.parametrize("name", lexicon.LISTS)
def test_every_word_is_one_token_of_smollm2(name: str, smollm2: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert lexicon.single_token(lexicon.LISTS[name], tokenizer) == lexicon.LISTS[name]


def test_following_gives_the_whole_where_the_words_merge() -> None:
    """A tokenizer that writes "the" differently when something follows: nothing can be taken away."""

    class Merging:
        bos_token_id = None

        def __call__(self, text: Any, **kwargs: Any) -> dict[str, Any]:
            return {"input_ids": self.encode(text)}

        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            return [1] if text == "the" else [2, 3]

        def decode(self, token_ids: Any) -> str:
            return "".join({1: "the", 2: "thea", 3: "b"}[i] for i in token_ids)

        def convert_ids_to_tokens(self, ids: Any) -> list[str]:
            return [self.decode([i]) for i in ids]

    assert lexicon.following(" ab", Merging()) == [2, 3]
    assert not lexicon.is_single("ab", Merging())


def test_the_lexicon_is_cut_down_to_the_tokenizer_and_a_given_list_is_refused(word_tokenizer: Any) -> None:
    tokenizer = word_tokenizer(without=["John"])
    chosen = lexicon.choose("names", None, "names", tokenizer, least=2)
    assert chosen == tuple(name for name in lexicon.NAMES if name != "John")
    with pytest.raises(UnequalLengthsError) as caught:
        lexicon.choose("names", ["Mary", "John"], "names", tokenizer, least=2)
    assert str(caught.value) == (
        "names holds 'John', which this tokenizer writes as 1 token ['[UNK]']; clean and corrupted prompts match by position "
        "only if every filler is one token of its own. Leave it out, or filter with lexicon.single_token(names, tokenizer)"
    )


def test_choose_refuses_repeated_and_too_few_words(word_tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"^names holds 'Tom' twice; give each word once$"):
        lexicon.choose("names", ["Tom", "Mary", "Tom"], "names", None, least=2)
    with pytest.raises(ValueError, match=r"^names: at least 2 different words are needed, 1 were given$"):
        lexicon.choose("names", ["Tom"], "names", None, least=2)
    tokenizer = word_tokenizer(without=lexicon.NAMES[1:])
    expected = (
        r"^names: at least 2 different words are needed, 1 of the lexicon's 120 names are single tokens of this tokenizer$"
    )
    with pytest.raises(ValueError, match=expected):
        lexicon.choose("names", None, "names", tokenizer, least=2)
