"""Prompts, and the tensors of their one run at one position.

>>> asked = at_one(model, ["The capital of France is"], position=-1)                      # doctest: +SKIP
>>> asked.want([Site("z", layer=3)])                                                     # doctest: +SKIP
>>> asked.read(Site("z", layer=3)).shape                            # example, head, d_head      # doctest: +SKIP
torch.Size([1, 9, 64])
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp import axes
from interp.engine import provenance
from interp.engine.background import Given
from interp.engine.filling import force
from interp.engine.runs import Runs
from interp.engine.shard import bytes_of
from interp.engine.single.asked import Asked, ask
from interp.errors import InputError, PositionError
from interp.interventions import Activation, Intervention
from interp.models import Model
from interp.models.encoding import Bos
from interp.prompts import Pairs
from interp.sites import Positions, PositionsLike, Site

_BASE = Activation("base")


@dataclass(frozen=True, eq=False)
class AtOne(Asked):
    """Prompts, one position of each, and the runs of them."""

    runs: Runs
    columns: Int[Tensor, "example 1"]
    where: Positions
    source: Activation = _BASE
    """Which run is read: the base run, as it is or under an intervention."""
    _wanted: dict[Site, Int[Tensor, "example 1"] | None] = field(default_factory=dict)
    _read: dict[Site, Tensor] = field(default_factory=dict)

    def want(self, sites: Iterable[Site]) -> None:
        """Announce what will be read, so that one run gives it all: at the position, values of attention at every one."""
        self._wanted.update({site: None if site.name == "v" else self.columns for site in sites})
        for site, columns in self._wanted.items():
            self.runs.want(self.source, site, columns)
        self.runs.want_logits("base")

    def read(self, site: Site) -> Tensor:
        """A tensor that was announced, in the engine's order of axes: ``[example, …]``, or ``[example, column, …]``."""
        if site not in self._read:
            columns = self._wanted[site]
            kept = self.runs.read(self.source, site, columns)
            examples = torch.arange(len(self.encoded), device=self.columns.device)
            self._read[site] = kept.tensor if columns is None else kept.at(examples, columns)[:, 0]
        return self._read[site]

    def under(self, interventions: Iterable[Intervention], sites: Collection[Site]) -> Iterator[Self]:
        """The same prompts' run under each of some interventions, several of which are run together.

        It is called inside of a session of the model, and every run used before the next is asked for. What interventions take
        from other runs is read once for all of them. Logits are those of the base run, as they are.

        Args:
            sites: what will be read.
        """
        every, many = list(interventions), self._together(sites)
        for first in range(0, len(every), many):
            sources = [Activation("base", given=one) for one in every[first : first + many]]
            runs = [replace(self, source=source, _wanted={}, _read={}) for source in sources]
            for run in runs:
                run.want(sites)
            force(sources, self.runs)
            for run in runs:
                yield run
                self.runs.forget(run.source)

    def _together(self, sites: Collection[Site]) -> int:
        """Of how many runs memory holds some sites."""
        if self.runs.budget is None:
            return 1
        at = torch.zeros(1, dtype=torch.long)
        one = bytes_of(self.model, {site: None if site.name == "v" else at for site in sites}, self.runs.base.width)
        return self.runs.budget.examples(one * len(self.encoded))

    @property
    def logits(self) -> Float[Tensor, "example vocab"]:
        """What the model says at the position."""
        return self.runs.logits("base")[:, 0]

    def coords(self) -> dict[str, Any]:
        """Coordinates of the examples: what each prompt says, and its template where there are some."""
        known = provenance.example_coordinates(self.encoded)
        found = {axes.EXAMPLE: np.arange(len(self.encoded)), "prompt": (axes.EXAMPLE, known["clean_prompt"])}
        return found | ({"template": (axes.EXAMPLE, known["template"])} if any(known["template"]) else {})

    def signed(self, found: xr.Dataset, quantities: Mapping[str, str]) -> xr.Dataset:
        """The result with variables that say by themselves what they are and where they are from.

        Args:
            quantities: what some of them are called, by variable.
        """
        origin = {key: found.attrs[key] for key in ("model", "task", "given")}
        return found.assign({name: found[name].assign_attrs({"quantity": q} | origin) for name, q in quantities.items()})

    def numbers(self, tensor: Tensor) -> np.ndarray[Any, Any]:
        """What was computed in float64 as results have it: float64 where the model is, else float32."""
        return tensor.to(torch.float64 if self.model.dtype == torch.float64 else torch.float32).cpu().numpy()


def at_one(
    model: Model,
    prompts: Any,
    *,
    position: PositionsLike = -1,
    given: Given = None,
    bos: Bos | None = None,
    answered: Pairs | None = None,
) -> AtOne:
    """Prompts as tensors, with runs in which what is given is in force.

    Args:
        prompts: texts, token ids, prompts or pairs, of which the clean ones are run.
        position: one token of every prompt.
        answered: the same prompts with other answers, which take the place of their own.

    Raises:
        InputError: logits that are given, or another prompt's values without one.
        PositionError: ``position`` does not name one token.
    """
    where = Positions.parse(position)
    asked = ask(model, prompts, given=given, bos=bos, answered=answered)
    columns = asked.encoded.clean.columns(where, what="position")
    if columns.shape[1] != 1 or bool((columns < 0).any()):
        many = (columns >= 0).sum(-1)
        example = int((many != 1).int().argmax())
        raise PositionError(
            f"position={where!r} names {int(many[example])} tokens in example {example}; logits are read at one, such as -1"
            + (f" or '{where.role}[-1]'" if where.role else "")
        )
    for change in asked.given.changes if asked.given is not None else ():
        if change.site.name == "logits":
            raise InputError(f"given: {change!r} changes logits, which is no part of what is written to the stream")
    runs = asked.start(where)
    asked.give(runs)
    return AtOne(model, asked.encoded, asked.side, asked.paired, asked.given, runs, columns, where)
