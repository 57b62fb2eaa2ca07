"""Learning curves over the stages of a fit."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from ._colours import Palette
from ._common import PLAIN, fitted_attribute, import_pyplot, shown
from ._room import LETTER, label_axis, room

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

__all__ = ["SearchCurveDisplay"]

_SMALL = 200.0  # points


class SearchCurveDisplay:
    """Accuracy or loss over the epochs of all stages of a fit.

    Parameters
    ----------
    history : sequence of dict
        One row per epoch, in order. The key ``stage`` names the stage; ``train_accuracy``,
        ``validation_accuracy``, ``train_loss`` and ``validation_loss`` are the figures drawn,
        and any other number of a row can be drawn by its key. A figure that was not measured
        is absent, None or NaN; text is not drawn.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes drawn on.
    figure_ : matplotlib.figure.Figure
        Its figure.
    lines_ : list of matplotlib.lines.Line2D
        The curves, one for every figure and stage.
    text_ : list of matplotlib.text.Text
        The names of the stages.

    See Also
    --------
    CellDisplay : The cells that the search has found.

    Examples
    --------
    >>> history = [
    ...     {"stage": "search", "epoch": 0, "train_loss": 1.2, "validation_loss": 1.1},
    ...     {"stage": "search", "epoch": 1, "train_loss": 0.7, "validation_loss": 0.8},
    ... ]
    >>> display = SearchCurveDisplay.from_history(history, metric="loss")
    >>> display.ax_.get_ylabel()
    'loss'
    """

    def __init__(self, history: Sequence[Mapping[str, Any]]) -> None:
        self.history = history

    @classmethod
    def from_history(
        cls, history: Any, *, metric: str = "accuracy", ax: Axes | None = None, **kwargs: Any
    ) -> SearchCurveDisplay:
        """Draw the curves of a history.

        Parameters
        ----------
        history : iterable of dict or pandas.DataFrame
            One row per epoch; see `SearchCurveDisplay`.
        metric : str, default="accuracy"
            What to draw; see `plot`.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure if None.
        **kwargs : dict
            Passed on to `plot`.

        Returns
        -------
        display : SearchCurveDisplay
            The display, drawn.
        """
        is_frame = hasattr(history, "columns")
        rows = history.to_dict("records") if is_frame else [dict(row) for row in history]
        return cls(rows).plot(metric=metric, ax=ax, **kwargs)

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, metric: str = "accuracy", ax: Axes | None = None, **kwargs: Any
    ) -> SearchCurveDisplay:
        """Draw the curves of a fitted classifier.

        Parameters
        ----------
        estimator : SupernetTransferClassifier
            A fitted classifier.
        metric : str, default="accuracy"
            What to draw; see `plot`.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure if None.
        **kwargs : dict
            Passed on to `plot`.

        Returns
        -------
        display : SearchCurveDisplay
            The display, drawn.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If `estimator` is not fitted.
        """
        history = fitted_attribute(estimator, "history_")
        return cls.from_history(history, metric=metric, ax=ax, **kwargs)

    def plot(
        self,
        *,
        metric: str = "accuracy",
        ax: Axes | None = None,
        line_kw: Mapping[str, Any] | None = None,
        text_kw: Mapping[str, Any] | None = None,
    ) -> SearchCurveDisplay:
        """Draw the curves.

        Parameters
        ----------
        metric : str, default="accuracy"
            "accuracy" and "loss" draw the curves of the training and of the validation images;
            any other key of the history's rows, such as "alpha_entropy", "skip_connections",
            "genotype_agreement" or "eigenvalue", draws that one.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure if None.
        line_kw : dict or None, default=None
            Keyword arguments for the curves.
        text_kw : dict or None, default=None
            Keyword arguments for the names of the stages.

        Returns
        -------
        display : SearchCurveDisplay
            The object itself.

        Raises
        ------
        ValueError
            If no row of the history has the metric.
        """
        plt = import_pyplot()
        self._check(metric)
        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        self.ax_ = ax
        self.figure_ = ax.figure
        palette = Palette.of(ax)
        curves = self._curves(metric, palette)
        self.lines_: list[Line2D] = []
        self.text_: list[Text] = []

        first = 1
        stages = [
            (stage, list(rows))
            for stage, rows in groupby(self.history, key=lambda row: str(row.get("stage", "")))
        ]
        for number, (stage, rows) in enumerate(
            (stage, rows) for stage, rows in stages if curves.keys() & _measured(rows)
        ):
            epochs = range(first, first + len(rows))
            for key, style in curves.items():
                values = [_number(row.get(key)) for row in rows]
                points = [(x, y) for x, y in zip(epochs, values, strict=True) if not math.isnan(y)]
                # What is measured every other epoch, say, is joined over the gaps.
                gaps = 0 < len(points) < len(rows)
                style = {
                    **style,
                    "label": style["label"] if number == 0 else None,
                    "marker": "o" if len(rows) == 1 or gaps else None,
                    "markersize": 4,
                    **(line_kw or {}),
                }
                x, y = zip(*points, strict=True) if gaps else (epochs, values)
                self.lines_ += ax.plot(x, y, **style)
            shade = palette.shade if number % 2 == 1 else None
            self._mark_stage(stage, epochs, palette.ink, shade, text_kw)
            first += len(rows)

        ax.set_xlim(0.5, first - 0.5)
        label_axis(ax.xaxis, "epoch")
        label_axis(ax.yaxis, shown(metric.replace("_", " ")))
        ax.locator_params(axis="x", integer=True)
        ax.spines[["top", "right"]].set_visible(False)
        drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in self.lines_])
        if np.all(drawn[np.isfinite(drawn)] % 1 == 0):
            ax.yaxis.set_major_locator(plt.MaxNLocator(integer=True, min_n_ticks=1))
        if metric in ("accuracy", "loss"):
            small = min(room(ax)) < _SMALL
            ax.legend(frameon=False, loc="best", fontsize="x-small" if small else None)
        return self

    def _check(self, metric: str) -> None:
        """Refuse a metric that the history does not have."""
        measured = _measured(self.history)
        if not measured & set(_keys(metric)):
            raise ValueError(
                f"The history has no {metric!r} to draw. Its figures are {sorted(measured)}."
            )

    def _curves(self, metric: str, palette: Palette) -> dict[str, dict[str, Any]]:
        """Return the keys to draw, each with the style of its line."""
        styles: tuple[dict[str, Any], ...] = ({"color": palette.accent, "label": metric},)
        if len(keys := _keys(metric)) == 2:
            styles = (
                {"color": palette.muted, "linestyle": "--", "label": "training"},
                {"color": palette.accent, "label": "validation"},
            )
        measured = _measured(self.history)
        return {key: style for key, style in zip(keys, styles, strict=True) if key in measured}

    def _mark_stage(
        self,
        stage: str,
        epochs: range,
        ink: Any,
        shade: Any,
        text_kw: Mapping[str, Any] | None,
    ) -> None:
        """Shade every other stage and write its name above it."""
        left, right = epochs.start - 0.5, epochs.stop - 0.5
        if shade is not None:
            self.ax_.axvspan(left, right, color=shade, linewidth=0, zorder=0)
        letters = (right - left) / len(self.history) * room(self.ax_)[0] / (LETTER * 10)
        is_narrow = len(stage) > 0.85 * letters
        style = {
            "ha": "left" if is_narrow else "center",
            "va": "bottom",
            "rotation": 45 if is_narrow else 0,
            "fontsize": "x-small" if min(room(self.ax_)) < _SMALL else None,
            "color": ink,
            **PLAIN,
            **(text_kw or {}),
        }
        above = self.ax_.get_xaxis_transform()  # x in epochs, y in heights of the axes
        middle = (left + right) / 2
        self.text_.append(self.ax_.text(middle, 1.01, shown(stage), transform=above, **style))


def _keys(metric: str) -> tuple[str, ...]:
    """Columns of a history that belong to a metric."""
    both = metric in ("accuracy", "loss")
    return (f"train_{metric}", f"validation_{metric}") if both else (metric,)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, numbers.Real) else math.nan


def _measured(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the keys that have a number in at least one row."""
    return {
        key
        for row in rows
        for key, value in row.items()
        if key != "stage" and not math.isnan(_number(value))
    }
