"""Whole sequences with a loss on some of their tokens, as pairs.

>>> targets([[5, 3, 8, 8, 2]], [[False, True, False, True, True]])
Pairs(sequences, 2 pairs)
>>> [(pair.clean.text, pair.answers) for pair in targets([[5, 3, 8, 8, 2]], [[False, True, False, True, True]])]
[((5,), ((3,),)), ((5, 3, 8), ((8, 2),))]

Every run of tokens that count is the answer to all that stands before it, read behind its own tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from interp.errors import InputError, ShapeMismatchError
from interp.prompts import Pair, Pairs, Prompt


def targets(sequences: Sequence[Sequence[int]], masks: Sequence[Sequence[bool]]) -> Pairs:
    """
    Args:
        sequences: token ids, special tokens among them: encode the pairs with ``bos=False``.
        masks: for each sequence, which of its tokens are predicted; never its first.

    Raises:
        ShapeMismatchError: not one mask a sequence, or not one entry a token.
        InputError: a sequence of which no token counts, or the first one does, which nothing stands before.
    """
    if len(sequences) != len(masks):
        raise ShapeMismatchError(f"{len(sequences)} sequences and {len(masks)} masks; expected one mask for each")
    found = []
    for number, (ids, counts) in enumerate(zip(sequences, masks, strict=True)):
        tokens, marks = [int(token) for token in ids], [bool(mark) for mark in counts]
        if len(tokens) != len(marks):
            raise ShapeMismatchError(f"sequence {number} has {len(tokens)} tokens and its mask {len(marks)} entries")
        starts = [i for i, mark in enumerate(marks) if mark and not (i and marks[i - 1])]
        if not starts or starts[0] == 0:
            what = "counts its first token, which nothing stands before" if starts else "counts no token"
            raise InputError(f"the mask of sequence {number} {what}; mark the tokens that are to be predicted")
        for start in starts:
            stop = next((i for i in range(start, len(marks)) if not marks[i]), len(marks))
            prompt = Prompt(tokens[:start])
            found.append(Pair(prompt, prompt, [tuple(tokens[start:stop])], template=str(number)))
    return Pairs(tuple(found), "sequences")
