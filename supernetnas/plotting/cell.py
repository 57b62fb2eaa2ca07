"""Diagram of a cell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._colours import Palette, legible_on
from ._common import PLAIN, fitted_attribute, import_pyplot, shown
from ._room import LETTER, SMALLEST, room

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

    from ..families.cells.genotype import Genotype

__all__ = ["CellDisplay"]

# Dark enough for white letters (a contrast of 4.5 to 1 or more). The first family whose key is
# part of an operation's name gives its colour.
FAMILY_COLOURS = {
    "sep_conv": "#1f5fa8",
    "dil_conv": "#7b4397",
    "pool": "#1b7a5a",
    "skip": "#ae5a00",
    "none": "#666d78",
    "noise": "#666d78",
    "": "#a8324e",
}

_LEGIBLE = 4.0  # letters in points

Point = tuple[float, float]


class CellDisplay:
    """Diagram of one cell of an architecture.

    The two inputs of the cell stand in the top row and every intermediate node in a row of its
    own, one step down and to the right. An edge leaves its source downwards and enters its
    target from the left, in a lane that no other edge uses: whatever the genotype, edges cross
    at right angles and labels lie on nothing but their own edge.

    Parameters
    ----------
    nodes : sequence of sequence of (str, int)
        For every intermediate node its inputs, each the name of an operation and the index of
        the state that it is applied to. States 0 and 1 are the outputs of the two cells before,
        state ``2 + i`` is node ``i``. All nodes are concatenated to the cell's output.
    title : str or None, default=None
        The title of the picture.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes drawn on.
    figure_ : matplotlib.figure.Figure
        Its figure.
    lines_ : list of matplotlib.lines.Line2D
        One line for every edge, in the order of `nodes`.
    text_ : list of matplotlib.text.Text
        The label of every edge, in the same order; none where the axes are too small for them,
        and a legend of the colours is drawn.

    See Also
    --------
    SearchCurveDisplay : How the search went that found the cell.
    """

    # In units of the axes; one row is one unit high.
    _COLUMN = 2.3
    _INPUT_COLUMN = 1.05
    _BOX = (0.76, 0.66)
    _LANE = 0.15
    _PORT = 0.46
    _LABEL_WIDTH = 1.38

    def __init__(
        self, nodes: Sequence[Sequence[tuple[str, int]]], *, title: str | None = None
    ) -> None:
        self.nodes = nodes
        self.title = title

    @classmethod
    def from_genotype(
        cls, genotype: Genotype, *, cell: str = "normal", ax: Axes | None = None, **kwargs: Any
    ) -> CellDisplay:
        """Draw a cell of a genotype.

        Parameters
        ----------
        genotype : Genotype
            The architecture.
        cell : {"normal", "reduce"}, default="normal"
            Which of its two cells.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure if None.
        **kwargs : dict
            Passed on to `plot`.

        Returns
        -------
        display : CellDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If `cell` is neither "normal" nor "reduce".
        """
        from ..families.cells.space import CellKind

        kinds = {kind.key: kind for kind in CellKind}
        if cell not in kinds:
            raise ValueError(f"cell must be one of {tuple(kinds)}. Got {cell!r} instead.")
        kind = kinds[cell]
        title = f"{kind.name.capitalize()} cell, space {genotype.space}"
        display = cls(genotype.nodes(kind), title=title)
        return display.plot(ax=ax, **kwargs)

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, cell: str = "normal", ax: Axes | None = None, **kwargs: Any
    ) -> CellDisplay:
        """Draw a cell of the architecture that a fitted classifier has found.

        Parameters
        ----------
        estimator : SupernetTransferClassifier
            A fitted classifier.
        cell : {"normal", "reduce"}, default="normal"
            Which of the two cells.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure if None.
        **kwargs : dict
            Passed on to `plot`.

        Returns
        -------
        display : CellDisplay
            The display, drawn.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If `estimator` is not fitted.
        ValueError
            If its network has no cells.
        """
        family = getattr(estimator, "family_", None)
        if family is not None and not hasattr(estimator, "genotype_"):
            raise ValueError(
                f"A network of the family {family!r} has no cells to draw. It is: "
                f"{estimator.architecture_}"
            )
        genotype = fitted_attribute(estimator, "genotype_")
        return cls.from_genotype(genotype, cell=cell, ax=ax, **kwargs)

    def plot(
        self,
        *,
        ax: Axes | None = None,
        line_kw: Mapping[str, Any] | None = None,
        text_kw: Mapping[str, Any] | None = None,
    ) -> CellDisplay:
        """Draw the cell.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure of a fitting size if None. The letters are scaled to the
            size of the axes.
        line_kw : dict or None, default=None
            Keyword arguments for the lines of the edges.
        text_kw : dict or None, default=None
            Keyword arguments for the labels of the edges.

        Returns
        -------
        display : CellDisplay
            The object itself.
        """
        plt = import_pyplot()
        states, output_x = self._place_states()
        width, height = output_x + 0.84, len(self.nodes) + 0.94
        if ax is None:
            figure_size = (0.78 * width, 0.78 * height + 0.4)
            _, ax = plt.subplots(figsize=figure_size, layout="constrained")
        self.ax_ = ax
        self.figure_ = ax.figure
        ax.set(xlim=(-0.47, width - 0.47), ylim=(0.47 - height, 0.47), aspect="equal")
        ax.set_axis_off()
        if self.title is not None:
            title = ax.set_title(shown(self.title), **PLAIN)
            most = room(ax)[0] / (LETTER * len(title.get_text()))
            title.set_fontsize(max(min(title.get_fontsize(), most), SMALLEST))
        self._palette = palette = Palette.of(ax)
        font_size = self._font_size(width, height)

        self._draw_output(states, output_x, font_size)
        self.lines_: list[Line2D] = []
        self.text_: list[Text] = []
        for operation, source, target, lane, port in self._route_edges(states):
            colour = palette.visible(_family_colour(operation))
            line_style = {"color": colour, "linewidth": 0.2 * font_size, **(line_kw or {})}
            self.lines_.append(self._draw_edge(source, target, lane, port, **line_style))
            text_style = {
                "ha": "center",
                "va": "center_baseline",
                "color": legible_on(colour),
                "fontsize": font_size,
                "bbox": {"boxstyle": "round,pad=0.28", "facecolor": colour, "edgecolor": "none"},
                "zorder": 4,
                **(text_kw or {}),
            }
            if font_size < _LEGIBLE and "fontsize" not in (text_kw or {}):
                continue
            label_x = target[0] - self._BOX[0] / 2 - 0.08 - self._LABEL_WIDTH / 2
            label_y = target[1] + port
            self.text_.append(ax.text(label_x, label_y, _readable(operation), **PLAIN | text_style))
        if not self.text_:
            self._explain_colours()
        # Numbered as in the printed genotype.
        names = ["0\n$c_{k-2}$", "1\n$c_{k-1}$", *map(str, range(2, len(self.nodes) + 2))]
        colours: list[Any] = [palette.shade, palette.shade, *[palette.paper] * len(self.nodes)]
        for centre, name, face in zip(states, names, colours, strict=True):
            self._draw_box(centre, self._BOX, name, font_size, facecolor=face)
        return self

    def _explain_colours(self) -> None:
        """Say below the cell what the colours mean, where there is no room for labels."""
        from matplotlib.lines import Line2D

        names = dict.fromkeys(name for inputs in self.nodes for name, _ in inputs)
        colours = [self._palette.visible(_family_colour(name)) for name in names]
        lines = [Line2D([], [], color=colour, linewidth=2) for colour in colours]
        self.ax_.legend(
            *(lines, [_readable(name) for name in names]),
            loc="upper center",
            bbox_to_anchor=(0.5, 0.0),
            fontsize=SMALLEST,
            ncols=2,
            frameon=False,
            handlelength=1.0,
        )

    def _place_states(self) -> tuple[list[Point], float]:
        """Return the centre of every state, and the x of the output."""
        states = [(0.0, 0.0), (self._INPUT_COLUMN, 0.0)]
        states += [
            (self._INPUT_COLUMN + self._COLUMN * (node + 1), -1.0 - node)
            for node in range(len(self.nodes))
        ]
        return states, states[-1][0] + 1.0

    def _route_edges(self, states: list[Point]) -> Iterator[tuple[str, Point, Point, float, float]]:
        """Yield for every edge its operation, source, target, lane and port.

        The lane is the offset of the vertical part from the centre of the source: the lower the
        target, the further left, so that the edges of one source never cross each other. The
        port is the offset of the horizontal part from the centre of the target: the later the
        source, the higher, so that the edges of one target never cross each other.
        """
        edges = []
        for node, inputs in enumerate(self.nodes):
            from_top = sorted(inputs, key=lambda edge: -edge[1])
            for operation, source in inputs:
                port = (len(inputs) - 1) / 2 - from_top.index((operation, source))
                edges.append((operation, source, node + 2, port * self._PORT))
        for operation, source, target, port in edges:
            rows = sorted(states[t][1] + p for _, s, t, p in edges if s == source)
            lane = rows.index(states[target][1] + port) - (len(rows) - 1) / 2
            yield operation, states[source], states[target], lane * self._LANE, port

    def _font_size(self, width: float, height: float) -> float:
        """Return the size in points at which the longest label fits its place."""
        figure = self.figure_.canvas.figure  # of a subfigure, the whole
        figure.draw_without_rendering()  # a layout engine moves the axes only now
        box = self.ax_.get_window_extent()
        points = 72.0 / figure.dpi * min(box.width / width, box.height / height)
        names = [name for inputs in self.nodes for name, _ in inputs]
        longest = max((len(_readable(name)) for name in names), default=1)
        return points * min(0.2, self._LABEL_WIDTH / (0.56 * longest + 0.5))

    def _draw_output(self, states: list[Point], output_x: float, font_size: float) -> None:
        nodes = states[2:]
        for x, y in nodes:
            line_width = 0.12 * font_size
            self.ax_.plot(
                [x, output_x], [y, y], color=self._palette.muted, linewidth=line_width, zorder=1
            )
        middle = (nodes[0][1] + nodes[-1][1]) / 2
        size = (0.5, nodes[0][1] - nodes[-1][1] + self._BOX[1])
        centre, label = (output_x, middle), "concatenate  $c_k$"
        self._draw_box(centre, size, label, font_size, facecolor=self._palette.shade, rotation=90)

    def _draw_box(
        self,
        centre: Point,
        size: tuple[float, float],
        label: str,
        font_size: float,
        *,
        facecolor: Any,
        rotation: float = 0,
    ) -> None:
        from matplotlib.patches import FancyBboxPatch

        corner = (centre[0] - size[0] / 2, centre[1] - size[1] / 2)
        box = FancyBboxPatch(
            corner,
            *size,
            boxstyle="round,pad=0,rounding_size=0.14",
            facecolor=facecolor,
            edgecolor=self._palette.ink,
            linewidth=0.12 * font_size,
            zorder=5,
        )
        self.ax_.add_patch(box)
        self.ax_.text(
            *centre,
            label,
            ha="center",
            va="center",
            color=self._palette.ink,
            fontsize=1.15 * font_size,
            rotation=rotation,
            zorder=6,
        )

    def _draw_edge(
        self, source: Point, target: Point, lane: float, port: float, **style: Any
    ) -> Line2D:
        """Draw a line down from the source, round a corner and right to the target."""
        from matplotlib.patheffects import Normal, Stroke

        start_x, start_y = source[0] + lane, source[1] - self._BOX[1] / 2
        end_x, end_y = target[0] - self._BOX[0] / 2, target[1] + port
        radius = min(0.22, start_y - end_y)
        angle = np.linspace(np.pi, 1.5 * np.pi, 16)
        x = [start_x, *(start_x + radius * (1 + np.cos(angle))), end_x]
        y = [start_y, *(end_y + radius * (1 + np.sin(angle))), end_y]
        (line,) = self.ax_.plot(x, y, zorder=2, **style)
        # A rim makes a bridge of every crossing.
        rim = Stroke(linewidth=2.4 * line.get_linewidth(), foreground=self._palette.paper)
        line.set_path_effects([rim, Normal()])
        return line


def _family_colour(operation: str) -> str:
    return next(colour for key, colour in FAMILY_COLOURS.items() if key in operation)


def _readable(operation: str) -> str:
    """Turn ``sep_conv_3x3`` into ``sep conv 3×3``."""
    return re.sub(r"(\d)x(\d)", r"\1×\2", operation.replace("_", " "))
