"""How probable a model finds given texts, token by token, under interventions: teacher forcing.

    >>> texts = ["The cat sat on the mat.", "The mat sat."]
    >>> scored = interp.score(model, texts, interp.doses(steer, [0, 2, 4]))                        # doctest: +SKIP
    >>> scored.perplexity.sel(example=0).values                                                    # doctest: +SKIP
    array([ 9.1, 12.7, 80.3])

Nothing is written here: each text is run once under each intervention, and at each token the model is asked how probable it
finds the one that follows. Logits of the whole vocabulary are made for some tokens at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp import axes
from interp.engine import gauge, provenance
from interp.engine.asked import BASE, Asked, asked_prompts, named, several
from interp.engine.background import Given, given_changes
from interp.engine.batches import in_batches
from interp.engine.budget import check_rows
from interp.engine.cells import Cell
from interp.engine.edits import Edits, Rows
from interp.engine.families import check_words
from interp.engine.layout import LOGITS
from interp.engine.precision import float32
from interp.engine.prepared import Patching
from interp.engine.prompts import forward
from interp.engine.texts.ahead import Ahead, resolved
from interp.errors import GenerationError, PositionError
from interp.interventions import Intervention, strength_of
from interp.models import Model
from interp.models.divergence import divergences
from interp.sites import Positions, PositionsLike, Site

_AT_ONCE = 1 << 24
"""Logits that are made at once, where they need not come from whole passes."""


def score(
    model: Model,
    texts: Any,
    interventions: Asked = None,
    *,
    given: Given = None,
    of: PositionsLike = None,
    compare: bool = False,
    patching: Patching = "denoising",
    rows: int | None = None,
) -> xr.Dataset:
    """The log-probability of every token of some texts under every intervention.

    Args:
        model: one whose logits at a token are of the next one.
        texts: a text, token ids, a :class:`interp.Prompt`, a list of such; or pairs, of which the base is scored, by default
            the corrupted prompts, so that ``Activation()`` means the other prompt's. Of an encoder–decoder the decoder's text
            is scored.
        interventions: one or several; None, alone or among them, is the model as it is.
        given: in force in every cell, before its own changes; then None is the model with what is given.
        of: whose tokens the mean is of – a role, or indices – by default all but the first, which comes after nothing.
        compare: also how far apart the next-token distributions are from those of the model as it is, with what is given.
        patching: of pairs, whether the corrupted prompt is the base (``"denoising"``) or the clean one (``"noising"``).
        rows: most texts in one pass; by default what a memory budget allows.

    Returns:
        ``logprob`` (cell, example, position) in nats, of the token at that position behind those before it, NaN at the first
        and behind a text's end; ``nll`` (cell, example), minus its mean over the tokens that are meant, ``tokens`` (example),
        how many these are, and ``perplexity`` (cell, example), e to the ``nll``. With ``compare``, ``kl`` (cell, example,
        position) is D(edited ‖ unedited) of the distribution that the token at that position is one of, ``reverse_kl`` the
        other way round. ``token`` (example, position) is what stands there. The
        attribute ``side`` says which prompts of pairs were scored.

    Raises:
        GenerationError: the model does not say what comes next.
        PositionError: a text of one token, or ``of`` means a first one.
        UnknownSiteError, HeadOutOfRangeError, OrderError, ShapeMismatchError, UnequalLengthsError: what does not fit.
    """
    _refuse(model)
    check_words(patching)
    check_rows(rows)
    asked, force = several(interventions), given_changes(model, given)
    encoded, paired = asked_prompts(model, texts)
    sites = {change.site for one in (*asked, force) if one is not None for change in one.changes}
    whole = model.stack is None or any(site.layer is None or site.path is not None for site in sites)
    runs = Ahead(model, encoded, BASE[patching], 0, "all", rows, whole=whole)
    runs.refuse_too_long("text of {} tokens")
    counted = _counted(runs, of)
    with float32(), torch.no_grad():
        *cells, unedited = resolved(asked, runs, paired, given=force)
        every = torch.cartesian_prod(torch.arange(len(cells)), torch.arange(len(encoded))).to(model.device)

        def run(part: slice) -> _Scored:
            return _Batch(runs, [*cells, unedited], every[part], whole).scored(compare=compare)

        most = max(1, runs.rows // 2) if compare and rows is None else runs.rows
        parts = in_batches(len(every), most, run)
    attrs = provenance.identity(model, encoded) | {
        "method": "score",
        "patching": patching if paired else None,
        "side": BASE[patching] if paired else None,
        "given": None if force is None else repr(force),
        "of": repr(Positions.parse(of)) if of is not None else None,
        "versions": provenance.versions(),
    }
    attrs |= gauge.attribute(model, [one for one in (*asked, force) if one is not None])
    return _labelled(runs, asked, force, _aligned(runs, parts, len(cells)), counted, attrs)


def _refuse(model: Model) -> None:
    """Raise unless logits at a position are of the token that follows."""
    if model.reading.main is None or not model.has(LOGITS):
        raise GenerationError(f"no token ids enter the main stream of {model.name}, or no logits leave it: no text to score")
    if not model.causal:
        why = "it was loaded without its probe run" if model.probe is None else "a token's logits depend on later tokens"
        raise GenerationError(f"{model.name} does not say which token comes next: {why}")


def _counted(runs: Ahead, of: PositionsLike) -> Bool[Tensor, "example position"]:
    """The columns whose tokens the mean is of."""
    base = runs.base
    first = base.first[:, None]
    column = torch.arange(base.width, device=first.device)
    if of is None:
        found = base.mask & (column > first)
    else:
        meant = base.columns(Positions.parse(of), what="of")
        found = (column[None, None] == meant[..., None]).any(1)
        if bool((found & (column == first)).any()):
            example = int((found & (column == first)).any(-1).nonzero()[0])
            raise PositionError(
                f"of={of!r} means the first token of example {example}, which comes after nothing; leave it out"
            )
    if not bool(found.any(-1).all()):
        example = int((~found.any(-1)).nonzero()[0])
        raise PositionError(f"example {example} has no token that comes after another one, so that nothing can be scored")
    return found


@dataclass(frozen=True, eq=False)
class _Scored:
    """Of every column but the first, what was said of its token at the one before."""

    logprobs: Float[Tensor, "row position"]
    kl: Float[Tensor, "row position"] | None
    reverse_kl: Float[Tensor, "row position"] | None


@dataclass(frozen=True, eq=False)
class _Batch:
    """Some rows in one pass."""

    runs: Ahead
    cells: Sequence[Cell]
    """The last is the model as it is."""
    rows: Rows
    whole: bool
    """Whether logits come from whole passes, because something may change them behind the last block."""

    def scored(self, *, compare: bool) -> _Scored:
        examples, own = self.rows[:, 1].unique(return_inverse=True)
        rows = self.rows
        if compare:  # one more row for each text, which all cells share
            rows = torch.cat([rows, torch.stack([torch.full_like(examples, len(self.cells) - 1), examples], dim=-1)])
        tokens = self.runs.base.take(rows[:, 1])
        assert tokens.ids is not None
        states = self._states(rows)
        following, last = tokens.ids[:, 1:], states.shape[1] - 1
        _check_width(self.runs.model, states, tokens.width)
        place = torch.arange(len(self.rows) * last, device=states.device)
        row, column = place // last, place % last
        other = len(self.rows) + own.to(row.device)[row]
        logprobs, forth, back = [], [], []
        for some in place.split(self._at_once(states)):
            logits = self._logits(states, row[some], column[some])
            next_one = following.to(logits.device)[row[some], column[some]]
            logprobs.append(logits.log_softmax(-1).gather(-1, next_one[:, None])[:, 0])
            if compare:
                found = divergences(logits, self._logits(states, other[some], column[some]))
                forth.append(found.forward)
                back.append(found.reverse)
        shape = (len(self.rows), last)
        kl, reverse = (torch.cat(each).reshape(shape) if compare else None for each in (forth, back))
        return _Scored(torch.cat(logprobs).reshape(shape), kl, reverse)

    def _states(self, rows: Rows) -> Float[Tensor, "row position feature"]:
        """What leaves the last block, or logits."""
        model, edits = self.runs.model, Edits(self.cells, rows)
        site = LOGITS if self.whole else Site("resid_post", layer=model.sizes[axes.LAYER] - 1)
        with model.prepared([site, *edits.sites()]):
            ran = forward(model, self.runs.base.take(rows[:, 1]), {site: None}, None, edits)
        return ran.found[site].tensor

    def _logits(self, states: Tensor, row: Tensor, column: Tensor) -> Float[Tensor, "place vocab"]:
        """Logits of some tokens, float32 at least."""
        found = states[row, column]
        if not self.whole:
            stack = self.runs.model.stack
            assert stack is not None
            with self.runs.model.prepared():
                found = stack.logits(found[:, None])[:, 0]
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def _at_once(self, states: Tensor) -> int:
        vocabulary = states.shape[-1] if self.whole else self.runs.model.anatomy.outputs
        return max(1, _AT_ONCE // vocabulary)


def _check_width(model: Model, states: Tensor, width: int) -> None:
    if states.ndim != 3 or states.shape[1] != width:
        raise GenerationError(f"{model.name} gives {tuple(states.shape)} for texts of {width} tokens: not a score a token")


def _aligned(runs: Ahead, parts: Sequence[_Scored], cells: int) -> dict[str, Float[Tensor, "cell example position"]]:
    """What all batches gave, positions counted from each text's first token; NaN there and behind its end."""
    base = runs.base
    longest = int(base.lengths.max())
    offset = torch.arange(longest, device=base.mask.device)
    columns = base.first[:, None] + offset
    real = (offset > 0) & (offset < base.lengths[:, None])

    def laid(tensors: list[Tensor]) -> Tensor:
        tensor = torch.cat(tensors).unflatten(0, (cells, -1))
        at = (columns - 1).clamp(0, base.width - 2).to(tensor.device)
        found = tensor.gather(-1, at.expand(cells, -1, -1))
        return torch.where(real.to(tensor.device), found, torch.nan).cpu()

    return {name: laid(tensors) for name, tensors in _named(parts)}


