"""Pictures of heatmaps, shares of relevance and training curves.

Every function returns a new `matplotlib.figure.Figure` that belongs to no window: save it with
``figure.savefig(path)``, or let a notebook show it. Nothing global of Matplotlib changes. Needs the extra ``plotting``.
"""

from zennit_isnet.plotting.graphs import share_by_class, share_histogram, training_curves
from zennit_isnet.plotting.heatmaps import heatmap_panel

__all__ = ["heatmap_panel", "share_by_class", "share_histogram", "training_curves"]
