"""Pictures of heatmaps, shares of relevance, training curves and the terms of the heatmap loss.

Every function returns a new `matplotlib.figure.Figure` that belongs to no window: save it with
``figure.savefig(path)``, or let a notebook show it. Nothing global of Matplotlib changes. Needs the extra ``plotting``.
"""

from zennit_isnet.plotting.curves import training_curves
from zennit_isnet.plotting.heatmaps import heatmap_panel
from zennit_isnet.plotting.loss_terms import background_term, foreground_term, rank_weights
from zennit_isnet.plotting.shares import share_by_class, share_histogram

__all__ = [
    "background_term",
    "foreground_term",
    "heatmap_panel",
    "rank_weights",
    "share_by_class",
    "share_histogram",
    "training_curves",
]
