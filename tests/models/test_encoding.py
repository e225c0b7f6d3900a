"""Prompts to tensors: padding never shows, roles find their tokens, errors show the tokens.

Expected columns are counted by hand in the prompts below.
"""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spelling import pieces, words

from interp.doctor import architectures
from interp.errors import AnswerError, PositionError, UnequalLengthsError, UnknownNameError
from interp.models.encoding import Tokens, encode
from interp.models.reading import encode_pairs
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import ALL, Positions, Site


def columns(tokens: Tokens, positions: object) -> list[list[int]]:
    return tokens.columns(Positions.parse(positions)).tolist()  # type: ignore[arg-type]


# padding and positions

BOTH = ["Mary went home", "When Mary and John went home"]


def test_padding_is_on_the_left_and_positions_count_real_tokens() -> None:
    tokens = encode(BOTH, words(), pad=9)
    assert tokens.ids.tolist() == [[9, 9, 9, 3, 6, 7], [2, 3, 4, 5, 6, 7]]
    assert tokens.mask.tolist() == [[False] * 3 + [True] * 3, [True] * 6]
    assert tokens.position_ids.tolist() == [[0, 0, 0, 0, 1, 2], [0, 1, 2, 3, 4, 5]]
    assert tokens.first.tolist() == [3, 0]
    assert tokens.lengths.tolist() == [3, 6]
    assert tokens.strings == (("Mary", "went", "home"), ("When", "Mary", "and", "John", "went", "home"))
    inputs = tokens.inputs()
    assert inputs["attention_mask"].tolist() == [[0, 0, 0, 1, 1, 1], [1] * 6]
    assert set(inputs) == {"input_ids", "attention_mask", "position_ids"}


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (0, [[3], [0]]),
        (2, [[5], [2]]),
        (-1, [[5], [5]]),
        (-3, [[3], [3]]),
        ([0, -1], [[3, 5], [0, 5]]),
        ("last", [[5], [5]]),
        (..., [[3, 4, 5, -1, -1, -1], [0, 1, 2, 3, 4, 5]]),
        ("all but 0", [[4, 5, -1, -1, -1], [1, 2, 3, 4, 5]]),
        ("all but -2", [[3, 5, -1, -1, -1], [0, 1, 2, 3, 5]]),
    ],
)
def test_columns_of_raw_positions(positions: object, expected: list[list[int]]) -> None:
    assert columns(encode(BOTH, words()), positions) == expected


@pytest.mark.parametrize(
    ("index", "words_"),
    [
        (3, "positions 3 is past the end of example 0, which has 3 tokens (0 to 2, or −3 to −1): 'Mary' 'went' 'home'"),
        (-4, "positions -4 is past the end of example 0, which has 3 tokens (0 to 2, or −3 to −1): 'Mary' 'went' 'home'"),
        (6, "positions 6 is past the end of example 0"),
    ],
)
def test_a_position_past_the_end_shows_the_tokens(index: int, words_: str) -> None:
    with pytest.raises(PositionError, match=re.escape(words_)):
        columns(encode(BOTH, words()), index)
    with pytest.raises(PositionError, match="metric position 9 is past the end of example 0, which has 6 tokens"):
        encode(BOTH[::-1], words()).columns(Positions.parse(9), what="metric position")


def test_the_same_token_named_twice_is_refused() -> None:
    """−1 and 2 are one token of the first prompt, two of the second."""
    with pytest.raises(PositionError, match=r"names one token twice in example 0"):
        columns(encode(BOTH, words()), [2, -1])
    assert columns(encode(BOTH[1:], words()), [2, -1]) == [[2, 5]]


