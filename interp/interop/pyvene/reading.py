"""pyvene's configs and saved folders, read.

>>> found = load("trained/das", model, positions="END")                                  # doctest: +SKIP
>>> interp.patch(model, pairs, found.intervention)                                       # doctest: +SKIP
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from interp.errors import InteropError, LoadError
from interp.interop.pyvene.calls import OWN
from interp.interop.pyvene.changes import Read, Target, read, targeted, translated
from interp.interop.pyvene.components import resolve
from interp.interop.pyvene.configs import FIELDS, Said, Saved, parsed, refuse, representations, tensors
from interp.interop.pyvene.kinds import COLLECT, EXACT, MODULE, SKIP, TRAINABLE, Described, described, fresh, written_out
from interp.interventions import Change, Intervention, Source
from interp.models import Model
from interp.sites import ALL


@dataclass(frozen=True)
class Imported:
    """What a config of pyvene's says."""

    made: tuple[Change | Read, ...]
    """What each of its representations came to, in their order."""
    said: tuple[Mapping[str, Any], ...]
    """The fields of each of its representations that say something."""

    @property
    def changes(self) -> tuple[Change, ...]:
        return tuple(one for one in self.made if isinstance(one, Change))

    @property
    def reads(self) -> tuple[Read, ...]:
        """What its CollectInterventions collect; see :func:`collect`."""
        return tuple(one for one in self.made if isinstance(one, Read))

    @property
    def intervention(self) -> Intervention:
        """All of its changes, in their order, to run with :func:`interp.patch`.

        Raises:
            InteropError: it only reads.
        """
        if not self.changes:
            raise InteropError("this config only collects: there is no intervention in it, but reads")
        return Intervention(self.changes, ordered=len(self.changes) > 1)


def from_config(
    config: Any,
    model: Model,
    positions: Any = ALL,
    *,
    heads: Any = None,
    sources: Source | Sequence[Source | None] | Mapping[Any, Source] | None = None,
    subspaces: Sequence[Sequence[int] | None] | None = None,
    classes: Mapping[str, type] | None = None,
    seed: int = 0,
    exact: bool = True,
) -> Imported:
    """The interventions that a config of pyvene's describes.

    pyvene is given positions, heads, sources and subspaces with every call; here they are part of an intervention, so they are
    given now: each one for all of the config's representations, or as a list with one entry a representation.

    Args:
        config: an ``IntervenableConfig``, an ``IntervenableModel`` with its trained interventions, a dict or a list of dicts as
            pyvene takes them, or the path of a ``config.json`` or of its folder.
        positions: at which tokens (``3``, ``"END"``, ``"2,5"``), the same in base and source unless a source says otherwise.
        heads: which heads, where a unit is ``"h"`` or ``"h.pos"``: a number, or several as a tuple.
        sources: of the values; by default the source run. A mapping goes by ``group_key``.
        subspaces: the numbers of the subspaces to act in.
        classes: your own classes by the name in the config, which are imported from nowhere else.
        seed: of what begins at random and was not trained.
        exact: see :func:`change`.

    Raises:
        InteropError: what pyvene says and we do not: serial mode with several groups, linked interventions, stateful units,
            experts, an unknown class; the reason is named.
        LoadError: a file that is not there or not a config.
    """
    whole = parsed(config)
    said = representations(whole)
    refuse(whole, said)
    return _imported(said, model, _Lists(said, positions, heads, sources, subspaces), classes or {}, seed, exact)


