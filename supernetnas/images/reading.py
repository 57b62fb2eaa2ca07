"""Whatever a user has, arrays, paths, folders or PIL images, read as one set of images."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from scipy.sparse import issparse
from torch.utils.data import DataLoader, Dataset

from .image_files import ImageFiles
from .items import (
    ENCODED,
    FILES,
    from_torch,
    holds_items,
    holds_rows,
    is_pair,
    is_table,
    kind_of,
    path_or_content,
    refuse_missing,
    table_error,
    with_article,
)
from .picture_sets import PictureImages
from .scales import eight_bit_range, usual_scale, values_held_by
from .sets import ArrayImages, ImageSet, UnequalImages

__all__ = [
    "ImageSet",
    "as_image_set",
    "looks_like_rows",
]

_FEW_CHANNELS = 16  # as many as sensors have (13 of Sentinel-2), and fewer than images have rows


def as_image_set(X, *, image_shape: tuple[int, ...] | None = None, name: str = "X") -> ImageSet:
    """Read X as a set of images.

    Parameters
    ----------
    X : array-like, sequence, ImageFiles or ImageSet
        One of

        - rows of shape (n, p): by `image_shape` if given, else a square p is a grey image of
          side x side, and any other p an image of height 1;
        - grey images (n, height, width);
        - images (n, height, width, channels) or (n, channels, height, width). Channels come
          first if the second axis is 1 or 3 and the last is neither, or if the last two are equal
          and the second is smaller and at most 16; `image_shape` overrules;
        - a sequence of arrays of one image each, of equal or different sizes;
        - a sequence of paths (list, array, Series, DataFrame of one column, `ImageFiles`), of
          what image files hold (bytes, BytesIO, or dicts with "bytes" or a "path", as Hugging
          Face datasets have them), or of PIL images, of any sizes and modes. EXIF orientation is
          honoured, transparent parts are shown on white. Grey of more than 8 bits is numbers on a
          scale of their own, as in an array; it does not mix with 8-bit images.

        Arrays are NumPy's, torch's or anything with ``__array__``, of integers, floats or bool.
    image_shape : tuple of int (height, width) or (height, width, channels), optional
        Shape of one image of an array; not used for images that are resized anyway (files, PIL
        images, unequal arrays).
    name : str, default="X"
        What to call X in messages.

    Returns
    -------
    ImageSet
        Arrays are referred to, not copied; files are not opened yet.

    Raises
    ------
    TypeError
        If X is of a kind that is not read: a sparse matrix, torch Dataset, dict, single path.
    ValueError
        If X is empty, ragged, not finite or not of `image_shape`, mixes channel numbers, misses
        images, or is a table of paths and labels.

    Warns
    -----
    UserWarning
        If rows of 48 or more values, not a square number, are read as images of height 1; if the
        channels may come first, but are read as if they came last.
    """
    if isinstance(X, ImageSet):
        return X
    if isinstance(X, ImageFiles):
        return _from_sequence(X.paths, image_shape, name)
    _refuse(X, name)
    if isinstance(X, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, and no pixel can be left out. Pass {name}.filled(0)."
        )
    if isinstance(X, torch.Tensor):
        X = from_torch(X)
    elif hasattr(X, "__array__"):
        X = np.asarray(X)
    if isinstance(X, np.ndarray) and X.dtype.kind == "S":
        raise TypeError(
            f"{name} is an array of bytes (dtype {X.dtype}), which loses zeros at their ends. Pass "
            f"the contents of image files as a list of bytes, and paths as str."
        )
    if isinstance(X, np.ndarray) and not holds_items(X):
        return _from_array(X, image_shape, name)
    return _from_sequence(list(X.ravel() if isinstance(X, np.ndarray) else X), image_shape, name)


def looks_like_rows(X) -> bool:
    """Whether X is for scikit-learn's validation: numbers in up to two dimensions, or junk.

    An estimator hands such X to `sklearn.utils.validation.validate_data` and what comes back to
    `as_image_set`; anything else goes to `as_image_set` at once. Sparse matrices and numbers in
    one dimension are "rows" too, since scikit-learn has the errors that people know. Lists of
    tensors, and tensors that NumPy cannot view (on a GPU, with gradients, bfloat16), are not; nor
    is what `as_image_set` has better errors for: missing images, open files, tables of paths and
    labels, lists of unequal lengths. Reads no file.
    """
    if isinstance(X, ImageSet | ImageFiles | str | os.PathLike | Mapping | ENCODED):
        return False
    if isinstance(X, Image.Image | Dataset | DataLoader):
        return False
    if isinstance(X, Sequence):
        return holds_rows(X)
    if hasattr(X, "__array__"):
        try:
            X = np.asarray(X)
        except (TypeError, RuntimeError):
            return False
        if X.ndim > 2 or (X.dtype.kind == "S" and X.ndim == 1):
            return False
        return not holds_items(X) and not (X.ndim == 2 and is_table(X))
    return issparse(X) or not hasattr(X, "__iter__")


def _refuse(X, name: str) -> None:
    """Raise for what is not read, with what to pass instead."""
    instead = "Pass the images as an array or as a list of paths"
    if isinstance(X, ENCODED):
        raise TypeError(
            f"{name} is a {type(X).__name__}, the content of one image file. Pass a list: [{name}]."
        )
    if isinstance(X, str | os.PathLike):
        raise TypeError(
            f"{name} is one path, {os.fspath(X)!r}. Pass a list of paths, or read a folder of "
            f"class folders: X, y = supernetnas.load_images(folder)."
        )
    if isinstance(X, Dataset | DataLoader):
        raise TypeError(
            f"{name} is a torch {'Dataset' if isinstance(X, Dataset) else 'DataLoader'}, which has "
            "no array interface. Pass images and labels apart: X, y = "
            f"zip(*{'dataset' if isinstance(X, Dataset) else 'loader.dataset'})."
        )
    if issparse(X) or (isinstance(X, torch.Tensor) and X.layout != torch.strided):
        raise TypeError(
            f"Sparse data was passed for {name}, but images are dense. Use {name}.toarray() "
            f"(torch: {name}.to_dense())."
        )
    if isinstance(X, Image.Image):
        raise TypeError(f"{name} is one PIL image. Pass a list of images: [{name}].")
    if isinstance(X, Mapping):
        kind = with_article(type(X).__name__)
        raise TypeError(f"{name} is {kind}. {instead}, and the labels as y.")
    if not isinstance(X, Sequence) and not hasattr(X, "__array__"):
        if hasattr(X, "column_names"):  # of Hugging Face
            instead = f"Pass the column of the images, such as {name}['image']"
        kind = with_article(type(X).__name__)
        raise TypeError(f"{name} is {kind}, which is not read. {instead}.")


def _from_sequence(items: Sequence, image_shape: tuple[int, ...] | None, name: str) -> ImageSet:
    if len(items) == 0:
        raise ValueError(f"Found {name} with 0 images while a minimum of 1 is required.")
    refuse_missing(items, name)
    kinds = [kind_of(item) for item in items]
    for i, kind in enumerate(kinds):
        if kind != kinds[0] and not {kind, kinds[0]} <= FILES:
            raise TypeError(
                f"{name} mixes images of different kinds: {name}[0] is "
                f"{with_article(kinds[0])}, {name}[{i}] {with_article(kind)}. Pass images of one "
                "kind."
            )
    if kinds[0] == "PIL image":
        return PictureImages(items, name)
    if kinds[0] in FILES:
        return PictureImages([path_or_content(item) for item in items], name)
    if kinds[0] == "array":
        arrays = [from_torch(i) if torch.is_tensor(i) else np.asarray(i) for i in items]
        if len({array.shape for array in arrays}) == 1:
            return _from_array(np.stack(arrays), image_shape, name)
        return _from_unequal(arrays, name)
    if is_pair(items[0]):
        raise TypeError(
            f"{name}[0] is a pair of an image and something else, such as its label. Pass them "
            f"apart: X, y = zip(*{name})."
        )
    if kinds[0] == "list" and is_table(items):
        raise table_error(name)
    if kinds[0] in ("list", "number"):
        try:
            return _from_array(np.asarray(items), image_shape, name)
        except ValueError as error:
            if "inhomogeneous" not in str(error):
                raise
            raise ValueError(
                f"{name} is a nested list of unequal lengths. Rows must have the same number of "
                f"values; images of different sizes are passed as a list of arrays."
            ) from None
    instead = "Pass paths, PIL images or arrays"
    if hasattr(items[0], "read"):
        instead = "Pass the paths of files, or what read() gives"
    raise TypeError(f"{name}[0] is {with_article(kinds[0])}, which is not read. {instead}.")


def _from_unequal(arrays: list[np.ndarray], name: str) -> ImageSet:
    for i, array in enumerate(arrays):
        if array.ndim not in (2, 3) or array.size == 0:
            instead = ""
            if array.ndim == 4:
                instead = f" Of batches, pass [image for batch in {name} for image in batch]."
            if len(arrays) == 2 and arrays[1].shape == arrays[0].shape[:1]:
                instead = " Images and labels are two arguments, X and y."
            raise ValueError(
                f"{name} is a sequence of arrays of different shapes, and {name}[{i}] of shape "
                f"{array.shape} is not an image: (height, width) or (height, width, channels)."
                f"{instead}"
            )
    arrays = [_numeric(array, name) for array in arrays]
    value_range = _value_range(arrays, name)
    held = _values_held_by_all(arrays)
    if any(array.dtype != np.uint8 for array in arrays):
        arrays = [array.astype(np.float32) for array in arrays]
    images = [ArrayImages(i, value_range) for i in _unequal_channels_last(arrays, name)]
    counts = sorted({image.channels for image in images})
    if len(counts) > 1 and counts != [1, 3]:
        raise ValueError(
            f"The images in {name} have {' or '.join(map(str, counts))} channels. Unequal images "
            "may mix 1 and 3 channels only. If their channels come first, pass [image.transpose(1, "
            f"2, 0) for image in {name}]."
        )
    return UnequalImages(images, value_range, held)


def _from_array(array: np.ndarray, image_shape: tuple[int, ...] | None, name: str) -> ImageSet:
    if array.ndim < 2:
        raise ValueError(
            f"Expected {name} of 2, 3 or 4 dimensions, got {array.ndim}. Reshape your data: "
            f"{name}[None] if it is a single image or row."
        )
    if array.ndim > 4:
        raise ValueError(
            f"Found array with dim {array.ndim}, while dim <= 4 is required by as_image_set: pass "
            f"{name} as (n, height, width, channels)."
        )
    if array.ndim == 2 and is_table(array):
        raise table_error(name)
    if array.size == 0:
        raise ValueError(
            f"Found {name} with shape {array.shape}: at least one image of one pixel is required."
        )
    array = _numeric(array, name)
    if array.ndim == 2:
        array = array.reshape(len(array), *_shape_of_rows(array.shape[1], image_shape, name))
    else:
        array = _channels_last(array, image_shape, name)
    return ArrayImages(array, _value_range([array], name))


def _shape_of_rows(
    n_features: int, image_shape: tuple[int, ...] | None, name: str
) -> tuple[int, int, int]:
    if image_shape is not None:
        shape = _three(image_shape)
        if math.prod(shape) != n_features:
            raise ValueError(
                f"image_shape={tuple(image_shape)} holds {math.prod(shape)} values per image, but "
                f"{name} has {n_features} features."
            )
        return shape
    side = math.isqrt(n_features)
    if side * side == n_features:
        return side, side, 1
    if n_features >= 48:
        third = math.isqrt(n_features // 3)
        advice = "image_shape=(height, width) or (height, width, channels)"
        if 3 * third * third == n_features:
            advice = f"image_shape=({third}, {third}, 3) if the rows are RGB images"
        warnings.warn(
            f"{name} has {n_features} features, which is not a square number; each row is read as "
            f"a 1 x {n_features} image. Pass {advice}.",
            UserWarning,
            stacklevel=4,
        )
    return 1, n_features, 1


def _channels_last(array: np.ndarray, image_shape: tuple[int, ...] | None, name: str) -> np.ndarray:
    """View an array of three or four dimensions as (n, height, width, channels)."""
    if array.ndim == 3:
        array = array[..., None]
    last = array.shape[1:]
    first = (*last[1:], last[0])
    if image_shape is None:
        channels_first = _channels_come_first(last, name)
    else:
        shape = _three(image_shape)
        if shape not in (last, first):
            raise ValueError(f"{name} holds images of shape {last}, not image_shape={shape}.")
        channels_first = shape != last
    return np.moveaxis(array, 1, 3) if channels_first else array


def _channels_come_first(shape: tuple[int, ...], name: str) -> bool:
    """Whether images of this shape have their channels first, as far as the shape tells."""
    first, second, last = shape
    if last in (1, 3) or first in (1, 3):
        return last not in (1, 3)
    if first > _FEW_CHANNELS or first >= min(second, last):
        return False
    if second == last:
        return True
    if last > 4:
        warnings.warn(
            f"{name} is read as images of {first} x {second} pixels with {last} channels. If the "
            f"channels come first, pass image_shape=({second}, {last}, {first}); if they come "
            f"last, image_shape={shape}.",
            UserWarning,
            stacklevel=5,
        )
    return False


def _unequal_channels_last(arrays: list[np.ndarray], name: str) -> list[np.ndarray]:
    """View images of different sizes as (1, height, width, channels) each."""
    firsts = {array.shape[0] for array in arrays if array.ndim == 3}
    lasts = {array.shape[2] for array in arrays if array.ndim == 3}
    images = [array[None] for array in arrays]
    # An axis that all share, where sizes differ, is that of the channels.
    if len(lasts) == 1 < len(firsts):
        return [image if image.ndim == 4 else image[..., None] for image in images]
    few = len(firsts) == 1 and max(firsts) <= _FEW_CHANNELS
    if few and len(lasts) > 1 and (max(firsts) < min(lasts) or max(lasts) > _FEW_CHANNELS):
        return [np.moveaxis(i, 1, 3) if i.ndim == 4 else i[..., None] for i in images]
    return [_channels_last(image, None, name) for image in images]


def _three(image_shape: tuple[int, ...]) -> tuple[int, int, int]:
    try:
        shape = tuple(int(size) for size in image_shape)
        if len(shape) in (2, 3) and shape == tuple(image_shape) and min(shape) >= 1:
            height, width, channels = shape if len(shape) == 3 else (*shape, 1)
            return height, width, channels
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"image_shape must be (height, width) or (height, width, channels), got {image_shape!r}."
    )


def _numeric(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype.kind == "O":
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} holds objects that are not numbers: {error}") from error
    if array.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} must hold real numbers.")
    if array.dtype.kind not in "buif":
        raise ValueError(
            f"{name} has {array.ndim} dimensions of dtype {array.dtype}, which holds no numbers. "
            f"Paths are passed in one dimension, such as one column of a DataFrame."
        )
    return array


def _value_range(arrays: list[np.ndarray], name: str) -> tuple[float, float]:
    """Least and greatest value, or (0, 255) for 8-bit images; raises if any is not finite."""
    # np.min and np.max, unlike Python's, hand a NaN on.
    low = float(np.min([array.min() for array in arrays]))
    high = float(np.max([array.max() for array in arrays]))
    if math.isnan(low):
        raise ValueError(f"Input {name} contains NaN. Images must be finite.")
    if max(-low, high) > float(np.finfo(np.float32).max):
        raise ValueError(
            f"Input {name} contains infinity or a value too large for dtype('float32')."
        )
    if all(array.dtype == np.uint8 for array in arrays):
        return eight_bit_range(high)
    return usual_scale(low, high)


def _values_held_by_all(arrays: list[np.ndarray]) -> tuple[float, float] | None:
    """Least and greatest value that the integer types of arrays hold; None if any are floats."""
    held = [values_held_by(array.dtype) for array in arrays]
    limits = [each for each in held if each is not None]
    if len(limits) < len(held):
        return None
    return min(low for low, _ in limits), max(high for _, high in limits)
