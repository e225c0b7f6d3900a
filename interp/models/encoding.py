"""Prompts as tensors: token ids with their mask, roles as index arrays, positions that never show padding.

    >>> tokens = encode(["Mary went home", "So John went home"], tokenizer)      # doctest: +SKIP
    >>> tokens.ids.shape, tokens.first.tolist()                                 # doctest: +SKIP
    (torch.Size([2, 4]), [1, 0])

Padding is on the left, so that the last token is the same column in every row; ``position_ids`` count from the first real token
and are always given to the model, because some models do not derive them from the mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import AnswerError, PositionError, UnequalLengthsError, UnknownNameError
from interp.pairs import Pairs, Prompt
from interp.protocols import Tokenizer
from interp.sites import Positions

Bos = Literal["model"] | bool
"""``"model"``: what the tokenizer adds by itself; True: exactly one BOS in front; False: no special tokens."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Encoded prompts of one stream."""

    ids: Int[Tensor, "example position"]
    mask: Bool[Tensor, "example position"]
    """True at real tokens."""
    roles: Mapping[str, Int[Tensor, "example span"]]
    """Columns of ``ids`` that a role covers, padded with −1."""
    strings: tuple[tuple[str, ...], ...]
    """The real tokens of every prompt, as text."""

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    @property
    def lengths(self) -> Int[Tensor, " example"]:
        """Number of real tokens."""
        return self.mask.sum(-1)

    @property
    def first(self) -> Int[Tensor, " example"]:
        """Column of the first real token."""
        return self.mask.int().argmax(-1)

    @property
    def position_ids(self) -> Int[Tensor, "example position"]:
        return (self.mask.long().cumsum(-1) - 1).clamp(min=0)

    def take(self, examples: Tensor | Sequence[int] | slice) -> Tokens:
        """Some of the examples, repeats allowed. The strings are left behind: they do not enter a forward pass."""
        chosen = torch.as_tensor(examples) if not isinstance(examples, slice) else examples
        roles = {role: columns[chosen] for role, columns in self.roles.items()}
        return Tokens(self.ids[chosen], self.mask[chosen], roles, ())

    def to(self, device: torch.device | str) -> Tokens:
        roles = {role: columns.to(device) for role, columns in self.roles.items()}
        return replace(self, ids=self.ids.to(device), mask=self.mask.to(device), roles=roles)

    def inputs(self) -> dict[str, Tensor]:
        """Keyword arguments of a language model's forward."""
        return {"input_ids": self.ids, "attention_mask": self.mask.long(), "position_ids": self.position_ids}

    def padded(self, width: int, pad: int) -> Tokens:
        """The same tokens with more padding on the left."""
        more = width - self.ids.shape[1]
        if more == 0:
            return self
        ids = torch.nn.functional.pad(self.ids, (more, 0), value=pad)
        mask = torch.nn.functional.pad(self.mask, (more, 0), value=False)
        roles = {role: torch.where(columns >= 0, columns + more, columns) for role, columns in self.roles.items()}
        return replace(self, ids=ids, mask=mask, roles=roles)

    def columns(self, positions: Positions, *, what: str = "positions") -> Int[Tensor, "example span"]:
        """The columns of ``ids`` that ``positions`` name in every example, padded with −1.

        Raises:
            PositionError: an index past the end of some prompt, or an unknown role, naming the prompt.
        """
        if positions.is_all:
            offsets = torch.arange(self.ids.shape[1], device=self.ids.device).expand_as(self.ids)
            return torch.where(offsets < self.lengths[:, None], self.first[:, None] + offsets, -1)
        if positions.role is not None:
            return self._role(positions)
        assert positions.indices is not None
        lengths, first = self.lengths, self.first
        found = []
        for index in positions.indices:
            outside = ((lengths <= index) | (lengths < -index)).nonzero().flatten()
            if len(outside):
                example = int(outside[0])
                n = int(lengths[example])
                shown = f": {' '.join(repr(s) for s in self.strings[example])}" if self.strings else ""
                raise PositionError(
                    f"{what} {index} is past the end of example {example}, which has {n} tokens (0 to {n - 1}, or −{n} to −1)"
                    + shown
                )
            found.append(first + index if index >= 0 else first + lengths + index)
        columns = torch.stack(found, dim=-1)
        ordered = columns.sort(dim=-1).values
        repeated = (ordered[:, 1:] == ordered[:, :-1]).any(-1).nonzero().flatten()
        if len(repeated):
            raise PositionError(f"{what} {positions!r} names one token twice in example {int(repeated[0])}")
        return columns

    def _role(self, positions: Positions) -> Int[Tensor, "example span"]:
        assert positions.role is not None
        if positions.role not in self.roles:
            raise UnknownNameError("role", positions.role, self.roles, why="" if self.roles else "these prompts name no roles")
        columns = self.roles[positions.role]
        if positions.pick is None:
            return columns
        sizes = (columns >= 0).sum(-1)
        short = ((sizes <= positions.pick) | (sizes < -positions.pick)).nonzero().flatten()
        if len(short):
            raise PositionError(
                f"{positions!r}: role {positions.role!r} of example {int(short[0])} spans {int(sizes[short[0]])} tokens"
            )
        where = torch.full_like(sizes, positions.pick) if positions.pick >= 0 else sizes + positions.pick
        return columns.gather(-1, where[:, None])


