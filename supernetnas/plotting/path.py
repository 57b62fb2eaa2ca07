"""Diagram of an architecture that is one block after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._colours import Palette, legible_on
from ._common import PLAIN, fitted_attribute, import_pyplot, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PathDisplay"]

# Dark enough for white letters; blocks take them in the order of their names.
_COLOURS = ("#1f5fa8", "#1b7a5a", "#ae5a00", "#7b4397", "#a8324e", "#666d78")
_BOX = (0.92, 0.72)


class PathDisplay:
    """The blocks of an architecture, one row for each stage, in the order that images take them.

    Parameters
    ----------
    stages : sequence of sequence of str
        Names of the blocks of each stage.
    title : str or None, default=None
        The title of the picture.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes drawn on.
    figure_ : matplotlib.figure.Figure
        Its figure.
    text_ : list of matplotlib.text.Text
        The name of every block, stage by stage.

    Examples
    --------
    >>> display = PathDisplay([["k3", "k7"], ["xception", "k5", "k5"]]).plot()
    >>> [text.get_text() for text in display.text_]
    ['k3', 'k7', 'xception', 'k5', 'k5']
    """

    def __init__(self, stages: Sequence[Sequence[str]], *, title: str | None = None) -> None:
        self.stages = [[str(name) for name in stage] for stage in stages]
        self.title = title

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, ax: Axes | None = None, **kwargs: Any
    ) -> PathDisplay:
        """Draw the architecture that a fitted classifier has found.

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
        display : PathDisplay
            The display, drawn.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If `estimator` is not fitted.
        ValueError
            If its architecture does not consist of stages.
        """
        architecture = fitted_attribute(estimator, "architecture_")
        stages = getattr(architecture, "stages", None)
        if stages is None:
            raise ValueError(
                f"A network of the family {estimator.family_!r} does not consist of blocks one "
                "after the other. Draw its cells with CellDisplay."
            )
        title = f"{estimator.n_macs_ / 1e6:.3g} M multiply-accumulates"
        return cls(stages, title=title).plot(ax=ax, **kwargs)

    def plot(
        self,
        *,
        ax: Axes | None = None,
        box_kw: Mapping[str, Any] | None = None,
        text_kw: Mapping[str, Any] | None = None,
    ) -> PathDisplay:
        """Draw the blocks.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure of a fitting size if None.
        box_kw : dict or None, default=None
            Keyword arguments for the boxes.
        text_kw : dict or None, default=None
            Keyword arguments for the names in them.

        Returns
        -------
        display : PathDisplay
            This one.
        """
        plt = import_pyplot()
        longest = max(map(len, self.stages))
        if ax is None:
            size = (1.0 + 0.85 * longest, 0.6 + 0.5 * len(self.stages))
            _, ax = plt.subplots(figsize=size, layout="constrained")
        names = sorted({name for stage in self.stages for name in stage})
        palette = Palette.of(ax)
        shades = [palette.visible(colour) for colour in _COLOURS]
        colours = {name: shades[place % len(shades)] for place, name in enumerate(names)}
        self.text_ = []
        for row, stage in enumerate(self.stages):
            if len(stage) > 1:
                ax.plot(
                    (0, len(stage) - 1), (row, row), color=palette.muted, linewidth=1.0, zorder=1
                )
            for place, name in enumerate(stage):
                corner = (place - _BOX[0] / 2, row - _BOX[1] / 2)
                style = {"color": colours[name], "zorder": 2, **(box_kw or {})}
                ax.add_patch(plt.Rectangle(corner, *_BOX, **style))
                style = {"color": legible_on(colours[name]), "fontsize": 8, "zorder": 3}
                style |= {"ha": "center", "va": "center", **PLAIN, **(text_kw or {})}
                self.text_.append(ax.text(place, row, shown(name), **style))
        ax.set_xlim(-0.6, longest - 0.4)
        ax.set_ylim(len(self.stages) - 0.5, -0.5)
        ax.set_xticks([])
        ax.set_yticks(range(len(self.stages)), [f"stage {n + 1}" for n in range(len(self.stages))])
        ax.tick_params(length=0, labelcolor=palette.ink)
        for side in ax.spines.values():
            side.set_visible(False)
        if self.title is not None:
            ax.set_title(self.title, color=palette.ink, **PLAIN)
        self.ax_, self.figure_ = ax, ax.figure
        return self
