"""Answers as tokens: in their place, several of them, what stands behind prompts, and what cannot be told apart.

Expected tokens are counted by hand in the words below; those of byte pairs are the tokenizer's own of prompt and answer.
"""

from __future__ import annotations

import re

import pytest
from spelling import pieces, words

from interp.errors import AnswerError, PositionError
from interp.models.encoding import Encoded
from interp.models.reading import Reading, encode_pairs
from interp.prompts import Answers, Pair, Pairs, Prompt
from interp.sites import ALL, Positions


def one(clean: str, corrupted: str, answers: Answers, wrong: Answers = ()) -> Pairs:
    return Pairs((Pair(Prompt(clean), Prompt(corrupted), answers, wrong),))


def three() -> Pairs:
    """Prompts of 3 and 2, 5 and 5, 2 and 2 words; answers of 2, 1 and 3."""
    roles = {"who": (0, 4)}
    return Pairs(
        (
            Pair(Prompt("Mary went home", roles), Prompt("John gave", roles), " and John", " and Mary"),
            Pair(Prompt("Mary and John went home", roles), Prompt("John and Mary went home", roles), " to", " a"),
            Pair(Prompt("Mary gave", roles), Prompt("Anne gave", roles), " John a book", " a book"),
        )
    )


def columns(found: Encoded, side: str, positions: object) -> list[list[int]]:
    return getattr(found, side).columns(Positions.parse(positions)).tolist()  # type: ignore[arg-type, no-any-return]


# tokens of an answer


def test_the_tokens_behind_the_prompts_own() -> None:
    """Expected: prompt and answer, tokenized together."""
    text, answer = "Mary gave", " Anne and John"
    found = encode_pairs(one(text, "John gave", answer, " a"), pieces())
    before, after = (pieces()(t)["input_ids"] for t in (text, text + answer))
    assert after[: len(before)] == before
    assert found.answered.right == ((tuple(after[len(before) :]),),)
    assert "".join(found.answered.right_strings[0][0]) == answer
    assert found.clean.ids is not None
    assert found.clean.ids[0][found.clean.mask[0]].tolist() == after[:-1]


def test_both_prompts_are_followed_by_all_but_the_last_token() -> None:
    found = encode_pairs(three(), words())
    assert found.clean.ids is not None
    assert found.corrupted.ids is not None
    assert found.clean.ids.tolist() == [[0, 3, 6, 7, 4], [3, 4, 5, 6, 7], [0, 3, 9, 5, 10]]
    assert found.corrupted.ids.tolist() == [[0, 0, 5, 9, 4], [5, 4, 3, 6, 7], [0, 13, 9, 5, 10]]
    assert found.answers.tolist() == [[4], [12], [5]]
    assert found.wrong.tolist() == [[4], [10], [10]]
    assert found.later.tolist() == [[5, -1], [-1, -1], [10, 11]]
    assert found.later_wrong.tolist() == [[3, -1], [-1, -1], [-1, -1]]
    assert found.differ.tolist() == [1, 0, 0]
    assert found.answered.right_strings[2] == (("John", "a", "book"),)
    assert found.answered.span == (1, 3)
    assert found.answered.reached == [True, True, False]
    assert [found.steps(read) for read in ("first", "contrast", "answers", "both")] == [1, 2, 3, 3]


def test_single_tokens_leave_prompts_as_they_are() -> None:
    found = encode_pairs(one("Mary went", "John went", (" home", " to"), " a"), words())
    assert found.clean.forced is None
    assert found.clean.ids is not None
    assert found.clean.ids.tolist() == [[3, 6]]
    assert found.later.shape == (1, 0)
    assert found.steps("answers") == 1


def test_token_ids_of_an_answer() -> None:
    """A list of ids among the answers is one answer; a list of ids alone is alternatives, as ever."""
    sequence = Pair((1, 2), (3, 4), [[5, 6]], [(5, 7)])
    assert sequence.answers == ((5, 6),)
    assert encode_pairs(Pairs((sequence,)), None).clean.ids.tolist() == [[1, 2, 5]]  # type: ignore[union-attr]
    alternatives = encode_pairs(Pairs((Pair((1, 2), (3, 4), [5, 6], [7]),)), None)
    assert alternatives.answers.tolist() == [[5, 6]]
    assert Pairs((sequence,)).digest != Pairs((Pair((1, 2), (3, 4), [5, 6], [(5, 7)]),)).digest
    with pytest.raises(AnswerError, match="an answer given as token ids is empty"):
        encode_pairs(Pairs((Pair((1, 2), (3, 4), [()], [7]),)), None)


def test_of_a_decoder_they_follow_the_target() -> None:
    reading = Reading(
        words(), main="decoder_input_ids", texts={"encoder": "input_ids"}, begin=1, sides={"decoder_input_ids": False}
    )
    pairs = Pairs(
        (
            Pair(Prompt("a book", target="Mary"), Prompt("a home", target="Mary"), " gave a book", " went"),
            Pair(Prompt("a book", target="Mary and John"), Prompt("a home", target="Mary and John"), " gave", " went"),
        )
    )
    found = reading.pairs(pairs, "model")
    assert found.clean.ids is not None
    assert found.clean.ids.tolist() == [[1, 3, 9, 10], [1, 3, 4, 5]]  # begin, target, what is forced; padded on the right
    assert found.clean.columns(Positions.parse(-1)).tolist() == [[1], [3]]
    assert found.clean.others["input_ids"].tolist() == [[10, 11]] * 2
    assert found.clean.streams["encoder"].lengths.tolist() == [2, 2]


