"""Interactions: of all pairs of parts, what losing both costs beyond the sum of what losing each costs.

    >>> heads = interp.grid("z", layer=..., head=...)                                            # doctest: +SKIP
    >>> found = interp.interactions(model, pairs, heads)                                         # doctest: +SKIP
    >>> square = interp.effects.pairwise(found)                                                  # doctest: +SKIP
    >>> interp.views.heatmap(square.interaction.sel(metric="logit_diff"))                        # doctest: +SKIP

1. Change every part alone: Δ(a) = the metric with a changed − the metric of the base.
2. Change every two of them together in one forward pass: Δ(ab).
3. I(a, b) = Δ(ab) − Δ(a) − Δ(b).

Nothing is approximated. The row of a pair leaves the row of the part that the network meets first at the block of the other one
(:mod:`interp.engine.forks`), so that a pair costs the blocks behind its *second* part: of L blocks alike about L/3 instead of
L. Of two parts that help, I is below 0 where they are redundant, as a head and its backup are, and above 0 where one works
through the other. A part that only undoes what another one did turns the second sign: with the other one gone it does nothing
more, and I = −Δ of it is below 0 too, so look at the single effects. Parts that only add to a linear read-out have I = 0.

The backup heads of Wang et al., "Interpretability in the Wild" (arXiv 2211.00593), are the case that single ablations miss.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import xarray as xr

from interp import axes, effects
from interp.circuits import node
from interp.effects.interactions import FIRST, INTERACTION, SECOND
from interp.engine.asked import asked_pairs
from interp.engine.background import Given, Hold, given_changes, held
from interp.engine.families import Family, Where, asked, check_words, named, sourced
from interp.engine.precision import Precision
from interp.engine.prepared import Options, Patching
from interp.engine.recipe import others, recorded
from interp.engine.stored import Into, StoreLike
from interp.engine.swept import swept
from interp.errors import InputError
from interp.interventions import Arranged, EditLike, Featurizer, Intervention, Source
from interp.interventions.source import Unequal
from interp.methods.registry import Method
from interp.metrics import MetricLike
from interp.models import Model

METHOD = Method(
    id="interactions",
    name="pairwise interactions",
    paper="Wang et al. 2022, Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small, "
    "arXiv 2211.00593",
    mediator="pairs of heads, MLPs, or any other sites",
    search="exhaustive",
    cost="for every part what of a forward pass comes after it, and for every pair what comes after its second part",
    function="interp.interactions",
)


def interactions(
    model: Model,
    pairs: Any,
    where: Where,
    metric: MetricLike | Sequence[MetricLike] = "logit_diff",
    *,
    patching: Patching = "noising",
    source: Source | None = None,
    edit: EditLike | None = None,
    featurizer: Featurizer | None = None,
    keep_error: bool = True,
    unequal: Unequal = "last",
    given: Given = None,
    hold: Hold = (),
    rows: int | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
    store: StoreLike | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> xr.Dataset:
    """Change every part alone and every two together.

    Args:
        where: the parts, two at least: a grid, a list of sites, or interventions, each of which is one part.
        patching: here ``"noising"`` by default: parts of the clean run are replaced.
        source: by default the other prompt's value at the same place. ``Constant(0.0)`` is zero ablation,
            ``Activation("base", pool="mean")`` mean ablation, and ``Activation("base", pool="resample")`` another example's
            value.
        model, pairs, metric, edit, featurizer, keep_error, unequal, given, hold, rows, precision, progress, store, name, tags:
            as for :func:`interp.patch`.

    Returns:
        Effects along ``cell``: first every part alone, then every pair. Coordinates ``first`` and ``second`` name the parts;
        ``second`` is empty where one is alone. The variable ``interaction`` is I(a, b) of every example, NaN where one is
        alone. :func:`interp.effects.pairwise` makes a square of means and intervals of it.

    Raises:
        InputError: fewer than two parts, two that are called the same, or several families.
        What :func:`interp.patch` raises; of parts that change one coordinate in an order that matters, OrderError.
    """
    said, into = others(locals()), Into.of(store, name, tags)
    check_words(patching, precision=precision)
    if isinstance(where, Mapping):
        raise InputError(f"where holds several families ({', '.join(where)}); interactions are among the parts of one")
    change = {"source": sourced(source, unequal), "edit": edit, "featurizer": featurizer, "keep_error": keep_error}
    encoded, _ = asked_pairs(model, pairs)
    [parts] = named(model, encoded, where, change).values()
    frozen = held(model, hold)
    options = Options(patching, "auto", given_changes(model, given), frozen, rows, progress=progress, precision=precision)
    own = {"source": None, "edit": None, "featurizer": None, "keep_error": True}
    prepared, families = asked(model, encoded, _together(parts), metric, own, options)
    recipe = partial(recorded, "interactions", model, prepared.encoded, **said)
    found = swept(
        prepared, families, {"method": "interactions", "parts": len(parts.interventions)}, tree=False, into=into, beside=recipe
    )
    assert isinstance(found, xr.Dataset)
    return found.assign({INTERACTION: effects.interaction(found)})


def _together(parts: Family) -> Arranged:
    """Every part alone, then every two of them."""
    every = parts.interventions
    called = _names(every)
    numbers = [*((n, None) for n in range(len(every))), *combinations(range(len(every)), 2)]
    cells = [every[a] if b is None else every[a] & every[b] for a, b in numbers]
    coords = {
        FIRST: (axes.CELL, [called[a] for a, _ in numbers]),
        SECOND: (axes.CELL, ["" if b is None else called[b] for _, b in numbers]),
    }
    return Arranged(cells, {axes.CELL: range(len(cells))}, site=str(parts.attrs["site"]), coords=coords)


def _names(every: Sequence[Intervention]) -> list[str]:
    """What parts are called: by their places, as far as that tells them apart, and otherwise in full."""
    if len(every) < 2:
        raise InputError(f"where has {len(every)} part; interactions are among two at least, as in interp.grid('z', head=...)")
    short = ["; ".join(dict.fromkeys(_place(change) for change in one.changes)) for one in every]
    found = short if len(set(short)) == len(short) else [one.in_words for one in every]
    twice = next((name for number, name in enumerate(found) if name in found[:number]), None)
    if twice is not None:
        raise InputError(f"where has the part {twice} twice; a part has no interaction with itself")
    return found


def _place(change: Any) -> str:
    at = "" if change.positions.is_all else f"@{change.positions!r}"
    return f"{node(change.site)}{at}" + ("" if change.attended.is_all else f" ← {change.attended!r}")