@settings(max_examples=30)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 4), st.integers(-3, 2))
def test_more_padding_moves_columns_and_nothing_else(lengths: list[int], more: int, index: int) -> None:
    prompts = [Prompt(tuple(range(1, n + 1)), {"x": (n - 1, n), "all": (0, n)}) for n in lengths]
    tokens = encode(prompts, None)
    wide = tokens.padded(tokens.ids.shape[1] + more, pad=77)
    assert wide.lengths.tolist() == lengths
    for positions in ("x", "all", "all[-1]", ...):
        here, there = tokens.columns(Positions.parse(positions)), wide.columns(Positions.parse(positions))
        assert torch.equal(torch.where(here >= 0, here + more, -1), there[:, : here.shape[1]])
        assert bool((there[:, here.shape[1] :] == -1).all())
    for row, n in enumerate(lengths):
        assert wide.ids[row][wide.mask[row]].tolist() == list(range(1, n + 1))
    if min(lengths) > index >= -min(lengths):
        assert columns(wide, index) == [[tokens.ids.shape[1] + more - n + (index % n)] for n in lengths]


def test_taking_examples() -> None:
    tokens = encode([Prompt((1, 2, 3), {"x": (1, 3)}), Prompt((4,), {"x": (0, 1)})], None)
    taken = tokens.take([1, 0, 1])
    assert taken.ids.tolist() == [[0, 0, 4], [1, 2, 3], [0, 0, 4]]
    assert taken.roles["x"].tolist() == [[2, -1], [1, 2], [2, -1]]
    assert tokens.take(slice(1, 2)).lengths.tolist() == [1]
    assert len(taken) == 3


# roles


def test_roles_are_the_tokens_that_carry_their_characters() -> None:
    prompt = "When Mary and John went home"
    tokens = encode(
        [
            Prompt(prompt, {"IO": (5, 9), "pair": (5, 18), "end": (24, 28)}),
            Prompt("John went home", {"IO": (0, 4), "pair": (0, 4), "end": (10, 14)}),
        ],
        words(),
    )
    assert tokens.roles["IO"].tolist() == [[1], [3]]
    assert tokens.roles["pair"].tolist() == [[1, 2, 3], [3, -1, -1]]
    assert columns(tokens, "pair[0]") == [[1], [3]]
    assert columns(tokens, "pair[-1]") == [[3], [3]]
    assert columns(tokens, "end") == [[5], [5]]


def test_roles_in_a_byte_level_tokenizer_include_the_token_whose_space_comes_first() -> None:
    """ " Mary" is one token of five characters, of which the role names four; "Anne" is four tokens here."""
    text = " Mary and Anne"
    tokens = encode([Prompt(text, {"IO": (1, 5), "S": (10, 14), "space": (5, 6)})], pieces())
    strings = tokens.strings[0]
    assert "".join(strings) == text
    assert [strings[i] for i in tokens.roles["IO"][0]] == [" Mary"]
    assert "".join(strings[i] for i in tokens.roles["S"][0]).strip() == "Anne"
    assert [strings[i] for i in tokens.roles["space"][0]] == [" and"]


def test_roles_with_a_bos_in_front_move_by_one() -> None:
    prompt = Prompt("Mary went home", {"S": (0, 4)})
    for tokenizer, bos, column in ((words(), False, 0), (words(), True, 1), (words(True), "model", 1), (words(True), False, 0)):
        assert encode([prompt], tokenizer, bos).roles["S"].tolist() == [[column]]


def test_ids_have_roles_in_tokens() -> None:
    tokens = encode([Prompt((5, 6, 7), {"x": (1, 3)}), Prompt((8, 9), {"x": (0, 1)})], None)
    assert columns(tokens, "x") == [[1, 2], [1, -1]]
    assert tokens.strings == (("5", "6", "7"), ("8", "9"))


