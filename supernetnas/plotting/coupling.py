"""Which classes of one dataset are transported to which of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._common import INK, PLAIN, import_pyplot, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

    from ..distance.otdd import OTDDResult

__all__ = ["ClassCouplingDisplay"]

_WRITTEN = 0.095  # least share that is written into its cell


class ClassCouplingDisplay:
    """Matrix of the shares in which each class of a dataset goes to the classes of another.

    A row sums to 1. Columns are in the order of the rows that they take most from, so that what
    belongs together lies along the diagonal.

    Parameters
    ----------
    class_coupling : array-like of shape (n_classes_a, n_classes_b)
        Mass that is transported between two classes, as `OTDDResult.class_coupling`.
    classes_a, classes_b : sequence of length n_classes_a and n_classes_b
        Names of the classes.
    names : tuple of two str, default=("A", "B")
        Names of the two datasets.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes drawn on.
    figure_ : matplotlib.figure.Figure
        Its figure.
    im_ : matplotlib.image.AxesImage
        The matrix.
    order_ : ndarray of shape (n_classes_b,)
        Positions in `classes_b` of the columns from left to right.
    text_ : list of matplotlib.text.Text
        The shares that are written.

    Raises
    ------
    ValueError
        If the names are not as many as the rows and columns, or a row is empty.

    See Also
    --------
    DistanceDisplay : The distances from one dataset, ranked.

    Examples
    --------
    >>> display = ClassCouplingDisplay([[0, 0.5], [0.5, 0]], ["cat", "car"], ["bus", "dog"]).plot()
    >>> [label.get_text() for label in display.ax_.get_xticklabels()]
    ['dog', 'bus']
    """

    def __init__(
        self,
        class_coupling: ArrayLike,
        classes_a: Sequence,
        classes_b: Sequence,
        *,
        names: tuple[str, str] = ("A", "B"),
    ) -> None:
        if np.shape(class_coupling) != (len(classes_a), len(classes_b)):
            raise ValueError(
                f"class_coupling has the shape {np.shape(class_coupling)}; {len(classes_a)} and "
                f"{len(classes_b)} names of classes were given."
            )
        if not (np.sum(class_coupling, axis=1) > 0).all():
            raise ValueError("class_coupling has rows without any mass.")
        self.class_coupling = class_coupling
        self.classes_a = classes_a
        self.classes_b = classes_b
        self.names = names

    @classmethod
    def from_result(
        cls,
        result: OTDDResult,
        *,
        names: tuple[str, str] = ("A", "B"),
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> ClassCouplingDisplay:
        """Draw the class coupling of a distance.

        Parameters
        ----------
        result : OTDDResult
            What `supernetnas.distance.otdd.otdd` or `DatasetSignature.distance` returned.
        names : tuple of two str, default=("A", "B")
            Names of the two datasets.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure if None.
        **kwargs : dict
            Passed on to `plot`.

        Returns
        -------
        display : ClassCouplingDisplay
            The display, drawn.
        """
        display = cls(result.class_coupling, result.classes_a, result.classes_b, names=names)
        return display.plot(ax=ax, **kwargs)

    def plot(
        self,
        *,
        ax: Axes | None = None,
        include_values: bool = True,
        cmap: str = "Blues",
        colorbar: bool = True,
        im_kw: Mapping[str, Any] | None = None,
        text_kw: Mapping[str, Any] | None = None,
    ) -> ClassCouplingDisplay:
        """Draw the matrix.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure that grows with the matrix if None.
        include_values : bool, default=True
            Whether to write shares of a tenth and more, in percent.
        cmap : str or matplotlib.colors.Colormap, default="Blues"
            The colours.
        colorbar : bool, default=True
            Whether to add the scale of the colours.
        im_kw : dict or None, default=None
            Keyword arguments for ``imshow``.
        text_kw : dict or None, default=None
            Keyword arguments for the shares.

        Returns
        -------
        display : ClassCouplingDisplay
            The object itself.
        """
        plt = import_pyplot()
        mass = np.asarray(self.class_coupling, dtype=float)
        shares = mass / mass.sum(axis=1, keepdims=True)
        self.order_ = np.lexsort((-shares.max(axis=0), shares.argmax(axis=0)))
        shares = shares[:, self.order_]
        rows = [shown(name) for name in self.classes_a]
        columns = [shown(self.classes_b[position]) for position in self.order_]
        if ax is None:
            height, width = (max(0.26 * n, 1.5) for n in shares.shape)
            beside, below = (0.07 * max(len(name) for name in names) for names in (rows, columns))
            figure_size = (2.0 + beside + width, 0.8 + below + height)
            _, ax = plt.subplots(figsize=figure_size, layout="constrained")
        self.ax_ = ax
        self.figure_ = ax.figure
        # Between unequal numbers of classes no share can be near 1.
        largest = shares.max()
        style = {"cmap": cmap, "vmin": 0, "vmax": largest, **(im_kw or {})}
        self.im_ = ax.imshow(shares, **style)
        self.text_ = []
        if include_values:
            for row, column in np.argwhere(shares >= _WRITTEN):
                share = shares[row, column]
                colour = "white" if share > 0.6 * largest else INK
                style = {"ha": "center", "va": "center", "color": colour, "fontsize": 6}
                style = {**style, **(text_kw or {})}
                self.text_.append(ax.text(column, row, f"{100 * share:.0f}", **style))
        if colorbar:
            scale = self.figure_.colorbar(self.im_, ax=ax, shrink=0.8, format="{x:.0%}")
            scale.set_label("share of the class")
            scale.outline.set_visible(False)
        ax.set_xticks(range(len(columns)), columns, rotation=90, fontsize="small", **PLAIN)
        ax.set_yticks(range(len(shares)), rows, fontsize="small", **PLAIN)
        ax.set_xlabel(f"classes of {shown(self.names[1])}", **PLAIN)
        ax.set_ylabel(f"classes of {shown(self.names[0])}", **PLAIN)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        return self
