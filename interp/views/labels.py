"""Words on a figure: ticks that never repeat or overlap, titles from provenance, numbers with intervals.

>>> interval(0.3124, 0.29, 0.334)
'0.31 ± 0.02'
>>> interval(0.42, 0.1, 0.55)
'0.42 [0.10, 0.55]'
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import xarray as xr

from interp import axes as names
from interp import effects as fx

LONGEST = 14
"""Characters of a token on an axis; the hover has all of it."""

_LOPSIDED = 1 / 11
"""Of the half width: by how much a mean is off the middle where one side of its interval is 1.2 times the other."""

_GIVEN = 60
"""Characters of what was given in a subtitle."""

DIFFER = "·"
"""Stands where the examples' tokens are not all the same."""

_HOVER_LINE = 90
"""Characters of a line of a hover about the tokens of both prompts; longer ones are two."""

_FEW = 3
"""Different tokens that a hover lists."""


class Ticks(NamedTuple):
    """The labels of one axis."""

    title: str
    full: list[str]
    """One label a value, already escaped."""
    hover: list[str]
    """A line about the value for the hover, "" where there is nothing to add."""
    group: int = 1
    """Labels that belong together, such as the heads of a layer: what is thinned begins with the same one of each group."""

    def thinned(self, most: int) -> tuple[list[int], list[str]]:
        """Tick positions and their labels, at most ``most``, evenly spaced from the first."""
        least = max(1, math.ceil(len(self.full) / max(1, most)))
        within = [step for step in range(1, self.group) if self.group % step == 0]
        steps = [*within, *(self.group * step for step in (1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500))]
        step = next((step for step in steps if step >= least), least)
        places = list(range(0, len(self.full), step))
        return places, [self.full[i] for i in places]

    @property
    def longest(self) -> int:
        """Characters of the longest label as it is drawn."""
        return max((len(html.unescape(label)) for label in self.full), default=0)


_TOKENS = {
    names.POSITION: ("clean_token", "corrupted_token", "position and token of the clean prompt"),
    names.SOURCE_POSITION: ("source_token", "source_token", "position and token that is attended to"),
}
"""The tokens at raw positions along an axis, of both prompts of a pair, and the axis' title with them."""


def ticks(ds: xr.Dataset, axis: str) -> Ticks:
    """Labels of ``axis``: raw positions are ``3 John``, their number first, so that equal tokens stay apart."""
    values = [str(v) for v in ds[axis].values.tolist()]
    first, second, title = _TOKENS.get(axis, ("", "", ""))
    if first not in ds.coords:
        titles = ds.attrs.get("axis_titles") or {}
        return Ticks(escape(titles.get(axis, axis)), [escape(v) for v in values], [""] * len(values))
    clean, corrupted = (
        ds[word if word in ds.coords else first].transpose(axis, names.EXAMPLE).values for word in (first, second)
    )
    roles = roles_of(ds, axis)
    full = [escape(f"{v} {standing(row, role)}") for v, row, role in zip(values, clean, roles, strict=True)]
    hover = [_token_line(a, b, role) for a, b, role in zip(clean, corrupted, roles, strict=True)]
    return Ticks(title, full, hover)


def roles_of(ds: xr.Dataset | xr.DataArray, axis: str = names.POSITION) -> list[str]:
    """The role that all prompts have at each position; "" where it is none, or not known."""
    word = f"{axis.removesuffix(names.POSITION)}role"
    if word not in ds.coords or ds[word].dims != (axis,):
        return [""] * ds.sizes[axis]
    return [str(role) for role in ds[word].values]


def standing(tokens: Iterable[object], role: str = "") -> str:
    """What stands on an axis for the tokens of several examples.

    >>> standing([" Mary", " Mary"]), standing([" Mary", " John"]), standing([" Mary", " John", " Anna"])
    ('Mary', 'Mary|John', '·')
    >>> standing([" Mary", " John", " Anna"], role="IO")
    '{IO}'
    """
    different = list(dict.fromkeys(map(str, tokens)))
    if len(different) == 1:
        return short(different[0])
    if role:
        return f"{{{short(role, LONGEST - 2)}}}"
    both = "|".join(map(short, different))
    return both if len(different) == 2 and all(different) and len(both) <= LONGEST else DIFFER


def told(tokens: Iterable[object]) -> str:
    """The tokens of several examples for a hover: ``' Mary'``, ``differs: ' Mary', ' John' and 3 others``."""
    different = [repr(token) for token in dict.fromkeys(map(str, tokens))]
    if len(different) == 1:
        return different[0]
    others = len(different) - _FEW
    listed = f"{', '.join(different[:_FEW])} and {others} others" if others > 1 else ", ".join(different)
    return f"differs: {listed}"


def _token_line(clean: Iterable[object], corrupted: Iterable[object], role: str) -> str:
    a, b = told(clean), told(corrupted)
    clean_side, other = escape((f"{role}, " if role else "") + f"token {a}"), escape(f"corrupted {b}")
    if a == b:
        return clean_side
    return f"{clean_side}{'<br>' if len(clean_side) + len(other) > _HOVER_LINE else ', '}{other}"