def test_roles_that_are_not_there() -> None:
    tokens = encode([Prompt((1, 2), {"S1": (0, 1), "only": (0, 1)}), Prompt((3, 4), {"S1": (1, 2)})], None)
    assert set(tokens.roles) == {"S1"}, "a role that some prompt lacks is none"
    with pytest.raises(UnknownNameError, match="unknown role 'S2'; did you mean 'S1'"):
        columns(tokens, "S2")
    with pytest.raises(PositionError, match=re.escape("S1[1]: role 'S1' of example 0 spans 1 tokens")):
        columns(tokens, "S1[1]")
    with pytest.raises(PositionError, match=re.escape("S1[-2]: role 'S1' of example 0 spans 1 tokens")):
        columns(tokens, "S1[-2]")
    with pytest.raises(PositionError, match=r"role 'gap' of prompt 'Mary  went' covers ' ', which no token carries"):
        encode([Prompt("Mary  went", {"gap": (4, 5)})], words())


# BOS


@pytest.mark.parametrize(
    ("adds", "bos", "ids"),
    [
        (False, "model", [3, 6]),
        (False, False, [3, 6]),
        (False, True, [0, 3, 6]),
        (True, "model", [0, 3, 6]),
        (True, False, [3, 6]),
        (True, True, [0, 3, 6]),  # exactly one
    ],
)
def test_bos(adds: bool, bos: object, ids: list[int]) -> None:
    tokens = encode(["Mary went"], words(adds), bos)  # type: ignore[arg-type]
    assert tokens.ids.tolist() == [ids]
    assert columns(tokens, 0) == [[0]], "the BOS is a real token"
    pair = Pair(Prompt("Mary went"), Prompt("John went"), ("home",), ("book",))
    assert encode_pairs(Pairs((pair,)), words(adds), bos).bos == (ids[0] == 0)  # type: ignore[arg-type]


def test_bos_where_there_is_none() -> None:
    with pytest.raises(PositionError, match="bos=True, but this tokenizer has no BOS token; use bos='model' or bos=False"):
        encode(["Mary"], pieces(), True)


# what cannot be encoded


@pytest.mark.parametrize(
    ("prompts", "words_"),
    [
        ([], "no prompt was given"),
        ([""], "prompt '' has no tokens; give a text, or bos=True for the BOS token alone"),
        ([()], "empty"),
    ],
)
def test_nothing_to_encode(prompts: list[object], words_: str) -> None:
    with pytest.raises(PositionError, match=words_):
        encode(prompts, words())  # type: ignore[arg-type]


def test_bos_alone_is_a_prompt() -> None:
    assert encode([""], words(), True).ids.tolist() == [[0]]


def test_a_text_without_a_tokenizer() -> None:
    with pytest.raises(PositionError, match="prompt 'Mary' is a text, but the model has no tokenizer: pass tokenizer= to load"):
        encode(["Mary"], None)
    with pytest.raises(AnswerError, match="answer ' Mary' is a text, but the model has no tokenizer: give its token id"):
        encode_pairs(Pairs((Pair(Prompt((1,)), Prompt((2,)), (" Mary",), (3,)),)), None)


# answers


def one(clean: str, corrupted: str, answers: tuple[str | int, ...], wrong: tuple[str | int, ...]) -> Pairs:
    return Pairs((Pair(Prompt(clean), Prompt(corrupted), answers, wrong),))


def test_answers_are_the_token_that_follows() -> None:
    found = encode_pairs(one("went to", "gave to", (" Mary", " John"), (" home",)), pieces())
    spelled = lambda ids: [pieces().decode([i]) for i in ids]  # noqa: E731
    assert spelled(found.answers[0].tolist()) == [" Mary", " John"]
    assert spelled(found.wrong[0].tolist()) == [" home"]
    assert encode_pairs(one("went to", "gave to", ("Mary",), ("John",)), words()).answers.tolist() == [[3]]


def test_answers_are_padded_and_ids_are_taken_as_they_are() -> None:
    pairs = Pairs(
        (
            Pair(Prompt((1, 2)), Prompt((3, 4)), (5, 6), (7,)),
            Pair(Prompt((1, 2)), Prompt((3, 4)), (8,), ()),
        )
    )
    found = encode_pairs(pairs, None)
    assert found.answers.tolist() == [[5, 6], [8, -1]]
    assert found.wrong.tolist() == [[7], [-1]]


# pairs of unequal length


