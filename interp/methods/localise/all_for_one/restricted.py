"""A model of which some blocks wait and some transfer, measured on the prompts that it answers: steps 1 to 4, 6 and 7."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import xarray as xr

from interp import axes
from interp.engine import check, patch
from interp.engine.asked import encoded_pairs
from interp.engine.checking import By
from interp.engine.contexts import Contexts
from interp.engine.families import asked
from interp.engine.prepared import Options
from interp.engine.recipe import recorded
from interp.engine.seeing import require_hiding
from interp.engine.stored import Into
from interp.engine.swept import swept
from interp.errors import InputError
from interp.interventions import Arranged, Intervention, attention_knockout, cama, peeking
from interp.interventions.peeking import but
from interp.metrics import resolve as resolve_metrics
from interp.models import Encoded, Model
from interp.models.encoding import as_prompts
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import PositionsLike

_LOOK = "the last token's look at the others"
_TITLES = {axes.LAYER: "waits", axes.WINDOW: "transfers"}


def faithfulness(results: xr.Dataset) -> xr.DataArray:
    """The restricted model's mean over the full model's, on the prompts that were kept."""
    full = results["clean"].mean(axes.EXAMPLE)
    found: xr.DataArray = (results["value"].mean(axes.EXAMPLE, skipna=False) / full).rename("faithfulness")
    return found.assign_attrs(results.attrs)


@dataclass(frozen=True, eq=False)
class Task:
    """Prompts that the model answers, and what is the same in every cell."""

    model: Model
    encoded: Encoded
    """The kept pairs, each clean prompt with itself."""
    metric: Any
    contexts: tuple[Prompt, ...]
    spared: PositionsLike | None
    last: PositionsLike
    bos: int | None
    told: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        model: Model,
        pairs: Any,
        metric: Any,
        contexts: Any,
        spared: PositionsLike | None,
        last: PositionsLike,
        bos: bool | None,
    ) -> Task:
        require_hiding(model)
        every = encoded_pairs(model, pairs)
        by: By = "margin" if resolve_metrics(metric)[0].name == "accuracy" else "top1"
        checked = check(model, every, by=by)
        if not checked.passed:
            says = checked.says(0)
            raise InputError(
                f"{model.name} answers none of {checked.n} prompts correctly (to the first, "
                f"{str(checked.pairs[0].clean.text)[-40:]!r}, it says {says!r}), so that nothing can be kept; take a task that "
                "it does: see interp.check(model, pairs)"
            )
        told = checked.kept.made_by["check"]
        kept = tuple(
            Pair(pair.clean, pair.clean, pair.answers, pair.wrong, pair.template, pair.entities) for pair in checked.kept
        )
        encoded = model.encode(Pairs(kept, checked.kept.task, checked.kept.made_by), bos=every.asked)
        prompts = [pair.clean for pair in every.pairs] if contexts is None else as_prompts(contexts)
        begins = 0 if (every.bos if bos is None else bos) else None
        left = begins if spared is None else spared
        found = Contexts.of(model, encoded, prompts, but(left))
        return cls(
            model,
            encoded,
            metric,
            found.prompts,
            left,
            last,
            begins,
            {"kept": told["correct"], "of": told["of"], "by": told["by"], "contexts": found.told},
        )

    @cached_property
    def _means(self) -> list[Intervention]:
        """Mean ablation behind 0, 1, … blocks: one object each, which cells share."""
        layers = self.model.sizes[axes.LAYER]
        return [cama(waits, prompts=self.contexts, spared=self.spared) for waits in range(layers + 1)]

    def restricted(self, waits: int, transfers: int) -> Intervention:
        """Steps 1 to 3."""
        behind = waits + transfers
        selfs = range(behind, self.model.sizes[axes.LAYER])
        return self._means[waits] & peeking(range(waits, behind), selfs, last=self.last, bos=self.bos)

    def measured(self, where: Arranged, options: Mapping[str, Any], into: Into | None = None) -> xr.Dataset:
        """Step 4."""
        change = dict.fromkeys(("source", "edit", "featurizer")) | {"keep_error": True}
        prepared, families = asked(self.model, self.encoded, where, self.metric, change, Options("noising", **options))
        titles = {axis: _TITLES[axis] for axis in where.axes}
        attrs = {
            "method": "all_for_one",
            "all_for_one": {**self.told, "blocks": "counted from the first"},
            "axis_titles": titles,
        }
        beside = partial(
            recorded, "patch", self.model, self.encoded, where=where, metric=self.metric, patching="noising", **options
        )
        found = swept(prepared, families, attrs, tree=False, into=into, beside=beside)
        assert isinstance(found, xr.Dataset)
        return found

    def blinded(self, layers: Sequence[int], options: Mapping[str, Any], given: Intervention | None = None) -> xr.Dataset:
        """Step 6: the last token's look at the others taken away in one block."""
        return self._blind(
            Arranged([self._hidden(layer) for layer in layers], {axes.LAYER: layers}, site=_LOOK), options, given
        )

    def without(
        self,
        heads: Sequence[Sequence[tuple[int, int]]],
        options: Mapping[str, Any],
        given: Intervention,
    ) -> xr.Dataset:
        """Step 7: the same in several heads at once, a cell each."""
        cells = [
            Intervention(tuple(change for layer, head in some for change in self._hidden(layer, head).changes))
            for some in heads
        ]
        named = [some[-1] for some in heads]
        coords = {axis: (axes.CELL, [one[i] for one in named]) for i, axis in enumerate((axes.LAYER, axes.HEAD))}
        return self._blind(Arranged(cells, {axes.CELL: range(len(cells))}, site=_LOOK, coords=coords), options, given)

    def _hidden(self, layer: int, head: int | None = None) -> Intervention:
        return attention_knockout(self.last, but(self.bos), layers=layer, heads=head, renormalise=True, own=False)

    def _blind(self, where: Arranged, options: Mapping[str, Any], given: Intervention | None) -> xr.Dataset:
        found = patch(self.model, self.encoded, where, self.metric, patching="noising", given=given, **options)
        assert isinstance(found, xr.Dataset)
        return found.assign_attrs(all_for_one=dict(self.told))
