"""What is in force beside an intervention: what is given on the base, and what is held at the base's own values.

    >>> held(model, ("pattern", "L3.mlp_out"))                                          # doctest: +SKIP
    Intervention(L0.pattern ← Activation(base); L1.pattern ← Activation(base); …; L3.mlp_out ← Activation(base))

``given=`` changes the base, and every row on it; effects are counted from the changed base. ``hold=`` leaves the base as it is
and freezes parts of every row at what they are in the base run, so that an intervention does not reach them: with all patterns
held attention no longer moves, with ``"ln_scale"`` norms divide by what they divided by, with all components held only direct
effects are left. What an intervention changes itself is not held: its own edits come last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interp.engine.asked import require_model, together
from interp.engine.cells import Cell
from interp.engine.edits import Edits
from interp.engine.filling import fill
from interp.engine.runs import Runs
from interp.errors import OrderError, UnknownSiteError
from interp.interventions import Activation, Change, Intervention
from interp.models import Model
from interp.sites import MAIN, Site

Given = Intervention | Change | Sequence[Intervention | Change] | None
Hold = str | Site | Sequence[str | Site]
NORMS = "ln_scale"
"""Every scale of a norm by one word."""


def given_changes(model: Model, given: Any) -> Intervention | None:
    """Several given interventions as one, in their order, behind what :meth:`interp.Model.edited` has put in force."""
    require_model(model)
    standing = []
    if model.background is not None:
        standing = [model.background]
        model.standing.use()
    own = together(given, "given")
    return together([*standing, *([] if own is None else [own])], "given")


def give(runs: Runs, given: Cell | None, known: Sequence[Cell] = ()) -> list[Cell]:
    """Put what is given in force on the base run; returns it with what it writes, in a list that is empty without it.

    Args:
        known: changes among them that are filled already.

    Raises:
        PositionError, ShapeMismatchError, UnequalLengthsError: a source does not fit its target.
    """
    if given is None:
        return []
    filled = fill([given], runs, known)
    runs.standing = filled[0]
    runs.given = lambda examples: Edits.of(filled[0], examples)
    return filled


def refuse_background(model: Model, what: str) -> None:
    """Raise if something is in force that ``what`` would not see."""
    if model.background is not None:
        raise OrderError(f"{what} does not run on an edited model; call it outside of model.edited({model.background!r})")


def held(model: Model, hold: Hold) -> Intervention | None:
    """What is held, as changes that write the base's own values.

    Args:
        hold: sites; a component's name means all of its layers, ``"ln_scale"`` the scales of all norms.

    Raises:
        UnknownSiteError, HeadOutOfRangeError: the model does not have a site.
    """
    words = [hold] if isinstance(hold, str | Site) else list(hold)
    sites = dict.fromkeys(site for word in words for site in _sites(model, word))
    own = Activation("base")
    return Intervention(tuple(Change(site, source=own) for site in sites), ordered=True) if sites else None


def both(one: Intervention | None, other: Intervention | None) -> Intervention | None:
    """What is given and what is held, in this order."""
    return other if one is None else one if other is None else one.then(other)


def _sites(model: Model, word: str | Site) -> list[Site]:
    if word == NORMS:
        found = [site for site in model.sites() if site.name.endswith("_scale") and site.stream == MAIN]
        if not found:
            raise UnknownSiteError("part to hold", word, [], why=f"no scale of a norm of {model.name} was found")
        return found
    site = model.site(word)
    return list(model.each(site))


def in_force(
    model: Model, given: Intervention | None, hold: Intervention | None, corruption: Intervention | None = None
) -> dict[str, Any]:
    """What results say of all of them."""
    found: dict[str, Any] = {"given": None if given is None else repr(given)}
    found |= {} if corruption is None else {"corruption": corruption.in_words}
    return found if hold is None else found | {"hold": words(model, hold)}


def words(model: Model, hold: Intervention) -> list[str]:
    """What is held, a component by its name where all of its layers are."""
    sites = dict.fromkeys(change.site for change in hold.changes)
    alike = dict.fromkeys(site.at(layer=None) for site in sites)
    whole = {site for site in alike if {*model.each(site)} <= sites.keys()}
    return list(dict.fromkeys(repr(every if (every := site.at(layer=None)) in whole else site) for site in sites))
