"""What one run of some prompts gave: outputs and activations, by prompt and, where several were asked for, by intervention.

>>> ran.next(3)                                                                     # doctest: +SKIP
>>> ran.activation("L3H1.z")[0, -1]                                                  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engine.asked import named, side_in_words
from interp.engine.layout import captured
from interp.errors import PositionError
from interp.interventions import Intervention
from interp.protocols import Tokenizer
from interp.sites import Site

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """Outputs and activations; an axis ``cell`` is in front of all tensors where a list of interventions was asked for."""

    interventions: tuple[Intervention | None, ...]
    """None is the model as it is."""
    prompts: tuple[str, ...]
    strings: tuple[tuple[str, ...], ...]
    """The tokens of every prompt; empty where they are not known."""
    ids: Int[Tensor, "example column"] | None
    """Token ids, padded."""
    mask: Bool[Tensor, "example column"]
    """True where a token is real."""
    logits: Float[Tensor, "*cell example position vocab"] | None
    """What the model says, NaN behind a prompt's end; None where it was not asked for."""
    activations: Mapping[Site, Tensor]
    """Whole tensors of the sites that were captured, ``[cell,] *axes of the site``."""
    several: bool
    """Whether there is an axis ``cell``."""
    tokenizer: Tokenizer | None
    attrs: Mapping[str, Any]
    """Model, prompts, and what was in force."""

    def activation(self, site: str | Site) -> Tensor:
        """What was captured at a site: of one head, unit or expert where the site names one.

        Raises:
            UnknownSiteError: it was not asked for.
        """
        return captured(self.activations, site, in_front=int(self.several))

    def __getitem__(self, site: str | Site) -> Tensor:
        return self.activation(site)

    @property
    def final(self) -> Float[Tensor, "*cell example vocab"]:
        """Logits at the last real position of every prompt, ``[cell,] example, vocab``."""
        return self._final if self.several else self._final[0]

    @property
    def _final(self) -> Float[Tensor, "cell example vocab"]:
        if self.logits is None:
            raise PositionError("no logits were kept: pass logits='last' or 'all'")
        every = self.logits if self.several else self.logits[None]
        if every.ndim == 3:  # a network without positions
            return every
        lengths = self.mask.sum(-1) if every.shape[2] > 1 and every.shape[2] == int(self.mask.sum(-1).max()) else None
        if lengths is None:
            return every[:, :, -1]
        return every[:, torch.arange(every.shape[1], device=every.device), lengths.to(every.device) - 1]

    def next(self, k: int = 5) -> pd.DataFrame:
        """The k likeliest next tokens of every prompt under every intervention, with their probabilities, as a pandas table.

        What there is one of, a prompt or an intervention, has no column.
        """
        import pandas as pd

        found = self._final.float().softmax(-1).topk(min(k, self._final.shape[-1]))
        lines = []
        for cell, one in enumerate(self.interventions):
            for example, prompt in enumerate(self.prompts):
                likely = zip(found.indices[cell, example].tolist(), found.values[cell, example].tolist(), strict=True)
                of = {"cell": cell, "intervention": self._name(one), "prompt": prompt}
                lines += [of | {"rank": i, "token": self._token(t), "prob": p} for i, (t, p) in enumerate(likely)]
        spare = ([] if self.several else ["cell", "intervention"]) + ([] if len(self.prompts) > 1 else ["prompt"])
        return pd.DataFrame(lines).drop(columns=spare)

    def _name(self, intervention: Intervention | None) -> str:
        return named(intervention, self.attrs["given"])

    def _token(self, number: int) -> str:
        return str(number) if self.tokenizer is None else str(self.tokenizer.decode([number]))

    def __repr__(self) -> str:
        cells, n = len(self.interventions), len(self.prompts)
        many = f"{cells} intervention{'' if cells == 1 else 's'} × " if self.several else ""
        of = side_in_words(self.attrs["side"], n) or f"{n} prompt{'' if n == 1 else 's'}"
        head = f"Run({many}{of} on {self.attrs['model']})"
        lines = [f"  {site!r}  {list(tensor.shape)}" for site, tensor in list(self.activations.items())[:_SHOWN]]
        if len(self.activations) > _SHOWN:
            lines.append(f"  … {len(self.activations) - _SHOWN} more sites")
        if self.logits is not None:
            lines.insert(0, f"  logits  {list(self.logits.shape)}")
            lines += self._says() if self.tokenizer is not None else []
        return "\n".join([head, *lines])

    def _says(self) -> list[str]:
        best = self._final.argmax(-1).tolist()
        said = [
            f"  {self._name(one) + ': ' if self.several else ''}{short(prompt)!r} → {self._token(best[cell][example])!r}"
            for cell, one in enumerate(self.interventions)
            for example, prompt in enumerate(self.prompts)
        ]
        return [*said[:_SHOWN], *([f"  … {len(said) - _SHOWN} more"] if len(said) > _SHOWN else [])]


_SHOWN, _WIDTH = 8, 80


def short(text: str) -> str:
    """The end of a long prompt, where the model goes on."""
    return text if len(text) <= _WIDTH else "…" + text[-_WIDTH:]