def _named(parts: Sequence[_Scored]) -> Iterator[tuple[str, list[Tensor]]]:
    yield "logprob", [part.logprobs for part in parts]
    for name in ("kl", "reverse_kl"):
        found = [tensor for part in parts if (tensor := getattr(part, name)) is not None]
        if found:
            yield name, found


def _labelled(
    runs: Ahead,
    asked: Sequence[Intervention | None],
    given: Intervention | None,
    found: dict[str, Float[Tensor, "cell example position"]],
    counted: Bool[Tensor, "example position"],
    attrs: dict[str, Any],
) -> xr.Dataset:
    """The result with its names."""
    base, logprob = runs.base, found["logprob"]
    longest = logprob.shape[-1]
    at: Int[Tensor, "example position"] = (base.first[:, None] + torch.arange(longest, device=base.mask.device)).cpu()
    meant = counted.cpu().gather(-1, at.clamp(max=base.width - 1)) & (at < base.width)
    tokens = meant.sum(-1)
    nll = -torch.where(meant, logprob, 0).sum(-1) / tokens
    dims = (axes.CELL, axes.EXAMPLE, axes.POSITION)
    strings = [[*row, *[""] * (longest - len(row))] for row in base.strings]
    strengths = [strength_of(one) for one in asked]
    return xr.Dataset(
        {name: (dims, tensor.numpy()) for name, tensor in found.items()}
        | {"nll": (dims[:2], nll.numpy()), "perplexity": (dims[:2], nll.exp().numpy()), "tokens": (dims[1:2], tokens.numpy())},
        coords={
            axes.CELL: np.arange(len(asked)),
            axes.EXAMPLE: np.arange(len(base)),
            axes.POSITION: np.arange(longest),
            "intervention": (axes.CELL, [named(one, given) for one in asked]),
            "strength": (axes.CELL, [np.nan if one is None else one for one in strengths]),
            "token": (dims[1:], np.array(strings, dtype=object).astype(str)),
            "text": (axes.EXAMPLE, [("" if runs.model.tokenizer else " ").join(row) for row in base.strings]),
        },
        attrs=attrs,
    )
