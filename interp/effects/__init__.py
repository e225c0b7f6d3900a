"""Effects: what a sweep returns, and the quantities derived from it.

    >>> import numpy as np
    >>> from interp import effects
    >>> value = np.array([[[0.0, 1.0], [2.0, 3.0]]])                     # [metric, layer, example]
    >>> ds = effects.assemble(
    ...     value, clean=np.array([[2.0, 3.0]]), corrupt=np.array([[0.0, 1.0]]), axes={"layer": [0, 1]}, metrics=["logit_diff"],
    ...     attrs={"patching": "denoising", "noise_floor": {"logit_diff": 0.0}, "engine_semantics": 1, "spec": {"demo": 1}})
    >>> effects.recovery(ds).values
    array([[0., 1.]])

One ``xarray.Dataset`` is one rectangular family. Its variables hold raw numbers, an example at a time; recovery, damage and
effect are functions of them, so that nothing is lost by having chosen one of them early.

=============  =========================  ================================================================================
variable       dims                       meaning
=============  =========================  ================================================================================
``value``      metric, *axes, example     the metric with the intervention in force; NaN = not yet computed
``clean``      metric, example            the metric of the clean run
``corrupt``    metric, example            the metric of the corrupted run
``given``      metric, example            the metric of the base with what was in force before any cell; only with given=
``by_rule``    *axes, example             True where value is known to equal the base without a forward pass
``absent``     *axes                      True where the site does not exist (optional; its values are NaN)
``score``      metric, *axes, example     by what cells are ranked where it is not their effect, 0 or more (optional; AtP*)
=============  =========================  ================================================================================

``axes`` is any subset of ``interp.axes.SWEPT``, in that order. Where results of several models are stacked
(:func:`interp.over`), ``clean``, ``corrupt`` and ``given`` have the axes of the models too (``interp.axes.MODELS``), behind
metric. Coordinates: names of metrics and roles are text, layers, heads, units and raw positions are integers; ``template``,
``clean_prompt``, ``corrupted_prompt``, ``answer`` and ``wrong`` run along example, ``clean_token`` and ``corrupted_token``
along position and example, and ``role``, which all clean prompts have at a raw position, along position; ``source_token`` and
``source_role`` say the same of ``source_position``, where knockouts sweep what is attended to. A ``cell`` axis carries plain
coordinates (layer, head, position …) along itself. ``attrs`` is JSON: the keys of :data:`PROVENANCE` and anything else;
``axis_titles`` is what figures call axes that mean something of their own. Of prompts without a counterfactual ``clean`` and
``corrupt`` are the same and the attribute ``paired`` is False: nothing is normalised.

Several families are an ``xarray.DataTree`` of such datasets.
"""

from interp.effects import curves
from interp.effects.cells import at, behind, cell_name, choose_metric, furthest
from interp.effects.clusters import FEWEST_CLUSTERS, Clusters, clusters_of
from interp.effects.faithfulness import against_random, circuit_areas, faithfulness
from interp.effects.flagging import Overlap, flagged, overlap
from interp.effects.interactions import interaction, pairwise
from interp.effects.mediation import mediation
from interp.effects.origin import STAMP, derived, stamped
from interp.effects.quantities import damage, effect, noise_floor, quantity_of, recovery, value_of
from interp.effects.schema import (
    DENOISING,
    PATCHING,
    PROVENANCE,
    EffectsError,
    assemble,
    base,
    families,
    is_effects,
    paired,
    swept_axes,
    unread,
    validate,
)
from interp.effects.selection import digests, examples_of, mark_in_sample
from interp.effects.significance import sign_flip, sign_flip_together
from interp.effects.stability import stability
from interp.effects.stacked import attrs_of
from interp.effects.strongest import top
from interp.effects.summaries import summary

__all__ = [
    "DENOISING", "FEWEST_CLUSTERS", "PATCHING", "PROVENANCE", "STAMP", "Clusters", "EffectsError", "Overlap",
    "against_random", "assemble", "at", "attrs_of", "base", "behind", "cell_name", "choose_metric", "circuit_areas",
    "clusters_of", "curves", "damage", "derived", "digests", "effect", "examples_of", "faithfulness", "families", "flagged",
    "furthest", "interaction", "is_effects", "mark_in_sample", "mediation", "noise_floor", "overlap", "paired", "pairwise",
    "quantity_of", "recovery", "sign_flip", "sign_flip_together", "stability", "stamped", "summary", "swept_axes", "top",
    "unread", "validate", "value_of",
]  # fmt: skip