def load(
    folder: str | Path,
    model: Model,
    positions: Any = ALL,
    *,
    heads: Any = None,
    sources: Source | Sequence[Source | None] | Mapping[Any, Source] | None = None,
    subspaces: Sequence[Sequence[int] | None] | None = None,
    classes: Mapping[str, type] | None = None,
    exact: bool = True,
) -> Imported:
    """The interventions that ``IntervenableModel.save(folder)`` wrote, with what was trained.

    Its tensors are pickles, of which nothing but tensors is read; a model saved beside them is left alone. pyvene is imported
    only for those of its classes that run their own code.

    Args:
        folder: with ``config.json`` and an ``intkey_….bin`` for each trained intervention.
        model, positions, heads, sources, subspaces, classes, exact: see :func:`from_config`.

    Raises:
        LoadError: a file that is missing or that holds anything but tensors.
        InteropError: see :func:`from_config`.
    """
    whole = parsed(Path(folder))
    said = representations(whole)
    refuse(whole, said)
    dims, constants = whole.get("intervention_dimensions"), whole.get("intervention_constant_sources")
    keys: dict[str, int] = {}
    found = [
        replace(
            one,
            saved=Saved(tensors(Path(folder), one, keys), None if dims is None else dims[i], bool(constants and constants[i])),
        )
        for i, one in enumerate(said)
    ]
    return _imported(found, model, _Lists(said, positions, heads, sources, subspaces), classes or {}, 0, exact)


def _imported(said: Sequence[Said], model: Model, at: _Lists, classes: Mapping[str, type], seed: int, exact: bool) -> Imported:
    made: list[Change | Read] = []
    fields: list[Mapping[str, Any]] = []
    for number, one in enumerate(said):
        target = _target(model, one, at.positions[number], at.heads[number])
        d, subspaces = _described(one, target, classes, seed + number), at.subspaces[number]
        fields.append(one.fields if d.partition is None else {"subspace_partition": d.partition} | one.fields)
        if d.name == COLLECT:
            made.append(read(d, target, subspaces))
            continue
        if any(isinstance(r, Read) and r.site.tensor == target.site.tensor for r in made):
            raise InteropError(f"{one.where}: it changes {target.site!r} after that was collected, and reads see all changes")
        source = at.sources[number] if at.apart or d.constant is None else None
        made.append(translated(model, d, target, source=source, subspaces=subspaces, exact=exact))
    return Imported(tuple(made), tuple(fields))


class _Lists:
    """What is given for all representations or for each of them, as lists."""

    def __init__(self, said: Sequence[Said], positions: Any, heads: Any, sources: Any, subspaces: Any) -> None:
        n = len(said)
        self.positions = _each(positions, n, "positions")
        self.heads = _each(heads, n, "heads")
        self.subspaces = _each(subspaces, n, "subspaces")
        self.apart = isinstance(sources, list)
        """Whether each source was given for one representation."""
        if isinstance(sources, Mapping):
            groups = [one.fields.get("group_key") for one in said]
            lacking = [group for group in groups if group not in sources]
            if lacking:
                raise InteropError(
                    f"sources have no entry for the group {lacking[0]!r}; they have {', '.join(map(repr, sources))}"
                )
            self.sources: list[Any] = [sources[group] for group in groups]
        else:
            self.sources = _each(sources, n, "sources")


def _each(given: Any, n: int, argument: str) -> list[Any]:
    if not isinstance(given, list):
        return [given] * n
    if len(given) != n:
        raise InteropError(f"{argument} is a list of {len(given)}; expected one entry for each of {n} representations")
    return given


def _target(model: Model, one: Said, positions: Any, heads: Any) -> Target:
    component, unit = one.fields["component"], one.fields["unit"]
    skips = _named(one.kind) == f"{MODULE}.{SKIP}"
    if skips and component == "attention_output":
        raise InteropError(
            f"{one.where}: what a {SKIP} skips there depends on the family (a mere dropout in GPT-2); "
            "name the module by its path, 'transformer.h[1].attn.output'"
        )
    found = resolve(model, component, one.fields["layer"], by_module=skips)
    if found.by_head and "h" not in unit.split("."):
        raise InteropError(f"{one.where} is split by head, but its unit is {unit!r}; expected 'h.pos' or 'h'")
    if "h" in unit.split(".") and not found.by_head:
        raise InteropError(
            f"{one.where} is not split by head, but its unit is {unit!r}; expected 'pos', or a component 'head_…'"
        )
    if found.by_head and heads is None:
        raise InteropError(f"{one.where} has the unit {unit!r}: say which heads, heads=1 or heads=(0, 2)")
    if unit == "h" and positions != ALL and positions is not ...:
        raise InteropError(f"{one.where} has the unit 'h', which is heads at all tokens; leave positions={positions!r} out")
    units = one.fields["max_number_of_units"]
    return targeted(model, found.site, positions, by_head=found.by_head, heads=heads if found.by_head else None, units=units)