def test_both_sides_have_one_width() -> None:
    found = encode_pairs(one("Mary went home", "When Mary and John went home", ("to",), ("a",)), words())
    assert found.clean.ids.shape == found.corrupted.ids.shape == (1, 6)
    assert found.clean.lengths.tolist() == [3]
    found.clean.columns(ALL)


def test_unequal_lengths_show_both_prompts_token_by_token() -> None:
    equal = Pair(Prompt("Mary went"), Prompt("John went"), ("home",), ("book",))
    pairs = Pairs((equal, Pair(Prompt("Mary went home"), Prompt("John and Mary went home"), ("to",), ("a",))))
    with pytest.raises(UnequalLengthsError) as error:
        encode_pairs(pairs, words()).require_equal_lengths("this grid")
    assert str(error.value).split("\n") == [
        "this grid matches positions by raw index, but the prompts of 1 of 2 pairs differ in length. Example 1: clean has 3 "
        "tokens, corrupted 5; give the pairs roles and use those",
        "  pos  clean   corrupted",
        "    0  'Mary'  'John'  ←",
        "    1  'went'  'and'   ←",
        "    2  'home'  'Mary'  ←",
        "    3  –       'went'  ←",
        "    4  –       'home'  ←",
    ]


def test_a_role_that_some_prompts_lack_says_which() -> None:
    """A role is of all prompts or of none; the message counts those without it, and names five of them at most."""
    named, bare = Prompt([4, 5, 6], {"subject": (0, 1), "end": (2, 3)}), Prompt([4, 5], {"end": (1, 2)})
    with pytest.raises(UnknownNameError) as refused:
        encode([named, bare, named, bare], None).columns(Positions.parse("subject"))
    assert str(refused.value) == (
        "unknown role 'subject': 2 of 4 prompts do not name it (examples 1, 3); give it to every prompt, or leave these out "
        "(known: end)"
    )
    with pytest.raises(UnknownNameError, match=r"7 of 8 prompts do not name it \(examples 1, 2, 3, 4, 5, …\)"):
        encode([named, *[bare] * 7], None).columns(Positions.parse("subject"))


def test_a_role_of_another_stream_says_how_that_is_written() -> None:
    model = architectures.loaded("t5")
    encoded = model.encode([Prompt([5, 6, 7], {"subject": (1, 2)}, target=[0, 9])])
    with pytest.raises(UnknownNameError) as refused:
        model.places(encoded, Site("resid_post", layer=0)).columns(Positions.parse("subject"))
    assert str(refused.value) == (
        "unknown role 'subject': the prompts have it in the stream 'encoder', whose sites are written 'encoder:…', as in "
        "'encoder:resid_post', or with stream='encoder' where a call takes it"
    )
    assert model.places(encoded, Site("resid_post", layer=0, stream="encoder")).columns(
        Positions.parse("subject")
    ).tolist() == [[1]]


def test_unequal_lengths_name_the_roles_that_would_do() -> None:
    roles = [{"S1": (0, 4), "IO": (5, 9)}, {"S1": (0, 4), "IO": (5, 8), "more": (0, 1)}]
    pairs = Pairs((Pair(Prompt("Mary went", roles[0]), Prompt("John and Mary", roles[1])),))
    with pytest.raises(UnequalLengthsError, match=re.escape("use a role instead, such as position=['S1', 'IO']")):
        encode_pairs(pairs, words()).require_equal_lengths("this grid")


def test_equal_lengths_pass() -> None:
    pairs = Pairs((Pair(Prompt("Mary went"), Prompt("John went")), Pair(Prompt("Mary"), Prompt("John"))))
    encode_pairs(pairs, words()).require_equal_lengths("this grid")


def test_answers_that_become_one_token_are_refused() -> None:
    with pytest.raises(AnswerError, match=r"example 0: answers \('Mary',\) and wrong \(3,\) share a token"):
        encode_pairs(one("went to", "gave to", ("Mary",), (3,)), words())
