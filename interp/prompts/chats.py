"""Chats: messages as chat templates take them, and the transcript in which their roles are counted.

    >>> messages = checked([{"role": "user", "content": "Where is Paris?"}])
    >>> transcript(messages), speakers(messages)
    ('user: Where is Paris?', {'user': (6, 21)})

A transcript has one line a message. It is what tables show; what a model reads is written by its own template
(:mod:`interp.models.templates`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from interp.errors import InputError, nearest

Message = Mapping[str, Any]
"""``{"role": "user", "content": "…"}``; contents may be a list of parts, ``{"type": "text", "text": "…"}``."""
_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content")


class Piece(NamedTuple):
    """A stretch of text that somebody said."""

    message: int
    part: int | None
    """Which part of the message's contents; None where these are one text."""
    start: int
    """Where it begins in the transcript."""
    text: str

    @property
    def stop(self) -> int:
        return self.start + len(self.text)


def is_chat(given: Any) -> bool:
    """Whether something is a list of messages, rather than a text, token ids or several prompts."""
    return isinstance(given, Sequence) and not isinstance(given, str) and any(isinstance(one, Mapping) for one in given)


def checked(given: Sequence[Any]) -> tuple[Message, ...]:
    """Messages as plain data.

    Raises:
        InputError: something is no message, or holds what JSON cannot.
    """
    for number, message in enumerate(given):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            near = nearest("role", message, 1) if isinstance(message, Mapping) else []
            what = f"has the keys {', '.join(map(repr, message))}" if isinstance(message, Mapping) else f"is {message!r}"
            did = f"; did you mean 'role' where it says {near[0]!r}?" if near else ""
            raise InputError(f'message {number} of a chat {what}; expected {{"role": "user", "content": "…"}}{did}')
        if "content" not in message and "tool_calls" not in message:
            raise InputError(f"message {number} of a chat, the {message['role']}'s, has no 'content'")
        if not isinstance(message.get("content", ""), str | Sequence | None):
            raise InputError(f"the content of message {number} is {message['content']!r}; expected a text, or a list of parts")
    try:
        return tuple(json.loads(json.dumps(message, ensure_ascii=False)) for message in given)
    except TypeError as error:
        raise InputError(f"a chat holds what is no text ({error}); pictures are given as Prompt(messages, images=…)") from error


def transcript(messages: Sequence[Message]) -> str:
    """One line a message."""
    return "\n".join(f"{message['role']}: {''.join(_parts(message))}" for message in messages)


def pieces(messages: Sequence[Message]) -> list[Piece]:
    """Everything that was said, with its place in the transcript."""
    found, at = [], 0
    for number, message in enumerate(messages):
        at += len(f"{message['role']}: ")
        content = message.get("content")
        for i, text in enumerate(_parts(message)):
            if isinstance(content, str):
                found.append(Piece(number, None, at, text))
            elif "text" in content[i]:  # type: ignore[index]
                found.append(Piece(number, i, at, text))
            at += len(text)
        at += 1
    return [piece for piece in found if piece.text]


def speakers(messages: Sequence[Message]) -> dict[str, tuple[int, int]]:
    """Spans of what each speaker said last, by the speaker's name, and of what was said before as ``user 1``, ``user 2``, …"""
    said: dict[str, list[tuple[int, int]]] = {}
    for number, message in enumerate(messages):
        own = [piece for piece in pieces(messages) if piece.message == number]
        if own:
            said.setdefault(message["role"], []).append((own[0].start, own[-1].stop))
    return {
        who if i == len(spans) else f"{who} {i}": span for who, spans in said.items() for i, span in enumerate(spans, start=1)
    }


def changed(messages: Sequence[Message], texts: Mapping[tuple[int, int | None], str]) -> list[dict[str, Any]]:
    """The same messages with other texts in some pieces, by message and part."""
    found: list[dict[str, Any]] = json.loads(json.dumps(list(messages)))
    for (number, part), text in texts.items():
        if part is None:
            found[number]["content"] = text
        else:
            found[number]["content"][part]["text"] = text
    return found


def _parts(message: Message) -> list[str]:
    """The text of every part, what is no text by its type."""
    content = message.get("content")
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    return [part["text"] if "text" in part else f"<{part.get('type', '?')}>" for part in content]
