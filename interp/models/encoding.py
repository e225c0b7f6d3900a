"""Prompts as tensors: token ids with their mask, roles as index arrays, positions that never show padding.

    >>> tokens = encode(["Mary went home", "So John went home"], tokenizer)      # doctest: +SKIP
    >>> tokens.ids.shape, tokens.first.tolist()                                 # doctest: +SKIP
    (torch.Size([2, 4]), [1, 0])

Padding is on the left, so that the last token is the same column in every row; ``position_ids`` count from the first real token
and are always given to the model, because some models do not derive them from the mask.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import AnswerError, InputError, PositionError, UnequalLengthsError, UnknownNameError
from interp.models.answers import Answered
from interp.models.answers import strings as _strings
from interp.models.places import Places, padded
from interp.models.templates import written
from interp.prompts import NAMED, Pairs, Prompt
from interp.prompts.chats import is_chat
from interp.protocols import Tokenizer
from interp.sites import MAIN

Bos = Literal["model"] | bool
"""``"model"``: what the tokenizer adds by itself; True: exactly one BOS in front; False: no special tokens are added.

To what a chat template wrote, which holds its own, ``"model"`` adds none, and True a BOS where it does not begin with one.
"""


def mask_of(argument: str) -> str:
    """What the forward calls the mask of an argument of token ids."""
    return argument.removesuffix("input_ids") + "attention_mask"


def position_ids_of(argument: str) -> str:
    """What it calls their position ids."""
    return argument.removesuffix("input_ids") + "position_ids"


@dataclass(frozen=True, eq=False, kw_only=True)
class Tokens(Places):
    """Encoded prompts: the positions of the main stream, and all that the model's forward is given."""

    ids: Int[Tensor, "example position"] | None = None
    """Token ids of the main stream; None where something else enters it."""
    argument: str = "input_ids"
    """What the forward calls these ids."""
    numbered: bool = True
    """Whether the forward is given position ids."""
    others: Mapping[str, Tensor] = field(default_factory=dict)
    """The forward's other arguments, examples first."""
    packed: frozenset[str] = frozenset()
    """Those of the others that the forward takes with all examples in one axis."""
    streams: Mapping[str, Places] = field(default_factory=dict)
    """Positions of other streams that token ids enter."""
    marked: Mapping[str, Mapping[str, Int[Tensor, "example span"]]] = field(default_factory=dict)
    """Roles in streams that no token ids enter, by stream."""

    def _unnamed(self, role: str) -> str:
        by_stream = {name: places.roles for name, places in self.streams.items()} | dict(self.marked)
        if elsewhere := [name for name, roles in by_stream.items() if role in roles and name != MAIN]:
            return (
                f"the prompts have it in the stream {elsewhere[0]!r}, whose sites are written '{elsewhere[0]}:…', as in "
                f"'{elsewhere[0]}:resid_post', or with stream={elsewhere[0]!r} where a call takes it"
            )
        return super()._unnamed(role)

    @property
    def position_ids(self) -> Int[Tensor, "example position"]:
        return (self.mask.long().cumsum(-1) - 1).clamp(min=0)

    @property
    def flush(self) -> bool:
        """Whether every prompt ends in the last column."""
        return bool(self.mask[:, -1].all())

    def _each(self, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        marked = {name: {role: change(at) for role, at in roles.items()} for name, roles in self.marked.items()}
        return super()._each(change) | {
            "ids": None if self.ids is None else change(self.ids),
            "others": {name: change(tensor) for name, tensor in self.others.items()},
            "streams": {name: replace(places, **places._each(change)) for name, places in self.streams.items()},
            "marked": marked,
        }

    def _padded(self, more: int, left: bool, pad: int) -> dict[str, Any]:
        assert self.ids is not None
        ids = torch.nn.functional.pad(self.ids, (more, 0) if left else (0, more), value=pad)
        return super()._padded(more, left, pad) | {"ids": ids}

    def inputs(self, columns: range | None = None) -> dict[str, Tensor]:
        """Keyword arguments of the model's forward, those with the examples in front first.

        Args:
            columns: run these alone, behind those before them, which the mask holds too; None for all.
        """
        found: dict[str, Tensor] = {}
        columns = range(self.width) if columns is None else columns
        part, seen = slice(columns.start, columns.stop), slice(columns.stop)
        if self.ids is not None:
            found = {self.argument: self.ids[:, part], mask_of(self.argument): self.mask[:, seen].long()}
            found |= {position_ids_of(self.argument): self.position_ids[:, part]} if self.numbered else {}
        found |= {name: tensor for name, tensor in self.others.items() if name not in self.packed}
        return found | {name: self.others[name].flatten(0, 1) for name in self.others if name in self.packed}

    def differ(self, other: Tokens) -> Bool[Tensor, "example position"]:
        """Where prompts of the same width differ from others: in a token, or, if anything else differs, everywhere."""
        found = self.mask != other.mask
        if self.ids is not None and other.ids is not None:
            found = found | (self.ids != other.ids)
        for name in {*self.others, *other.others}:
            one, two = self.others.get(name), other.others.get(name)
            if one is None or two is None or one.shape != two.shape:
                return torch.ones_like(found)
            found = found | (one != two).reshape(len(found), -1).any(-1, keepdim=True)
        return found


@dataclass(frozen=True, eq=False)
class Encoded:
    """Pairs as tensors: both prompts padded to one width, and the answer tokens, padded with −1.

    Where an answer is several tokens, all but its last stand behind both prompts (:attr:`Places.forced`), so that the model
    says at each step what it would after the answer's tokens so far: teacher forcing. Step 0 is the prompt's last token.
    """

    pairs: Pairs
    clean: Tokens
    corrupted: Tokens
    answered: Answered
    """Every answer's tokens, as ids and as text."""
    answers: Int[Tensor, "example answer"]
    """The first token of every right answer, and in ``wrong`` of every wrong one."""
    wrong: Int[Tensor, "example contrast"]
    later: Int[Tensor, "example step"]
    """The right answer's tokens behind its first; no column where all answers are one token."""
    later_wrong: Int[Tensor, "example step"]
    """Those of the wrong answer that stand behind the same tokens as in the right one."""
    differ: Int[Tensor, " example"]
    """The step at which right and wrong differ first."""
    bos: bool
    """Whether the prompts begin with a BOS token: part of a run's identity."""
    asked: Bos = "model"
    """The BOS policy that the prompts were encoded with; other prompts of a sweep follow it."""
    further: Mapping[str, Tokens] = field(default_factory=dict)
    """The further prompts that every pair has, by name."""

    @classmethod
    def alone(cls, tokens: Tokens) -> Encoded:
        """Prompts that are no pairs, without answers."""
        none = torch.zeros(len(tokens), 0, dtype=torch.long, device=tokens.mask.device)
        first = torch.zeros(len(tokens), dtype=torch.long, device=none.device)
        return cls(Pairs(()), tokens, tokens, Answered((), (), (), ()), none, none, none, none, first, bos=False)

    def __len__(self) -> int:
        return len(self.clean)

    def to(self, device: torch.device | str) -> Encoded:
        names = ("clean", "corrupted", "answers", "wrong", "later", "later_wrong", "differ")
        further = {name: tokens.to(device) for name, tokens in self.further.items()}
        return replace(self, further=further, **{name: getattr(self, name).to(device) for name in names})

    def side(self, name: str) -> Tokens:
        """``"clean"`` or ``"corrupted"`` prompts, or further ones as ``"source:NAME"``.

        Raises:
            UnknownNameError: not every pair has a further prompt of that name.
        """
        if not name.startswith(NAMED):
            found: Tokens = getattr(self, name)
            return found
        name = name.removeprefix(NAMED)
        if name not in self.further:
            raise UnknownNameError("source", name, self.further, f"that every one of the {len(self)} pairs has")
        return self.further[name]

    @property
    def forced(self) -> bool:
        """Whether tokens of answers stand behind prompts."""
        return self.clean.forced is not None

    def steps(self, read: str) -> int:
        """How many tokens of the answers a metric reads that declares so: see :attr:`interp.metrics.Reads.steps`."""
        if read == "first":
            return 1
        return int(self.differ.max()) + 1 if read == "contrast" else self.later.shape[1] + 1

    def require_reached(self, name: str) -> None:
        """Raise ``AnswerError`` unless every token of the wrong answers stands behind tokens that are fed to the model.

        Args:
            name: of the metric that reads them.
        """
        for number, reached in enumerate(self.answered.reached):
            if not reached:
                wrong, pair = " + ".join(map(repr, self.answered.wrong_strings[number][0])), self.pairs[number]
                raise AnswerError(
                    f"metric {name!r} needs the probability of wrong {pair.wrong[0]!r} ({wrong}) in example {number}, but the "
                    f"tokens behind its first {self.answered.differ[number] + 1} would stand behind others than those of "
                    f"answer {pair.answers[0]!r}, which are fed to the model; use 'logit_diff' or 'logprob', or a wrong "
                    "answer of one token"
                )

    def require_equal_lengths(
        self, why: str, one: Places | None = None, other: Places | None = None, *, hint: str = ""
    ) -> None:
        """Raise ``UnequalLengthsError`` showing both prompts token by token, unless every pair has two equally long prompts.

        Args:
            one, other: positions of the clean and the corrupted prompts in the stream that is meant, by default the main one.
            hint: what to do instead; by default to name a role, whose spans need not be equally long.
        """
        one, other = self.clean if one is None else one, self.corrupted if other is None else other
        unequal = (one.lengths != other.lengths).nonzero().flatten()
        if not len(unequal):
            return
        example = int(unequal[0])
        clean, corrupted = (
            places.strings[example] if places.strings else tuple("·" * int(places.said[example])) for places in (one, other)
        )
        width = max(map(len, (*map(repr, clean), *map(repr, corrupted))))
        rows = [
            f"  {i:>3}  {a:<{width}}  {b:<{width}}{'' if a == b else '  ←'}"
            for i, (a, b) in enumerate(_zip_longest([*map(repr, clean)], [*map(repr, corrupted)]))
        ]
        roles = [role for role in one.roles if role in other.roles]
        spans = "; its spans may differ in length, and unequal= says what then: 'last' token, or 'mean'"
        named = f"use a role instead, such as position={roles[:3]}{spans}" if roles else "give the pairs roles and use those"
        hint = hint or named
        raise UnequalLengthsError(
            f"{why} matches positions by raw index, but the prompts of {len(unequal)} of {len(self)} pairs differ in length. "
            f"Example {example}: clean has {len(clean)} tokens, corrupted {len(corrupted)}; {hint}\n"
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
    *,
    begin: int | None = None,
    left: bool = True,
    lacking: str = NO_TOKENIZER,
    forced: Sequence[Sequence[int]] = (),
) -> Tokens:
    """Encode prompts.

    Args:
        prompts: texts, token ids, chats or :class:`interp.prompts.Prompt`, mixed freely.
        tokenizer: may be None if every prompt is given as ids.
        bos: see :data:`Bos`; ids are taken as they are.
        begin: a token in front of every text, which then gets no other special tokens.
        left: pad on the left, else on the right.
        lacking: why there is no tokenizer.
        forced: tokens that stand behind each prompt and are not meant by its positions.

    Raises:
        PositionError: a role that no token carries, or an empty prompt.
    """
    encoded = [_encode_one(as_prompt(prompt), tokenizer, bos, begin, lacking) for prompt in prompts]
    if not encoded:
        raise PositionError("no prompt was given")
    behind = torch.tensor([len(more) for more in forced]) if any(forced) else None
    if behind is not None:
        encoded = [([*ids, *more], found, said) for (ids, found, said), more in zip(encoded, forced, strict=True)]
    width = max(len(ids) for ids, _, _ in encoded)
    ids = torch.full((len(encoded), width), pad, dtype=torch.long)
    mask = torch.zeros(len(encoded), width, dtype=torch.bool)
    starts = [width - len(one) if left else 0 for one, _, _ in encoded]
    for row, ((one, _, _), start) in enumerate(zip(encoded, starts, strict=True)):
        ids[row, start : start + len(one)] = torch.tensor(one)
        mask[row, start : start + len(one)] = True
    spans = [
        {role: [start + i for i in at] for role, at in found.items()}
        for (_, found, _), start in zip(encoded, starts, strict=True)
    ]
    said = tuple(strings for _, _, strings in encoded)
    return Tokens(ids=ids, mask=mask, roles=together(spans), partial=partial(spans), strings=said, forced=behind)


def as_prompt(prompt: Any) -> Prompt:
    """A prompt from whatever stands for one."""
    if isinstance(prompt, int):
        raise PositionError(
            f"a prompt is a text, a list of token ids, a chat or a Prompt, not {prompt}; one prompt of ids is [[{prompt}, …]]"
        )
    if isinstance(prompt, Mapping):
        raise InputError(f"a chat is a list of messages, [{{…}}], but here is one mapping: {dict(prompt)!r}")
    return prompt if isinstance(prompt, Prompt) else Prompt(prompt if isinstance(prompt, str) else tuple(prompt))


def as_prompts(prompts: Any) -> list[Prompt]:
    """One or several prompts, in whatever form: a text, a chat or a Prompt alone is one of them."""
    alone = isinstance(prompts, str | Prompt) or is_chat(prompts)
    return [as_prompt(prompt) for prompt in ([prompts] if alone else prompts)]


def together(spans: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Int[Tensor, "example span"]]:
    """Columns of the roles that every prompt has, padded with −1."""
    return {role: padded([found[role] for found in spans]) for role in spans[0] if all(role in found for found in spans)}


def partial(spans: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, list[int]]:
    """Roles that only some of the prompts have, with those that do not."""
    every = {role: [i for i, found in enumerate(spans) if role not in found] for role in dict.fromkeys(chain(*spans))}
    return {role: without for role, without in every.items() if without}


def _encode_one(
    prompt: Prompt, tokenizer: Tokenizer | None, bos: Bos, begin: int | None, lacking: str
) -> tuple[list[int], dict[str, list[int]], tuple[str, ...]]:
    prompt = written(prompt, tokenizer, lacking=lacking)
    own = {role: span for role, span in prompt.roles.items() if ":" not in role}
    if not isinstance(prompt.text, str):
        ids = list(prompt.text)
        if not ids:
            raise PositionError("a prompt given as token ids is empty")
        roles = {role: list(range(start, stop)) for role, (start, stop) in own.items()}
        return ids, roles, _strings(ids, tokenizer)
    if tokenizer is None:
        raise PositionError(f"prompt {prompt.text!r} is a text, but {lacking}: pass tokenizer= to load, or give token ids")
    special = bos == "model" and begin is None and not prompt.templated
    found = tokenizer(prompt.text, add_special_tokens=special, return_offsets_mapping=bool(own))
    ids = list(found["input_ids"])
    spans = [tuple(span) for span in found["offset_mapping"]] if own else []
    if bos is True and begin is None:
        if tokenizer.bos_token_id is None:
            raise PositionError("bos=True, but this tokenizer has no BOS token; use bos='model' or bos=False")
        begin = tokenizer.bos_token_id if ids[:1] != [tokenizer.bos_token_id] else None
    if special and len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
        warnings.warn(
            f"prompt {prompt.text!r} begins with BOS itself, and the tokenizer adds another; give a chat as its messages, or "
            "what a chat template wrote as Prompt(text, templated=True)",
            RuntimeWarning,
            stacklevel=2,
        )
    if begin is not None:
        ids, spans = [begin, *ids], [(0, 0), *spans]
    if not ids:
        raise PositionError(f"prompt {prompt.text!r} has no tokens; give a text, or bos=True for the BOS token alone")
    roles = {}
    for role, (start, stop) in own.items():
        roles[role] = [i for i, (a, b) in enumerate(spans) if a < stop and start < b]
        if not roles[role]:
            raise PositionError(
                f"role {role!r} of prompt {prompt.text!r} covers {prompt.text[start:stop]!r}, which no token carries"
            )
    return ids, roles, _strings(ids, tokenizer)
