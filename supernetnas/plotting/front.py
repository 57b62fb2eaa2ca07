"""The networks of one fit: what they reach against what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._colours import Palette
from ._common import fitted_attribute, import_pyplot
from ._room import label_axis, room

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FrontDisplay"]

_WIDE = 250.0  # points
_MEASURED = {
    "validation_accuracy": "accuracy on images held out",
    "probe_accuracy": "accuracy of a linear probe, before training",
}


class FrontDisplay:
    """Accuracy against multiply-accumulates of the networks that a fit has trained.

    Parameters
    ----------
    front : sequence of dict
        Rows as in ``clf.front_``, with ``n_macs``, ``architecture`` and ``validation_accuracy`` or
        ``probe_accuracy``.
    chosen : object, optional
        Architecture to point out.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes drawn on.
    figure_ : matplotlib.figure.Figure
        Its figure.
    points_ : matplotlib.collections.PathCollection
        The networks, the cheapest first.
    text_ : list of matplotlib.text.Text
        Their image sizes and costs.

    Examples
    --------
    >>> front = [
    ...     {"architecture": "large", "n_macs": 70_000_000, "validation_accuracy": 0.91},
    ...     {"architecture": "small", "n_macs": 15_000_000, "validation_accuracy": 0.85},
    ... ]
    >>> FrontDisplay(front).plot().ax_.get_ylabel()
    'accuracy on images held out'
    """

    def __init__(self, front: Sequence[Mapping[str, Any]], chosen: Any = None) -> None:
        if not front:
            raise ValueError(
                "There is no front to draw: the fit has trained one network alone. A fit with "
                "family='elastic' and search='front' trains several."
            )
        self.front = sorted(front, key=lambda row: row["n_macs"])
        self.chosen = chosen

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, ax: Axes | None = None, **kwargs: Any
    ) -> FrontDisplay:
        """Draw the front of a fitted classifier, its own network pointed out.

        Parameters
        ----------
        estimator : SupernetTransferClassifier
            A fitted classifier.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure if None.
        **kwargs : dict
            Passed on to `plot`.

        Returns
        -------
        display : FrontDisplay
            The display, drawn.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If `estimator` is not fitted.
        ValueError
            If its fit has trained one network alone.
        """
        front = fitted_attribute(estimator, "front_")
        return cls(front, fitted_attribute(estimator, "architecture_")).plot(ax=ax, **kwargs)

    def plot(
        self,
        *,
        ax: Axes | None = None,
        scatter_kw: Mapping[str, Any] | None = None,
        text_kw: Mapping[str, Any] | None = None,
    ) -> FrontDisplay:
        """Draw the front.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure if None.
        scatter_kw : dict or None, default=None
            Keyword arguments for the points.
        text_kw : dict or None, default=None
            Keyword arguments for the words beside them.

        Returns
        -------
        display : FrontDisplay
            This one.
        """
        plt = import_pyplot()
        if ax is None:
            _, ax = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
        key = next(
            (name for name in _MEASURED if all(row.get(name) is not None for row in self.front)),
            None,
        )
        if key is None:
            raise ValueError("Nothing was measured of some of the networks of the front.")
        macs = [row["n_macs"] / 1e6 for row in self.front]
        reached = [row[key] for row in self.front]
        palette = Palette.of(ax)
        ax.plot(macs, reached, color=palette.muted, linewidth=1, zorder=1)
        colours = [
            palette.accent if row["architecture"] == self.chosen else palette.ink
            for row in self.front
        ]
        self.points_ = ax.scatter(
            macs, reached, **{"c": colours, "zorder": 2, **(scatter_kw or {})}
        )
        self.text_ = []
        for row, x, y in zip(self.front, macs, reached, strict=True):
            size = getattr(row["architecture"], "size", None)
            words = [f"{x:.3g} M"] if size is None else [f"{size} px", f"{x:.3g} M"]
            if row["architecture"] == self.chosen:
                words.append("chosen")
            self.text_.append(
                ax.annotate(
                    ", ".join(words),
                    (x, y),
                    **{
                        "xytext": (8, -9),
                        "textcoords": "offset points",
                        "ha": "left",
                        "va": "center",
                        "color": palette.ink,
                        "in_layout": False,
                        "fontsize": 9 if room(ax)[0] >= _WIDE else 6,
                        **(text_kw or {}),
                    },
                )
            )
        wide = room(ax)[0] >= _WIDE
        ax.set_xscale("log")
        low, high = min(macs), max(macs)
        ax.set_xlim(low / 1.5, high * (3 if wide else 10))  # room for words on the right
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.xaxis.set_minor_formatter(
            lambda value, _: f"{value:g}" if wide and f"{value:g}"[0] in "25" else ""
        )
        ax.margins(y=0.2)
        label_axis(ax.xaxis, "multiply-accumulates for one image, in millions")
        label_axis(ax.yaxis, _MEASURED[key])
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        self.ax_, self.figure_ = ax, ax.figure
        return self
