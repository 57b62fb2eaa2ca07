"""What the items of a sequence are: paths, contents of files, pictures, arrays, rows or numbers.

No file is opened to find out.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np
import torch
from PIL import Image

__all__ = [
    "ENCODED",
    "FILES",
    "from_torch",
    "holds_items",
    "holds_rows",
    "is_pair",
    "is_table",
    "kind_of",
    "path_or_content",
    "refuse_missing",
    "table_error",
    "with_article",
]

ENCODED = bytes | bytearray | memoryview | io.BytesIO
FILES = frozenset(("path", "encoded image", "row with bytes or a path"))  # may be mixed
_ROW_KEYS = ("bytes", "path")  # of images in datasets of Hugging Face


def kind_of(item) -> str:
    """What an item is called in messages."""
    if isinstance(item, str | os.PathLike):
        return "path"
    if isinstance(item, ENCODED):
        return "encoded image"
    if isinstance(item, Mapping) and any(key in item for key in _ROW_KEYS):
        return "row with bytes or a path"
    if isinstance(item, Image.Image):
        return "PIL image"
    if isinstance(item, list | tuple):
        return "list"
    if isinstance(item, int | float | complex | np.number | np.bool_):
        return "number"
    return "array" if hasattr(item, "__array__") else type(item).__name__


def with_article(kind: str) -> str:
    """A kind of thing with its article."""
    return f"an {kind}" if kind[:1].lower() in "aeiou" else f"a {kind}"


def is_pair(item) -> bool:
    """Whether an item is an image and something else, such as its label."""
    if not isinstance(item, list | tuple) or len(item) != 2 or not _is_image(item[0]):
        return False
    named = isinstance(item[1], str) and kind_of(item[0]) != "path"
    return named or not _is_image(item[1])


def path_or_content(item) -> str | bytes:
    """The path or the content of an item of one of the kinds `FILES`."""
    if isinstance(item, Mapping):
        content = item.get("bytes")
        item = item["path"] if content is None else content
    if isinstance(item, io.BytesIO):
        return item.getvalue()  # wherever its position is
    return (
        bytes(item) if isinstance(item, bytes | bytearray | memoryview) else str(os.fsdecode(item))
    )


def from_torch(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as an array; of float32 where NumPy does not have its type."""
    tensor = tensor.detach().cpu()
    try:
        return tensor.numpy()
    except TypeError:  # bfloat16 and types of 8 bits
        if not tensor.is_floating_point():
            raise
        return tensor.float().numpy()


def _is_missing(item) -> bool:
    if isinstance(item, Mapping):
        return any(key in item for key in _ROW_KEYS) and all(
            item.get(key) is None for key in _ROW_KEYS
        )
    is_nan = isinstance(item, float | np.floating) and math.isnan(item)
    return item is None or is_nan or type(item).__name__ == "NAType"  # pandas' NA


def refuse_missing(items: Sequence, name: str) -> None:
    """Raise ValueError if items are missing: count them, and name the first."""
    missing = [i for i, item in enumerate(items) if _is_missing(item)]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(items)} images are missing (None or NaN), the first of them "
            f"{name}[{missing[0]}]."
        )


def _is_image(item) -> bool:
    """Whether an item of a sequence is an image, not a row or a number."""
    kind = kind_of(item)
    if kind == "array":
        return np.ndim(item) >= 2
    if kind == "list":
        return len(item) > 0 and kind_of(item[0]) in ("list", "array")
    return kind == "PIL image" or kind in FILES


def _first(items: Iterable):
    """The first item that is not missing, or None."""
    return next((item for item in items if not _is_missing(item)), None)


def holds_rows(items: Sequence) -> bool:
    """Whether a sequence holds numbers, or rows of numbers of equal lengths."""
    first = _first(items)
    if first is None:
        return False
    if kind_of(first) == "number":
        return True
    if kind_of(first) not in ("list", "array") or torch.is_tensor(first) or _is_image(first):
        return False
    return len({_length(item) for item in items}) == 1 and not is_table(items)


def holds_items(array: np.ndarray) -> bool:
    """Whether an array of one dimension or column holds objects other than numbers."""
    one_column = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)
    if not one_column or array.dtype.kind not in "OUT" or array.size == 0:
        return False
    first = _first(array.flat)
    return first is None or kind_of(first) != "number"


def _length(row) -> int | None:
    try:
        return len(row)
    except TypeError:
        return None


def is_table(rows: Iterable) -> bool:
    """Whether rows hold paths, names or images, which the first few tell."""
    if isinstance(rows, np.ndarray) and rows.dtype.kind not in "OUT":
        return False
    cells = (cell for row in islice(rows, 10) if _length(row) for cell in row)
    return any(
        kind_of(cell) == "PIL image" or (kind_of(cell) in FILES and not _is_numeral(cell))
        for cell in cells
    )


def _is_numeral(cell) -> bool:
    """Whether scikit-learn would make a number of a text."""
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True


def table_error(name: str) -> ValueError:
    """What to raise where `is_table` is true."""
    return ValueError(
        f"{name} is a table with columns that do not hold numbers. Paths are passed in one "
        f"dimension, such as one column of a DataFrame, {name}['path'], and the labels as y."
    )
