"""How much room axes have, so that what is written around them stays within it."""

from __future__ import annotations

import textwrap
from typing import Any

from ._common import PLAIN

__all__ = ["LETTER", "SMALLEST", "label_axis", "room", "tick_size"]

LETTER = 0.62
"""Mean width of a letter, in heights."""

SMALLEST = 5.0
"""Letters in points."""


def room(ax: Any) -> tuple[float, float]:
    """Width and height in points of the part of the picture that is for axes and their names."""
    figure = ax.figure
    width, height = (72 / figure.dpi * side for side in (figure.bbox.width, figure.bbox.height))
    spec = ax.get_subplotspec()
    if spec is None:
        box = ax.get_position(original=True)
        return width * box.width, height * box.height
    grid = spec.get_gridspec()
    return (
        width * len(spec.colspan) / grid.ncols,
        height * len(spec.rowspan) / grid.nrows,
    )


def tick_size(axis: Any) -> float:
    """Size of the letters of names in the style, in points."""
    import matplotlib as mpl
    from matplotlib.font_manager import FontProperties

    settings: Any = mpl.rcParams
    size = settings[f"{axis.axis_name}tick.labelsize"]
    return 0.9 * FontProperties(size=size).get_size_in_points()


def label_axis(axis: Any, text: str) -> None:
    """Label an axis in letters, and on two lines if need be, that its length has room for."""
    from matplotlib.font_manager import FontProperties

    length = 0.7 * room(axis.axes)[axis.axis_name == "y"]
    default = FontProperties(size=axis.label.get_size()).get_size_in_points()
    size = min(default, length / (LETTER * max(len(text), 1)))
    if size < 0.75 * default:
        text = textwrap.fill(text, -(-len(text) // 2) + 3)
        size = min(default, length / (LETTER * max(map(len, text.split("\n")))))
    axis.set_label_text(text, fontsize=max(size, SMALLEST), **PLAIN)
