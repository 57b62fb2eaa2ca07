"""Labelled feature sets as measures: what a dataset distance needs of one dataset.

Features are checked and normalised, rows are grouped by class, a stratified sample of them takes
part in transport problems, and each class becomes a Gaussian. Covariances S are kept as factors F
with S = F^T F, which have no more rows than the class has images.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

__all__ = [
    "Measure",
    "checked",
    "covariance_factor",
    "grouped_by_class",
    "is_complete",
    "measure",
    "row_weights",
    "stratified_sample",
]

NORMALIZATIONS = ("l2", "none")

_LARGEST = 1e70  # whose fourth power, the largest that is ever formed, is still finite
_HUGE_ENERGY = 1e8  # squared length beyond which float32 features have lost their small differences


@dataclass(frozen=True, eq=False)
class Measure:
    """What the distance needs of one dataset: weighted rows, and a Gaussian for each class.

    All arrays are float64 unless said otherwise; C classes, m rows, d features.

    Attributes
    ----------
    classes : tuple of length C
    rows : (m, d)
        Rows that take part in the transport, grouped by class.
    codes : int (m,)
        Class index of each row.
    weights : (m,)
        Sum to 1; the rows of a class sum to its share of the dataset.
    means : (C, d)
    factors : tuple of C arrays (r, d)
        F with S = F^T F for each class.
    traces : (C,)
        Of S.
    unit_rows : bool
        Whether the rows were scaled to length 1.
    nonnegative : bool
        Whether no feature is negative.
    index : int (m,) or None
        Position of each row in the original data.
    complete : bool
        Whether all rows take part, and each factor is the deviations of its class' rows from their
        mean, divided by the root of their number less one.
    self_terms : dict
        Regularised distances to itself that were computed already; see `supernetnas.distance.otdd`.
    """

    classes: tuple[Hashable, ...]
    rows: np.ndarray
    codes: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    factors: tuple[np.ndarray, ...]
    traces: np.ndarray
    unit_rows: bool
    nonnegative: bool
    index: np.ndarray | None = None
    complete: bool = False
    self_terms: dict[tuple, float] = field(default_factory=dict, repr=False)


def measure(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    normalize: str = "l2",
    n_samples: int | None = 1000,
    min_class_count: int = 1,
    zero_rows: str = "raise",
    random_state: int = 0,
    suffix: str = "",
) -> Measure:
    """Check one dataset and reduce it to a :class:`Measure`.

    Arguments, errors and warnings as in :func:`supernetnas.distance.otdd.otdd`.
    """
    features, classes, codes, index = checked(
        features,
        labels,
        normalize=normalize,
        min_class_count=min_class_count,
        zero_rows=zero_rows,
        suffix=suffix,
    )
    order = grouped_by_class(codes, random_state)
    features, codes, index = features[order], codes[order], index[order]
    counts = np.bincount(codes)
    sample = stratified_sample(counts, n_samples)
    by_class = np.split(features, np.cumsum(counts)[:-1])
    means = np.stack([rows.mean(axis=0) for rows in by_class])
    factors = tuple(covariance_factor(rows) for rows in by_class)
    return Measure(
        classes=classes,
        rows=features[sample],
        codes=codes[sample],
        weights=row_weights(counts, codes[sample]),
        means=means,
        factors=factors,
        traces=np.array([np.square(factor).sum() for factor in factors]),
        unit_rows=normalize == "l2",
        nonnegative=bool((features >= 0).all()),
        index=index[sample],
        complete=is_complete(sample, counts, features.shape[1]),
    )


def is_complete(sample: np.ndarray, counts: np.ndarray, dimension: int) -> bool:
    """Whether a measure of a sample is `complete`, see :class:`Measure`."""
    return len(sample) == counts.sum() and counts.max() <= dimension


def checked(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    normalize: str = "l2",
    min_class_count: int = 1,
    zero_rows: str = "raise",
    suffix: str = "",
) -> tuple[np.ndarray, tuple[Hashable, ...], np.ndarray, np.ndarray]:
    """One dataset, checked and normalised.

    Arguments, errors and warnings as in :func:`supernetnas.distance.otdd.otdd`; `suffix` completes
    the names of the two inputs in messages.

    Returns
    -------
    features : float64 (n, d)
    classes : tuple
    codes : int (n,)
        Class index of each row.
    index : int (n,)
        Position of each row in the input, of which small classes may have been dropped.
    """
    x_name, y_name = f"features{suffix}", f"labels{suffix}"
    if normalize not in NORMALIZATIONS:
        raise ValueError(f"normalize must be one of {NORMALIZATIONS}; got {normalize!r}.")
    if zero_rows not in ("raise", "keep"):
        raise ValueError(f"zero_rows must be 'raise' or 'keep'; got {zero_rows!r}.")
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"{x_name} must have shape (n, d); got {features.shape}.")
    if labels.shape != features.shape[:1]:
        raise ValueError(
            f"{y_name} must have one label per row of {x_name}, shape ({len(features)},); got "
            f"{labels.shape}."
        )
    if len(features) == 0:
        raise ValueError(f"{x_name} is empty.")
    if features.dtype.kind not in "fiub":
        raise TypeError(f"{x_name} must be real numbers; got dtype {features.dtype}.")
    if (labels != labels).any():  # only NaN and NaT differ from themselves
        raise ValueError(f"{y_name} has missing labels (NaN).")
    precise = features.dtype.kind != "f" or features.dtype.itemsize >= 8
    features = features.astype(np.float64)
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{x_name} has non-finite values in {bad.sum()} of {len(bad)} rows; the first is row "
            f"{bad.argmax()}."
        )
    try:
        classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    except TypeError as error:
        raise TypeError(f"{y_name} holds labels that cannot be sorted: {error}.") from error
    index = np.arange(len(features))
    if (rare := counts < min_class_count).any():
        names = ", ".join(str(c) for c in classes[rare])
        if rare.all():
            raise ValueError(f"No class of {y_name} has {min_class_count} rows: {names}.")
        warnings.warn(
            f"Classes of {y_name} with fewer than {min_class_count} rows are dropped: {names}.",
            stacklevel=3,
        )
        index = np.flatnonzero(~rare[codes])
        features, classes = features[index], classes[~rare]
        codes, counts = (np.cumsum(~rare) - 1)[codes[index]], counts[~rare]
    if (single := counts == 1).any():
        warnings.warn(
            f"Classes of {y_name} with a single row have no covariance, which is taken as 0: "
            f"{', '.join(str(c) for c in classes[single])}.",
            stacklevel=3,
        )
    largest = np.abs(features).max(axis=1)
    if normalize == "l2":
        zero = largest == 0
        if zero.any() and zero_rows == "raise":
            raise ValueError(
                f"{x_name} has {zero.sum()} rows of length 0, which cannot be normalised; the "
                f"first is row {index[zero.argmax()]}. zero_rows='keep' leaves them as they are."
            )
        features /= np.where(zero, 1, largest)[:, np.newaxis]  # no square can overflow now
        features /= np.where(zero, 1, np.linalg.norm(features, axis=1))[:, np.newaxis]
    elif largest.max() > _LARGEST:
        raise ValueError(
            f"{x_name} has values up to {largest.max():.1e}, whose squares leave double precision: "
            "scale both sets by the same factor, or use normalize='l2'."
        )
    elif not precise and (energy := np.square(features).sum(axis=1).max()) > _HUGE_ENERGY:
        warnings.warn(
            f"{x_name} has rows of squared length {energy:.1e} in single precision: small "
            f"differences are lost already.",
            stacklevel=3,
        )
    return features, tuple(classes.tolist()), codes, index


def grouped_by_class(codes: np.ndarray, random_state: int) -> np.ndarray:
    """Row order by class, at random within each class."""
    shuffled = np.random.default_rng(random_state).permutation(len(codes))
    return shuffled[np.argsort(codes[shuffled], kind="stable")]


def stratified_sample(counts: np.ndarray, n_samples: int | None) -> np.ndarray:
    """Positions of a stratified sample among rows that are grouped by class.

    The first rows of every class, at least one, and as many as is its share.
    """
    n = int(counts.sum())
    if n_samples is None or n_samples >= n:
        return np.arange(n)
    if n_samples < len(counts):
        raise ValueError(f"n_samples={n_samples} is less than the number of classes {len(counts)}.")
    quantiles = np.concatenate([np.arange(count) / count for count in counts])
    return np.sort(np.argsort(quantiles, kind="stable")[:n_samples])


def row_weights(counts: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Weight of each sampled row, such that every class keeps its share of the whole dataset."""
    return (counts / counts.sum() / np.bincount(codes, minlength=len(counts)))[codes]


def covariance_factor(rows: np.ndarray) -> np.ndarray:
    """F (r, d) with F^T F the unbiased covariance of `rows` (n, d), and r = min(n, d)."""
    n, d = rows.shape
    deviations = (rows - rows.mean(axis=0)) / math.sqrt(max(n - 1, 1))
    # A QR decomposition, unlike a root of the covariance, does not square the condition number.
    # numpy's annotations take no notice of the mode.
    return np.linalg.qr(deviations, mode="r") if n > d else deviations  # type: ignore[return-value]
