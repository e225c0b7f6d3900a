"""What every kernel checks of its arguments before any pointer is read.

>>> import torch
>>> sizes("demo", h=(torch.zeros(2, 3), "row width"), s=(torch.zeros(2, 3), "row width"))
{'row': 2, 'width': 3}
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from interp.errors import KernelError, ShapeMismatchError


def sizes(kernel: str, **tensors: tuple[Tensor | None, str]) -> dict[str, int]:
    """Size of every named axis; tensors are given with their axes (``"row width"``), or as None where they are absent.

    Raises:
        ShapeMismatchError: two tensors disagree about an axis, or one has another number of axes.
        KernelError: tensors on different devices.
    """
    given = {name: (tensor, axes.split()) for name, (tensor, axes) in tensors.items() if tensor is not None}
    found: dict[str, int] = {}
    for tensor, axes in given.values():
        fits = tensor.ndim == len(axes) and all(found.setdefault(a, n) == n for a, n in zip(axes, tensor.shape, strict=True))
        if not fits:
            parties = ", ".join(f"{name} [{' '.join(axes)}] = {tuple(t.shape)}" for name, (t, axes) in given.items())
            raise ShapeMismatchError(f"{kernel}: shapes do not fit: {parties}; axes of one name have one size")
    devices = {name: tensor.device for name, (tensor, _) in given.items()}
    if len(set(devices.values())) > 1:
        listed = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise KernelError(f"{kernel}: expected all tensors on one device, got {listed}")
    return found


def indices(kernel: str, argument: str, ids: Tensor, size: int, *, padding: bool = False) -> None:
    """Raise ``KernelError`` unless every index is in ``[0, size)``, or −1 where padding is allowed."""
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise KernelError(f"{kernel}: {argument} are indices, expected integers, got {ids.dtype}")
    if not ids.numel():
        return
    least, most = (int(end) for end in ids.aminmax())
    if least < (-1 if padding else 0) or most >= size:
        also = ", or −1 for padding" if padding else ""
        raise KernelError(f"{kernel}: {argument} hold {least} … {most}, expected 0 … {size - 1}{also}")


def frozen(kernel: str, **tensors: Tensor | None) -> None:
    """Raise ``KernelError`` where a gradient that the kernel does not compute would be missing without a word."""
    if not torch.is_grad_enabled():
        return
    for name, tensor in tensors.items():
        if tensor is not None and tensor.requires_grad:
            raise KernelError(f"{kernel}: {name} requires a gradient, and only x gets one; pass {name}.detach()")


def first_derivative_only(kernel: str) -> None:
    """Raise ``KernelError`` in a backward pass that is to be differentiated itself: the result would pass for a constant."""
    if torch.is_grad_enabled():
        raise KernelError(f"{kernel}: a second derivative is not offered; leave create_graph=False, or compute in plain torch")


def accumulator(*tensors: Tensor | None) -> torch.dtype:
    """The type of sums: float32, or float64 where an input is."""
    return reduce(torch.promote_types, (t.dtype for t in tensors if t is not None), torch.float32)