@dataclass(frozen=True, eq=False)
class Encoded:
    """Pairs as tensors: both prompts padded to one width, and the answer tokens, padded with −1."""

    pairs: Pairs
    clean: Tokens
    corrupted: Tokens
    answers: Int[Tensor, "example answer"]
    wrong: Int[Tensor, "example contrast"]
    bos: bool
    """Whether the prompts begin with a BOS token: part of a run's identity."""
    asked: Bos = "model"
    """The BOS policy that the prompts were encoded with; other prompts of a sweep follow it."""

    def __post_init__(self) -> None:
        for side in ("clean", "corrupted"):
            mask = getattr(self, side).mask
            if not bool(mask[:, -1].all()) or bool((mask[:, :-1] & ~mask[:, 1:]).any()):
                raise PositionError(f"the {side} prompts are not padded on the left; encode them with model.encode(pairs)")

    def __len__(self) -> int:
        return len(self.clean)

    def to(self, device: torch.device | str) -> Encoded:
        moved = {name: getattr(self, name).to(device) for name in ("clean", "corrupted", "answers", "wrong")}
        return replace(self, **moved)

    def require_equal_lengths(self, why: str) -> None:
        """Raise ``UnequalLengthsError`` showing both prompts token by token, unless every pair has two equally long prompts."""
        unequal = (self.clean.lengths != self.corrupted.lengths).nonzero().flatten()
        if not len(unequal):
            return
        example = int(unequal[0])
        clean, corrupted = self.clean.strings[example], self.corrupted.strings[example]
        width = max(map(len, (*map(repr, clean), *map(repr, corrupted))))
        rows = [
            f"  {i:>3}  {a:<{width}}  {b:<{width}}{'' if a == b else '  ←'}"
            for i, (a, b) in enumerate(_zip_longest([*map(repr, clean)], [*map(repr, corrupted)]))
        ]
        roles = [role for role in self.clean.roles if role in self.corrupted.roles]
        hint = f"; use a role instead, such as position={roles[:3]}" if roles else "; give the pairs roles and use those"
        raise UnequalLengthsError(
            f"{why} matches positions by raw index, but the prompts of {len(unequal)} of {len(self)} pairs differ in length. "
            f"Example {example}: clean has {len(clean)} tokens, corrupted {len(corrupted)}{hint}\n"
            + "\n".join([f"  pos  {'clean':<{width}}  {'corrupted':<{width}}", *rows])
        )


def _zip_longest(a: Sequence[str], b: Sequence[str]) -> list[tuple[str, str]]:
    n = max(len(a), len(b))
    return [(a[i] if i < len(a) else "–", b[i] if i < len(b) else "–") for i in range(n)]


NO_TOKENIZER = "the model has no tokenizer"


def encode(
    prompts: Sequence[Prompt | str | Sequence[int]],
    tokenizer: Tokenizer | None,
    bos: Bos = "model",
    pad: int = 0,
    lacking: str = NO_TOKENIZER,
) -> Tokens:
    """Encode prompts with left padding.

    Args:
        prompts: texts, token ids or :class:`interp.pairs.Prompt`, mixed freely.
        tokenizer: may be None if every prompt is given as ids.
        bos: see :data:`Bos`; ids are taken as they are.
        lacking: why there is no tokenizer.

    Raises:
        PositionError: a role that no token carries, or an empty prompt.
    """
    for item in prompts:
        if isinstance(item, int):
            raise PositionError(
                f"a prompt is a text, a list of token ids or a Prompt, not {item}; one prompt of ids is [[{item}, …]]"
            )
    whole = [p if isinstance(p, Prompt) else Prompt(p if isinstance(p, str) else tuple(p)) for p in prompts]
    encoded = [_encode_one(prompt, tokenizer, bos, lacking) for prompt in whole]
    if not encoded:
        raise PositionError("no prompt was given")
    width = max(len(ids) for ids, _, _ in encoded)
    ids = torch.full((len(encoded), width), pad, dtype=torch.long)
    mask = torch.zeros(len(encoded), width, dtype=torch.bool)
    for row, (one, _, _) in enumerate(encoded):
        ids[row, width - len(one) :] = torch.tensor(one)
        mask[row, width - len(one) :] = True
    shared = [role for role in encoded[0][1] if all(role in roles for _, roles, _ in encoded)]
    roles = {}
    for role in shared:
        span = max(len(found[role]) for _, found, _ in encoded)
        columns = torch.full((len(encoded), span), -1, dtype=torch.long)
        for row, (one, found, _) in enumerate(encoded):
            columns[row, : len(found[role])] = torch.tensor(found[role]) + width - len(one)
        roles[role] = columns
    return Tokens(ids, mask, roles, tuple(strings for _, _, strings in encoded))


