"""Figures: a result goes in, a ``plotly.graph_objects.Figure`` comes out. Nothing is shown, nothing global changes."""

from interp.views.attention import attention
from interp.views.causal_model import causal_model
from interp.views.circuit import circuit
from interp.views.compare import compare
from interp.views.curve import curve
from interp.views.dla import dla
from interp.views.export import ExportError, can_export, exporting, save
from interp.views.faithfulness import faithfulness
from interp.views.fitting import fitting
from interp.views.gates import gates
from interp.views.head_to_head import head_to_head
from interp.views.heatmap import heatmap
from interp.views.iia import iia
from interp.views.layout import COLUMN, PAGE
from interp.views.lens import lens
from interp.views.maps import maps
from interp.views.pareto import pareto
from interp.views.paths import paths
from interp.views.roc import roc
from interp.views.specification import specification_curve
from interp.views.tokens import tokens
from interp.views.tracing import tracing

__all__ = [
    "COLUMN",
    "PAGE",
    "ExportError",
    "attention",
    "can_export",
    "causal_model",
    "circuit",
    "compare",
    "curve",
    "dla",
    "exporting",
    "faithfulness",
    "fitting",
    "gates",
    "head_to_head",
    "heatmap",
    "iia",
    "lens",
    "maps",
    "pareto",
    "paths",
    "roc",
    "save",
    "specification_curve",
    "tokens",
    "tracing",
]
