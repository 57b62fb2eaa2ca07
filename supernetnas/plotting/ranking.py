"""What a supernet says of architectures while it is searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._colours import Palette
from ._common import import_pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["OrderPreservingDisplay", "TrajectoryDisplay"]


class TrajectoryDisplay:
    """Error rates of architectures over the epochs of a search, good ones and others.

    Figure 3 of Zhang et al. (CVPR 2024), in one picture.

    Parameters
    ----------
    epochs : sequence of int
        Of t times.
    errors : array-like of shape (t, n)
        Error rate of each of n architectures.
    good : sequence of bool
        Which of the architectures are the good ones.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes drawn on.
    figure_ : matplotlib.figure.Figure
        Its figure.
    lines_ : list of matplotlib.lines.Line2D
        A line for each architecture.

    Examples
    --------
    >>> display = TrajectoryDisplay([0, 1], [[0.5, 0.6], [0.3, 0.6]], [True, False]).plot()
    >>> len(display.lines_)
    2
    """

    def __init__(self, epochs: Sequence[int], errors: Any, good: Sequence[bool]) -> None:
        self.epochs, self.errors, self.good = list(epochs), np.asarray(errors), list(good)
        if self.errors.shape != (len(self.epochs), len(self.good)):
            raise ValueError(
                "errors must have a row for each of the epochs and a column for each architecture, "
                f"{(len(self.epochs), len(self.good))}; got the shape {self.errors.shape}."
            )

    @classmethod
    def from_trajectory(
        cls, trajectory: Any, good: Sequence[bool], *, ax: Axes | None = None, **kwargs: Any
    ) -> TrajectoryDisplay:
        """Draw what was watched of a search.

        Parameters
        ----------
        trajectory : supernetnas.evaluation.ranking.Trajectory
            Scores of architectures at some times.
        good : sequence of bool
            Which of them are the good ones.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure if None.
        **kwargs : dict
            Passed on to `plot`.

        Returns
        -------
        display : TrajectoryDisplay
            The display, drawn.
        """
        return cls(trajectory.epochs, trajectory.errors(), good).plot(ax=ax, **kwargs)

    def plot(
        self, *, ax: Axes | None = None, line_kw: Mapping[str, Any] | None = None
    ) -> TrajectoryDisplay:
        """Draw the error rates.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure if None.
        line_kw : dict or None, default=None
            Keyword arguments for the lines.

        Returns
        -------
        display : TrajectoryDisplay
            This one.
        """
        ax = _axes(ax)
        palette = Palette.of(ax)
        self.lines_ = []
        named = set()
        for column, good in zip(self.errors.T, self.good, strict=True):
            style = {
                "color": palette.accent if good else palette.muted,
                "label": "_" if good in named else "good" if good else "others",
                "zorder": 3 if good else 2,
                **(line_kw or {}),
            }
            named.add(good)
            self.lines_ += ax.plot(self.epochs, column, **style)
        ax.set_ylabel("error rate on the supernet")
        ax.legend(framealpha=0.9, edgecolor="none")  # lines may be everywhere
        self.ax_, self.figure_ = ax, ax.figure
        return self


class OrderPreservingDisplay:
    """How well a supernet keeps the order of architectures, over the epochs of a search.

    Figure 5 of Zhang et al. (CVPR 2024): the share of good architectures among its best, and
    Kendall's tau of the good ones.

    Parameters
    ----------
    epochs : sequence of int
        Of t times.
    measures : sequence of supernetnas.evaluation.ranking.OrderPreserving
        Of each.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes drawn on.
    figure_ : matplotlib.figure.Figure
        Its figure.
    lines_ : list of matplotlib.lines.Line2D
        The global and the local measure.

    Examples
    --------
    >>> from supernetnas.evaluation.ranking import order_preserving
    >>> found = [order_preserving([3, 2, 1], [3, 1, 2], n_good=2)]
    >>> OrderPreservingDisplay([0], found).plot().ax_.get_xlabel()
    'epoch of the search'
    """

    def __init__(self, epochs: Sequence[int], measures: Sequence[Any]) -> None:
        if len(epochs) != len(measures) or not len(measures):
            raise ValueError(
                f"There must be one measure for each of the epochs; got {len(measures)} for "
                f"{len(epochs)}."
            )
        self.epochs, self.measures = list(epochs), list(measures)

    def plot(
        self, *, ax: Axes | None = None, line_kw: Mapping[str, Any] | None = None
    ) -> OrderPreservingDisplay:
        """Draw the measures.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure if None.
        line_kw : dict or None, default=None
            Keyword arguments for the lines.

        Returns
        -------
        display : OrderPreservingDisplay
            This one.
        """
        ax = _axes(ax)
        palette, n_good = Palette.of(ax), self.measures[0].n_good
        curves = (
            (f"good ones among its {n_good} best", palette.ink, lambda m: m.global_hits / m.n_good),
            ("Kendall's tau of the good ones", palette.accent, lambda m: m.local_tau),
        )
        self.lines_ = []
        lowest = min(0.0, *ax.get_ylim())
        for label, colour, value in curves:
            style = {"color": colour, "marker": "o", "label": label, **(line_kw or {})}
            drawn = [value(m) for m in self.measures]
            self.lines_ += ax.plot(self.epochs, drawn, **style)
            # Of an axis that is shared, limits that were set before do not follow these lines.
            lowest = min([lowest, *(y - 0.04 for y in drawn if np.isfinite(y))])
        ax.set_ylim(lowest, 1 + 0.04 * (1 - lowest))  # room for whole markers at 1
        ax.set_ylabel("share, and rank correlation")
        ax.legend(frameon=False)
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _axes(ax: Axes | None) -> Axes:
    plt = import_pyplot()
    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    ax.set_xlabel("epoch of the search")
    ax.locator_params(axis="x", integer=True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax
