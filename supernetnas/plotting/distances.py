"""Distances between datasets: from one to all, and between all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._common import ACCENT, INK, PALE, PLAIN, fitted_attribute, import_pyplot, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

__all__ = ["DistanceDisplay", "DistanceHeatmapDisplay"]


class DistanceDisplay:
    """Ranked bars of the distances from one dataset to the sources of a zoo.

    Parameters
    ----------
    distances : dict of str to float
        The distance to each source.
    source : str or None, default=None
        The source that was chosen; its bar stands out.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes drawn on.
    figure_ : matplotlib.figure.Figure
        Its figure.
    bars_ : matplotlib.container.BarContainer
        The bars, the nearest source first.
    text_ : list of matplotlib.text.Text
        The distances at the ends of the bars.

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
        names = [name for name, _ in ranked]
        if ax is None:
            figure_size = (6.4, 1.0 + 0.3 * len(names))
            _, ax = plt.subplots(figsize=figure_size, layout="constrained")
        self.ax_ = ax
        self.figure_ = ax.figure
        colours = [ACCENT if name == self.source else PALE for name in names]
        style = {"color": colours, "height": 0.72, **(bar_kw or {})}
        self.bars_ = ax.barh(range(len(names)), [value for _, value in ranked], **style)
        labels = [format(value, values_format) for _, value in ranked]
        text_style = {"padding": 4, "color": INK, "fontsize": "small", **(text_kw or {})}
        self.text_ = ax.bar_label(self.bars_, labels, **text_style)
        ax.set_yticks(range(len(names)), list(map(shown, names)), **PLAIN)
        for label, name in zip(ax.get_yticklabels(), names, strict=True):
            label.set_fontweight("bold" if name == self.source else "normal")
        ax.invert_yaxis()
        ax.margins(x=0.12, y=0.01)
        ax.set_xlabel("distance")
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
        return self


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
        The written values, None where a cell is empty; None if they are left out.
    colorbar_ : matplotlib.colorbar.Colorbar or None
        The scale of the colours; None if it is left out.

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
        cmap: str = "YlGnBu_r",
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
        cmap : str or matplotlib.colors.Colormap, default="YlGnBu_r"
            The colours; by default near is dark.
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
        plt = import_pyplot()
        matrix = np.array(self.distances, dtype=float)
        rows = list(map(shown, self.names))
        columns = rows if self.column_names is None else list(map(shown, self.column_names))
        if self.column_names is None:
            np.fill_diagonal(matrix, np.nan)  # zeros, which would take up half of the colours
        if ax is None:
            beside, below = (0.08 * max(0, max(map(len, n)) - 12) for n in (rows, columns))
            figure_size = (2.6 + beside + 0.46 * len(columns), 1.6 + below + 0.46 * len(rows))
            _, ax = plt.subplots(figsize=figure_size, layout="constrained")
        self.ax_ = ax
        self.figure_ = ax.figure
        self.im_ = ax.imshow(matrix, **{"cmap": cmap, **(im_kw or {})})
        self.text_ = self._write_values(matrix, values_format, text_kw) if include_values else None
        self.colorbar_ = None
        if colorbar:
            self.colorbar_ = self.figure_.colorbar(self.im_, ax=ax, label="distance", shrink=0.8)
            self.colorbar_.outline.set_visible(False)
        turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        ax.set_xticks(range(len(columns)), columns, **turned, **PLAIN)
        ax.set_yticks(range(len(rows)), rows, **PLAIN)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        return self

    def _write_values(
        self, matrix: np.ndarray, values_format: str, text_kw: Mapping[str, Any] | None
    ) -> np.ndarray:
        """Write every value in black or white, whichever its cell makes readable."""
        text = np.full(matrix.shape, None, dtype=object)
        for row, column in np.argwhere(np.isfinite(matrix)):
            value = matrix[row, column]
            red, green, blue, _ = self.im_.cmap(self.im_.norm(value))
            is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
            style = {
                "ha": "center",
                "va": "center",
                "color": "white" if is_dark else INK,
                "fontsize": "small",
                **(text_kw or {}),
            }
            label = format(value, values_format)
            text[row, column] = self.ax_.text(column, row, label, **style)
        return text
