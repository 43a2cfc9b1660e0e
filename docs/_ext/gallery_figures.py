"""Shows the Matplotlib figure that the last line of a gallery block evaluates to, as a notebook would."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

LAST_VALUE = "___"
"""The name under which sphinx-gallery keeps the value of a block's last line."""


def last_figure(
    block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any], **_: Any
) -> str:
    """Save the figure and return the reStructuredText that shows it."""
    names = block_vars["example_globals"]
    figure = names.get(LAST_VALUE)
    if not isinstance(figure, Figure):
        return ""
    names[LAST_VALUE] = None  # a later block may end without a value
    path = str(next(block_vars["image_path_iterator"]))
    figure.savefig(path, dpi=150)
    return str(figure_rst([path], gallery_conf["src_dir"]))