# ---------------------------------------------------------------------------------------- which intervention


def _described(one: Said, target: Target, classes: Mapping[str, type], seed: int) -> Described:
    """The intervention of a representation: live, saved, or as it begins."""
    kind, fields, saved = one.kind, one.fields, one.saved
    if not isinstance(kind, type | str):
        return described(kind)
    name = _named(kind)
    short = name.removeprefix(f"{MODULE}.")
    width = target.width * _units(target, fields)
    partition = written_out(fields.get("subspace_partition"))
    if short in EXACT or short == COLLECT:
        if saved is None:
            begun = fresh(short, width, fields.get("low_rank_dimension"), partition, seed)
            return replace(begun, constant=fields.get("source_representation"))
        if short in TRAINABLE and not saved.state:
            raise LoadError(f"{one.where} is a {short}, but the folder has no tensors for it")
        own = saved.state.get("source_representation") if saved.constant else None
        return Described(short, saved.state, saved.dims, partition, own)
    live = _made(_class(kind if isinstance(kind, type) else name, classes, one.where), fields, width, seed, one.where)
    if saved is not None:
        _restore(live, saved, one.where)
    return described(live)


def _restore(live: Any, saved: Saved, where: str) -> None:
    """Put what was saved into an instance."""
    if saved.dims is not None:
        live.set_interchange_dim(saved.dims)
    if not saved.state:
        return
    try:
        live.load_state_dict(dict(saved.state))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise LoadError(f"{where}: the saved tensors are not those of {type(live).__name__}: {reason}") from None


def _units(target: Target, fields: Mapping[str, Any]) -> int:
    """How many tokens' features one vector of pyvene's holds; heads count in a target's width already."""
    return 1 if target.by_head else int(fields["max_number_of_units"])


def _named(kind: Any) -> str:
    """The class of an intervention, given as itself, by its name or by an instance."""
    if not isinstance(kind, str):
        own = kind if isinstance(kind, type) else type(kind)
        return f"{own.__module__}.{own.__qualname__}"
    name = re.sub(r"^<class '(.*)'>$", r"\1", kind)
    return name if "." in name else f"{MODULE}.{name}"


def _class(kind: type | str, classes: Mapping[str, type], where: str) -> type:
    """A class by its name; nothing is imported but pyvene's own."""
    if isinstance(kind, type):
        return kind
    found = classes.get(kind) or classes.get(kind.rpartition(".")[2])
    if found is not None:
        return found
    module, _, name = kind.rpartition(".")
    cls = getattr(import_module(module), name, None) if module == MODULE or module.startswith(OWN) else None
    if not isinstance(cls, type):
        raise InteropError(f"{where} is a {kind}, which is not pyvene's; pass classes={{{kind!r}: {name}}}")
    return cls


def _made(cls: type, fields: Mapping[str, Any], width: int, seed: int, where: str) -> nn.Module:
    """A new instance, as pyvene makes it: from the fields and the width."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return cls(**dict.fromkeys(FIELDS) | dict(fields) | {"embed_dim": width, "use_fast": False})
        except Exception as error:
            raise InteropError(
                f"{where}: {cls.__name__} cannot be made from a config: {type(error).__name__}: {error}"
            ) from error