# positions


def test_positions_mean_the_prompt() -> None:
    found = encode_pairs(three(), words())
    assert columns(found, "clean", -1) == [[3], [4], [2]]
    assert columns(found, "clean", "last") == [[3], [4], [2]]
    assert columns(found, "corrupted", (0, 1)) == [[2, 3], [0, 1], [1, 2]]
    assert columns(found, "clean", "who") == [[1], [0], [1]]
    assert found.clean.said.tolist() == [3, 5, 2]
    assert found.clean.lengths.tolist() == [4, 5, 4]
    assert found.clean.flush
    assert found.clean.columns(ALL).tolist() == [[1, 2, 3, 4, -1], [0, 1, 2, 3, 4], [1, 2, 3, 4, -1]]
    alone = found.clean.alone
    assert alone.columns(ALL).tolist() == [[1, 2, 3, -1, -1], [0, 1, 2, 3, 4], [1, 2, -1, -1, -1]]
    taken = found.clean.take([2, 0])
    assert taken.columns(Positions.parse(-1)).tolist() == [[2], [3]]
    with pytest.raises(
        PositionError, match=r"2 is past the end of example 2, which has 2 tokens \(0 to 1, or −2 to −1\); the 2 tok"
    ):
        found.clean.columns(Positions.parse(2))


def test_unequal_prompts_are_shown_without_their_answers() -> None:
    with pytest.raises(Exception, match="Example 0: clean has 3 tokens, corrupted 2") as error:
        encode_pairs(three(), words()).require_equal_lengths("this grid")
    assert "and" not in str(error.value).split("\n")[2:][0]


# what is refused


def test_alternatives_are_one_token_each() -> None:
    with pytest.raises(
        AnswerError,
        match=r"example 0: answer ' a book' is 2 tokens in this tokenizer \('a' \+ 'book'\), and alternatives are one token "
        "each; give answers=' a book' alone",
    ):
        encode_pairs(one("Mary gave", "John gave", (" home", " a book"), " to"), words())
    with pytest.raises(AnswerError, match="give wrong=' a book' alone"):
        encode_pairs(one("Mary gave", "John gave", " home", (" to", " a book")), words())
    encode_pairs(one("Mary gave", "John gave", " a book", (" to", " home")), words())


@pytest.mark.parametrize(("answer", "wrong"), [(" a book", " a"), (" a", " a book"), (" a book", " a book to")])
def test_an_answer_that_the_other_begins_with(answer: str, wrong: str) -> None:
    with pytest.raises(AnswerError) as error:
        encode_pairs(one("Mary gave", "John gave", answer, wrong), words())
    spelled = [" + ".join(map(repr, said.split())) for said in (answer, wrong)]
    assert f"answer {answer!r} ({spelled[0]}) and wrong {wrong!r} ({spelled[1]}) begin alike" in str(error.value)


def test_one_of_several_that_the_answer_begins_with() -> None:
    with pytest.raises(AnswerError, match="begin alike"):
        encode_pairs(one("Mary gave", "John gave", " a book", (" to", " a")), words())


def test_tokens_that_merge_with_the_prompts() -> None:
    """White space splits the words here: glued to the prompt's, the answer's first is another word."""
    with pytest.raises(AnswerError) as error:
        encode_pairs(one("went to", "gave to", "Mary home", "John"), words())
    assert "answer 'Mary home' is 2 tokens in this tokenizer ('Mary' + 'home'), but behind …'went to' they merge" in str(
        error.value
    )
    assert "usually with a leading space" in str(error.value)
    assert encode_pairs(one("went to", "gave to", "Mary", "John"), words()).answers.tolist() == [[3]]
    spaced = (
        "answer 'Mary Anne' is .*they merge with the prompt's: … .*; end the prompt before its space, and give ' Mary Anne'$"
    )
    with pytest.raises(AnswerError, match=spaced):
        encode_pairs(one("Mary gave ", "John gave ", "Mary Anne", "a"), pieces())


def test_a_word_that_goes_on() -> None:
    """Told of in words of scripts with capitals, where several tokens are meant; not where one is, nor behind other signs."""
    tokens = pieces()("gaveZxq")["input_ids"]
    assert tokens[: len(pieces()("gave")["input_ids"])] == pieces()("gave")["input_ids"]
    with pytest.warns(RuntimeWarning, match=r"answer 'Zxq' goes on with the word .* a new word begins with a space, ' Zxq'"):
        encode_pairs(one("Mary gave", "John gave", "Zxq", " a"), pieces())
    encode_pairs(one("Mary gave", "John gave", " Zxq", " a"), pieces())
    encode_pairs(one("Mary gave.", "John gave.", "Zxq", " a"), pieces())


def test_an_answer_without_tokens() -> None:
    with pytest.raises(AnswerError, match="answer '' is no token in this tokenizer"):
        encode_pairs(one("Mary gave", "John gave", "", " a"), words())


def test_equal_tokens_are_told_as_ever() -> None:
    with pytest.raises(AnswerError, match=re.escape("answers ('Mary',) and wrong (3,) share a token in this tokenizer")):
        encode_pairs(one("went to", "gave to", "Mary", 3), words())
