"""Runs on disk: ``Store(path)`` saves, lists and loads results. Imports no torch; nothing is ever unpickled."""

from interp.store.folder import Run
from interp.store.identity import run_id
from interp.store.runs import Store

__all__ = ["Run", "Store", "run_id"]
