"""Training: of interventions on the frozen model (:mod:`interp.training.interventions`), and of networks, always on an explicit
copy with a digest of its own (:mod:`interp.training.networks`). Nothing else in the workbench changes weights.
"""

from __future__ import annotations

from interp.training.interchanges import Interchanges
from interp.training.interventions import Objective, Penalty, Schedule, Trained, fit
from interp.training.networks import reinitialised, shuffled, train

__all__ = ["Interchanges", "Objective", "Penalty", "Schedule", "Trained", "fit", "reinitialised", "shuffled", "train"]
