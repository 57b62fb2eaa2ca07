"""Distances between datasets: from one to all, and between all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._colours import Palette
from ._common import PLAIN, fitted_attribute, full_names, import_pyplot, short_names
from ._matrix import draw_matrix
from ._room import LETTER, label_axis, room, tick_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

__all__ = ["DistanceDisplay", "DistanceHeatmapDisplay"]

_FROM_ZERO = 0.5  # of the farthest distance: where the nearest is beyond, bars hide differences
_TALLEST = 14.0  # inches
_LONGEST, _SHORTEST = 40, 3  # letters of a name
_LEAST_ROW = 6.0  # points that a row needs for letters
_VALUE = 8.3  # letters of a value in points


class DistanceDisplay:
    """Distances from one dataset to the sources of a zoo, ranked.

    They are bars where the nearest is at most half as far as the farthest. Else their differences,
    which matter, would be the ends of long bars: they are points on an axis that does not begin
    at zero.

    Parameters
    ----------
    distances : dict of str to float
        The distance to each source.
    source : str or None, default=None
        The source that was chosen, which stands out.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes drawn on.
    figure_ : matplotlib.figure.Figure
        Its figure.
    bars_ : matplotlib.container.BarContainer or None
        The bars, the nearest source first; None where points are drawn.
    points_ : matplotlib.collections.PathCollection or None
        The points; None where bars are drawn.
    text_ : list of matplotlib.text.Text
        The distances beside them: none where the axes are too small for them.
    names_ : dict of str to str
        Full names of the sources whose names were shortened.

    See Also
    --------
    DistanceHeatmapDisplay : The distances between all datasets of a collection.

    Examples
    --------
    >>> display = DistanceDisplay({"flowers": 31.2, "digits": 12.5}, source="digits").plot()
    >>> [label.get_text() for label in display.ax_.get_yticklabels()]
    ['digits', 'flowers']
    """

    def __init__(self, distances: Mapping[str, float], *, source: str | None = None) -> None:
        self.distances = distances
        self.source = source

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, ax: Axes | None = None, **kwargs: Any
    ) -> DistanceDisplay:
        """Draw the distances from the training images of a fitted classifier.

        Parameters
        ----------
        estimator : SupernetTransferClassifier
            A classifier fitted with a strategy that measures distances.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure if None.
        **kwargs : dict
            Passed on to `plot`.

        Returns
        -------
        display : DistanceDisplay
            The display, drawn.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If `estimator` is not fitted.
        ValueError
            If its strategy has measured no distances.
        """
        distances = fitted_attribute(estimator, "distances_")
        if not distances:
            raise ValueError(
                f"The strategy {estimator.strategy!r} has measured no distances. "
                "Fit with strategy='ot' to see them."
            )
        return cls(distances, source=estimator.source_).plot(ax=ax, **kwargs)

    def plot(
        self,
        *,
        ax: Axes | None = None,
        values_format: str = "#.3g",
        bar_kw: Mapping[str, Any] | None = None,
        text_kw: Mapping[str, Any] | None = None,
    ) -> DistanceDisplay:
        """Draw the bars.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure if None.
        values_format : str, default="#.3g"
            Format of the numbers.
        bar_kw : dict or None, default=None
            Keyword arguments for the bars.
        text_kw : dict or None, default=None
            Keyword arguments for the numbers.

        Returns
        -------
        display : DistanceDisplay
            The object itself.
        """
        plt = import_pyplot()
        ranked = sorted(self.distances.items(), key=lambda item: item[1])
        names, values = [name for name, _ in ranked], [value for _, value in ranked]
        if ax is None:
            figure_size = (6.4, min(1.0 + 0.3 * len(names), _TALLEST))
            _, ax = plt.subplots(figsize=figure_size, layout="constrained")
        self.ax_ = ax
        self.figure_ = ax.figure
        palette, places = Palette.of(ax), range(len(names))
        colours = [palette.accent if name == self.source else palette.pale for name in names]
        self.bars_ = self.points_ = None
        from_zero = not values or values[0] <= _FROM_ZERO * values[-1]
        if from_zero:
            style = {"color": colours, "height": 0.72, **(bar_kw or {})}
            self.bars_ = ax.barh(places, values, **style)
            label_axis(ax.xaxis, "distance")
        else:
            margin = max(0.25 * (values[-1] - values[0]), 1e-3 * values[-1])
            ax.hlines(places, values[0] - margin, values, color=palette.shade, linewidth=2)
            colours = [palette.accent if n == self.source else palette.muted for n in names]
            self.points_ = ax.scatter(
                values, places, **{"color": colours, "zorder": 3, **(bar_kw or {})}
            )
            label_axis(ax.xaxis, "distance (the axis does not begin at 0)")
        ax.set_ylim(len(names) - 0.4, -0.6)
        beside = 6 * LETTER * _VALUE + 8  # points that a value takes
        width = max(0.6 * room(ax)[0] - beside, beside)
        ax.margins(x=min(max(0.05, beside / width), 1.0))
        if not from_zero:
            ax.set_xlim(values[0] - margin)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
        self._name_rows(names, palette)
        self.text_ = []
        if (row := self._row_height()) >= _LEAST_ROW:
            for place, value in zip(places, values, strict=True):
                text_style = {
                    "fontsize": min(_VALUE, 0.8 * row),
                    "color": palette.ink,
                    "va": "center",
                }
                self.text_.append(
                    ax.annotate(
                        format(value, values_format),
                        (value, place),
                        **{
                            "xytext": (4 if from_zero else 6, 0),
                            "textcoords": "offset points",
                            "in_layout": False,  # the margin has room for it
                            **text_style,
                            **(text_kw or {}),
                        },
                    )
                )
        return self

    def _name_rows(self, names: Sequence[str], palette: Palette) -> None:
        """Name the rows; names leave at least half of the width to the distances."""
        figure = self.figure_.canvas.figure
        places = range(len(names))
        letters = 0.5 * room(self.ax_)[0] / (LETTER * tick_size(self.ax_.yaxis))
        longest = max(_SHORTEST, min(_LONGEST, int(letters)))
        while True:
            short = short_names(names, longest)
            self.ax_.set_yticks(places, short, **PLAIN)
            height = self._row_height()
            step = max(1, math.ceil(_LEAST_ROW / max(height, 0.1)))
            for place, label in enumerate(self.ax_.get_yticklabels()):
                chosen = names[place] == self.source
                label.set_fontweight("bold" if chosen else "normal")
                if chosen:
                    label.set_color(palette.accent)
                label.set_visible(chosen or place % step == 0)
                label.set_fontsize(min(label.get_fontsize(), max(0.9 * height, 5)))
            figure.draw_without_rendering()
            boxes = [label.get_window_extent() for label in self.ax_.get_yticklabels()]
            most = 0.5 * room(self.ax_)[0] * figure.dpi / 72
            fits = all(box.x0 >= 0 and box.width <= most for box in boxes)
            if fits or longest <= _SHORTEST:
                break
            longest = max(_SHORTEST, int(longest * 0.75))
        self.names_ = full_names(short, names)

    def _row_height(self) -> float:
        """Height of a row in points."""
        figure = self.figure_.canvas.figure
        figure.draw_without_rendering()
        height = self.ax_.get_window_extent().height * 72 / figure.dpi
        return height / max(len(self.distances), 1)


class DistanceHeatmapDisplay:
    """Matrix of the distances between datasets.

    The diagonal, a dataset's distance to itself, is left empty.

    Parameters
    ----------
    distances : array-like of shape (n_rows, n_columns)
        The distances; NaN where there is none.
    names : sequence of str of length n_rows
        The names of the rows.
    column_names : sequence of str of length n_columns or None, default=None
        The names of the columns, if they are not those of the rows.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes drawn on.
    figure_ : matplotlib.figure.Figure
        Its figure.
    im_ : matplotlib.image.AxesImage
        The matrix.
    text_ : ndarray of shape (n_rows, n_columns), dtype=object, or None
        The written values, None where a cell is empty or too small; None if they are left out.
    colorbar_ : matplotlib.colorbar.Colorbar or None
        The scale of the colours; None if it is left out.
    names_ : dict of str to str
        Full names of the datasets whose names were shortened.

    Raises
    ------
    ValueError
        If the names are not as many as the rows and columns.

    See Also
    --------
    DistanceDisplay : The distances from one dataset, ranked.

    Examples
    --------
    >>> display = DistanceHeatmapDisplay.from_distances([[0, 3], [3, 0]], ["digits", "flowers"])
    >>> display.text_[0, 1].get_text()
    '3.00'
    """

    def __init__(
        self,
        distances: ArrayLike,
        names: Sequence[str],
        *,
        column_names: Sequence[str] | None = None,
    ) -> None:
        columns = names if column_names is None else column_names
        shape = np.shape(distances)
        if shape != (len(names), len(columns)):
            raise ValueError(
                f"distances has the shape {shape}; {len(names)} row names and {len(columns)} "
                "column names were given."
            )
        self.distances = distances
        self.names = names
        self.column_names = column_names

    @classmethod
    def from_distances(
        cls,
        distances: ArrayLike,
        names: Sequence[str],
        *,
        column_names: Sequence[str] | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> DistanceHeatmapDisplay:
        """Draw a matrix of distances.

        Parameters
        ----------
        distances : array-like of shape (n_rows, n_columns)
            The distances; NaN where there is none.
        names : sequence of str of length n_rows
            The names of the rows.
        column_names : sequence of str of length n_columns or None, default=None
            The names of the columns, if they are not those of the rows.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure if None.
        **kwargs : dict
            Passed on to `plot`.

        Returns
        -------
        display : DistanceHeatmapDisplay
            The display, drawn.
        """
        return cls(distances, names, column_names=column_names).plot(ax=ax, **kwargs)

    def plot(
        self,
        *,
        ax: Axes | None = None,
        include_values: bool = True,
        values_format: str = "#.3g",
        cmap: Any = None,
        colorbar: bool = True,
        im_kw: Mapping[str, Any] | None = None,
        text_kw: Mapping[str, Any] | None = None,
    ) -> DistanceHeatmapDisplay:
        """Draw the matrix.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure that grows with the matrix if None.
        include_values : bool, default=True
            Whether to write the values.
        values_format : str, default="#.3g"
            Format of the values.
        cmap : str, matplotlib.colors.Colormap or None, default=None
            The colours; None for those of the style, in which near stands out.
        colorbar : bool, default=True
            Whether to add the scale of the colours.
        im_kw : dict or None, default=None
            Keyword arguments for ``imshow``.
        text_kw : dict or None, default=None
            Keyword arguments for the values.

        Returns
        -------
        display : DistanceHeatmapDisplay
            The object itself.
        """
        import_pyplot()
        matrix = np.array(self.distances, dtype=float)
        if self.column_names is None:
            np.fill_diagonal(matrix, np.nan)  # zeros, which would take up half of the colours

        def written(row: int, column: int) -> str:
            return format(matrix[row, column], values_format)

        drawn = draw_matrix(
            matrix,
            self.names,
            self.names if self.column_names is None else self.column_names,
            ax=ax,
            cell=0.46,
            rotation=45,
            cmap=cmap,
            falling=True,
            values=written if include_values else None,
            colorbar={"label": "distance"} if colorbar else None,
            im_kw=im_kw,
            text_kw=text_kw,
        )
        self.im_, self.colorbar_, self.names_ = drawn.im, drawn.colorbar, drawn.names
        self.ax_ = drawn.im.axes
        self.figure_ = self.ax_.figure
        self.text_ = drawn.text if include_values else None
        return self