def short(token: str, most: int = LONGEST) -> str:
    """A token for an axis: no outer spaces, line ends visible, cut at so many characters."""
    text = token.strip() or token.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣")
    text = "".join(c if c.isprintable() else "�" for c in text.replace("\n", "⏎").replace("\t", "⇥"))
    return text if len(text) <= most else text[: most - 1] + "…"


def escape(text: object) -> str:
    """For plotly, which reads ``<b>``, ``<br>`` and entities in any text."""
    return html.escape(str(text), quote=False).replace("\n", " ")


def interval(mean: float, low: float, high: float) -> str:
    """``0.31 ± 0.02``, or where the sides differ by more than a fifth, and one sees it, ``0.42 [0.10, 0.55]``.

    Two decimals, up to four where the half width warrants them.
    """
    if not math.isfinite(mean):
        return "undefined"
    half, off = (high - low) / 2, abs((low + high) / 2 - mean)
    known = math.isfinite(half)
    size = half if known and half >= 5e-5 else abs(mean)  # a half width that four decimals would not show decides nothing
    decimals = 2 if size == 0 or size >= 0.005 else min(4, 1 - math.floor(math.log10(size)))
    if not known:
        return f"{_fixed(mean, decimals)} ± ?"
    if off > _LOPSIDED * half and off >= 0.5 * 10**-decimals:
        return f"{_fixed(mean, decimals)} [{_fixed(low, decimals)}, {_fixed(high, decimals)}]"
    return f"{_fixed(mean, decimals)} ± {_fixed(half, decimals)}"


def number(value: object) -> str:
    """Four digits of a number that is no integer; anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _fixed(number: float, decimals: int) -> str:
    text = f"{number:.{decimals}f}"
    return text if float(text) != 0 else f"{0:.{decimals}f}"  # no −0.00


def quantity_name(quantity: str, metric: str) -> str:
    """``recovery of logit_diff``, ``effect on prob``."""
    if quantity == "value":
        return escape(metric)
    return f"{quantity} {'on' if quantity == 'effect' else 'of'} {escape(metric)}"


def bar_name(ds: xr.Dataset, quantity: str, metric: str) -> str:
    """What the colour bar says: ``recovery``, or ``effect on kl (nats)`` where the result says the units."""
    if quantity in ("recovery", "damage"):
        return quantity
    units = ds.attrs.get("units")
    unit = units.get(metric) if isinstance(units, dict) else None
    return quantity_name(quantity, metric) + (f" ({escape(unit)})" if unit else "")


def name_of(array: xr.DataArray, otherwise: str = "value") -> str:
    """What an array of numbers is called: ``copying score``, ``recovery``, ``from recovery`` of what was reckoned from it."""
    return fx.quantity_of(array) or str(array.attrs.get("quantity") or array.name or otherwise)


def headline(ds: xr.Dataset, quantity: str, metric: str) -> str:
    """``resid_pre: recovery of logit_diff (0 = corrupted, 1 = clean)``; ``z@END: …`` where one position is changed."""
    ends = {"recovery": " (0 = corrupted, 1 = clean)", "damage": " (0 = clean, 1 = corrupted)"}.get(quantity, "")
    where = ds.attrs.get("positions")
    at = f"@{where}" if isinstance(where, str) and where not in _NOT_ONE_PLACE else ""
    site = f"{escape(ds.attrs['site'] + at)}: " if ds.attrs.get("site") else ""
    return f"{site}{quantity_name(quantity, metric)}{ends}"


_NOT_ONE_PLACE = ("all", "swept", "listed")
"""What results say of their positions where an axis or the interventions' own names do."""


def provenance(ds: xr.Dataset, table: xr.Dataset) -> str:
    """``denoising, source clean · gpt2 · ioi · n=64, 8 templates · position=14``; an estimate says of what kind it is.

    An edit stands behind the source unless it replaces.
    Where spans of source and target were not equally long, the rule that was used: ``unequal spans in 3: last token``.
    """
    attrs = fx.attrs_of(ds)
    source = f", source {attrs['source']}" if attrs.get("source") not in (None, "none") else ""
    fixed = selected(ds)
    how = attrs["patching"] if fx.paired(ds) else "no counterfactual"
    edit = f", {attrs['edit']}" if isinstance(attrs.get("edit"), str) and attrs["edit"] != "Replace()" else ""
    words = [f"{how}{source}{edit}"]
    words += [f"estimate: {attrs['estimate']}"] if attrs.get("estimate") else []
    words += [str(attrs[k]) for k in ("model", "task") if attrs.get(k)]
    words += [f"corrupted by {_short(attrs['corruption'])}"] if attrs.get("corruption") else []
    words += [f"given {_short(attrs['given'])}"] if isinstance(attrs.get("given"), str) else []
    words += [f"held: {', '.join(attrs['hold'])}"] if attrs.get("hold") else []
    words += [f"windows of {attrs['window']} layers"] if attrs.get("window") else []
    half = [f"{late} examples incomplete (effects.furthest leaves them out)"] if (late := fx.behind(ds)) else []
    told = [f"n={ds.sizes[names.EXAMPLE]}{clusters(table)}", *half, *in_sample(attrs), *fixed, *_unequal(attrs)]
    return escape(" · ".join([*words, *told]))


