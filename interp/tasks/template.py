"""Sentences with slots, and where each filler ends up.

>>> prompt = Template("demo/0", "After {first} met {second}, ").render(first="Mary", second="John")
>>> prompt.text, prompt.roles["second"]
('After Mary met John, ', (15, 19))
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from interp.errors import UnequalLengthsError, UnknownNameError
from interp.prompts import Pair, Prompt, Span
from interp.protocols import Tokenizer, spelled


@lru_cache(maxsize=1024)
def _pieces(text: str) -> tuple[tuple[str, str | None], ...]:
    """Literal text, each with the slot that follows it (None after the last)."""
    parts = re.split(r"\{(\w+)\}", text)
    return tuple((parts[i], parts[i + 1] if i + 1 < len(parts) else None) for i in range(0, len(parts), 2))


@dataclass(frozen=True, slots=True)
class Template:
    """A text with named slots in braces."""

    id: str
    """Goes into ``Pair.template``, so that intervals can cluster by it."""
    text: str

    @property
    def slots(self) -> tuple[str, ...]:
        return tuple(slot for _, slot in _pieces(self.text) if slot is not None)

    def render(self, **fillers: str) -> Prompt:
        """The text with its slots filled; the roles are the slots.

        Raises:
            UnknownNameError: a filler for a slot that the text lacks, or a slot that was left empty.
        """
        pieces, parts, spans, at = _pieces(self.text), [], {}, 0
        for literal, slot in pieces:
            parts.append(literal)
            at += len(literal)
            if slot is not None:
                if slot not in fillers:
                    raise UnknownNameError("filler", slot, fillers, f"given to template {self.id!r}")
                parts.append(fillers[slot])
                spans[slot] = (at, at + len(fillers[slot]))
                at += len(fillers[slot])
        for name in fillers:
            if name not in spans:
                raise UnknownNameError("slot", name, spans, f"of template {self.id!r}")
        return Prompt("".join(parts), spans)


def word_after(text: str, stop: int) -> Span:
    """The span of the word, or the one punctuation mark, that follows character ``stop``."""
    found = re.compile(r"\s*(\w+|[^\w\s])").match(text, stop)
    if found is None:
        raise ValueError(f"nothing follows character {stop} of {text!r}")
    return found.span(1)


def last_word(text: str) -> Span:
    """The span of the last word."""
    stop = len(text.rstrip())
    return text.rfind(" ", 0, stop) + 1, stop


def check_lengths(pairs: Sequence[Pair], tokenizer: Tokenizer) -> None:
    """Refuse pairs whose two prompts have different numbers of tokens.

    Raises:
        UnequalLengthsError: with both prompts token by token.
    """
    for i, pair in enumerate(pairs):
        clean = tokenizer.encode(str(pair.clean.text), add_special_tokens=False)
        corrupted = tokenizer.encode(str(pair.corrupted.text), add_special_tokens=False)
        if len(clean) != len(corrupted):
            raise UnequalLengthsError(
                f"pair {i} ({pair.template}): the clean prompt has {len(clean)} tokens and the corrupted one {len(corrupted)}\n"
                f"  clean:     {spelled(tokenizer, clean)}\n  corrupted: {spelled(tokenizer, corrupted)}"
            )
