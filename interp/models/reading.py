"""From prompts to what a model's forward is given: token ids of every stream, pictures, and arrays as they are.

    >>> reading = Reading(tokenizer, main="decoder_input_ids", texts={"encoder": "input_ids"}, begin=0)      # doctest: +SKIP
    >>> reading.tokens([Prompt("good day", target="guten")], "model").streams["encoder"].lengths           # doctest: +SKIP
    tensor([3])

What enters which stream is known from the anatomy; which side a model can be padded on was measured when it was loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.errors import AnswerError, InputError, PositionError, UnequalLengthsError
from interp.models.answers import answered, in_place
from interp.models.encoding import (
    NO_TOKENIZER,
    Bos,
    Encoded,
    Tokens,
    as_prompt,
    encode,
    mask_of,
    position_ids_of,
    together,
)
from interp.models.examples import batch_of
from interp.models.pictures import pictured
from interp.models.places import Places, padded
from interp.models.templates import written
from interp.prompts import Answer, Pairs, Prompt
from interp.protocols import Tokenizer
from interp.sites import MAIN


@dataclass(frozen=True, eq=False)
class Reading:
    """How one model reads prompts."""

    tokenizer: Tokenizer | None = None
    processor: Any = None
    """The model's own way from pictures to numbers, as transformers makes it."""
    pad: int = 0
    main: str | None = "input_ids"
    """The argument with the token ids of the main stream; None where something else enters it."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """The same of other streams, by name."""
    begin: int | None = None
    """The token with which an encoder–decoder's decoder begins."""
    image: int | None = None
    """The token that stands where a picture's positions are."""
    sides: Mapping[str, bool | None] = field(default_factory=dict)
    """For every argument of token ids whether it is padded on the left; None where padding changes what the model says."""
    fill: int | None = None
    """How many tokens every text is filled up to with what then counts as real, as text encoders of diffusion were trained."""
    numbered: bool = True
    """Whether the forward is given position ids."""
    example: Mapping[str, Tensor] = field(default_factory=dict)
    """Arguments of one forward pass, by which others are shaped."""
    accepts: frozenset[str] | None = None
    """Arguments of the forward; None where any will do."""
    dtype: torch.dtype = torch.float32
    lacking: str = NO_TOKENIZER
    """Why there is no tokenizer."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """The forward's arguments of token ids."""
        return tuple(dict.fromkeys(([self.main] if self.main is not None else []) + list(self.texts.values())))

    def tokens(self, prompts: Sequence[Prompt | str | Sequence[int]], bos: Bos, forced: Sequence[Sequence[int]] = ()) -> Tokens:
        """Encode prompts; positions of a main stream without token ids are left to whoever knows how many there are.

        Args:
            forced: tokens that stand behind each prompt in the main stream, and are not meant by its positions.

        Raises:
            PositionError: a role that no token carries, or an empty prompt.
            InputError: an argument of the forward that is missing, unknown, or of another shape than the model takes.
            UnequalLengthsError: prompts that would need padding which the model cannot take.
        """
        asked = [pictured(self.written(as_prompt(prompt)), self.processor, self.tokenizer, self.image) for prompt in prompts]
        if not asked:
            raise PositionError("no prompt was given")
        read = {
            argument: self._encoded(argument, asked, bos, forced if argument == self.main else ())
            for argument in self.arguments
            if self._says(argument, asked)
        }
        others, packed = self._others(asked, read)
        for argument in {*self.texts.values()} & {*read} - {self.main}:
            found = read[argument]
            assert found.ids is not None
            others |= {argument: found.ids, mask_of(argument): found.mask.long()}
        streams = {stream: _places(read[argument]) for stream, argument in self.texts.items() if argument in read}
        marked = self._marked(asked, [*streams, *([MAIN] if self.main in read else [])])
        rest: dict[str, Any] = {"others": others, "packed": packed, "streams": streams, "marked": marked}
        if self.main is not None and self.main in read:
            return replace(read[self.main], argument=self.main, numbered=self.numbered, **rest)
        return Tokens(mask=torch.ones(len(asked), 1, dtype=torch.bool), **rest)

    def written(self, prompt: Prompt) -> Prompt:
        """A chat as the text that the model's own template makes of it, with its roles; any other prompt as it is."""
        return written(prompt, self.tokenizer, self.processor, lacking=self.lacking)

    def pairs(self, pairs: Pairs, bos: Bos) -> Encoded:
        """Encode both sides of every pair, and the answers, of which all tokens but the last stand behind both sides.

        Raises:
            AnswerError: an answer that is no sequence of tokens after its prompt, alternatives of several tokens, a right
                answer with which a wrong one begins or the reverse, or a model in which nothing follows a prompt.
        """
        cache: dict[tuple[str, str], tuple[int, ...]] = {}
        told = answered(pairs, lambda answer, pair: self._answer(answer, pair.clean, cache), self.tokenizer)
        forced = told.forced
        self._refuse_forced(pairs, forced)
        sides = [[p.clean for p in pairs], [p.corrupted for p in pairs]]
        sides += [[p.sources[name] for p in pairs] for name in pairs.sources]
        clean, corrupted, *further = self._alike([self.tokens(side, bos, forced) for side in sides])
        first = getattr(self.tokenizer, "bos_token_id", None)
        begins = None if clean.ids is None else clean.ids[torch.arange(len(clean)), clean.first]
        has_bos = first is not None and begins is not None and bool((begins == first).all())
        named = dict(zip(pairs.sources, further, strict=True))
        return Encoded(pairs, clean, corrupted, told, **told.tensors(), bos=has_bos, asked=bos, further=named)

    def _refuse_forced(self, pairs: Pairs, forced: Sequence[Sequence[int]]) -> None:
        """Raise where no token can stand behind a prompt."""
        number = next((number for number, ids in enumerate(forced) if ids), None)
        if number is not None and (self.main is None or self.fill is not None):
            raise AnswerError(
                f"example {number}: answer {pairs[number].answers[0]!r} is {len(forced[number]) + 1} tokens, and nothing "
                "stands behind a prompt of this model; give an answer of one token, or the number of an output"
            )

    # token ids

    def _says(self, argument: str, prompts: Sequence[Prompt]) -> bool:
        """Whether prompts have what an argument of token ids is made of."""
        if argument == "decoder_input_ids":
            return self.begin is not None or any(prompt.target is not None for prompt in prompts)
        return self.accepts is None or any(prompt.text for prompt in prompts) or not any(prompt.inputs for prompt in prompts)

    def _encoded(self, argument: str, prompts: Sequence[Prompt], bos: Bos, forced: Sequence[Sequence[int]] = ()) -> Tokens:
        """Token ids for one argument of the forward, padded as the model takes it."""
        left = self.sides.get(argument, True)
        rest: dict[str, Any] = {"lacking": self.lacking, "forced": forced}
        if argument == "decoder_input_ids":
            start = () if self.begin is None else (self.begin,)
            said = [as_prompt(start if prompt.target is None else prompt.target) for prompt in prompts]
            found = encode(said, self.tokenizer, bos, self.pad, begin=self.begin, left=left is not False, **rest)
        else:
            found = self._filled(encode(prompts, self.tokenizer, bos, self.pad, left=left is True, **rest))
        if left is None and not bool(found.mask.all()):
            behind = ", with those of their answers" if any(forced) else ""
            raise UnequalLengthsError(
                f"the prompts have {found.lengths.unique().tolist()} tokens{behind}, and this model's numbers change when "
                f"{argument} is padded; run prompts of one length together"
            )
        if self.image is not None and argument == self.main and found.ids is not None:
            pictured = found.ids == self.image
            if "image" not in found.roles and bool(pictured.any(-1).all()):
                columns = padded([row.nonzero().flatten().tolist() for row in pictured])
                return replace(found, roles={**found.roles, "image": columns})
        return found

    def _filled(self, tokens: Tokens) -> Tokens:
        """Texts filled up on the right to the length that the model expects."""
        if self.fill is None or tokens.width >= self.fill:
            return tokens
        wide = tokens.padded(self.fill, pad=self.pad, left=False)
        pad = str(self.pad) if self.tokenizer is None else self.tokenizer.decode([self.pad])
        strings = tuple((*words, *[pad] * (self.fill - len(words))) for words in tokens.strings)
        return replace(wide, mask=torch.ones_like(wide.mask), strings=strings)

    def _alike(self, sides: Sequence[Tokens]) -> list[Tokens]:
        """All sides padded to one width, in every stream that token ids enter."""
        width = max(tokens.width for tokens in sides)
        found = []
        for tokens in sides:
            if self.main is not None and tokens.ids is not None:
                tokens = tokens.padded(width, pad=self.pad, left=self.sides.get(self.main, True) is not False)
            for stream, argument in self.texts.items():
                if all(stream in side.streams for side in sides) and argument in tokens.others:
                    widest = max(side.streams[stream].width for side in sides)
                    tokens = self._widened(tokens, stream, argument, widest)
            found.append(tokens)
        return found

    def _widened(self, tokens: Tokens, stream: str, argument: str, width: int) -> Tokens:
        left = self.sides.get(argument, True) is not False
        places = tokens.streams[stream].padded(width, left=left)
        more = width - tokens.others[argument].shape[1]
        pad = (more, 0) if left else (0, more)
        ids = torch.nn.functional.pad(tokens.others[argument], pad, value=self.pad)
        others = {**tokens.others, argument: ids, mask_of(argument): places.mask.long()}
        return replace(tokens, others=others, streams={**tokens.streams, stream: places})

    def _answer(self, answer: Answer, prompt: Prompt, cache: dict[tuple[str, str], tuple[int, ...]]) -> tuple[int, ...]:
        """The token ids with which ``answer`` continues ``prompt``; prompts that end in the same character share them."""
        if isinstance(answer, int):
            return (answer,)
        if isinstance(answer, tuple):
            if not answer:
                raise AnswerError("an answer given as token ids is empty")
            return answer
        prompt = self.written(prompt)
        if self.tokenizer is None:
            raise AnswerError(f"answer {answer!r} is a text, but {self.lacking}: give its token id")
        of = as_prompt(prompt.target or "") if self.main == "decoder_input_ids" else prompt
        text = of.text if isinstance(of.text, str) else ""
        if (answer, text[-1:]) not in cache:
            cache[answer, text[-1:]] = in_place(answer, text, self.tokenizer)
        return cache[answer, text[-1:]]

    # everything else

    def _others(self, prompts: Sequence[Prompt], read: Mapping[str, Tokens]) -> tuple[dict[str, Tensor], frozenset[str]]:
        """Arrays that the prompts give, one example after the other; and those that the forward takes in one axis."""
        names = list(dict.fromkeys(name for prompt in prompts for name in prompt.inputs))
        self._refuse_strange(names)
        self._refuse_missing(prompts, names, read)
        found: dict[str, Tensor] = {}
        packed = set()
        for name in names:
            arrays = [self._array(name, prompt.inputs[name]) for prompt in prompts]
            shapes = list(dict.fromkeys(tuple(array.shape) for array, _ in arrays))
            if len(shapes) > 1:
                raise InputError(f"{name!r} has the shapes {' and '.join(map(str, shapes))}; run them apart")
            found[name] = torch.stack([array for array, _ in arrays])
            if arrays[0][1]:
                packed.add(name)
        ids = None if self.main is None or self.main not in read else read[self.main].ids
        if "mm_token_type_ids" in self.example and ids is not None:  # Qwen2-VL asks which tokens are a picture's
            found["mm_token_type_ids"] = ids.eq(-1 if self.image is None else self.image).long()
        return found, frozenset(packed)

    def _refuse_strange(self, names: Sequence[str]) -> None:
        strange = [name for name in names if self.accepts is not None and name not in self.accepts]
        if strange:
            raise InputError(
                f"inputs={{{strange[0]!r}: …}}, but the model's forward takes {', '.join(sorted(self.accepts or ()))}"
            )

    def _refuse_missing(self, prompts: Sequence[Prompt], names: Sequence[str], read: Mapping[str, Tokens]) -> None:
        for number, prompt in enumerate(prompts):
            lacking = [name for name in names if name not in prompt.inputs]
            if lacking:
                raise InputError(f"prompt {number} has no {lacking[0]!r}, which others of the same call have")
        if self.main == "input_ids" and self.main in read:
            return  # what is said about pictures can be said without one
        made = {name for argument in self.arguments for name in (argument, mask_of(argument), position_ids_of(argument))}
        lacking = [name for name in self.example if name not in (*names, *made, "mm_token_type_ids")]
        if lacking:
            shape = tuple(self.example[lacking[0]].shape[1:])
            raise InputError(
                f"the model's forward needs {', '.join(lacking)}: give Prompt(inputs={{{lacking[0]!r}: …}}), an array of one "
                f"example, such as of shape {shape}" + (", or Prompt(images=(…,))" if self.processor is not None else "")
            )

    def _array(self, name: str, given: Any) -> tuple[Tensor, bool]:
        """One example's array, and whether the forward takes it with all examples in one axis."""
        array = given.detach().cpu() if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given))
        array = array.to(self.dtype) if array.is_floating_point() else array
        like = self.example.get(name)
        if like is None or array.ndim == like.ndim - 1:
            return array, False
        if array.ndim == like.ndim:
            alone = array.shape[0] == 1 and like.shape[0] == batch_of(self.example)
            return (array[0], False) if alone else (array, True)
        raise InputError(
            f"inputs={{{name!r}: …}} has shape {tuple(array.shape)}; one example's has {like.ndim - 1} axes, such as "
            f"{tuple(like.shape[1:])}"
        )

    def _marked(self, prompts: Sequence[Prompt], known: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        """Roles in streams without token ids: those written with the stream's name, and of a prompt without text."""
        spans: list[dict[str, dict[str, list[int]]]] = []
        for prompt in prompts:
            of: dict[str, dict[str, list[int]]] = {}
            for role, (start, stop) in prompt.roles.items():
                stream, _, name = role.rpartition(":")
                if stream or not prompt.text:
                    of.setdefault(stream or MAIN, {})[name] = list(range(start, stop))
            spans.append(of)
        streams = dict.fromkeys(stream for of in spans for stream in of)
        told = [stream for stream in streams if stream in known]
        if told:
            raise PositionError(f"role {told[0]}:…: token ids enter this stream, so its roles are spans of the text itself")
        return {stream: together([of.get(stream, {}) for of in spans]) for stream in streams}


def encode_pairs(pairs: Pairs, tokenizer: Tokenizer | None, bos: Bos = "model", pad: int = 0) -> Encoded:
    """Encode pairs of texts for a model that reads token ids.

    Raises:
        AnswerError: see :meth:`Reading.pairs`.
    """
    return Reading(tokenizer, pad=pad).pairs(pairs, bos)


def _places(tokens: Tokens) -> Places:
    return Places(mask=tokens.mask, roles=tokens.roles, partial=tokens.partial, strings=tokens.strings, forced=tokens.forced)
