"""Induction: a word that occurred before is followed by what followed it then.

    >>> from interp import tasks
    >>> pair = tasks.induction(64, seed=0, length=9)[0]
    >>> pair.clean.text, pair.answers                        # … C D … A B … A
    ('fence potato garlic moon storm cloud paper shoulder cloud', (' paper',))
    >>> pair.corrupted.text, pair.wrong                      # … C D … A B … C
    ('fence potato garlic moon storm cloud paper shoulder garlic', (' moon',))

The words are unrelated and all different but for the last, so that nothing but the repetition speaks for the answer. (Elhage
et al., *A Mathematical Framework for Transformer Circuits*, 2021; Olsson et al., arXiv 2209.11895.)
"""

from __future__ import annotations

from collections.abc import Sequence

from interp.errors import PositionError
from interp.prompts import Pair, Pairs, Prompt
from interp.protocols import Tokenizer
from interp.tasks import lexicon
from interp.tasks.draw import Draw
from interp.tasks.template import check_lengths

#: One word before A (the first has no space before it, so it may be another token), A B, C D, and the last word.
SHORTEST = 6


def render_induction(words: Sequence[str], a: int, c: int, *, last: int) -> Prompt:
    """``words`` and once more the word at index ``last``, with its roles.

    >>> render_induction(["river", "glass", "honey", "silver", "wind"], 1, 3, last=1).text
    'river glass honey silver wind glass'

    Returns:
        The prompt with the roles A and B (words ``a`` and ``a + 1``), C and D (words ``c`` and ``c + 1``) and END (the last).

    Raises:
        PositionError: A B and C D overlap, begin at the first word, or pass the end.
    """
    if not (abs(a - c) >= 2 and min(a, c) >= 1 and max(a, c) + 1 < len(words)):
        raise PositionError(
            f"a={a} and c={c} must differ by 2 or more and lie between 1 and {len(words) - 2} ({len(words)} words)"
        )
    spans, at = [], 0
    for word in (*words, words[last]):
        spans.append((at, at + len(word)))
        at += len(word) + 1
    roles = {"A": spans[a], "B": spans[a + 1], "C": spans[c], "D": spans[c + 1], "END": spans[-1]}
    return Prompt(" ".join((*words, words[last])), roles)


def induction(
    n: int = 64,
    *,
    seed: int = 0,
    length: int = 12,
    words: Sequence[str] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Pairs:
    """Pairs of word lists that end in a repetition.

    Clean ends in A, which B followed; corrupted ends in C, which D followed; only the last word differs, so the pair is
    symmetric: B and D trade places as answer and wrong. A B and C D stand anywhere behind the first word, in either order, and
    do not overlap.

    Args:
        n: number of pairs. The first pairs do not depend on it.
        seed: chooses everything.
        length: number of words of a prompt, the repeated one included.
        words: words to restrict to; None for the lexicon's neutral words.
        tokenizer: if given, words are single tokens of it (the lexicon's other words are left out, your own are refused) and
            both prompts of every pair have equally many tokens (checked).

    Returns:
        Pairs whose ``template`` reads like "induction/12" and whose entities are the words A, B, C and D. Answers have a
        leading space. The roles are A, B, C, D (first occurrences) and END (the repetition).

    Raises:
        UnequalLengthsError: a given word is not one token of ``tokenizer``.
        ValueError: too few or repeated words, length < 6, or n < 1.
    """
    if n < 1:
        raise ValueError(f"n={n}: at least one pair is needed")
    if length < SHORTEST:
        raise ValueError(f"length={length}: at least {SHORTEST} words are needed, one before, A B, C D and the last")
    pool = lexicon.choose("words", words, "words", tokenizer, least=length - 1)
    items = []
    for k in range(n):
        draw = Draw("induction", seed, k)
        chosen = draw.distinct(pool, length - 1)
        first, second = draw.separate(1, length - 2, 2)
        a, c = draw.order((first, second))
        clean, corrupted = render_induction(chosen, a, c, last=a), render_induction(chosen, a, c, last=c)
        entities = (chosen[a], chosen[a + 1], chosen[c], chosen[c + 1])
        items.append(Pair(clean, corrupted, (" " + entities[1],), (" " + entities[3],), f"induction/{length}", entities))
    if tokenizer is not None:
        check_lengths(items, tokenizer)
    made_by = {
        "task": "induction", "n": n, "seed": seed, "length": length,
        "single_token": tokenizer is not None,
        "lexicon": lexicon.record({"words": pool}),
    }  # fmt: skip
    return Pairs(tuple(items), task="induction", made_by=made_by)
