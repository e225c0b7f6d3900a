"""Figures: a result goes in, a ``plotly.graph_objects.Figure`` comes out. Nothing is shown, nothing global changes."""

from interp.views.curve import curve
from interp.views.export import ExportError, can_export, save
from interp.views.head_to_head import head_to_head
from interp.views.heatmap import heatmap
from interp.views.layout import COLUMN, PAGE

__all__ = ["COLUMN", "PAGE", "ExportError", "can_export", "curve", "head_to_head", "heatmap", "save"]
