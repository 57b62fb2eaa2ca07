"""The images that a classifier takes for something else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._colours import Palette
from ._common import PLAIN, full_names, import_pyplot, short_names
from ._tiles import tiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

    from ..evaluation.evaluation import Evaluation

__all__ = ["ErrorsDisplay"]

_SIDE = 96  # pixels of an image
_GAP = 0.12  # between images, in widths of one
_CAPTION = 0.46  # height of the two lines below an image
_WITH_FIGURES = 16  # letters in a line
_LETTER = 0.6  # mean width of a letter, in heights
_SMALLEST, _LARGEST = 5.5, 9.0  # letters in points


class ErrorsDisplay:
    """Misclassified images, each with its true class and what it was taken for.

    Parameters
    ----------
    images : array-like of shape (n, height, width, 3), uint8
        The images.
    captions : sequence of tuple of (str, str)
        The true class of each, and what it was taken for.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes drawn on.
    figure_ : matplotlib.figure.Figure
        Its figure.
    images_ : list of matplotlib.image.AxesImage
        The images, in rows.
    text_ : list of matplotlib.text.Text
        The captions: none where the axes are too small for them.
    names_ : dict of str to str
        Full names of the classes whose names were shortened.

    Raises
    ------
    ValueError
        If there are not as many captions as images.

    See Also
    --------
    ConfusionDisplay : How often which class is taken for which.

    Examples
    --------
    >>> import numpy as np
    >>> display = ErrorsDisplay(np.zeros((1, 8, 8, 3), "uint8"), [("cat", "dog, 0.93")]).plot()
    >>> print(display.text_[0].get_text())
    cat
    → dog, 0.93
    """

    def __init__(self, images: ArrayLike, captions: Sequence[tuple[str, str]]) -> None:
        if len(np.asarray(images)) != len(captions):
            raise ValueError(
                f"{len(np.asarray(images))} images and {len(captions)} captions were given."
            )
        self.images = images
        self.captions = captions

    @classmethod
    def from_evaluation(
        cls,
        evaluation: Evaluation,
        X: Any,
        *,
        by: str = "confidence",
        n: int = 12,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> ErrorsDisplay:
        """Draw the mistakes of an evaluation.

        Parameters
        ----------
        evaluation : Evaluation
            What ``clf.evaluate(X, y)`` returned, or ``clf.holdout_``.
        X : array-like or sequence of images
            What was given to ``evaluate`` or, for ``clf.holdout_``, to ``fit``.
        by : {"confidence", "confusion"}, default="confidence"
            "confidence" draws the most confident mistakes, "confusion" an example of each of the
            most frequent ones.
        n : int, default=12
            Most images.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure if None.
        **kwargs : dict
            Passed on to `plot`.

        Returns
        -------
        display : ErrorsDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If `by` is something else, or X has fewer images than the evaluation names.
        """
        from ..images.reading import as_image_set

        if by not in ("confidence", "confusion"):
            raise ValueError(f"by must be 'confidence' or 'confusion'. Got {by!r} instead.")
        images = as_image_set(X)
        if (last := int(evaluation.index.max())) >= len(images):
            raise ValueError(
                f"X has {len(images)} images, but the evaluation names number {last}. Pass what it "
                "was made of; for clf.holdout_ that is the X of fit."
            )
        if by == "confidence":
            rows = evaluation.errors(n)
            taken = [f"{row['predicted']}, {row['confidence']:.2f}" for row in rows]
        else:
            rows, taken = [], []
            for pair in evaluation.confusions(n):
                same = (pair["class"], pair["predicted"])
                examples = (r for r in evaluation.errors() if same == (r["class"], r["predicted"]))
                rows.append(next(examples))
                taken.append(f"{pair['predicted']}, {pair['images']}×")
        captions = [(str(row["class"]), text) for row, text in zip(rows, taken, strict=True)]
        found = tiles(images, [row["index"] for row in rows], _SIDE)
        return cls(found, captions).plot(ax=ax, **kwargs)

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: ArrayLike, *, ax: Axes | None = None, **kwargs: Any
    ) -> ErrorsDisplay:
        """Draw the mistakes of a fitted classifier on images of known classes.

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
            Passed on to `from_evaluation`.

        Returns
        -------
        display : ErrorsDisplay
            The display, drawn.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If `estimator` is not fitted.
        """
        return cls.from_evaluation(estimator.evaluate(X, y), X, ax=ax, **kwargs)

    def plot(
        self,
        *,
        ax: Axes | None = None,
        n_columns: int | None = None,
        im_kw: Mapping[str, Any] | None = None,
        text_kw: Mapping[str, Any] | None = None,
    ) -> ErrorsDisplay:
        """Draw the images.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; a new figure that grows with the images if None.
        n_columns : int or None, default=None
            Images in a row; None for as many as suit the axes.
        im_kw : dict or None, default=None
            Keyword arguments for ``imshow``.
        text_kw : dict or None, default=None
            Keyword arguments for the captions.

        Returns
        -------
        display : ErrorsDisplay
            The object itself.
        """
        plt = import_pyplot()
        n = len(self.captions)
        if ax is None:
            columns = n_columns or min(max(n, 2), 4)
            rows = max(math.ceil(n / columns), 1)
            size = (1.7 * columns + 0.2, 1.7 * rows * (1 + _CAPTION) + 0.3)
            _, ax = plt.subplots(figsize=size, layout="constrained")
        self.ax_ = ax
        self.figure_ = ax.figure
        self.images_: list[Any] = []
        self.text_: list[Any] = []
        self.names_: dict[str, str] = {}
        palette = Palette.of(ax)
        ax.set_axis_off()
        if not n:
            style = {"ha": "center", "va": "center", "color": palette.ink, **(text_kw or {})}
            ax.text(0.5, 0.5, "no image was misclassified", transform=ax.transAxes, **style)
            return self
        columns = n_columns or self._columns(n)
        rows = math.ceil(n / columns)
        step, drop = 1 + _GAP, 1 + _CAPTION + _GAP
        for place, image in enumerate(np.asarray(self.images)):
            row, column = divmod(place, columns)
            left, top = column * step, -row * drop
            extent = (left, left + 1, top - 1, top)
            self.images_.append(ax.imshow(image, **{"extent": extent, **(im_kw or {})}))
        width, height = columns * step - _GAP, rows * drop - _GAP
        ax.set(xlim=(-0.02, width + 0.02), ylim=(-height, 0.02), aspect="equal")
        self._write_captions(columns, width, height, palette, text_kw)
        return self

    def _columns(self, n: int) -> int:
        """Images in a row with which they are largest."""
        self.figure_.canvas.figure.draw_without_rendering()
        box = self.ax_.get_window_extent()

        def side(columns: int) -> float:
            rows = math.ceil(n / columns)
            return min(
                box.width / (columns * (1 + _GAP)), box.height / (rows * (1 + _CAPTION + _GAP))
            )

        return max(range(1, n + 1), key=side)

    def _write_captions(
        self,
        columns: int,
        width: float,
        height: float,
        palette: Palette,
        text_kw: Mapping[str, Any] | None,
    ) -> None:
        """Write two lines below each image, as wide as it is, where that is legible."""
        figure = self.figure_.canvas.figure
        figure.draw_without_rendering()
        box = self.ax_.get_window_extent()
        side = 72 / figure.dpi * min(box.width / width, box.height / height)
        size = min(0.36 * _CAPTION * side, _LARGEST)
        letters = int(side * (1 + 0.5 * _GAP) / (_LETTER * size)) if size else 0
        if size < _SMALLEST or letters < 6:
            return
        true, taken, ends = [], [], []
        for first, second in self.captions:
            what, comma, figure_of = second.rpartition(", ")
            true.append(first)
            taken.append(what if comma else second)
            ends.append(comma + figure_of if comma and letters >= _WITH_FIGURES else "")
        n, room_for_taken = len(true), letters - max(map(len, ends)) - 2
        short_true = short_names([*true, *taken], letters)[:n]
        short_taken = short_names([*true, *taken], room_for_taken)[n:]
        self.names_ = full_names([*short_true, *short_taken], [*true, *taken])
        for place in range(n):
            row, column = divmod(place, columns)
            lines = f"{short_true[place]}\n→ {short_taken[place]}{ends[place]}"
            style = {"ha": "left", "va": "top", "fontsize": size, "color": palette.ink, **PLAIN}
            left, top = column * (1 + _GAP), -row * (1 + _CAPTION + _GAP)
            self.text_.append(
                self.ax_.text(left, top - 1.03, lines, **{**style, **(text_kw or {})})
            )
