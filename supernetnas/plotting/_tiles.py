"""Images as a picture shows them: small, in colours, whatever their numbers mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..images.sets import ImageSet

__all__ = ["tiles"]


def tiles(images: ImageSet, index: Any, side: int) -> np.ndarray:
    """Return images as squares of red, green and blue.

    Parameters
    ----------
    images : ImageSet
        Of the whole set, by whose range the values of images of more than 8 bits are shown.
    index : array-like of int
        Which of them.
    side : int
        In pixels.

    Returns
    -------
    ndarray of shape (n, side, side, 3), uint8
    """
    index = np.asarray(index, dtype=int)
    if not len(index):
        return np.zeros((0, side, side, 3), np.uint8)
    chosen = images.take(index)
    return np.concatenate(
        [batch.permute(0, 2, 3, 1).numpy() for batch in chosen.batches(side, side, 64, channels=3)]
    )
