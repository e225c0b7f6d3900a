"""interp: find out by intervention which parts of a neural network cause its behaviour.

    >>> import interp
    >>> model = interp.load("zoo/language-4l")
    >>> pairs = interp.tasks.ioi(64, seed=0, tokenizer=model.tokenizer)
    >>> where = interp.grid("resid_pre", position=["IO", "S1", "S2", "END"])
    >>> effects = interp.patch(model, pairs, where, metric="logit_diff")
    >>> figure = interp.views.heatmap(effects)

Names are imported when they are first used, so that ``import interp`` is quick and a process that only reads results never
loads torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from interp.verbs import promised

if TYPE_CHECKING:
    from interp import axes, circuits, effects, methods, metrics, models, sites, stats, store, tasks, training, views
    from interp.effects import damage, effect, recovery, summary, top
    from interp.engine import Run, attribute, check, edited, explain, generate, patch, patch_circuits, patch_edges, run, score
    from interp.engine.graph.edges import graph
    from interp.engine.over import over
    from interp.engine.single.cache import cache
    from interp.interventions import (
        Activation,
        Add,
        AddPreservingNorm,
        Change,
        Constant,
        Interpolate,
        Intervention,
        Noise,
        ProjectOut,
        Replace,
        Scale,
        SetCoefficient,
        Subspace,
        doses,
    )
    from interp.methods.ablation.ablation import ablate, optimal_constants
    from interp.methods.abstraction.binary_masking import binary_masking
    from interp.methods.abstraction.boundless import boundless_das
    from interp.methods.abstraction.correctness import predict_correctness
    from interp.methods.abstraction.das import das
    from interp.methods.abstraction.interchange import answered, interchange
    from interp.methods.abstraction.interchange_training import interchange_training
    from interp.methods.abstraction.mixing_mechanisms import mixing_mechanisms
    from interp.methods.abstraction.mixture import fit_mixture
    from interp.methods.abstraction.neuron_explanations import interchange_neurons, score_explanations
    from interp.methods.abstraction.nonlinear import nonlinear_das
    from interp.methods.circuits.acdc import acdc
    from interp.methods.circuits.completeness import completeness, minimality
    from interp.methods.circuits.diffmask import diffmask
    from interp.methods.circuits.edge_attribution import attribute_edges
    from interp.methods.circuits.evaluation import evaluate_circuits
    from interp.methods.circuits.head_gating import gate_heads
    from interp.methods.circuits.head_gating.contrastive import contrastive_gates
    from interp.methods.circuits.head_gating.ordered import ordered_ablation
    from interp.methods.circuits.information_flow import information_flow
    from interp.methods.circuits.interactions import interactions
    from interp.methods.circuits.learned_masks import edge_pruning, subnetwork_probing
    from interp.methods.localise.activation_patching import compare_choices
    from interp.methods.localise.all_for_one import all_for_one
    from interp.methods.localise.atp_star import atp_star
    from interp.methods.localise.attention_knockout import knockout
    from interp.methods.localise.attention_knockout_readout import knockout_readout
    from interp.methods.localise.causal_mediation import concentration, mediate
    from interp.methods.localise.causal_paths import causal_paths
    from interp.methods.localise.causal_tracing import trace
    from interp.methods.localise.integrated_gradients import integrated_gradients
    from interp.methods.localise.multiverse import multiverse
    from interp.methods.localise.off_distribution import off_distribution
    from interp.methods.localise.path_patching import path_patch
    from interp.methods.localise.positional_patterns import positional_patterns
    from interp.methods.localise.self_repair import self_repair
    from interp.methods.localise.subset_bound import subset_bound
    from interp.methods.localise.token_lens import token_lens
    from interp.methods.localise.verification import verify
    from interp.methods.readouts.attention_patterns import attention
    from interp.methods.readouts.direct_logit_attribution import dla
    from interp.methods.readouts.logit_lens import lens
    from interp.models import Model, load, weights
    from interp.models.reweighted import reweighted
    from interp.prompts import Pair, Pairs, Prompt
    from interp.prompts.asking import pairs
    from interp.reruns import rerun
    from interp.sites import Positions, Site, grid, hook_name
    from interp.store import Store

_ROOMS = (
    "axes",
    "circuits",
    "effects",
    "engine",
    "interventions",
    "methods",
    "metrics",
    "models",
    "report",
    "sites",
    "stats",
    "store",
    "tasks",
    "training",
    "views",
)
_NAMES = {
    "interp.prompts.asking": ("pairs",),
    "interp.engine.graph.edges": ("graph",),
    "interp.engine.over": ("over",),
    "interp.engine.single.cache": ("cache",),
    "interp.methods.abstraction.binary_masking": ("binary_masking",),
    "interp.methods.abstraction.boundless": ("boundless_das",),
    "interp.methods.abstraction.correctness": ("predict_correctness",),
    "interp.methods.abstraction.das": ("das",),
    "interp.methods.abstraction.interchange": ("answered", "interchange"),
    "interp.methods.abstraction.interchange_training": ("interchange_training",),
    "interp.methods.abstraction.mixing_mechanisms": ("mixing_mechanisms",),
    "interp.methods.abstraction.mixture": ("fit_mixture",),
    "interp.methods.abstraction.neuron_explanations": ("interchange_neurons", "score_explanations"),
    "interp.methods.abstraction.nonlinear": ("nonlinear_das",),
    "interp.methods.ablation.ablation": ("ablate", "optimal_constants"),
    "interp.methods.circuits.acdc": ("acdc",),
    "interp.methods.circuits.diffmask": ("diffmask",),
    "interp.methods.circuits.completeness": ("completeness", "minimality"),
    "interp.methods.circuits.edge_attribution": ("attribute_edges",),
    "interp.methods.circuits.evaluation": ("evaluate_circuits",),
    "interp.methods.circuits.learned_masks": ("edge_pruning", "subnetwork_probing"),
    "interp.methods.circuits.information_flow": ("information_flow",),
    "interp.methods.circuits.interactions": ("interactions",),
    "interp.methods.circuits.head_gating": ("gate_heads",),
    "interp.methods.circuits.head_gating.contrastive": ("contrastive_gates",),
    "interp.methods.circuits.head_gating.ordered": ("ordered_ablation",),
    "interp.methods.localise.causal_mediation": ("concentration", "mediate"),
    "interp.methods.localise.activation_patching": ("compare_choices",),
    "interp.methods.localise.all_for_one": ("all_for_one",),
    "interp.methods.localise.atp_star": ("atp_star",),
    "interp.methods.localise.attention_knockout": ("knockout",),
    "interp.methods.localise.attention_knockout_readout": ("knockout_readout",),
    "interp.methods.localise.integrated_gradients": ("integrated_gradients",),
    "interp.methods.localise.subset_bound": ("subset_bound",),
    "interp.methods.localise.token_lens": ("token_lens",),
    "interp.methods.localise.verification": ("verify",),
    "interp.methods.localise.causal_paths": ("causal_paths",),
    "interp.methods.localise.causal_tracing": ("trace",),
    "interp.methods.localise.multiverse": ("multiverse",),
    "interp.methods.localise.off_distribution": ("off_distribution",),
    "interp.methods.localise.path_patching": ("path_patch",),
    "interp.methods.localise.positional_patterns": ("positional_patterns",),
    "interp.methods.localise.self_repair": ("self_repair",),
    "interp.methods.readouts.attention_patterns": ("attention",),
    "interp.methods.readouts.direct_logit_attribution": ("dla",),
    "interp.methods.readouts.logit_lens": ("lens",),
    "interp.models.reweighted": ("reweighted",),
    "interp.effects": ("damage", "effect", "recovery", "summary", "top"),
    "interp.engine": (
        *("Run", "attribute", "check", "edited", "explain", "generate", "patch", "patch_circuits", "patch_edges", "run"),
        "score",
    ),
    "interp.interventions": (
        *("Activation", "Add", "AddPreservingNorm", "Change", "Constant", "Interpolate", "Intervention", "Noise", "ProjectOut"),
        *("Replace", "Scale", "SetCoefficient", "Subspace", "doses"),
    ),
    "interp.models": ("Model", "load"),
    "interp.prompts": ("Pair", "Pairs", "Prompt"),
    "interp.reruns": ("rerun",),
    "interp.sites": ("Positions", "Site", "grid", "hook_name"),
    "interp.store": ("Store",),
}
promised({"run": "interp.engine:run", "edited": "interp.engine:edited", "check": "interp.engine:check"})
_HOME = {name: home for home, names in _NAMES.items() for name in names}

__all__ = [
    "Activation",
    "Add",
    "AddPreservingNorm",
    "Change",
    "Constant",
    "Interpolate",
    "Intervention",
    "Model",
    "Noise",
    "Pair",
    "Pairs",
    "Positions",
    "ProjectOut",
    "Prompt",
    "Replace",
    "Run",
    "Scale",
    "SetCoefficient",
    "Site",
    "Store",
    "Subspace",
    "ablate",
    "acdc",
    "all_for_one",
    "answered",
    "atp_star",
    "attention",
    "attribute",
    "attribute_edges",
    "axes",
    "binary_masking",
    "boundless_das",
    "cache",
    "causal_paths",
    "check",
    "circuits",
    "compare_choices",
    "completeness",
    "concentration",
    "contrastive_gates",
    "damage",
    "das",
    "diffmask",
    "dla",
    "doses",
    "edge_pruning",
    "edited",
    "effect",
    "effects",
    "evaluate_circuits",
    "explain",
    "fit_mixture",
    "gate_heads",
    "generate",
    "graph",
    "grid",
    "hook_name",
    "information_flow",
    "integrated_gradients",
    "interactions",
    "interchange",
    "interchange_neurons",
    "interchange_training",
    "knockout",
    "knockout_readout",
    "lens",
    "load",
    "mediate",
    "methods",
    "metrics",
    "minimality",
    "mixing_mechanisms",
    "models",
    "multiverse",
    "nonlinear_das",
    "off_distribution",
    "optimal_constants",
    "ordered_ablation",
    "over",
    "pairs",
    "patch",
    "patch_circuits",
    "patch_edges",
    "path_patch",
    "positional_patterns",
    "predict_correctness",
    "recovery",
    "rerun",
    "reweighted",
    "run",
    "score",
    "score_explanations",
    "self_repair",
    "sites",
    "stats",
    "store",
    "subnetwork_probing",
    "subset_bound",
    "summary",
    "tasks",
    "token_lens",
    "top",
    "trace",
    "training",
    "verify",
    "views",
    "weights",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        found = getattr(import_module(_HOME[name]), name)
    elif name == "__version__":
        from importlib.metadata import version

        found = version("interp-workbench")
    elif name == "weights":
        found = import_module("interp.models.weights")
    elif name in _ROOMS:
        found = import_module(f"interp.{name}")
    else:
        from interp.errors import nearest

        hint = nearest(name, __all__)
        raise AttributeError(f"interp has no {name!r}{'; did you mean ' + ' or '.join(map(repr, hint)) + '?' if hint else ''}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
