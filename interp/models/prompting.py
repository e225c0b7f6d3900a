"""What a model knows of its prompts: how they are read, where their positions are, and which tokens it does not know.

>>> reading_of(model).texts                                                              # doctest: +SKIP
{'encoder': 'input_ids'}
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from interp import axes
from interp.errors import AnswerError, PositionError
from interp.models import examples
from interp.models.anatomy import Anatomy
from interp.models.anatomy.record import Shapes, shapes
from interp.models.encoding import NO_TOKENIZER, Encoded, Tokens
from interp.models.places import Places
from interp.models.reading import Reading
from interp.prompts import Prompt
from interp.sites import MAIN, Site


class Known(Protocol):
    """What is asked of a model here (:class:`interp.models.model.Model`)."""

    module: nn.Module
    tokenizer: Any
    processor: Any
    name: str
    unknown: str
    anatomy: Anatomy
    example: Mapping[str, Tensor]
    missing: Mapping[str, str]

    @property
    def called(self) -> nn.Module: ...
    @property
    def causal(self) -> bool: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def arguments(self) -> frozenset[str]: ...
    def has(self, site: Site) -> bool: ...
    def inputs(self, tokens: Tokens) -> dict[str, Tensor]: ...
    def prepared(self) -> AbstractContextManager[None]: ...


_SHOWN = 8
"""Unknown words that are named."""

_TEXT = {"input_ids", "attention_mask", "position_ids"}


def reading_of(model: Known) -> Reading:
    """How prompts are read, as far as the anatomy says."""
    config = getattr(model.module, "config", None)
    generation = getattr(model.module, "generation_config", None)
    main = model.anatomy.main
    texts = {name: stream.reads for name, stream in model.anatomy.streams.items() if name != MAIN and stream.reads}
    known = bool(model.example)
    begins = (getattr(owner, "decoder_start_token_id", None) for owner in (generation, config))
    begin = next((n for n in begins if isinstance(n, int)), None)
    pads = (getattr(owner, "pad_token_id", None) for owner in (model.tokenizer, examples.text_config(config)))
    return Reading(
        model.tokenizer,
        model.processor,
        pad=next((pad for pad in pads if isinstance(pad, int) and pad >= 0), 0),
        main=main.reads if known else "input_ids" if "input_ids" in model.arguments else None,
        texts=texts,
        begin=begin if main.reads == "decoder_input_ids" else None,
        image=getattr(config, "image_token_id", None),
        numbered="position_ids" in model.arguments and (not known or set(model.example) <= _TEXT),
        example=model.example,
        accepts=model.arguments,
        dtype=model.dtype,
        lacking=model.missing.get("tokenizer", NO_TOKENIZER),
    )


class Placing:
    """The positions of a model's sites."""

    def __init__(self, model: Known) -> None:
        self.model = model
        self._shapes: dict[tuple[tuple[str, tuple[int, ...]], ...], Shapes] = {}

    def placed(self, tokens: Tokens) -> Tokens:
        """The same prompts with the positions of a main stream that no token ids enter: what is read of it in the end."""
        if tokens.ids is not None:
            return tokens
        first = Site("resid_pre", layer=0)
        places = self.places(tokens, first if self.model.has(first) else Site("logits"))
        return replace(tokens, mask=places.mask, roles=places.roles)

    def places(self, tokens: Tokens, site: Site, *, attended: bool = False) -> Places:
        """See :meth:`interp.models.model.Model.places`."""
        anatomy = self.model.anatomy
        lattice = bool(anatomy.lattice(site))
        stream = None if lattice else anatomy.stream_of(site, attended=attended)
        if stream == MAIN and tokens.ids is not None:
            return tokens
        if stream is not None and stream in tokens.streams:
            return tokens.streams[stream]
        if axes.SOURCE_POSITION in site.axes and axes.POSITION in site.axes:  # of a softmax; counted where its block begins
            of = "cross_k" if attended and site.name.startswith("cross_") else "resid_pre"
            site = Site(of, layer=site.layer, stream=site.stream)
        count = anatomy.count(site)
        if stream is None and not lattice and tokens.ids is not None and count in (None, anatomy.main.positions):
            return tokens
        seen = None if self._like_example(tokens) else self._shapes_of(tokens)
        if seen is not None:
            count = anatomy.count(site, seen, 1)
        if count is None:
            why = "its module is called several times, or not" if self.model.example else self.model.unknown
            raise PositionError(f"how many positions {site!r} has cannot be told: {why}")
        roles = tokens.marked.get(stream or MAIN, {})
        for role, columns in roles.items():
            if stream is not None and int(columns.max()) >= count:
                raise PositionError(f"role {role!r} ends at position {int(columns.max())}, but {site!r} has {count}")
        everyone = torch.ones(len(tokens), count, dtype=torch.bool, device=tokens.mask.device)
        kept = {role: at for role, at in roles.items() if int(at.max()) < count}
        return Places(mask=everyone, roles=kept, lattice=anatomy.lattice(site, seen))

    def _like_example(self, tokens: Tokens) -> bool:
        """Whether everything but token ids has the shape of what was seen when the model was loaded."""
        inputs = tokens.inputs()
        return all(
            name not in inputs or inputs[name].shape[1:] == t.shape[1:]
            for name, t in self.model.example.items()
            if "ids" not in name and "mask" not in name
        )

    def _shapes_of(self, tokens: Tokens) -> Shapes:
        """Shapes of what every module takes and gives for the first of some prompts."""
        inputs = self.model.inputs(tokens.take([0]))
        key = tuple((name, tuple(tensor.shape)) for name, tensor in sorted(inputs.items()) if isinstance(tensor, Tensor))
        if key not in self._shapes:
            with self.model.prepared():
                self._shapes = {key: shapes(self.model.module, lambda: self.model.called(**inputs))[0]}
        return self._shapes[key]


