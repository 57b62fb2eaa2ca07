"""What a network sees of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._common import PLAIN, fitted_attribute, full_names, import_pyplot, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

__all__ = ["InputsDisplay"]

_COLUMNS = 6
_LONGEST = 18  # letters of a label above an image


class InputsDisplay:
    """Images at the size, with the channels and of the aspect that a network sees.

    Parameters
    ----------
    images : array-like of shape (n, height, width) or (n, height, width, 3)
        Values of 0, black, to 1.
    labels : sequence, optional
        A name for each image.

    Attributes
    ----------
    ax_ : ndarray of matplotlib.axes.Axes
        One for each image.
    figure_ : matplotlib.figure.Figure
        Its figure.
    im_ : list of matplotlib.image.AxesImage
        The images.
    names_ : dict of str to str
        Full names of those that were shortened.

    Examples
    --------
    >>> import numpy as np
    >>> display = InputsDisplay(np.zeros((2, 8, 8)), ["black", "black, too"]).plot()
    >>> [ax.get_title() for ax in display.ax_]
    ['black', 'black, too']
    """

    def __init__(self, images: ArrayLike, labels: Sequence | None = None) -> None:
        shape = np.shape(images)
        if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3) or 0 in shape:
            raise ValueError(
                f"images must be of shape (n, height, width) or (n, height, width, 3); got {shape}."
            )
        if labels is not None and len(labels) != shape[0]:
            raise ValueError(f"There are {shape[0]} images, and labels of {len(labels)}.")
        self.images = images
        self.labels = labels

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X,
        y: Sequence | None = None,
        *,
        n_images: int = 12,
        ax: Sequence[Axes] | None = None,
        **kwargs: Any,
    ) -> InputsDisplay:
        """Draw some images as a fitted classifier sees them.

        Parameters
        ----------
        estimator : SupernetTransferClassifier
            A fitted classifier.
        X : array-like or sequence of images
            As ``predict`` takes them.
        y : sequence of shape (n,), optional
            A name for each image.
        n_images : int, default=12
            Most images; of more, as many are drawn at equal distances.
        ax : sequence of matplotlib.axes.Axes or None, default=None
            Where to draw, one for each image; a new figure if None.
        **kwargs : dict
            Passed on to `plot`.

        Returns
        -------
        display : InputsDisplay
            The display, drawn.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If `estimator` is not fitted.
        ValueError, OSError
            If the images are not like those of the fit, or cannot be read.
        """
        from ..fitting.validation import read_new_images

        seen = fitted_attribute(estimator, "preprocessing_")
        if n_images < 1:
            raise ValueError(f"n_images must be at least 1; got {n_images}.")
        images = read_new_images(estimator, X)
        if y is not None and len(y) != len(images):
            raise ValueError(f"y names {len(y)} images; X has {len(images)}.")
        chosen = np.linspace(0, len(images) - 1, min(n_images, len(images))).astype(int)
        pixels = np.concatenate([block.numpy() for block in seen.pixels(images.take(chosen))])
        low, high = seen.black_and_white
        values = ((pixels - low) / (high - low or 1.0)).clip(0, 1).transpose(0, 2, 3, 1)
        if values.shape[3] in (3, 4):
            values = values[..., :3]
        else:
            values = values.mean(axis=3)
        names = None if y is None else [y[position] for position in chosen.tolist()]
        return cls(values, names).plot(ax=ax, **kwargs)

    def plot(
        self, *, ax: Sequence[Axes] | None = None, im_kw: Mapping[str, Any] | None = None
    ) -> InputsDisplay:
        """Draw the images, pixel by pixel.

        Parameters
        ----------
        ax : sequence of matplotlib.axes.Axes or None, default=None
            Where to draw, one for each image; a new figure if None.
        im_kw : dict or None, default=None
            Keyword arguments for ``imshow``.

        Returns
        -------
        display : InputsDisplay
            This one.
        """
        plt = import_pyplot()
        images = np.asarray(self.images)
        if ax is None:
            columns = min(_COLUMNS, len(images))
            rows = -(-len(images) // columns)
            tall = images.shape[1] / images.shape[2]
            cell = 1.3, min(max(1.3 * tall, 0.5), 3.9) + (0.0 if self.labels is None else 0.25)
            _, grid = plt.subplots(
                rows,
                columns,
                figsize=(cell[0] * columns, cell[1] * rows),
                layout="constrained",
                squeeze=False,
            )
            for unused in grid.flat[len(images) :]:
                unused.set_axis_off()
            ax = grid.flat[: len(images)]
        if len(ax) != len(images):
            raise ValueError(f"There are {len(images)} images to draw, and axes for {len(ax)}.")
        style = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest", **(im_kw or {})}
        self.im_ = []
        names = [] if self.labels is None else list(self.labels)
        short = short_names(names, _LONGEST)
        self.names_ = full_names(short, names)
        for axes, image in zip(ax, images, strict=True):
            self.im_.append(axes.imshow(image, **style))
            axes.set_axis_off()
        for axes, name in zip(ax, short, strict=False):  # without labels there are no names
            axes.set_title(name, fontsize=8, **PLAIN)
        self.ax_ = np.array(list(ax), dtype=object)
        self.figure_ = self.ax_[0].figure
        return self
