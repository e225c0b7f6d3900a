"""Prompts and pairs of prompts, in words, before any tokenizer: texts, token ids and chats, with the roles of their parts.

>>> Pair("The capital of France is", "The capital of Italy is", " Paris", " Rome").answers
(' Paris',)
"""

from __future__ import annotations

from interp.prompts.pairs import NAMED, Answer, Answers, Pair, Pairs, Prompt, Text
from interp.prompts.spans import Span

__all__ = ["NAMED", "Answer", "Answers", "Pair", "Pairs", "Prompt", "Span", "Text"]
