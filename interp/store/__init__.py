"""Runs on disk: ``Store(place)`` saves, lists and loads results. Imports no torch; nothing is ever unpickled."""

from interp.store.identity import run_id
from interp.store.run import Run
from interp.store.runs import Store
from interp.store.units import Unit
from interp.store.writing import Writing

__all__ = ["Run", "Store", "Unit", "Writing", "run_id"]
