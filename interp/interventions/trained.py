"""The learned parts of an intervention: found for an optimiser, held still for a step, saved and restored.

    >>> das = Intervention.of("L9.resid_post@END", featurizer=Rotation(768, 16))
    >>> optimiser = torch.optim.Adam(learnable(das), lr=5e-3)
    >>> saved = state(das)
    >>> sorted(saved.tensors), saved.spec["changes"][0]["featurizer"]["kind"]
    (['0.featurizer.weight'], 'rotation')
    >>> restore(das, saved)

A part is a featurizer or an edit that is an ``nn.Module``. It is named by the first change that has it and by its place there,
``"0.featurizer"``, so that a basis shared by many sites is counted, stepped and saved once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from interp.errors import ShapeMismatchError, StoreError, UnknownNameError
from interp.interventions.constants import ConstantVector
from interp.interventions.edit import Edit
from interp.interventions.featurizer import Featurizer, Subspace
from interp.interventions.intervention import Intervention
from interp.interventions.learned import Gate, Select
from interp.interventions.masks import BoundlessMask, HardConcrete, Mask
from interp.interventions.rotation import Rotation


class Saved(NamedTuple):
    """What a store keeps of a trained intervention: no live object."""

    tensors: dict[str, Tensor]
    """Copies on the CPU, named ``"0.featurizer.weight"``."""
    spec: dict[str, Any]
    """The intervention's own spec, ready for JSON, with ``parts``: where each part is found, by its name."""


def parts(intervention: Intervention) -> dict[str, nn.Module]:
    """Featurizers and edits that are modules, each once."""
    found: dict[nn.Module, str] = {}
    for index, change in enumerate(intervention.changes):
        for role, part in (("featurizer", change.featurizer), ("edit", change.edit)):
            if isinstance(part, nn.Module):
                found.setdefault(part, f"{index}.{role}")
    return {name: part for part, name in found.items()}


def learnable(intervention: Intervention) -> list[nn.Parameter]:
    """Parameters of the parts that require a gradient, each once, in the order of the changes."""
    every = (parameter for part in parts(intervention).values() for parameter in part.parameters())
    return list(dict.fromkeys(parameter for parameter in every if parameter.requires_grad))


@contextmanager
def once(intervention: Intervention) -> Iterator[None]:
    """Compute every rotation's basis once inside: around one forward and its backward pass."""
    with ExitStack() as stack:
        for part in parts(intervention).values():
            for module in part.modules():
                if isinstance(module, Rotation):
                    stack.enter_context(module.once())
        yield


def state(intervention: Intervention) -> Saved:
    """Copies of all that was learned, and what it belongs to."""
    found = parts(intervention)
    tensors = {
        f"{name}.{key}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, part in found.items()
        for key, tensor in part.state_dict().items()
    }
    return Saved(tensors, intervention.spec() | {"parts": {name: _spec(part) for name, part in found.items()}})


def restore(intervention: Intervention, saved: Saved) -> None:
    """Put saved values into an intervention with the same parts, in place.

    Raises:
        ShapeMismatchError: its parts are others, or of other shapes.
        StoreError: the values are not those that the spec was made of; the parts before these are restored by then.
    """
    found, specs = parts(intervention), saved.spec["parts"]
    if list(found) != list(specs):
        raise ShapeMismatchError(f"saved were the parts {', '.join(specs)}, but the intervention has {', '.join(found)}")
    for name, part in found.items():
        own, other = _fixed(_spec(part)), _fixed(specs[name])
        if own != other:
            raise ShapeMismatchError(f"saved as {name} was {other}, but the intervention has {own} there")
    for name, part in found.items():
        _load(part, name, specs[name], saved.tensors)


def revive(saved: Saved) -> dict[str, nn.Module]:
    """The saved parts themselves, by name, made from nothing else.

    Raises:
        UnknownNameError: a part of a kind that is not made here.
        StoreError: the values are not those that the spec was made of.
    """
    return {name: _revived(name, spec, saved.tensors) for name, spec in saved.spec["parts"].items()}


_LEARNED: dict[str, Callable[..., nn.Module]] = {
    "rotation": Rotation,
    "gate": Gate,
    "mask": Mask,
    "boundless mask": BoundlessMask,
    "hard concrete": HardConcrete,
    "constant vector": ConstantVector,
}
"""Made from the options in their spec, then filled."""
_FROZEN: dict[str, Callable[..., nn.Module]] = {"subspace": Subspace, "select": Select}
"""Made from their tensors."""


def _revived(name: str, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    kind, own = spec["kind"], _under(name, tensors)
    options = {key: value for key, value in spec.items() if key not in ("kind", "sha256")}
    if not own:
        raise StoreError(f"the tensors saved under {name} are missing; saved are {', '.join(tensors) or 'none'}")
    if kind in _LEARNED:
        part = _LEARNED[kind](**options).to(next(iter(own.values())).dtype)
    elif kind in _FROZEN:
        part = _FROZEN[kind](**own, **{key: value for key, value in options.items() if key != "shape"})
    else:
        raise UnknownNameError("kind of part", kind, [*_LEARNED, *_FROZEN], f"saved as {name}")
    _load(part, name, spec, tensors)
    return part


def _load(part: nn.Module, name: str, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    own = _under(name, tensors)
    expected, shapes = ({key: tuple(tensor.shape) for key, tensor in found.items()} for found in (part.state_dict(), own))
    if shapes != expected:
        raise StoreError(f"the tensors saved under {name} are {shapes}; expected {expected}")
    part.load_state_dict(own)
    if "temperature" in spec:
        part.temperature = spec["temperature"]
    if _spec(part) != spec:
        raise StoreError(f"the tensors saved under {name} are not those of their spec: saved {spec}, read {_spec(part)}")


def _under(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}


def _spec(part: nn.Module) -> dict[str, Any]:
    return cast("Featurizer | Edit", part).spec()


def _fixed(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What training does not change."""
    return {key: value for key, value in spec.items() if key not in ("sha256", "temperature")}
