"""Which hypotheses some rows can tell apart, and rows that do.

>>> task = interp.tasks.price_tagging()                                                            # doctest: +SKIP
>>> rows = task.counterfactuals(512, ("L",), seed=0)                                               # doctest: +SKIP
>>> distinguishes(rows, {"left": (task.models["left"], ("L",)), "bracket": (task.models["bracket"], ("bounds",))})
...                                                                                                # doctest: +SKIP
Distinguished(left / bracket differ in 42% of 512 rows)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import xarray as xr

from interp.tasks.causal_model.kinds import MOST, CausalModelError
from interp.tasks.causal_model.model import CausalModel
from interp.tasks.causal_model.rows import Counterfactuals, Counterpart, Sampler

Hypotheses = Mapping[str, tuple[CausalModel, Sequence[str]]]
"""By name: a causal model and the variables of it that are swapped, all from one source."""

_TRIES = 50


@dataclass(frozen=True, eq=False, repr=False)
class Distinguished:
    """How often hypotheses ask for different outputs."""

    differ: xr.DataArray
    """``[hypothesis, rival]``: share of rows."""
    rows: int
    proven: bool
    """Whether these were all rows that there are."""

    @property
    def same(self) -> list[tuple[str, str]]:
        """Pairs of hypotheses that no row tells apart."""
        names = self.differ["hypothesis"].values.tolist()
        return [(a, b) for a, b in combinations(names, 2) if float(self.differ.sel(hypothesis=a, rival=b)) == 0]

    @property
    def words(self) -> str:
        """What an accuracy on these rows can and cannot say."""
        if not self.same:
            return f"every two hypotheses ask for different outputs in some of the {self.rows:,} rows"
        pairs = " and ".join(f"{a} / {b}" for a, b in self.same)
        if self.proven:
            return f"{pairs} ask for the same output in every row that there is: no interchange at one place tells them apart"
        return f"{pairs} ask for the same output in all of these {self.rows:,} rows: an accuracy on them speaks for both alike"

    def __repr__(self) -> str:
        names = self.differ["hypothesis"].values.tolist()
        each = [f"{a} / {b} differ in {float(self.differ.sel(hypothesis=a, rival=b)):.0%}" for a, b in combinations(names, 2)]
        return f"Distinguished({', '.join(each)} of {self.rows:,} rows)"


def distinguishes(rows: Counterfactuals, hypotheses: Hypotheses, *, all_rows: bool = False) -> Distinguished:
    """How often the labels of hypotheses differ on the same bases and sources.

    Args:
        rows: with one source each.
        all_rows: whether these are every base with every source, so that what they cannot tell apart cannot be told apart.
    """
    labels = _labels(rows, hypotheses)
    kind = rows.kind
    names = list(hypotheses)
    share = [[float((~kind.same(labels[a], labels[b])).mean()) for b in names] for a in names]
    differ = xr.DataArray(share, {"hypothesis": names, "rival": names}, ("hypothesis", "rival"))
    return Distinguished(differ, len(rows), all_rows)


def every_row(model: CausalModel, variables: Sequence[str]) -> Counterfactuals:
    """Every base with every source, of a model whose inputs can be listed.

    Raises:
        CausalModelError: there are more than 10⁶.
    """
    inputs = model.enumerated()
    n = len(next(iter(inputs.values())))
    if n * n > MOST:
        raise CausalModelError(f"{n:,} inputs make {n * n:,} rows of base and source, more than {MOST:,}")
    base, source = np.divmod(np.arange(n * n), n)
    own, other = ({name: array[at] for name, array in inputs.items()} for at in (base, source))
    swap = np.ones((n * n, len(variables)), dtype=bool)
    return Counterfactuals(model, tuple(variables), own, dict.fromkeys(variables, other), swap)


def separating(
    hypotheses: Hypotheses,
    n: int,
    *,
    sample: Sampler,
    seed: int,
    source: Counterpart | None = None,
    task: Any = None,
) -> Counterfactuals:
    """Rows on which hypotheses ask for different outputs: as many for every two of them, labelled by the first.

    Args:
        hypotheses: two at least; see :func:`distinguishes`.
        n: rows.
        sample: draws inputs.
        seed: of the draws.
        source: draws sources for bases, where these have to fit; by default as the task does.
        task: how rows become prompts.

    Raises:
        CausalModelError: two hypotheses that no drawn row tells apart.
    """
    if len(hypotheses) < 2:
        raise CausalModelError(f"hypotheses={list(hypotheses)}; expected two at least")
    source = getattr(task, "source", None) if source is None else source
    draw, (model, variables) = np.random.default_rng(seed), next(iter(hypotheses.values()))
    couples = list(combinations(hypotheses, 2))
    quota = {couple: len(part) for couple, part in zip(couples, np.array_split(np.arange(n), len(couples)), strict=True)}
    found: list[Counterfactuals] = []
    for _ in range(_TRIES):
        base = sample(4 * n, draw)
        other = sample(4 * n, draw) if source is None else source(base, draw)
        swap = np.ones((4 * n, len(variables)), dtype=bool)
        rows = Counterfactuals(model, tuple(variables), base, dict.fromkeys(variables, other), swap, task, {"seed": seed})
        labels, free = _labels(rows, hypotheses), np.ones(len(rows), dtype=bool)
        for a, b in sorted(couples, key=lambda couple: quota[couple], reverse=True):
            at = np.flatnonzero(free & ~rows.kind.same(labels[a], labels[b]))[: quota[a, b]]
            free[at] = False
            quota[a, b] -= len(at)
            if len(at):
                found.append(rows.take(at))
        if not any(quota.values()):
            return _joined(found).take(draw.permutation(n))
    same = [f"{a} / {b}" for a, b in couples if quota[a, b]]
    raise CausalModelError(f"of {_TRIES * 4 * n:,} rows drawn too few tell {', '.join(same)} apart")


def _labels(rows: Counterfactuals, hypotheses: Hypotheses) -> dict[str, Any]:
    return {name: rows.relabelled(model, variables).label for name, (model, variables) in hypotheses.items()}


def _joined(parts: Sequence[Counterfactuals]) -> Counterfactuals:
    first = parts[0]
    base = {name: np.concatenate([part.base[name] for part in parts]) for name in first.base}
    [variable, *_] = first.variables
    source = {name: np.concatenate([part.sources[variable][name] for part in parts]) for name in first.base}
    swap = np.concatenate([part.swap for part in parts])
    return Counterfactuals(
        first.model, first.variables, base, dict.fromkeys(first.variables, source), swap, first.task, first.made_by
    )
