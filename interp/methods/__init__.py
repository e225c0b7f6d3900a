"""One published method a file, in families; activation patching itself is the engine's ``patch``.

>>> from interp import methods
>>> methods.table()                                             # every method  # doctest: +SKIP
"""

from __future__ import annotations

from interp.methods.registry import Method, table

__all__ = ["Method", "table"]