def _encode_one(
    prompt: Prompt, tokenizer: Tokenizer | None, bos: Bos, lacking: str
) -> tuple[list[int], dict[str, list[int]], tuple[str, ...]]:
    if not isinstance(prompt.text, str):
        ids = list(prompt.text)
        if not ids:
            raise PositionError("a prompt given as token ids is empty")
        roles = {role: list(range(start, stop)) for role, (start, stop) in prompt.roles.items()}
        return ids, roles, tuple(_strings(ids, tokenizer))
    if tokenizer is None:
        raise PositionError(f"prompt {prompt.text!r} is a text, but {lacking}: pass tokenizer= to load, or give token ids")
    found = tokenizer(prompt.text, add_special_tokens=bos == "model", return_offsets_mapping=bool(prompt.roles))
    ids = list(found["input_ids"])
    spans = [tuple(span) for span in found["offset_mapping"]] if prompt.roles else []
    if bos is True:
        if tokenizer.bos_token_id is None:
            raise PositionError("bos=True, but this tokenizer has no BOS token; use bos='model' or bos=False")
        ids, spans = [tokenizer.bos_token_id, *ids], [(0, 0), *spans]
    if not ids:
        raise PositionError(f"prompt {prompt.text!r} has no tokens; give a text, or bos=True for the BOS token alone")
    roles = {}
    for role, (start, stop) in prompt.roles.items():
        roles[role] = [i for i, (a, b) in enumerate(spans) if a < stop and start < b]
        if not roles[role]:
            raise PositionError(
                f"role {role!r} of prompt {prompt.text!r} covers {prompt.text[start:stop]!r}, which no token carries"
            )
    return ids, roles, tuple(_strings(ids, tokenizer))


def _strings(ids: Sequence[int], tokenizer: Tokenizer | None) -> list[str]:
    return [str(i) for i in ids] if tokenizer is None else [tokenizer.decode([i]) for i in ids]


def encode_pairs(
    pairs: Pairs, tokenizer: Tokenizer | None, bos: Bos = "model", pad: int = 0, lacking: str = NO_TOKENIZER
) -> Encoded:
    """Encode both sides of every pair, and the answers.

    Raises:
        AnswerError: an answer that is not one token after its prompt.
    """
    clean = encode([pair.clean for pair in pairs], tokenizer, bos, pad, lacking)
    corrupted = encode([pair.corrupted for pair in pairs], tokenizer, bos, pad, lacking)
    width = max(clean.ids.shape[1], corrupted.ids.shape[1])
    cache: dict[tuple[str, str], int] = {}
    answers, wrong = (
        _pad([[_answer(a, pair.clean, tokenizer, cache, lacking) for a in getattr(pair, side)] for pair in pairs])
        for side in ("answers", "wrong")
    )
    both = ((answers[:, :, None] == wrong[:, None, :]) & (answers[:, :, None] >= 0)).any((1, 2)).nonzero().flatten()
    if len(both):
        pair = pairs[int(both[0])]
        raise AnswerError(
            f"example {int(both[0])}: answers {pair.answers} and wrong {pair.wrong} share a token in this tokenizer"
        )
    begins = clean.ids[torch.arange(len(clean)), clean.first]
    has_bos = tokenizer is not None and tokenizer.bos_token_id is not None and bool((begins == tokenizer.bos_token_id).all())
    return Encoded(pairs, clean.padded(width, pad), corrupted.padded(width, pad), answers, wrong, has_bos, bos)


def _answer(
    answer: str | int, prompt: Prompt, tokenizer: Tokenizer | None, cache: dict[tuple[str, str], int], lacking: str
) -> int:
    """The id of the one token with which ``answer`` continues ``prompt``.

    It is looked up in its place, because some tokenizers spell a word at the beginning of a text differently; prompts that end
    in the same character share the answer.
    """
    if isinstance(answer, int):
        return answer
    if tokenizer is None:
        raise AnswerError(f"answer {answer!r} is a text, but {lacking}: give its token id")
    text = prompt.text if isinstance(prompt.text, str) else ""
    if (answer, text[-1:]) in cache:
        return cache[answer, text[-1:]]
    ids = list(tokenizer(answer, add_special_tokens=False)["input_ids"])
    if text:
        before, after = (list(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in (text, text + answer))
        ids = after[len(before) :] if after[: len(before)] == before else ids
    if len(ids) != 1:
        pieces = " + ".join(repr(tokenizer.decode([i])) for i in ids)
        near = (
            "" if answer.startswith(" ") else " (an answer is written as it follows the prompt, usually with a leading space)"
        )
        raise AnswerError(f"answer {answer!r} is {len(ids)} tokens in this tokenizer: {pieces}; a metric reads one token{near}")
    cache[answer, text[-1:]] = ids[0]
    return ids[0]


def _pad(rows: Sequence[Sequence[int]]) -> Int[Tensor, "example answer"]:
    padded = torch.full((len(rows), max(1, *map(len, rows))), -1, dtype=torch.long)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = torch.tensor(row, dtype=torch.long)
    return padded
