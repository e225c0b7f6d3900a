"""What is put where: sources, featurizers, edits, and interventions made of them. Pure tensor functions; they know no model."""

from __future__ import annotations

from interp.interventions.arranged import Arranged
from interp.interventions.columns import Columns
from interp.interventions.composed import Composed, Span
from interp.interventions.constants import ConstantVector
from interp.interventions.dictionary import SparseAutoencoder
from interp.interventions.edit import Add, Apply, Cut, Edit, Interpolate, Replace, Scale, knock_out
from interp.interventions.featurizer import Featurizer, Identity, Subspace
from interp.interventions.files import from_safetensors, to_safetensors
from interp.interventions.fitted import Fit, Fitted, each, lda, mean_difference, pca, pls, random_subspace
from interp.interventions.free import Context, Free
from interp.interventions.intervention import Change, EditLike, Intervention, apply, freely
from interp.interventions.joint import Joint
from interp.interventions.knockout import attention_knockout
from interp.interventions.learned import Gate, Select
from interp.interventions.masks import BoundlessMask, HardConcrete, Mask
from interp.interventions.peeking import cama, peeking
from interp.interventions.probes import Classifier, classifier, kmeans, linear_probe
from interp.interventions.revnet import RevNet
from interp.interventions.rotation import Rotation
from interp.interventions.source import Activation, Constant, Noise, Source, mean, noise, resample, zero
from interp.interventions.steering import AddPreservingNorm, ProjectOut, SetCoefficient, doses, strength_of
from interp.interventions.trained import learnable, once, parts

__all__ = [
    "Activation", "Add", "AddPreservingNorm", "Apply", "Arranged", "BoundlessMask", "Change", "Classifier", "Columns",
    "Composed", "Constant", "ConstantVector", "Context", "Cut", "Edit", "EditLike", "Featurizer", "Fit", "Fitted", "Free",
    "Gate", "HardConcrete", "Identity", "Interpolate", "Intervention", "Joint", "Mask", "Noise", "ProjectOut", "Replace",
    "RevNet", "Rotation", "Scale", "Select", "SetCoefficient", "Source", "Span", "SparseAutoencoder", "Subspace", "apply",
    "attention_knockout", "cama", "classifier", "doses", "each", "freely", "from_safetensors", "kmeans", "knock_out",
    "lda", "learnable", "linear_probe", "mean", "mean_difference", "noise", "once", "parts", "pca", "peeking", "pls",
    "random_subspace", "resample", "strength_of", "to_safetensors", "zero",
]  # fmt: skip
