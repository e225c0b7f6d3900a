"""Interventions, and what else a call is made of, written as JSON and tensors.

    >>> writer = Writer()
    >>> data = writer.write(Change("L9H6.z", "END", source=torch.zeros(64), edit=Add(4.0)))
    >>> data["Change"]["edit"], data["Change"]["source"], list(writer.tensors)
    ({'Add': {'scale': 4.0}}, {'Constant': {'value': {'tensor': 'source.value'}}}, ['source.value'])

A value is written as JSON has it; anything else as an object with one key, which says what it is. Dataclasses are written by
their fields. A learned part is written by its ``options()``, the arguments that make another one like it, and its tensors. What
is one object in several places is written once. :mod:`interp.interventions.reading` makes them again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from interp.errors import StoreError
from interp.interventions.arranged import Arranged
from interp.interventions.columns import Columns
from interp.interventions.composed import Composed, Span
from interp.interventions.constants import ConstantVector
from interp.interventions.dictionary import SparseAutoencoder
from interp.interventions.edit import Add, Cut, Interpolate, Replace, Scale
from interp.interventions.featurizer import Identity, Subspace
from interp.interventions.fitted import Fit, Fitted
from interp.interventions.intervention import Change, Intervention
from interp.interventions.joint import Joint
from interp.interventions.learned import Gate, Select
from interp.interventions.masks import BoundlessMask, HardConcrete, Mask
from interp.interventions.revnet import RevNet
from interp.interventions.rotation import Rotation
from interp.interventions.source import Activation, Constant, Noise
from interp.interventions.steering import AddPreservingNorm, ProjectOut, SetCoefficient
from interp.metrics import Reads
from interp.metrics.standard import STANDARD
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Grid, Positions, Site

KINDS: tuple[type, ...] = (
    *(Site, Positions, Grid, Prompt, Pair, Pairs),
    *(Reads, *map(type, STANDARD.values())),
    *(Intervention, Change, Arranged, Activation, Constant, Noise),
    *(Replace, Add, Scale, Interpolate, Cut, AddPreservingNorm, ProjectOut, SetCoefficient),
    *(Identity, Subspace, Fitted, Fit, Span, Rotation, Columns, RevNet, SparseAutoencoder, Composed, Joint),
    *(Gate, Select, Mask, BoundlessMask, HardConcrete, ConstantVector),
)
"""What is made again without being asked for."""
NAMED: dict[type, Callable[[str], Any]] = {Site: Site.parse, Positions: Positions.parse}
"""What is written as its name, wherever the name says all of it."""


class Writer:
    """Values as JSON, and the tensors in them by name.

    Args:
        known: classes that are written by their short names, beside :data:`KINDS`.
        named: objects that stand elsewhere, by the name that is written in their place.
    """

    def __init__(self, known: Iterable[type] = (), named: Mapping[str, Any] | None = None) -> None:
        self.known = {*KINDS, *known}
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[int, tuple[Any, str]] = {id(one): (one, name) for name, one in (named or {}).items()}
        """Everything written so far, held so that no other object gets its id."""

    def write(self, value: Any, path: str = "") -> Any:
        """A value as JSON.

        Args:
            path: where it is, in words that also name its tensors.

        Raises:
            StoreError: it, or something in it, cannot be written.
        """
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
            return self.write(value.item(), path)
        if isinstance(value, Integral):
            return int(value)
        if isinstance(value, Real):
            return float(value) if math.isfinite(value) else {"float": str(float(value))}
        if isinstance(value, list):
            return self._each(value, path)
        if isinstance(value, EllipsisType):
            return {"ellipsis": None}
        if isinstance(value, tuple | range):
            return {"tuple": self._each(value, path)}
        if isinstance(value, Mapping):
            return {"dict": self._mapping(value, path)}
        if id(value) in self._names:
            what = "tensor" if isinstance(value, Tensor) else "array" if isinstance(value, np.ndarray) else "again"
            return {what: self._names[id(value)][1]}
        if isinstance(value, Tensor):
            return {"tensor": self._tensor(value, path, value)}
        if isinstance(value, np.ndarray):
            return {"array": self._array(value, path)}
        if type(value).__module__.partition(".")[0] == "PIL":
            return self._picture(value, path)
        for kind, parse in NAMED.items():
            if isinstance(value, kind) and _reads_back(value, parse):
                return {kind.__name__: repr(value)}
        return self._object(value, path)

    def whole(self, value: Any, path: str) -> Any:
        """As :meth:`write`, but where it raises nothing of the value is left, which others could refer to."""
        names, tensors = dict(self._names), dict(self.tensors)
        try:
            return self.write(value, path)
        except StoreError:
            self._names, self.tensors = names, tensors
            raise

    def other(self, value: Any, path: str) -> Any:
        """What is none of the above."""
        if isinstance(value, nn.Module):
            why = "which does not say how another one is made: give it options(), the arguments of its constructor"
        else:
            why = "which is code" if callable(value) else "which is no data"
        what = "the class" if isinstance(value, type) else "the function" if hasattr(value, "__name__") else "of type"
        name = getattr(value, "__name__", type(value).__qualname__)
        raise StoreError(f"{path or 'it'} is {what} {name}, {why}")

    def _object(self, value: Any, path: str) -> Any:
        kind = type(value)
        content: Mapping[str, Any]
        if is_dataclass(value) and not isinstance(value, type):
            content = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        elif callable(getattr(value, "options", None)) and not isinstance(value, type):
            content = self._options(value, path)
        else:
            return self.other(value, path)
        self._names[id(value)] = value, path
        written = self._mapping(content, path)
        if isinstance(value, nn.Module):
            state = {name: t for name, t in value.state_dict().items() if name.partition(".")[0] not in content}
            for name, tensor in state.items():
                self._tensor(tensor, tensor_name(path, name), tensor)
            written |= {"tensors": list(state)} if state else {}
        return {kind.__name__ if kind in self.known else full_name(kind): written}

    def _options(self, value: Any, path: str) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = value.options()
        except Exception as error:  # a class of anybody's
            raise StoreError(f"{path or 'it'} does not give its options() ({type(error).__name__}: {error})") from error
        return found

    def _each(self, values: Sequence[Any], path: str) -> list[Any]:
        return [self.write(one, under(path, i)) for i, one in enumerate(values)]

    def _mapping(self, values: Mapping[Any, Any], path: str) -> dict[str, Any]:
        if strange := [key for key in values if not isinstance(key, str)]:
            raise StoreError(f"{path or 'it'} has the key {strange[0]!r} of type {type(strange[0]).__name__}; keys are texts")
        return {key: self.write(one, under(path, key)) for key, one in values.items()}

    def _tensor(self, tensor: Any, path: str, owner: Any) -> str:
        name = path or "value"
        if not isinstance(tensor, Tensor):
            raise StoreError(f"{name} is no tensor but of type {type(tensor).__name__}, which safetensors cannot hold")
        if tensor.is_complex() or tensor.is_quantized or tensor.layout != torch.strided:
            raise StoreError(f"{name} is a tensor of {tensor.dtype} and {tensor.layout}, which safetensors cannot hold")
        self.tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        self._names[id(owner)] = owner, name
        return name

    def _array(self, array: np.ndarray[Any, Any], path: str) -> str:
        try:
            tensor = torch.from_numpy(np.array(array, order="C"))
        except TypeError as error:
            raise StoreError(f"{path or 'it'} is an array of {array.dtype}, which safetensors cannot hold") from error
        return self._tensor(tensor, path, array)

    def _picture(self, picture: Any, path: str) -> Any:
        """An image of Pillow, if its numbers and their mode say all of it."""
        from PIL import Image

        numbers = np.asarray(picture)
        if Image.fromarray(numbers).mode != picture.mode:  # a palette, …
            raise StoreError(f"{path} is a picture of mode {picture.mode}; give it as picture.convert('RGB')")
        return {"picture": self._array(numbers, path)}


def full_name(kind: type) -> str:
    """A class with its module."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _reads_back(value: Any, parse: Callable[[str], Any]) -> bool:
    try:
        return bool(parse(repr(value)) == value)
    except ValueError:
        return False


def tensor_name(path: str, name: str) -> str:
    """What the tensor of a part is called."""
    return f"{path}.{name}" if path else name


def under(path: str, name: str | int) -> str:
    """The path of a part. A name with dots is quoted, so that no two parts have one path."""
    own = json.dumps(name) if isinstance(name, str) and ("." in name or '"' in name or not name) else str(name)
    return f"{path}.{own}" if path else own
