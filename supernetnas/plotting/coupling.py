"""Which classes of one dataset are transported to which of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._common import import_pyplot, shown
from ._matrix import draw_matrix

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
        The shares that are written: none where the cells are too small for them.
    names_ : dict of str to str
        Full names of the classes whose names were shortened.

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
        cmap: Any = None,
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
        cmap : str, matplotlib.colors.Colormap or None, default=None
            The colours; None for those of the style.
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
        import_pyplot()
        mass = np.asarray(self.class_coupling, dtype=float)
        shares = mass / mass.sum(axis=1, keepdims=True)
        self.order_ = np.lexsort((-shares.max(axis=0), shares.argmax(axis=0)))
        shares = shares[:, self.order_]

        def written(row: int, column: int) -> str | None:
            share = shares[row, column]
            return f"{100 * share:.0f}" if share >= _WRITTEN else None

        drawn = draw_matrix(
            shares,
            self.classes_a,
            [self.classes_b[position] for position in self.order_],
            ax=ax,
            cmap=cmap,
            values=written if include_values else None,
            colorbar={"format": "{x:.0%}", "label": "share of the class"} if colorbar else None,
            labels=(f"classes of {shown(self.names[0])}", f"classes of {shown(self.names[1])}"),
            # Between unequal numbers of classes no share can be near 1.
            im_kw={"vmin": 0, "vmax": shares.max(), **(im_kw or {})},
            text_kw=text_kw,
        )
        self.im_, self.names_ = drawn.im, drawn.names
        self.ax_ = drawn.im.axes
        self.figure_ = self.ax_.figure
        self.text_ = [text for text in drawn.text.ravel() if text is not None]
        return self
