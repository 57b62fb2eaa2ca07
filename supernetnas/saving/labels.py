"""Labels of a fit as JSON, and back to the same values and types."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..storage.files import FileError
from ..storage.formats import dump_json, parse_json

__all__ = ["check_labels", "decode_labels", "encode_labels"]

_MAX_LABELS = 64 * 2**20  # bytes that all labels together may take


def check_labels(classes: np.ndarray) -> None:
    """Refuse labels that a saved classifier would not have when it is loaded.

    Raises
    ------
    ValueError
        Saying why.
    """
    try:
        decode_labels(**parse_json(dump_json(encode_labels(classes)), name="labels"))
        return
    except (FileError, OverflowError, TypeError, ValueError) as error:
        reason = str(error).removesuffix(".")
    raise ValueError(
        f"y holds labels that cannot be saved with the classifier: {reason}. Labels may be "
        "numbers, bools or strings of valid Unicode; np.asarray(y).astype(str) makes strings."
    )


def encode_labels(classes: np.ndarray) -> dict[str, Any]:
    """Write sorted labels as JSON can hold them."""
    return {"dtype": classes.dtype.str, "values": classes.tolist()}


def decode_labels(dtype: str, values: list) -> np.ndarray:
    """Rebuild the sorted labels of a fit.

    Parameters
    ----------
    dtype : str
        As ``numpy.dtype.str``.
    values : list

    Raises
    ------
    TypeError, ValueError, OverflowError
        If they are of another dtype than given, not sorted, equal, or too large together.
    """
    if not isinstance(dtype, str) or not isinstance(values, list):
        raise TypeError("the classes must have a dtype and a list of values")
    kind = np.dtype(dtype)
    # Of itemsize 0, numpy takes the longest label's instead.
    if kind.kind not in "biufUO" or not 0 < kind.itemsize * len(values) <= _MAX_LABELS:
        raise ValueError(f"{len(values)} labels of dtype {kind!s:.80}")
    if kind.kind == "O" and not all(isinstance(value, str | int | float) for value in values):
        raise TypeError("labels must be text or numbers")
    labels = np.array(values, dtype=kind)
    found = labels.tolist()
    if labels.ndim != 1 or found != values or list(map(type, found)) != list(map(type, values)):
        raise ValueError(f"the labels are not of dtype {kind!s:.80}")
    if not len(labels) or not (labels[:-1] < labels[1:]).all():
        raise ValueError("the labels are not sorted, or not different")
    return labels
