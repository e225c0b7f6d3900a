"""What a model wrote under interventions.

>>> made = interp.generate(model, "The weather today is", [None, steered])              # doctest: +SKIP
>>> made.texts[1][0], made.stopped[1][0]                                                # doctest: +SKIP
(' wonderful, and the', 'length')
>>> made.table()                                                                        # doctest: +SKIP
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.asked import in_text, named, said, side_in_words
from interp.engine.cells import Cell
from interp.engine.layout import captured
from interp.engine.texts.ahead import Ahead
from interp.errors import GenerationError
from interp.interventions import Intervention, strength_of
from interp.models.generation import Compared, Continued
from interp.models.stepping import is_square
from interp.models.taps import position_axis
from interp.sites import Site

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Generated:
    """New text by intervention and prompt; a prompt that was continued n times has n rows, one after the other."""

    interventions: tuple[Intervention | None, ...]
    """One a cell; None is the model as it is."""
    prompts: tuple[str, ...]
    """The prompt of every row, as text."""
    texts: tuple[tuple[str, ...], ...]
    """``texts[cell][row]``: what was written, without the token that ended it."""
    ids: Int[Tensor, "cell row token"]
    """New tokens, the one that ended a row included; −1 behind it."""
    logprobs: Float[Tensor, "cell row token"]
    """Log-probability of each new token among the edited model's logits, whatever the temperature; NaN behind the end."""
    stopped: tuple[tuple[str, ...], ...]
    """``stopped[cell][row]``: ``"eos"``, ``"length"``, or the class of another criterion of transformers."""
    activations: Mapping[Site, Tensor]
    """Sites that were captured, ``[cell, row, *axes of the site but the example's]``. Positions are columns: padding on the
    left, then the prompt, then every new token but the last, which the model was never fed; NaN where a row has none."""
    first: Int[Tensor, " row"]
    """The column of the first token of every row's prompt."""
    attrs: Mapping[str, Any]
    """Model, prompts, scope, seed and options, by which the same text is written again."""
    compared: Compared | None = None
    """With the model as it is, where that was asked for."""

    @property
    def unedited_logprobs(self) -> Float[Tensor, "cell row token"]:
        """Log-probability of each new token under the unedited model – with what was given – behind the same text; NaN behind
        the end.

        Raises:
            GenerationError: nothing was compared: ``compare=True`` was not passed.
        """
        return self._compared.logprobs

    @property
    def kl(self) -> Float[Tensor, "cell row token"]:
        """D(edited ‖ unedited) of the next-token distributions at every step, in nats, before temperature and the like; NaN
        behind the end. Its sum along a text that was drawn at temperature 1 estimates the divergence of whole texts.

        Raises:
            GenerationError: nothing was compared.
        """
        return self._compared.kl

    @property
    def reverse_kl(self) -> Float[Tensor, "cell row token"]:
        """D(unedited ‖ edited), the direction of the metric ``"kl"``.

        Raises:
            GenerationError: nothing was compared.
        """
        return self._compared.reverse_kl

    @property
    def perplexity(self) -> Float[Tensor, "cell row"]:
        """exp(−mean log-probability of a text's tokens) under the unedited model.

        Raises:
            GenerationError: nothing was compared.
        """
        return (-self.unedited_logprobs.nanmean(-1)).exp()

    @property
    def _compared(self) -> Compared:
        if self.compared is None:
            raise GenerationError("these texts were not compared with the unedited model; pass compare=True to generate")
        return self.compared

    @property
    def lengths(self) -> Int[Tensor, "cell row"]:
        """Number of new tokens."""
        return (self.ids >= 0).sum(-1)

    @property
    def logprob(self) -> Float[Tensor, "cell row"]:
        """Log-probability of every text under the model that wrote it: the sum over its tokens."""
        return self.logprobs.nansum(-1)

    def activation(self, site: str | Site) -> Tensor:
        """What was captured at a site, of one head, unit or expert where the site names one.

        Raises:
            UnknownSiteError: it was not asked for.
        """
        return captured(self.activations, site, in_front=1)

    def table(self) -> pd.DataFrame:
        """One line a row, as a pandas table.

        ``logprob`` is the sum over the text's tokens. Where the model as it is was compared, ``unedited_logprob`` is the same
        under it, ``kl`` and ``reverse_kl`` are means over the tokens, and ``perplexity`` is that of :attr:`perplexity`.
        ``strength`` is there where interventions differ in it.
        """
        import pandas as pd

        strengths = [strength_of(intervention) for intervention in self.interventions]
        doses = len({strength for strength in strengths if strength is not None}) > 1
        lines = [
            {
                "cell": cell,
                "intervention": self._name(intervention),
                **({"strength": strengths[cell]} if doses else {}),
                "prompt": self.prompts[row],
                "text": text,
                "logprob": float(self.logprob[cell, row]),
                **self._beside(cell, row),
                "tokens": int(self.lengths[cell, row]),
                "stopped": self.stopped[cell][row],
            }
            for cell, intervention in enumerate(self.interventions)
            for row, text in enumerate(self.texts[cell])
        ]
        return pd.DataFrame(lines)

    def _beside(self, cell: int, row: int) -> dict[str, float]:
        """Columns of the table that compare with the model as it is."""
        if self.compared is None:
            return {}
        return {
            "unedited_logprob": float(self.unedited_logprobs[cell, row].nansum()),
            "kl": float(self.kl[cell, row].nanmean()),
            "reverse_kl": float(self.reverse_kl[cell, row].nanmean()),
            "perplexity": float(self.perplexity[cell, row]),
        }

    def _name(self, intervention: Intervention | None) -> str:
        return named(intervention, self.attrs["given"])

    def __repr__(self) -> str:
        cells, rows, tokens = self.ids.shape
        size = f"{_many(cells, 'intervention')} × {_many(rows, 'text')} of up to {_many(tokens, 'token')}"
        side = side_in_words(self.attrs["side"], rows // self.attrs["num_return_sequences"])
        head = f"Generated({size}{' from the ' if side else ''}{side}, scope {self.attrs['scope']!r})"
        shown = [
            f"  {self._name(intervention)}: {_short(prompt, end=True)!r} → {_short(text)!r}"
            for intervention, texts in zip(self.interventions, self.texts, strict=True)
            for prompt, text in zip(self.prompts, texts, strict=True)
        ]
        return "\n".join([head, *shown[:_SHOWN], *([f"  … {len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else [])])


def _many(n: int, one: str) -> str:
    return f"{n} {one}{'' if n == 1 else 's'}"


_SHOWN, _WIDTH = 12, 100
"""Rows that are printed, and characters of a text."""


def _short(text: str, *, end: bool = False) -> str:
    """A long text's beginning, or its end, where what was written goes on."""
    if len(text) <= _WIDTH:
        return text
    return "…" + text[-_WIDTH:] if end else text[:_WIDTH] + "…"


def together(
    runs: Ahead,
    asked: Sequence[Intervention | None],
    parts: Sequence[Continued],
    examples: Int[Tensor, " row"],
    capture: Sequence[Site],
    attrs: Mapping[str, Any],
) -> Generated:
    """What all batches gave, by cell and row."""
    cells, width = len(asked), max(part.ids.shape[1] for part in parts)
    ids = torch.cat([_longer(part.ids, 1, width, -1) for part in parts])
    logprobs = torch.cat([_longer(part.logprobs, 1, width, torch.nan) for part in parts])
    stopped = [reason for part in parts for reason in part.stopped]
    lengths = (ids >= 0).sum(-1)
    new = [row[: int(n) - (why == "eos")].tolist() for row, n, why in zip(ids, lengths, stopped, strict=True)]
    texts = [in_text(runs.model, tokens) for tokens in new]
    first = runs.base.first[examples.to(runs.base.first.device)]
    found = {site: _captured(site, parts, runs, width, first.repeat(cells), lengths) for site in capture}
    in_cells = range(0, len(texts), len(examples))
    return Generated(
        interventions=tuple(asked),
        prompts=tuple(said(runs.model, getattr(runs.encoded.pairs[e], runs.side["base"])) for e in examples.tolist()),
        texts=tuple(tuple(texts[i : i + len(examples)]) for i in in_cells),
        ids=ids.unflatten(0, (cells, -1)),
        logprobs=logprobs.unflatten(0, (cells, -1)),
        stopped=tuple(tuple(stopped[i : i + len(examples)]) for i in in_cells),
        activations={site: tensor.unflatten(0, (cells, -1)) for site, tensor in found.items()},
        first=first,
        attrs=attrs,
        compared=_beside(parts, cells, width),
    )


def _beside(parts: Sequence[Continued], cells: int, width: int) -> Compared | None:
    """What all batches gave beside the unedited model."""
    found = [part.compared for part in parts if part.compared is not None]
    if not found:
        return None
    each = (torch.cat([_longer(tensor, 1, width, torch.nan) for tensor in tensors]) for tensors in zip(*found, strict=True))
    return Compared(*(tensor.unflatten(0, (cells, -1)) for tensor in each))


def unreached(cells: Sequence[Cell], runs: Ahead, made: Generated, examples: Int[Tensor, " row"]) -> None:
    """Warn of edits of new tokens that some rows ended before."""
    for number, cell in enumerate(cells):
        fed = runs.base.width + made.lengths[number] - 1
        for where in cell.places:
            if not runs.grows(where.tensor):
                continue
            columns = where.columns[examples.to(where.columns.device)]
            beyond = columns >= fed[:, None]
            late = (beyond.all(-1) if where.change.positions.is_everywhere else beyond.any(-1)) & (columns >= 0).any(-1)
            if bool(late.any()):
                warnings.warn(
                    f"{where.change!r} was not reached in {int(late.sum())} of {len(late)} rows, which ended before: row "
                    f"{int(late.nonzero()[0])} after {int(made.lengths[number][late][0])} new tokens, the last of which the "
                    "model is never fed",
                    RuntimeWarning,
                    stacklevel=3,
                )


def _captured(
    site: Site, parts: Sequence[Continued], runs: Ahead, new: int, first: Int[Tensor, " row"], lengths: Int[Tensor, " row"]
) -> Tensor:
    """A site in the rows of all batches, NaN at padding and behind each row's end."""
    if not runs.grows(site):
        return torch.cat([part.found[site] for part in parts])
    columns = runs.base.width + new - 1
    tensors = []
    for part in parts:
        tensor = part.found[site]
        tensor = _longer(tensor, position_axis(site, tensor), columns, torch.nan)
        tensors.append(_longer(tensor, tensor.ndim - 1, columns, 0.0) if is_square(site) else tensor)
    tensor = torch.cat(tensors)
    at = torch.arange(columns, device=tensor.device)
    ends = runs.base.width + lengths.to(tensor.device) - 1
    real = (at >= first.to(tensor.device)[:, None]) & (at < ends[:, None])
    axis = position_axis(site, tensor)
    shape = [len(tensor) if i == 0 else columns if i == axis else 1 for i in range(tensor.ndim)]
    return torch.where(real.reshape(shape), tensor, torch.nan)


def _longer(tensor: Tensor, axis: int, length: int, filler: float) -> Tensor:
    """The same with more behind it along an axis."""
    missing = length - tensor.shape[axis]
    return torch.nn.functional.pad(tensor, (0, 0) * (tensor.ndim - 1 - axis) + (0, missing), value=filler)
