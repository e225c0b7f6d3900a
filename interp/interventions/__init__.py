"""What is put where: sources, featurizers, edits, and interventions made of them. Pure tensor functions; they know no model."""

from __future__ import annotations

from interp.interventions.edit import Add, Apply, Edit, Interpolate, Replace, Scale, knock_out
from interp.interventions.featurizer import Featurizer, Identity, Subspace
from interp.interventions.intervention import Change, Intervention, apply
from interp.interventions.source import Activation, Constant, Noise, Source, mean, noise, resample, zero

__all__ = [
    "Activation", "Add", "Apply", "Change", "Constant", "Edit", "Featurizer", "Identity", "Interpolate", "Intervention",
    "Noise",
    "Replace", "Scale", "Source", "Subspace", "apply", "knock_out", "mean", "noise", "resample", "zero",
]  # fmt: skip
