"""A matrix with named rows and columns that stays legible, however many there are.

Names are shortened until none leaves the picture, letters shrink with the cells, every other name
is left out where they would be too small, and so are the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ._colours import Palette, legible_on
from ._common import PLAIN, full_names, import_pyplot, short_names
from ._room import LETTER, SMALLEST, label_axis, room, tick_size

__all__ = ["Matrix", "draw_matrix"]

_LONGEST = 28  # letters of a name
_SHORTEST = 3
_LARGEST_FIGURE = 14.0  # inches
_MOST_OF_ROOM = 0.34  # that the names of a side may take
_SMALL = 200.0  # points, below which a scale goes without its label


class Matrix:
    """What `draw_matrix` has drawn.

    Attributes
    ----------
    im : matplotlib.image.AxesImage
    text : ndarray of shape (n_rows, n_columns), dtype=object
        The written values, None where there is none.
    colorbar : matplotlib.colorbar.Colorbar or None
    names : dict of str to str
        Full names of those that were shortened.
    """

    def __init__(self, im: Any, text: np.ndarray, colorbar: Any, names: dict[str, str]) -> None:
        self.im, self.text, self.colorbar, self.names = im, text, colorbar, names


def draw_matrix(
    matrix: np.ndarray,
    rows: Sequence[Any],
    columns: Sequence[Any],
    *,
    ax: Any = None,
    cell: float = 0.3,
    rotation: float = 90,
    cmap: Any = None,
    falling: bool = False,
    values: Callable[[int, int], str | None] | None = None,
    colorbar: Mapping[str, Any] | None = None,
    labels: tuple[str, str] = ("", ""),
    im_kw: Mapping[str, Any] | None = None,
    text_kw: Mapping[str, Any] | None = None,
) -> Matrix:
    """Draw a matrix.

    Parameters
    ----------
    matrix : ndarray of shape (n_rows, n_columns)
        NaN leaves a cell empty.
    rows, columns : sequence
        Names.
    ax : matplotlib.axes.Axes or None
        Where to draw; a new figure that grows with the matrix if None.
    cell : float
        Side of a cell in inches, in a new figure that may grow.
    rotation : float
        Of the columns' names, in degrees.
    cmap : str or Colormap or None
        None for colours of the style, from the paper to the accent; `falling` turns them round.
    falling : bool
    values : callable, optional
        Returns what is written into a cell, or None.
    colorbar : mapping, optional
        Of ``Figure.colorbar``.
    labels : tuple of two str
        Of rows and columns.
    im_kw, text_kw : mapping, optional
    """
    if ax is None:
        ax = _new_axes(matrix.shape, rows, columns, cell, colorbar is not None)
    figure, palette = ax.figure, Palette.of(ax)
    colours = palette.ramp(falling=falling) if cmap is None else cmap
    im = ax.imshow(matrix, **{"cmap": colours, **(im_kw or {})})
    bar = None
    if colorbar is not None:
        if min(room(ax)) < _SMALL:
            colorbar = {key: value for key, value in colorbar.items() if key != "label"}
        bar = figure.colorbar(im, ax=ax, **{"shrink": 0.8, **colorbar})
        bar.outline.set_visible(False)
        if min(room(ax)) < _SMALL:
            bar.ax.locator_params(nbins=3)
            bar.ax.tick_params(labelsize=6)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    for label, axis in zip(labels, (ax.yaxis, ax.xaxis), strict=True):
        if label:
            label_axis(axis, label)
    names = _name_cells(ax, rows, columns, rotation)
    text = np.full(matrix.shape, None, dtype=object)
    if values is not None:
        _write_values(ax, im, matrix, values, text, text_kw)
    return Matrix(im, text, bar, names)


def _new_axes(
    shape: tuple[int, ...], rows: Sequence[Any], columns: Sequence[Any], cell: float, bar: bool
) -> Any:
    """Axes of a new figure, with room for the names."""
    plt = import_pyplot()
    height, width = (max(cell * n, 1.5) for n in shape)
    beside, below = (
        0.085 * min(max((len(str(name)) for name in names), default=0), _LONGEST)
        for names in (rows, columns)
    )
    width, height = width + beside + (1.4 if bar else 0.6), height + below + 0.8
    size = min(width, _LARGEST_FIGURE), min(height, _LARGEST_FIGURE)
    return plt.subplots(figsize=size, layout="compressed")[1]


def _name_cells(ax: Any, rows: Sequence[Any], columns: Sequence[Any], rotation: float) -> dict:
    """Name rows and columns; returns the full names of those that were shortened."""
    letters = _MOST_OF_ROOM * min(room(ax)) / (LETTER * SMALLEST)
    longest = max(_SHORTEST, min(_LONGEST, int(letters)))
    while True:
        full: dict[str, str] = {}
        _cell_size(ax)  # settles the layout
        for axis, names, turn in ((ax.yaxis, rows, 0.0), (ax.xaxis, columns, rotation)):
            short = short_names(names, longest)
            full |= full_names(short, names)
            _name_axis(ax, axis, short, turn)
        if longest <= _SHORTEST or _names_fit(ax):
            return full
        longest = max(_SHORTEST, min(longest - 1, int(longest * 0.75)))


def _name_axis(ax: Any, axis: Any, names: list[str], rotation: float) -> None:
    size = min(tick_size(axis), 0.85 * _cell_size(ax))
    step = 1 if size >= SMALLEST else math.ceil(SMALLEST / max(size, 0.1))
    kept = range(0, len(names), step)
    style: dict[str, Any] = {"fontsize": max(size, SMALLEST), **PLAIN}
    if rotation % 90:
        style |= {"rotation": rotation, "ha": "right", "rotation_mode": "anchor"}
    elif rotation:
        style["rotation"] = rotation
    axis.set_ticks(list(kept), [names[i] for i in kept], **style)


def _names_fit(ax: Any) -> bool:
    """Whether no name leaves the picture, and enough is left for the cells."""
    figure = ax.figure.canvas.figure
    figure.draw_without_rendering()
    width, height = figure.bbox.width, figure.bbox.height
    boxes = [
        label.get_window_extent()
        for axis in (ax.xaxis, ax.yaxis)
        for label in [*axis.get_ticklabels(), axis.label]
        if label.get_text()
    ]
    inside = all(
        box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes
    )
    most = [_MOST_OF_ROOM * side * figure.dpi / 72 for side in room(ax)]
    taken = [
        max(
            (getattr(label.get_window_extent(), side) for label in axis.get_ticklabels()), default=0
        )
        for axis, side in ((ax.yaxis, "width"), (ax.xaxis, "height"))
    ]
    return inside and all(one <= limit for one, limit in zip(taken, most, strict=True))


def _cell_size(ax: Any) -> float:
    """Side of a cell in points."""
    figure = ax.figure.canvas.figure
    figure.draw_without_rendering()
    box = ax.get_window_extent()
    n_rows, n_columns = ax.images[0].get_array().shape
    return 72 / figure.dpi * min(box.width / n_columns, box.height / n_rows)


def _write_values(
    ax: Any,
    im: Any,
    matrix: np.ndarray,
    values: Callable[[int, int], str | None],
    text: np.ndarray,
    text_kw: Mapping[str, Any] | None,
) -> None:
    """Write values where they are legible, in letters that contrast with their cells."""
    labels = {
        (row, column): label
        for row, column in np.argwhere(np.isfinite(matrix)).tolist()
        if (label := values(row, column)) is not None
    }
    longest = max(map(len, labels.values()), default=1)
    size = min(tick_size(ax.xaxis), _cell_size(ax) * min(0.7, 0.9 / (LETTER * longest)))
    if size < SMALLEST and "fontsize" not in (text_kw or {}):
        return
    for (row, column), label in labels.items():
        colour = im.cmap(im.norm(matrix[row, column]))
        style = {"color": legible_on(colour[:3]), "fontsize": size, "ha": "center", "va": "center"}
        text[row, column] = ax.text(column, row, label, **{**style, **(text_kw or {})})
