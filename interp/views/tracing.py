"""Causal tracing: where restoring a state brings the answer back, a map of tokens by layers for every kind of state.

    >>> grids = {site: interp.grid(site, layer=..., position=...) for site in ("resid_post", "mlp_out", "attn_out")}
    >>> views.tracing(interp.patch(model, pairs, grids, metric="prob"))                                 # doctest: +SKIP

As the figures of Meng et al. 2022, "Locating and Editing Factual Associations in GPT" (arXiv 2202.05262): tokens from top to
bottom, those of the subject with a star, and the same colours in every map, from the corrupted to the clean value. An outline
is around the cells whose effect survives the max-T sign-flip test over the cells of all maps together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp import axes as names
from interp import effects as fx
from interp.errors import UnknownNameError
from interp.views import labels
from interp.views.colours import SEQUENTIAL
from interp.views.heatmap import of_sweep
from interp.views.layout import PAGE, dress, make_room
from interp.views.outline import TOLD

SAYS = {"resid_pre": "state", "resid_mid": "state", "resid_post": "state", "mlp_out": "MLP", "attn_out": "attention"}
"""What a site is called over its map; any other by its own name."""
STAR = "*"
_BESIDE = 480
"""Pixels of width from which the maps stand side by side."""


def tracing(
    results: xr.DataTree,
    *,
    metric: str | None = None,
    subject: int | str | Iterable[int | str] | None = None,
    title: str | None = None,
    width: int = PAGE,
    template: str = "plotly_white",
    level: float = 0.95,
    seed: int = 0,
) -> go.Figure:
    """Maps of several families side by side; at the width of a column one under the other.

    Args:
        results: families of one sweep by (layer, position), as :func:`interp.patch` gives of several grids. An attribute
            ``window`` says how many layers a cell of a family takes.
        metric: by default ``"prob"`` where it was measured, else the first.
        subject: positions of the tokens with a star. By default those that differ between the two prompts in some example, and
            of roles those whose name begins with "subject".
        title: in place of the one made here.
        width: in pixels; ``views.PAGE`` and ``views.COLUMN`` are the widths of print.
        template: a plotly template, e.g. ``"plotly_dark"``.
        level: of the intervals; cells are outlined at p ≤ 1 − level.
        seed: of the bootstrap and of the flips.

    Raises:
        EffectsError: one family alone, or families of different prompts, layers or positions.
        UnknownNameError: a metric or position that is not there, or families without layers or positions.
    """
    families = _families(results, metric)
    first = next(iter(families.values()))
    said = labels.escape(first[names.METRIC].item())
    corrupted, clean = _ends(first)
    colours = {"colorscale": SEQUENTIAL, "zmin": min(corrupted, clean), "zmax": max(corrupted, clean)}
    tests = {
        name: test.isel({names.METRIC: 0}) for name, test in fx.sign_flip_together(families, level=level, seed=seed).items()
    }
    figure, listed = go.Figure(), set[str]()
    for number, (called, family) in enumerate(families.items(), 1):
        one = of_sweep(family, tests[called], "value", x=names.LAYER, y=names.POSITION, level=level, seed=seed)
        one.data[0].update(showscale=number == 1, **colours)
        for trace in one.data:
            trace.update(xaxis=f"x{number}", yaxis=f"y{number}")
            if trace.type == "scatter" and trace.mode == "lines":  # outlines: cells are narrower than in a map alone
                trace.line.width /= 2
            if trace.showlegend:
                trace.update(showlegend=trace.name not in listed, legendgroup=trace.name)
                listed.add(trace.name)
        figure.add_traces(one.data)
    denoising = first.attrs["patching"] == fx.DENOISING
    head = f"causal tracing: {said} with one state {'restored' if denoising else 'corrupted'}"
    table = fx.summary(first, "value", level=level, seed=seed, method="t")
    under = f"corrupted {corrupted:.3g}, clean {clean:.3g} · {labels.provenance(first, table)}"
    across, down = (len(families), 1) if width >= _BESIDE else (1, len(families))
    columns, rows = labels.ticks(first, names.LAYER), _starred(first, subject)
    if any(label.endswith(STAR) for label in rows.full):
        under += f" · {STAR} {'corrupted' if subject is None else 'subject'}"
    if tested := labels.survival(next(iter(tests.values())), any(name.startswith(TOLD) for name in listed)):
        under += f" · {tested} over all maps"
    dress(figure, title or head, under, columns, rows, width=width, template=template, across=across, down=down)
    figure.update_xaxes(range=[-0.5, len(columns.full) - 0.5]).update_yaxes(range=[len(rows.full) - 0.5, -0.5])
    return _named(figure, [_name(family) for family in families.values()])


def _families(results: Any, metric: str | None) -> dict[str, xr.Dataset]:
    """The families by name, with one metric, on the same axes."""
    leaves = {leaf.path.strip("/"): leaf.to_dataset() for leaf in results.leaves} if isinstance(results, xr.DataTree) else {}
    if len(leaves) < 2:
        what = f"one family, {next(iter(leaves))!r}" if leaves else f"a {type(results).__name__}"
        raise fx.EffectsError(
            f"results is {what}; causal tracing shows several of one sweep, as interp.patch(model, pairs, {{'resid_post': "
            "interp.grid('resid_post', layer=..., position=...), 'mlp_out': …, 'attn_out': …}) gives; one is drawn by "
            f"interp.views.heatmap{fx.unread(results)}"
        )
    found = {name: fx.choose_metric(fx.validate(leaf), metric or _probability(leaf)) for name, leaf in leaves.items()}
    (one, first), *others = found.items()
    for axis in (names.LAYER, names.POSITION):
        if axis not in first.dims:
            raise UnknownNameError("swept axis", axis, fx.swept_axes(first), f"of {one}")
    for name, other in others:
        for what in (names.LAYER, names.POSITION, "clean", "corrupt"):
            if what not in other or not np.array_equal(first[what].values, other[what].values):
                raise fx.EffectsError(
                    f"{one} and {name} differ in {what!r}; the families of causal tracing are those of one sweep"
                )
    return found


def _probability(ds: xr.Dataset) -> str | None:
    return "prob" if "prob" in np.atleast_1d(ds[names.METRIC].values) else None


def _ends(ds: xr.Dataset) -> tuple[float, float]:
    """The mean of the corrupted run, and of the clean one; with what was given in force, where it is."""
    before = float(fx.base(ds).mean())
    denoising = ds.attrs["patching"] == fx.DENOISING
    return (before, float(ds["clean"].mean())) if denoising else (float(ds["corrupt"].mean()), before)


def _starred(ds: xr.Dataset, subject: int | str | Iterable[int | str] | None) -> labels.Ticks:
    """Labels of the positions, those of the subject with a star."""
    plain, places = labels.ticks(ds, names.POSITION), ds[names.POSITION].values.tolist()
    if subject is None:
        chosen = _differing(ds)
    else:
        chosen = {subject} if isinstance(subject, int | str) else set(subject)
        if missing := [place for place in chosen if place not in places]:
            raise UnknownNameError("subject", missing[0], map(str, places), "of these positions")
    full = [f"{label}{STAR}" if place in chosen else label for place, label in zip(places, plain.full, strict=True)]
    return plain._replace(full=full, title="token")


def _differing(ds: xr.Dataset) -> set[int | str]:
    """The positions whose tokens differ between the two prompts, and roles of a subject."""
    places = ds[names.POSITION]
    roles: set[int | str] = {p for p in places.values.tolist() if isinstance(p, str) and p.startswith("subject")}
    if "clean_token" not in ds.coords or "corrupted_token" not in ds.coords:
        return roles
    differ = (ds["clean_token"] != ds["corrupted_token"]).any(names.EXAMPLE).values
    return roles | set(places.values[differ].tolist())


def _name(ds: xr.Dataset) -> str:
    """``MLP, 10 layers``."""
    site = str(ds.attrs.get("site", ""))
    window = ds.attrs.get("window")
    return labels.escape(SAYS.get(site, site)) + (f", {window} layers" if isinstance(window, int) and window > 1 else "")


def _named(figure: go.Figure, says: list[str]) -> go.Figure:
    """A name over every map."""
    size = figure.layout.font.size
    make_room(figure, above=int(1.6 * size))
    for number, name in enumerate(says, 1):
        over = {"xref": f"x{number} domain".replace("x1 ", "x "), "yref": f"y{number} domain".replace("y1 ", "y ")}
        figure.add_annotation(
            text=name, x=0, y=1, xanchor="left", yanchor="bottom", showarrow=False, font={"size": size}, **over
        )
    return figure
