"""pyvene: its interventions run in our engine, its configs are read and written, and what it saved is loaded."""

from __future__ import annotations

from interp.interop.pyvene.changes import Read, change
from interp.interop.pyvene.reading import Imported, from_config, load

__all__ = ["Imported", "Read", "change", "from_config", "load"]