_SELECTED = (*names.SWEPT, names.FEATURE, "term", "intervention", "site", "group", "token")


def selected(results: xr.Dataset | xr.DataArray) -> list[str]:
    """Where a result stands along axes of which one place was selected: ``layer=3``, ``site=mlp_out``."""
    return [f"{axis}={results[axis].item()}" for axis in _SELECTED if axis in results.coords and not results[axis].ndim]


def _unequal(attrs: Mapping[Hashable, Any]) -> list[str]:
    """The rule for spans of different length, where one was needed; its examples are those of the whole result."""
    found = attrs.get("unequal")
    if not isinstance(found, Mapping) or not found.get("examples"):
        return []
    return [f"unequal spans in {found['examples']}: {_RULES.get(found['rule'], found['rule'])}"]


_RULES = {"last": "last token", "mean": "mean over the span"}


def _short(given: str) -> str:
    """What was given, without the word around it; its beginning where it is long."""
    inner = given.removeprefix("Intervention(").removesuffix(")") if given.startswith("Intervention(") else given
    return inner if len(inner) <= _GIVEN else inner[: _GIVEN - 1] + "…"


def in_sample(attrs: Mapping[Hashable, Any]) -> list[str]:
    """``in sample``, of a result that was measured on examples that selected it; how many, where not all did.

    ``out of sample`` where it is known that none did; nothing where that is not known.
    """
    if attrs.get("in_sample") is None:
        return []
    if not attrs["in_sample"]:
        return ["out of sample" + (", but of the same templates" if attrs.get("in_sample_templates") else "")]
    found = attrs.get("in_sample_examples")
    return [f"in sample: {'the' if found is None else found} examples also selected what is shown"]


def survival(test: xr.Dataset, some: bool) -> str:
    """How the cells that are outlined were found, or why there are none; "" where there was nothing to test."""
    said = test.attrs["sign_flips"]
    alpha, cells = 1 - said["level"], said["cells"][str(test[names.METRIC].values)]
    units, unit = said["units"], said["flipped"]
    if units < 2 or not cells:
        return ""
    if some:
        return f"outlined: p ≤ {alpha:.2g}, max-T sign flips of {unit}s"
    if said["smallest_p"] > alpha:
        return f"{units} {unit}s: {math.ceil(1 - math.log2(alpha))} are needed to tell a cell from 0 at p ≤ {alpha:.2g}"
    return f"no cell told from 0 at p ≤ {alpha:.2g}, max-T sign flips of {unit}s"


def clusters(table: xr.Dataset) -> str:
    """``, 8 templates`` where intervals are over templates; too few of them are named as what they are.

    Of unequal size they tell as much as fewer of equal size: ``, 8 templates, effectively 5.2``.
    """
    found = int(table.attrs["templates"])
    if table.attrs["resampled"] != "example":
        effective = table.attrs["effective"]
        unequal = f", effectively {effective:.1f}" if effective < 0.9 * found else ""
        return f", {found} {table.attrs['resampled']}s{unequal}"
    return f", only {found} templates" if 1 < found < fx.FEWEST_CLUSTERS else ""


def of_examples(result: xr.Dataset | xr.DataArray) -> str:
    """``n=64, 20 templates``: the examples of a result that is no sweep, as its intervals take them."""
    found = fx.clusters_of(result)
    known = {"templates": found.templates, "resampled": found.unit, "effective": found.effective}
    return f"n={result.sizes[names.EXAMPLE]}{clusters(xr.Dataset(attrs=known))}"


def wrap(text: str, characters: int) -> list[str]:
    """``text`` on several lines, broken between its `` · `` parts, or at spaces where one part is too long."""
    lines = [""]
    for part in text.split(" · "):
        joined = f"{lines[-1]} · {part}" if lines[-1] else part
        if _length(joined) <= characters:
            lines[-1] = joined
        else:
            lines += _wrap_words(part, characters)
    return [line for line in lines if line]


def _wrap_words(text: str, characters: int) -> list[str]:
    lines = [""]
    for word in re.split(r"(?<! =) (?!= )", text):  # "0 = corrupted" stays together
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        lines = [*lines[:-1], joined] if _length(joined) <= characters or not lines[-1] else [*lines, word]
    return lines


def _length(text: str) -> int:
    return len(plain(text))


def plain(text: str) -> str:
    """A text for plotly as it is drawn."""
    return html.unescape(re.sub("<[^>]*>", "", text))
