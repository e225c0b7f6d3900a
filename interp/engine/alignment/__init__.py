"""Alignments of a causal model's variables with subspaces of a network: learned or fitted, judged, and held to controls.

A method says how the part of one intervention is made, trained and made hard (:class:`Learner`); what is here lays it out over
sites, positions, ranks and seeds, trains all of them as rows of the same passes, judges them on other pairs by interchange
intervention accuracy, and repeats that where there is nothing to be found (:mod:`interp.engine.alignment.controls`).
"""

from __future__ import annotations

from interp.engine.alignment.aligned import Aligned, search_for
from interp.engine.alignment.controls import CONTROLS, RETRAINED, Controls
from interp.engine.alignment.learner import Learner, Part, Shape
from interp.engine.alignment.search import Training

__all__ = ["CONTROLS", "RETRAINED", "Aligned", "Controls", "Learner", "Part", "Shape", "Training", "search_for"]
