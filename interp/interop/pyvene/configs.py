"""What a config of pyvene's says, in whatever form it is given, and what a folder holds, before anything is made of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.errors import InteropError, LoadError

FIELDS = (
    "layer", "component", "unit", "max_number_of_units", "low_rank_dimension", "intervention_type", "intervention",
    "subspace_partition", "group_key", "intervention_link_key", "moe_key", "source_representation",
    "hidden_source_representation", "latent_dim",
)  # fmt: skip
"""Of pyvene's RepresentationConfig, in their order, in which it writes them to JSON."""
_DEFAULTS = {"layer": 0, "component": "block_output", "unit": "pos", "max_number_of_units": 1}


@dataclass(frozen=True, eq=False)
class Saved:
    """What a folder holds of one intervention."""

    state: Mapping[str, Tensor]
    dims: int | None
    constant: bool


@dataclass(frozen=True, eq=False)
class Said:
    """One representation."""

    fields: dict[str, Any]
    kind: Any
    """A class, its name, an instance or a function."""
    where: str
    saved: Saved | None = None


def parsed(config: Any) -> dict[str, Any]:
    """The config as a dict, its representations in whatever form."""
    if isinstance(config, str | Path):
        return _json(Path(config))
    live = None
    if hasattr(config, "interventions") and hasattr(config, "config"):
        live, config = list(config.interventions.values()), config.config
    if isinstance(config, Mapping | list | tuple):
        whole = config if isinstance(config, Mapping) and "representations" in config else {"representations": config}
        return dict(whole)
    if not hasattr(config, "representations"):
        raise InteropError(
            f"config is {type(config).__name__}; expected an IntervenableConfig, an IntervenableModel, a dict or list of "
            "representations, or the path of a config.json"
        )
    names = ("representations", "intervention_types", "mode", "sorted_keys")
    whole = {name: getattr(config, name, None) for name in names}
    if live is not None:
        fields = [
            _fields(one) | {"intervention": own, "intervention_type": None}
            for one, own in zip(whole["representations"], live, strict=True)
        ]
        whole |= {"representations": fields, "intervention_types": None}
    return whole


def _json(path: Path) -> dict[str, Any]:
    path = path / "config.json" if path.is_dir() else path
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadError(f"{path} is no config of pyvene's: {error}") from None
    if not isinstance(whole, dict) or "representations" not in whole:
        raise LoadError(f"{path} is no config of pyvene's: it has no 'representations'")
    return whole


def representations(whole: Mapping[str, Any]) -> list[Said]:
    given = whole["representations"]
    many = list(given) if isinstance(given, list | tuple) and not hasattr(given, "_asdict") else [given]
    kinds = whole.get("intervention_types")
    found = []
    for number, one in enumerate(many):
        fields = _fields(one)
        kind = next(
            (k for k in (fields.pop("intervention", None), fields.pop("intervention_type", None)) if k is not None), None
        )
        if kind is None:
            kind = kinds[number] if isinstance(kinds, list | tuple) else "VanillaIntervention" if kinds is None else kinds
        where = f"representation {number} ({fields['component']}, layer {fields['layer']})"
        found.append(Said(fields, kind, where))
    if not found:
        raise InteropError("the config has no representations")
    return found


def _fields(one: Any) -> dict[str, Any]:
    """The fields of a representation that say something."""
    if hasattr(one, "_asdict"):
        fields = one._asdict()
    elif isinstance(one, Mapping):
        unknown = [name for name in one if name not in FIELDS]
        if unknown:
            raise InteropError(f"a representation has the field {unknown[0]!r}; pyvene's are {', '.join(FIELDS)}")
        fields = dict(one)
    elif isinstance(one, list | tuple) and len(one) <= len(FIELDS):
        fields = dict(zip(FIELDS, one, strict=False))
    else:
        raise InteropError(f"a representation is {one!r}; expected a RepresentationConfig, its fields in a dict, or their list")
    return _DEFAULTS | {name: value for name, value in fields.items() if value is not None}


def refuse(whole: Mapping[str, Any], said: Sequence[Said]) -> None:
    mode, groups = whole.get("mode") or "parallel", [one.fields.get("group_key") for one in said]
    if mode not in ("parallel", "serial"):
        raise InteropError(f"mode={mode!r}; pyvene has 'parallel' and 'serial'")
    if any(group is not None for group in groups):
        if None in groups:
            raise InteropError("some representations have a group_key and others not; pyvene wants it of all or of none")
        if groups != sorted(groups):  # type: ignore[type-var]
            raise InteropError(f"group_key is {groups}; pyvene wants them ascending")
    several = len(set(groups)) if None not in groups else len(said)
    if mode == "serial" and several > 1:
        raise InteropError(
            f"mode='serial' with {several} groups: each changes the run that the next takes its values from, and a source here "
            "is a run without interventions; run the last group alone, with the values of the run before as a Constant"
        )
    links = [one.fields["intervention_link_key"] for one in said if "intervention_link_key" in one.fields]
    if len(set(links)) < len(links):
        raise InteropError(
            "intervention_link_key joins several representations: pyvene then starts the later ones from what the first wrote, "
            "not from their own base; give them one intervention object to share weights alone"
        )
    for one in said:
        if "moe_key" in one.fields:
            raise InteropError(
                f"{one.where}: moe_key names an expert's own module; name it by its path, 'model.layers[0].….output'"
            )
        if one.fields["unit"] not in ("pos", "h", "h.pos"):
            why = "a step of a stateful model" if one.fields["unit"] == "t" else "unknown to pyvene"
            raise InteropError(f"{one.where}: unit {one.fields['unit']!r} is {why}; expected 'pos', 'h' or 'h.pos'")


# ---------------------------------------------------------------------------------------- what was saved


def tensors(folder: Path, one: Said, keys: dict[str, int]) -> dict[str, Tensor]:
    """The tensors saved for a representation, by the name that pyvene gives its file; none if there is no file."""
    component, unit, units = (one.fields[name] for name in ("component", "unit", "max_number_of_units"))
    written = {"_": component.replace(".", "_"), ".": component}
    names = {
        sep: sep.join([*(() if "." in component else ("layer", str(one.fields["layer"]))), "comp", written[sep], "unit",
                       unit.replace(".", sep), "nunit", str(units)])
        for sep in written
    }  # fmt: skip
    count = keys[names["_"]] = keys.get(names["_"], -1) + 1
    for name in names.values():  # earlier versions wrote dots
        path = folder / f"intkey_{name}#{count}.bin"
        if path.is_file():
            return _safely(path)
    return {}


def _safely(path: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler does
        raise LoadError(f"{path} was not read: it is damaged or holds more than tensors ({type(error).__name__})") from None
    if not isinstance(found, Mapping) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise LoadError(f"{path} was not read: expected a state dict of tensors")
    return dict(found)
