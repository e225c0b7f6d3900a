"""The architectures, for tests of loading: the one place from which these import them."""

from __future__ import annotations

from interp.doctor.architectures import ARCHITECTURES, build

__all__ = ["ARCHITECTURES", "SAVED", "build"]

SAVED = [name for name in ARCHITECTURES if name != "dcgan"]  # which is a plain module: nothing says how it is saved
