"""Rendering and spans."""

from __future__ import annotations

from typing import Any

import pytest

from interp.errors import UnequalLengthsError, UnknownNameError
from interp.prompts import Pair, Prompt
from interp.tasks.template import Template, check_lengths, last_word, word_after


def test_rendered_spans_cut_out_the_fillers() -> None:
    prompt = Template("t", "{a} met {b}; {a2}!").render(a="Mary", b="Jo", a2="X")
    assert prompt.text == "Mary met Jo; X!"
    assert {slot: prompt.text[slice(*span)] for slot, span in prompt.roles.items()} == {"a": "Mary", "b": "Jo", "a2": "X"}


def test_a_missing_filler_and_an_unknown_slot_are_named() -> None:
    template = Template("t/0", "{first} met {second}")
    assert template.slots == ("first", "second")
    with pytest.raises(UnknownNameError, match=r"^unknown filler 'second' given to template 't/0'; did you mean 'secnd'\?"):
        template.render(first="Mary", secnd="John")
    with pytest.raises(UnknownNameError, match=r"^unknown slot 'thrid' of template 't/0'.*\(known: first, second\)"):
        template.render(first="Mary", second="John", thrid="Tom")


def test_words_after_and_last() -> None:
    text = "Mary, and John left"
    assert text[slice(*word_after(text, 4))] == ","
    assert text[slice(*word_after(text, 5))] == "and"
    assert text[slice(*last_word(text + "  "))] == "left"
    assert last_word("one") == (0, 3)
    with pytest.raises(ValueError, match="nothing follows character 19"):
        word_after(text, 19)


def test_unequal_prompts_are_shown_token_by_token(tokenizer: Any) -> None:
    pairs = [Pair(Prompt("After Mary came"), Prompt("After Mary and John came"), template="t/0")]
    with pytest.raises(UnequalLengthsError) as caught:
        check_lengths(pairs, tokenizer)
    assert str(caught.value) == (
        "pair 0 (t/0): the clean prompt has 3 tokens and the corrupted one 5\n"
        "  clean:     ['After', 'Mary', 'came']\n  corrupted: ['After', 'Mary', 'and', 'John', 'came']"
    )
