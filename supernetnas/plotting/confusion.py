"""Which classes a classifier takes for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._common import import_pyplot
from ._matrix import draw_matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

    from ..evaluation.evaluation import Evaluation

__all__ = ["ConfusionDisplay"]


class ConfusionDisplay:
    """Matrix of how many images of each class are taken for each class.

    The colour of a cell is its share of the true class, so that rare classes count as much as
    frequent ones; the number in it counts images.

    Parameters
    ----------
    confusion : array-like of shape (n_classes, n_classes)
        Number of images by true class (row) and predicted class (column).
    classes : sequence of length n_classes
        Names of the classes.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes drawn on.
    figure_ : matplotlib.figure.Figure
        Its figure.
    im_ : matplotlib.image.AxesImage
        The matrix.
    text_ : ndarray of shape (n_classes, n_classes), dtype=object
        The numbers, None where there is none; all None where the cells are too small for them.
    names_ : dict of str to str
        Full names of the classes whose names were shortened.

    Raises
    ------
    ValueError
        If the names are not as many as the rows and columns.

    See Also
    --------
    ErrorsDisplay : The images that are misclassified.

    Examples
    --------
    >>> display = ConfusionDisplay([[8, 2], [0, 10]], ["cat", "dog"]).plot()
    >>> display.text_[0, 1].get_text()
    '2'
    """

    def __init__(self, confusion: ArrayLike, classes: Sequence[Any]) -> None:
        if np.shape(confusion) != (len(classes), len(classes)):
            raise ValueError(
                f"confusion has the shape {np.shape(confusion)}; {len(classes)} names of classes "
                "were given."
            )
        self.confusion = confusion
        self.classes = classes

    @classmethod
    def from_evaluation(
        cls, evaluation: Evaluation, *, ax: Axes | None = None, **kwargs: Any
    ) -> ConfusionDisplay:
        """Draw the confusion of an evaluation.

        Parameters
        ----------
        evaluation : Evaluation
            What ``clf.evaluate(X, y)`` returned, or ``clf.holdout_``.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure if None.
        **kwargs : dict
            Passed on to `plot`.

        Returns
        -------
        display : ConfusionDisplay
            The display, drawn.
        """
        return cls(evaluation.confusion, evaluation.classes).plot(ax=ax, **kwargs)

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: ArrayLike, *, ax: Axes | None = None, **kwargs: Any
    ) -> ConfusionDisplay:
        """Draw the confusion of a fitted classifier on images of known classes.

        Parameters
        ----------
        estimator : SupernetTransferClassifier
            A fitted classifier.
        X : array-like or sequence of images
            Images that it was not fitted on.
        y : array-like of shape (n,)
            Their labels.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure if None.
        **kwargs : dict
            Passed on to `plot`.

        Returns
        -------
        display : ConfusionDisplay
            The display, drawn.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If `estimator` is not fitted.
        """
        return cls.from_evaluation(estimator.evaluate(X, y), ax=ax, **kwargs)

    def plot(
        self,
        *,
        ax: Axes | None = None,
        include_values: bool = True,
        cmap: Any = None,
        colorbar: bool = True,
        im_kw: Mapping[str, Any] | None = None,
        text_kw: Mapping[str, Any] | None = None,
    ) -> ConfusionDisplay:
        """Draw the matrix.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure that grows with the matrix if None.
        include_values : bool, default=True
            Whether to write the numbers of images, where there are any.
        cmap : str, matplotlib.colors.Colormap or None, default=None
            The colours; None for those of the style.
        colorbar : bool, default=True
            Whether to add the scale of the colours.
        im_kw : dict or None, default=None
            Keyword arguments for ``imshow``.
        text_kw : dict or None, default=None
            Keyword arguments for the numbers.

        Returns
        -------
        display : ConfusionDisplay
            The object itself.
        """
        import_pyplot()
        counts = np.asarray(self.confusion)
        totals = counts.sum(axis=1, keepdims=True)
        # A class without images has no shares.
        shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)

        def written(row: int, column: int) -> str | None:
            return f"{counts[row, column]}" if counts[row, column] else None

        drawn = draw_matrix(
            shares,
            self.classes,
            self.classes,
            ax=ax,
            cmap=cmap,
            values=written if include_values else None,
            colorbar={"format": "{x:.0%}", "label": "share of the class"} if colorbar else None,
            labels=("true class", "predicted class"),
            im_kw={"vmin": 0, "vmax": 1, **(im_kw or {})},
            text_kw=text_kw,
        )
        self.im_, self.text_, self.names_ = drawn.im, drawn.text, drawn.names
        self.ax_ = drawn.im.axes
        self.figure_ = self.ax_.figure
        return self
