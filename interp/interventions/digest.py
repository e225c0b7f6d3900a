"""The fingerprint of what was learned, so that a result names the very values it was measured with.

>>> digest({"logits": torch.zeros(2)}) == digest({"logits": torch.zeros(3)})
False
>>> told(Scale(0.5))                                                                      # doctest: +SKIP
{'kind': 'scale', 'factor': 0.5}
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from interp.models.digest import absorb
from interp.own_code import in_writing, own_code


def digest(tensors: Mapping[str, Tensor]) -> str:
    """The first 16 hexadecimal digits of the sha256 of tensors with their names, shapes and dtypes, on any device."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        absorb(total, name, tensor)
    return total.hexdigest()[:16]


def told(part: Any) -> dict[str, Any]:
    """What a source, an edit or a featurizer says of itself; of one of the user's own also its code, and what it holds.

    Of what cannot be told, that it is a function: the run is anonymous.
    """
    said, code = part.spec(), own_code(part)
    if said is None or code is None:
        return {"kind": type(part).__name__, "function": None}
    return said | ({"code": code, "holds": _held(part)} if code else {})


def _held(part: Any) -> dict[str, str]:
    """Tensors and plain values by name, whether or not the part's own ``spec`` thinks of them."""
    slots = {one.name: getattr(part, one.name) for one in fields(part)} if is_dataclass(part) else {}
    named = {**getattr(part, "__dict__", {}), **slots}
    named = {name: value for name, value in named.items() if name not in _OF_MODULES}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    tensors |= part.state_dict() if isinstance(part, nn.Module) else {}
    found = {name: in_writing(value) for name, value in named.items() if name not in tensors}
    plain = {name: text for name, text in sorted(found.items()) if text is not None}
    return plain | ({"sha256": digest(tensors)} if tensors else {})


def anonymous(spec: Any) -> bool:
    """Whether a spec holds a function, which has no canonical description."""
    if isinstance(spec, dict):
        return ("function" in spec and spec["function"] is None) or any(anonymous(v) for v in spec.values())
    return isinstance(spec, list) and any(anonymous(v) for v in spec)


_OF_MODULES = vars(nn.Module())
