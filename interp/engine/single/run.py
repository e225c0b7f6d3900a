"""One run of some prompts: what the model says, what it holds where asked, and both again under every intervention.

    >>> off = interp.Change("L2.mlp_out", edit=lambda h, ctx: 0 * h)
    >>> ran = interp.run(model, "The Eiffel Tower is in", [None, off], capture="L3.z")         # doctest: +SKIP
    >>> ran.next(3)                                                                          # doctest: +SKIP
    >>> ran.logits.shape, ran["L3H1.z"].shape                                                # doctest: +SKIP

Positions are those of each prompt, counted from its first real token: prompts of unequal length end in NaN. Nothing is resumed
or left out here: every row is a whole forward pass, so that any site can be read in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine import gauge
from interp.engine.asked import BASE, Asked, refuse_other_side, several
from interp.engine.background import Given, Hold, both, held, in_force
from interp.engine.batches import in_batches
from interp.engine.cells import Cell, check, expanded, place
from interp.engine.edits import Edits
from interp.engine.families import check_words
from interp.engine.filling import fill
from interp.engine.layout import LOGITS, declared
from interp.engine.precision import float32
from interp.engine.prepared import Patching
from interp.engine.prompts import forward
from interp.engine.runs import Runs
from interp.engine.single.asked import ask
from interp.engine.single.ran import Run
from interp.errors import UnknownNameError
from interp.interventions import Intervention
from interp.models import Model, Places
from interp.models.encoding import Bos
from interp.models.taps import position_axis
from interp.sites import LAST, Positions, Site

Logits = Literal["all", "last", "none"]


def run(
    model: Model,
    prompts: Any,
    interventions: Asked = None,
    *,
    capture: str | Site | Sequence[str | Site] = (),
    logits: Logits = "all",
    given: Given = None,
    hold: Hold = (),
    patching: Patching = "denoising",
    bos: Bos | None = None,
    rows: int | None = None,
) -> Run:
    """Run some prompts, as they are or under interventions.

    Args:
        model: any model.
        prompts: a text, token ids, chat messages, a :class:`interp.Prompt`, a list of such, or what a tokenizer returns; or
            pairs, of which the base is run, by default the corrupted prompts (where :func:`interp.cache` runs the clean ones),
            so that ``Activation()`` means the other prompt's.
        interventions: one; or several, of which None is the model as it is, and results then have an axis ``cell`` in front.
        capture: sites whose activations are kept, after the edits: ``"L3.z"``, ``"L3H1.z"``, ``"resid_post"`` for all layers.
        logits: ``"all"`` positions, the ``"last"`` alone, or ``"none"``.
        given: interventions in force on the base, which each of the interventions comes on top of.
        hold: parts that are frozen at the base's values; see :func:`interp.patch`.
        patching: of pairs, whether the corrupted prompt is the base (``"denoising"``) or the clean one (``"noising"``).
        bos: whether prompts begin with BOS; by default as the model was loaded.
        rows: most rows in one pass; by default what a memory budget allows.

    Raises:
        InputError: a value of another prompt is asked for, but these are no pairs.
        UnknownSiteError, HeadOutOfRangeError, PositionError, OrderError, ShapeMismatchError, UnequalLengthsError: what does not
            fit.
        SiteNotFiredError: a site was not met in the forward pass, so that nothing was read or changed there.
    """
    check_words(patching)
    if logits not in ("all", "last", "none"):
        raise UnknownNameError("logits", logits, ("all", "last", "none"))
    many = isinstance(interventions, Sequence)
    every = several(interventions)
    sites = captured_sites(model, capture)
    asked, frozen = ask(model, prompts, given=given, bos=bos, side=BASE[patching]), held(model, hold)
    for change in (change for one in every if one is not None for change in one.changes):
        refuse_other_side(change, asked.paired)
    runs = asked.start(whole=True, rows=rows)
    cells, changed = _cells(every, runs, asked.given, frozen)
    session = model.prepared({*changed, *sites})
    with torch.no_grad(), session, float32():
        cells = fill(cells, runs, asked.give(runs))
        tensors = [] if logits == "none" else [LOGITS]
        tensors += dict.fromkeys(site.tensor for site in sites if site.tensor != LOGITS or logits == "none")
        parts = _run(runs, cells, tensors, logits)
    attrs = asked.attrs() | {"patching": patching if asked.paired else None} | in_force(model, asked.given, frozen)
    attrs |= gauge.attribute(model, [one for one in (*every, asked.given) if one is not None])

    def shaped(tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (len(every), -1)) if many else tensor

    return Run(
        interventions=tuple(every),
        prompts=tuple(asked.prompts),
        strings=tuple(asked.tokens.strings),
        ids=asked.tokens.ids,
        mask=asked.tokens.mask,
        logits=shaped(parts[LOGITS]) if logits != "none" else None,
        activations={site: shaped(parts[site]) for site in dict.fromkeys(site.tensor for site in sites)},
        several=many,
        tokenizer=model.tokenizer,
        attrs=attrs,
    )


def captured_sites(model: Model, capture: str | Site | Sequence[str | Site]) -> list[Site]:
    """Sites that are asked for by name, a component's name meaning every layer that has it.

    Raises:
        UnknownSiteError, HeadOutOfRangeError: the model does not have a site.
    """
    found: list[Site] = []
    for word in [capture] if isinstance(capture, str | Site) else capture:
        site = model.site(word)
        found += model.each(site)
    return list(dict.fromkeys(found))


def _cells(
    every: Sequence[Intervention | None], runs: Runs, given: Intervention | None, hold: Intervention | None
) -> tuple[list[Cell], set[Site]]:
    """Where everything acts, and the sites at which it does or is read."""
    model = runs.model
    frozen = None if hold is None else expanded(hold, model)
    beside = both(given, frozen)
    real = [expanded(one, model) for one in every if one is not None]
    check([*real, *([beside] if beside else [])], model)
    placed = iter(place(real, runs, given, frozen))
    alone = Cell(Intervention(()), ())
    if beside is not None:
        alone = Cell(beside, tuple(p for p in place([beside], runs, given, frozen)[0].places if p.given))
    cells = [alone if one is None else next(placed) for one in every]
    changes = [change for one in (*real, *([beside] if beside else [])) for change in one.changes]
    return cells, {site for change in changes for site in change.sites}


def _run(runs: Runs, cells: Sequence[Cell], sites: Sequence[Site], logits: Logits) -> dict[Site, Float[Tensor, "row ..."]]:
    """Every site in all rows, cell by cell, in the axes that it declares."""
    examples = torch.arange(len(runs.base), device=runs.model.device)
    every = torch.stack(
        [torch.arange(len(cells), device=examples.device).repeat_interleave(len(examples)), examples.repeat(len(cells))], -1
    )

    def one(part: slice) -> dict[Site, Tensor]:
        rows = every[part]
        tokens, edits = runs.base.take(rows[:, 1]), Edits(cells, rows)
        ran = forward(runs.model, tokens, dict.fromkeys(sites), None, edits if edits.sites() else None)
        found = {}
        for site in sites:
            positions = LAST if site == LOGITS and logits == "last" else Positions()
            found[site] = aligned(site, declared(site, ran.found[site].tensor), runs.model.places(tokens, site), positions)
        return found

    parts = in_batches(len(every), runs.batch, one)
    return {site: torch.cat([part.pop(site) for part in parts]) for site in sites}


def aligned(
    site: Site, tensor: Float[Tensor, "example ..."], places: Places, positions: Positions
) -> Float[Tensor, "example ..."]:
    """A site's tensor with positions counted from each prompt's first real token; NaN behind the end of shorter ones."""
    if tensor.ndim != len(site.axes):
        return tensor
    columns = places.columns(positions)
    found = _picked(tensor, position_axis(site, tensor), columns)
    if site.square and not site.name.startswith("cross_"):
        found = _picked(found, found.ndim - 1, places.columns(Positions()))
    return found


def _picked(tensor: Tensor, axis: int, columns: Int[Tensor, "example position"]) -> Tensor:
    """Each example's own columns along an axis."""
    whole = columns.shape[1] == tensor.shape[axis] and bool(
        (columns == torch.arange(columns.shape[1], device=columns.device)).all()
    )
    if whole:
        return tensor
    shape = [len(tensor) if i == 0 else columns.shape[1] if i == axis else 1 for i in range(tensor.ndim)]
    at = columns.to(tensor.device).reshape(shape)
    picked = tensor.gather(axis, at.clamp(min=0).expand(*tensor.shape[:axis], columns.shape[1], *tensor.shape[axis + 1 :]))
    return picked.masked_fill(at < 0, torch.nan)
