"""The table of methods: which are there, which paper each is from, what it changes, how it searches, and what to call.

    >>> from interp import methods
    >>> table = methods.table()                                                              # doctest: +SKIP
    >>> table[table.search == "gradient"].function.tolist()                                  # doctest: +SKIP
    ['interp.optimal_constants', 'interp.attribute', ...]

A module of a family says ``METHOD = Method(...)``, or ``METHODS`` where it holds several; what the engine itself does is said
here. ``interp methods`` prints the table, and the README shows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pkgutil import iter_modules

import pandas as pd

_ROOM = "interp.methods"

LOCALISE = "localise"
"""The family of what the engine does itself."""


@dataclass(frozen=True)
class Method:
    """One published method."""

    id: str
    """A word of its own, ``attribution_patching``."""
    name: str
    """As its paper names it."""
    paper: str
    """Authors and year, title, ``arXiv`` and its number or an address; papers stand apart by a semicolon."""
    mediator: str
    """What is intervened on or read: ``heads, streams, MLPs, units, by position``."""
    search: str
    """How places are found: ``exhaustive``, ``gradient``, ``greedy``, ``learned mask``; ``reading`` where none is changed."""
    cost: str
    """In forward and backward passes, in words."""
    function: str
    """What to call, as a dotted path that can be imported: ``interp.patch``."""


ENGINE = (
    Method(
        id="activation_patching",
        name="activation patching",
        paper="Zhang & Nanda 2023, Towards Best Practices of Activation Patching in Language Models, arXiv 2309.16042; "
        "Vig et al. 2020, Causal Mediation Analysis for Interpreting Neural NLP, arXiv 2004.12265; "
        "Meng et al. 2022, Locating and Editing Factual Associations in GPT, arXiv 2202.05262",
        mediator="streams, heads, MLPs, units, attention patterns, by position",
        search="exhaustive",
        cost="two forward passes, and for every cell what of one comes after it",
        function="interp.patch",
    ),
    Method(
        id="attribution_patching",
        name="attribution patching",
        paper="Nanda 2023, Attribution Patching: Activation Patching At Industrial Scale, "
        "https://www.neelnanda.io/mechanistic-interpretability/attribution-patching; "
        "Syed et al. 2023, Attribution Patching Outperforms Automated Circuit Discovery, arXiv 2310.10348",
        mediator="streams, heads, MLPs, units, attention patterns, by position",
        search="gradient",
        cost="two forward passes, and a backward pass a metric, for all cells together",
        function="interp.attribute",
    ),
    Method(
        id="edge_patching",
        name="path patching, edge by edge",
        paper="Goldowsky-Dill et al. 2023, Localizing Model Behavior with Path Patching, arXiv 2304.05969; "
        "Conmy et al. 2023, Towards Automated Circuit Discovery for Mechanistic Interpretability, arXiv 2304.14997",
        mediator="edges from heads, MLPs and embeddings to the queries, keys, values, MLPs and logits that read them",
        search="exhaustive",
        cost="two forward passes, and for every edge what of one comes after its receiver",
        function="interp.patch_edges",
    ),
)
"""Methods that are the engine's own."""


def registered() -> Iterator[tuple[str, Method]]:
    """Every method with its family, by family and id."""
    found = [(LOCALISE, method) for method in ENGINE]
    for family in iter_modules(import_module(_ROOM).__path__):
        if family.ispkg:
            package = import_module(f"{_ROOM}.{family.name}")
            for one in iter_modules(package.__path__, f"{package.__name__}."):
                module = import_module(one.name)
                found += [(family.name, method) for method in getattr(module, "METHODS", None) or [module.METHOD]]
    yield from sorted(found, key=lambda row: (row[0], row[1].id))


def rows() -> list[dict[str, str]]:
    """Every method as a mapping: ``id``, ``family`` and the other fields of :class:`Method`."""
    return [{"id": method.id, "family": family, **asdict(method)} for family, method in registered()]


def table() -> pd.DataFrame:
    """Every method in a row, by family and id; the columns are those of :func:`rows`."""
    return pd.DataFrame(rows())