def refuse_forced(model: Known, pairs: Encoded) -> None:
    """An answer of several tokens is read behind its own, which the prompt must not see."""
    if pairs.forced and not model.causal:
        raise AnswerError(
            f"answers of up to {pairs.answered.span[1]} tokens are read behind their own first ones, but {model.name} is not "
            "causal: what stands behind a prompt would change what is said at its end; give answers of one token"
        )


def refuse_strange(
    model: Known, prompts: Sequence[Prompt], *ids_of: Tensor | None, answers: Sequence[Tensor] = (), words: Iterable[Any] = ()
) -> None:
    """Token ids that the model cannot embed are refused; so are unknown words as answers, and in prompts they are said.

    Args:
        prompts: as they were given.
        ids_of: token ids of the prompts; None where something else enters the model.
        answers: token ids of the answers.
        words: the answers as they were given.
    """
    embed = examples.embedding(model.module)
    given = [ids for ids in ids_of if ids is not None]
    of_output = model.anatomy.outputs or None
    of_input = embed.weight.shape[0] if embed is not None else None
    for what, n, ids in [("prompts", of_input, i) for i in given] + [("answers", of_output or of_input, i) for i in answers]:
        if n is not None and int(ids.max()) >= n:
            kind = "tokens" if of_input is not None else "outputs"
            raise AnswerError(f"the {what} hold token id {int(ids.max())}, but {model.name} has {n} {kind}, 0 to {n - 1}")
    special = {getattr(model.tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad")}
    unknown = getattr(model.tokenizer, "unk_token_id", None)
    if unknown is None or unknown in special:  # GPT-2 has one token for all four
        return
    if any(bool((ids == unknown).any()) for ids in answers):
        strange = _listed(_unknown(model.tokenizer, words))
        raise AnswerError(
            f"an answer is a word that the tokenizer of {model.name} does not know{strange}; give this tokenizer to the task"
        )
    count = sum(int((ids == unknown).any(-1).sum()) for ids in given)
    if count:
        strange = _listed(_unknown(model.tokenizer, [prompt.text for prompt in prompts]))
        warnings.warn(
            f"{count} of {sum(map(len, given))} prompts hold words that the tokenizer of {model.name} does not know and "
            f"reads as one and the same{strange}",
            RuntimeWarning,
            stacklevel=3,
        )


def _unknown(tokenizer: Any, texts: Iterable[Any]) -> Counter[str]:
    """The words that a tokenizer does not know, and how often each occurs; none where it does not say which they are."""
    found: Counter[str] = Counter()
    if getattr(tokenizer, "is_fast", False):
        for text in dict.fromkeys(text for text in texts if isinstance(text, str)):
            read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            ids = zip(read["input_ids"], read["offset_mapping"], strict=True)
            found.update(text[start:stop].strip() for token, (start, stop) in ids if token == tokenizer.unk_token_id)
    return found


def _listed(words: Counter[str]) -> str:
    """``: 'zebra' (2), 'quagga' and 3 more``."""
    shown = [repr(word) + (f" ({n})" if n > 1 else "") for word, n in words.most_common(_SHOWN)]
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return f": {', '.join(shown)}{more}" if shown else ""
