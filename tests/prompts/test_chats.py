"""Chats as prompts: their transcript, their roles, what is refused. Spans are counted by hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import sweeps

from interp.errors import InputError, PositionError
from interp.prompts import Pair, Pairs, Prompt

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is Paris?"},
    {"role": "assistant", "content": "In France."},
    {"role": "user", "content": "And is Paris large?"},
]


def covered(prompt: Prompt) -> dict[str, str]:
    return {role: str(prompt.text)[slice(*span)] for role, span in prompt.roles.items()}


def test_every_message_is_a_role() -> None:
    prompt = Prompt(CHAT)
    assert prompt.text == "system: Be brief.\nuser: Where is Paris?\nassistant: In France.\nuser: And is Paris large?"
    assert covered(prompt) == {
        "system": "Be brief.",
        "user 1": "Where is Paris?",
        "user": "And is Paris large?",
        "assistant": "In France.",
    }


def test_texts_are_found_in_what_was_said() -> None:
    """Never in the names of the speakers; occurrences are counted through all messages."""
    prompt = Prompt(CHAT, {"first": ("Paris", 0), "second": ("Paris", 1), "user": "large"})
    assert covered(prompt)["first"] == covered(prompt)["second"] == "Paris"
    assert (prompt.roles["first"], prompt.roles["second"]) == ((33, 38), (75, 80))
    assert covered(prompt)["user"] == "large", "a role that is given comes first"
    with pytest.raises(PositionError, match=re.escape("'Paris' occurs 2 times")):
        Prompt(CHAT, {"city": "Paris"})
    with pytest.raises(PositionError, match="'assistant' does not occur in what was said in"):
        Prompt(CHAT, {"who": "assistant"})
    with pytest.raises(PositionError, match=r"role 'x' spans '\.\\nuser: W' of a chat, which no one message says"):
        Prompt(CHAT, {"x": (16, 25)})


def test_parts_of_a_message() -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "What is "}, {"type": "text", "text": "this?"}]
    prompt = Prompt([{"role": "user", "content": parts}], {"it": "this"})
    assert prompt.text == "user: <image>What is this?"
    assert covered(prompt) == {"it": "this", "user": "What is this?"}


def test_a_chat_stays_one_when_it_is_copied_and_its_digest_is_of_what_was_said() -> None:
    prompt = Prompt(CHAT, {"city": ("Paris", 1)})
    again = replace(prompt, roles={"city": ("Paris", 1)})
    assert again == prompt
    assert again.messages == tuple(CHAT)
    transcript = Prompt(prompt.text, dict(prompt.roles))  # type: ignore[arg-type]
    assert Pairs((Pair(prompt, prompt),)).digest != Pairs((Pair(transcript, transcript),)).digest
    told = [*CHAT[:-1], {**CHAT[-1], "name": "Ann"}]
    assert Prompt(told, {"city": ("Paris", 1)}).text == prompt.text
    assert Pairs((Pair(Prompt(told), prompt),)).digest != Pairs((Pair(Prompt(CHAT), prompt),)).digest
    assert json.loads(json.dumps(prompt.spec()))["messages"] == CHAT
    assert "messages=" in repr(prompt)
    CHAT_ = [dict(message) for message in CHAT]
    kept = Prompt(CHAT_)
    CHAT_[0]["content"] = "changed"
    assert kept.messages == tuple(CHAT), "a prompt is not changed from outside"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            [{"rol": "user", "content": "x"}],
            "message 0 of a chat has the keys 'rol', 'content'; expected .*did you mean 'role'",
        ),
        ([CHAT[0], "And?"], "message 1 of a chat is 'And\\?'; expected"),
        ([{"role": "user"}], "message 0 of a chat, the user's, has no 'content'"),
        ([{"role": "user", "content": 3}], "the content of message 0 is 3; expected a text, or a list of parts"),
        ([{"role": "user", "content": [{"type": "image", "image": object()}]}], r"no text .*Prompt\(messages, images=…\)"),
    ],
)
def test_what_is_no_chat(given: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        sweeps.unchecked(Prompt.__init__)(object.__new__(Prompt), given)


def test_a_text_and_messages_are_two_prompts() -> None:
    with pytest.raises(InputError, match="a prompt has a text as well as messages"):
        Prompt("Where?", messages=CHAT)
    assert Prompt(messages=CHAT) == Prompt(CHAT)
