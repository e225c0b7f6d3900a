"""Interventions, and what else a call is made of, made again of JSON and tensors.

    >>> reader = Reader({"v": torch.ones(3)}, what="these data")
    >>> reader.read([{"Scale": {"factor": 0.5}}, {"Constant": {"value": {"tensor": "v"}}}])
    [Scale(factor=0.5), Constant((3,))]

Objects are made of the classes in :data:`interp.interventions.writing.KINDS` and of those that the caller passes, and of no
others. No name found in a file is imported, and nothing is unpickled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from interp.errors import StoreError, nearest
from interp.interventions.writing import KINDS, NAMED, full_name, tensor_name, under


class Reader:
    """Values made again of JSON and tensors.

    Args:
        tensors: those that :class:`Writer` put aside.
        what: what is read, for messages.
        kinds: classes that may be made, beside :data:`KINDS`.
        known: those of them that are written by their short names.
        named: objects that stand elsewhere, by name.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        *,
        what: str,
        kinds: Iterable[type] = (),
        known: Iterable[type] = (),
        named: Mapping[str, Any] | None = None,
    ) -> None:
        self.tensors, self.what = tensors, what
        self.kinds = {kind.__name__: kind for kind in (*KINDS, *known)} | {full_name(kind): kind for kind in kinds}
        self._made: dict[str, Any] = dict(named or {})

    def read(self, data: Any, path: str = "") -> Any:
        """The value that was written.

        Raises:
            StoreError: it is not as :class:`Writer` writes, or of a class that may not be made.
        """
        if data is None or isinstance(data, bool | int | float | str):
            return data
        if isinstance(data, list):
            return self._each(data, path)
        if not isinstance(data, dict) or len(data) != 1:
            keys = f"the keys {', '.join(list(data)[:5])}" if isinstance(data, dict) else f"type {type(data).__name__}"
            raise self._wrong(path, f"an object with {keys}; expected one key, which says its kind")
        ((kind, content),) = data.items()
        plain: dict[str, Callable[[], Any]] = {
            "float": lambda: float(content),
            "ellipsis": lambda: ...,
            "tuple": lambda: tuple(self._each(content, path)),
            "dict": lambda: self._mapping(content, path),
            "again": lambda: self._made[content],
            "tensor": lambda: self._tensor(content, path),
            "array": lambda: self._tensor(content, path).numpy(),
            "picture": lambda: self._picture(content, path),
        }
        make = plain.get(kind, lambda: self._object(kind, content, path))
        try:
            return make()
        except StoreError:
            raise
        except Exception as error:  # whatever a constructor raises for what it was never given
            raise self._wrong(path, f"{kind!r} cannot be made ({type(error).__name__}: {error})") from error

    def other(self, kind: str, content: Any, path: str) -> Any:
        """What is of no class that may be made."""
        near = nearest(kind, self.kinds, 1)
        if "." in kind:
            how = f"a class that is not interp's; if you trust it, pass it: kinds=({kind.rpartition('.')[2]},)"
        else:
            how = "which this version does not know" + (f"; did you mean {near[0]!r}?" if near else "")
        raise self._wrong(path, f"{kind!r}, {how}")

    def _object(self, kind: str, content: Any, path: str) -> Any:
        made_of = self.kinds.get(kind)
        if made_of is None:
            return self.other(kind, content, path)
        if isinstance(content, str):
            return NAMED[made_of](content)
        names = content.get("tensors", []) if issubclass(made_of, nn.Module) else []
        state = {name: self._tensor(tensor_name(path, name), path) for name in names}
        given = self._mapping({key: one for key, one in content.items() if not state or key != "tensors"}, path)
        if made_of in KINDS:
            _check_sizes(given, state)
        made = made_of(**given)
        if isinstance(made, nn.Module):
            shapes = {name: tuple(t.shape) for name, t in made.state_dict().items() if name.partition(".")[0] not in given}
            own = {name: tuple(t.shape) for name, t in state.items()}
            if own != shapes:
                raise self._wrong(path, f"{kind!r} with tensors of the shapes {own}; expected {shapes}")
            made.load_state_dict(state, strict=False, assign=True)
        self._made[path] = made
        return made

    def _each(self, data: Any, path: str) -> list[Any]:
        return [self.read(one, under(path, i)) for i, one in enumerate(data)]

    def _mapping(self, data: Mapping[str, Any], path: str) -> dict[str, Any]:
        return {key: self.read(one, under(path, key)) for key, one in data.items()}

    def _tensor(self, name: str, path: str) -> Tensor:
        if name not in self.tensors:
            raise self._wrong(path, f"the tensor {name!r} is missing")
        return self.tensors[name]

    def _picture(self, name: str, path: str) -> Any:
        from PIL import Image

        return Image.fromarray(self._tensor(name, path).numpy())

    def _wrong(self, path: str, found: str) -> StoreError:
        return StoreError(f"{self.what}{f', at {path}' if path else ''}: {found}")


def _check_sizes(given: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Raise where options ask for more than the tensors hold, before room is made for it."""
    most = max((tensor.numel() for tensor in state.values()), default=0)
    asked = [given["width"] * given["rank"]] if {"width", "rank"} <= given.keys() else []
    asked += [math.prod(given["shape"])] if "shape" in given else []
    if any(n > most for n in asked):
        raise ValueError(f"it should have {max(asked)} numbers, but {most} are there")
