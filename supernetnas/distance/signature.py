"""What is kept of a dataset so that it can be compared without its images.

A :class:`DatasetSignature` holds the class means of a dataset's features and, for at most so many
rows of each class, how they deviate from them. It has two forms:

- *full*: the rows themselves in float16. Where all rows are kept, distances equal those of
  :func:`supernetnas.distance.otdd.otdd` up to that rounding; else covariances are those of the rows
  that are kept, not of all.
- *compact*: class means in 8 bits, and deviations as 8-bit coefficients in a :class:`Basis` that a
  zoo keeps once for all its sources. This is a twentieth of the size, small enough for a wheel:
  d bytes a class and q bytes a row, 40 to 230 KiB for datasets of 4 to 60 classes.

Between full and compact signatures of groups of classes of 18 real datasets, distances differed
from those between full ones by 0.5 % in the median and by 7 % at most.

With tens of images in a thousand dimensions, transport cannot match within-class noise: what a
basis leaves out of a deviation adds its energy to every distance, differently for each dataset, and
deleting it changes the order of sources. A compact signature therefore remembers that energy for
each class, and distances put noise of the same energy in its place. The noise is a function of the
signature, so that distances are reproducible.

Features are not anonymous: class means and deviations say something about the images.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..storage.files import FileError
from ..storage.formats import parse_json
from .measures import (
    NORMALIZATIONS,
    Measure,
    checked,
    covariance_factor,
    grouped_by_class,
    is_complete,
    row_weights,
    stratified_sample,
)
from .otdd import OTDDResult, Settings, available_cores, distances_to_many

if TYPE_CHECKING:
    import torch

__all__ = ["Basis", "DatasetSignature", "SignatureError", "fit_basis"]

_FORMAT = "supernetnas-signature"
_VERSION = "1"

# At most so many rows of a signature enter the transport problem; class statistics use all it has.
_TRANSPORT_ROWS = 1000

# What a file may claim to be before it is read any further.
_MAX_CLASSES, _MAX_ROWS, _MAX_DIMENSION = 100_000, 1_000_000, 65_536

_DTYPES = {
    "full": {"counts": "int32", "kept": "int32", "means": "float32", "rows": "float16"},
    "compact": {
        "counts": "int32",
        "kept": "int32",
        "means": "int8",
        "mean_scales": "float32",
        "rows": "int8",
        "row_scales": "float32",
        "residuals": "float32",
    },
}


class SignatureError(ValueError):
    """A signature that is malformed, or two that cannot be compared."""


@dataclass(frozen=True, eq=False)
class Basis:
    """Directions (q, d) in which compact signatures describe within-class deviations, float16."""

    components: np.ndarray

    def __post_init__(self):
        array = self.components
        if array.ndim != 2 or array.dtype != np.float16 or 0 in array.shape:
            raise SignatureError(
                f"A basis must be a float16 array (q, d); got {array.dtype} {array.shape}."
            )
        if max(array.shape) > _MAX_DIMENSION or not np.isfinite(array).all():
            raise SignatureError("A basis must be finite and of sensible size.")

    @cached_property
    def id(self) -> str:
        """Twelve digits of the SHA-256 of shape and content."""
        content = np.ascontiguousarray(self.components, dtype="<f2").tobytes()
        return hashlib.sha256(f"{self.components.shape}".encode() + content).hexdigest()[:12]

    def to_tensors(self) -> dict[str, np.ndarray]:
        return {"components": self.components}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> Basis:
        if set(tensors) != {"components"}:
            raise SignatureError(f"A basis holds 'components' only; got {sorted(tensors)}.")
        return cls(np.asarray(tensors["components"]))


def fit_basis(
    datasets: Iterable[tuple[np.ndarray, np.ndarray]], q: int = 64, *, normalize: str = "l2"
) -> Basis:
    """Principal directions of the within-class deviations of several datasets, pooled.

    Parameters
    ----------
    datasets : iterable of (features (n, d), labels (n,))
    q : int, default=64
        Number of directions.
    normalize : {"l2", "none"}, default="l2"
        As in the signatures that will use the basis.

    Returns
    -------
    Basis
    """
    scatter: np.ndarray | None = None
    for features, labels in datasets:
        features, _, codes, _ = checked(features, labels, normalize=normalize)
        deviations = features - _class_means(features, codes)[codes]
        own = deviations.T @ deviations
        scatter = own if scatter is None else scatter + own
    if scatter is None:
        raise ValueError("fit_basis needs at least one dataset.")
    if not 1 <= q <= len(scatter):
        raise ValueError(f"q must be between 1 and the number of features {len(scatter)}; got {q}.")
    _, vectors = np.linalg.eigh(scatter)
    components = vectors[:, : -q - 1 : -1].T
    # Eigenvectors have no sign of their own; with this one, equal data give equal bases.
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    return Basis((components * np.sign(largest)).astype(np.float16))


@dataclass(frozen=True, eq=False)
class DatasetSignature:
    """Per-class statistics and sampled rows of one dataset's features.

    Made by :meth:`from_features`, :meth:`compress` or :meth:`from_tensors`. C classes, m kept rows
    that are grouped by class and in random order within it, d features, q coefficients.

    Attributes
    ----------
    embedder_id : str
        :attr:`Embedder.identity` of the features.
    normalize : {"l2", "none"}
        Whether rows were scaled to length 1.
    class_names : tuple of C str
    nonnegative : bool
        Whether no feature is negative, which tightens the bound on distances.
    counts : int32 (C,)
        Images of each class in the dataset.
    kept : int32 (C,)
        Rows of each class in the signature.
    means : float32 or int8 (C, d)
        Class means over the whole dataset.
    rows : float16 (m, d) or int8 (m, q)
        Rows, or coefficients of their deviations from the class means.
    basis : Basis or None
        None in the full form.
    mean_scales, row_scales : float32 (C,) and (q,), or None
        Units of the 8-bit numbers.
    residuals : float32 (C,) or None
        Mean squared length of what basis and rounding leave out of the kept deviations.
    """

    embedder_id: str
    normalize: str
    class_names: tuple[str, ...]
    nonnegative: bool
    counts: np.ndarray
    kept: np.ndarray
    means: np.ndarray
    rows: np.ndarray
    basis: Basis | None = None
    mean_scales: np.ndarray | None = None
    row_scales: np.ndarray | None = None
    residuals: np.ndarray | None = None

    @classmethod
    def from_features(
        cls,
        features: np.ndarray,
        labels: np.ndarray,
        *,
        embedder_id: str,
        normalize: str = "l2",
        n_samples: int | None = 1000,
        class_names: Sequence[str] | None = None,
        counts: np.ndarray | None = None,
        random_state: int = 0,
    ) -> DatasetSignature:
        """The full signature of a dataset.

        Parameters
        ----------
        features : array-like of shape (n, d)
        labels : array-like of shape (n,)
        embedder_id : str
            Identity of the embedder that made the features.
        normalize : {"l2", "none"}, default="l2"
            Scale rows to length 1.
        n_samples : int or None, default=1000
            At most so many rows are kept, drawn by class; None keeps all. Counts and means are
            those of all rows, covariances those of the kept ones.
        class_names : sequence of str, optional
            Names of the classes in the sorted order of their labels. Default: the labels.
        counts : ndarray of shape (n_classes,), int, optional
            Images of each class in the dataset, if the features are those of a sample. Default: as
            many as there are.
        random_state : int, default=0
            Seed of the draw.

        Raises
        ------
        ValueError
            As :func:`supernetnas.distance.otdd.otdd` does.
        """
        features, classes, codes, _ = checked(features, labels, normalize=normalize)
        names = tuple(str(c) for c in (classes if class_names is None else class_names))
        if len(names) != len(classes):
            raise ValueError(f"class_names has {len(names)} names for {len(classes)} classes.")
        given = np.bincount(codes)
        order = grouped_by_class(codes, random_state)
        order = order[stratified_sample(given, n_samples)]
        with np.errstate(over="ignore"):
            rows = features[order].astype(np.float16)
        if not np.isfinite(rows).all():
            raise ValueError(
                f"features up to {np.abs(features).max():.1e} do not fit into float16: scale them."
            )
        return cls(
            embedder_id=embedder_id,
            normalize=normalize,
            class_names=names,
            nonnegative=bool((features >= 0).all()),
            counts=(given if counts is None else counts).astype(np.int32),
            kept=np.bincount(codes[order]).astype(np.int32),
            means=_class_means(features, codes).astype(np.float32),
            rows=rows,
        )

    def __repr__(self) -> str:
        n, classes = self.counts.sum(), len(self.counts)
        return f"<DatasetSignature {self.form}, {n} images, {classes} classes, {self.embedder_id}>"

    @property
    def form(self) -> str:
        return "full" if self.basis is None else "compact"

    @property
    def dimension(self) -> int:
        return self.means.shape[1]

    def compress(self, basis: Basis) -> DatasetSignature:
        """The compact form of a full signature."""
        if self.basis is not None:
            raise SignatureError("The signature is compact already.")
        if basis.components.shape[1] != self.dimension:
            raise SignatureError(
                f"Basis {basis.id} is for {basis.components.shape[1]} features; the signature has "
                f"{self.dimension}."
            )
        components = basis.components.astype(np.float64)
        codes = self._codes
        means, mean_scales = _to_int8(self.means, axis=1)
        deviations = self.rows - (means * mean_scales[:, np.newaxis])[codes]
        rows, row_scales = _to_int8(deviations @ components.T, axis=0)
        lost = np.square(deviations - (rows * row_scales) @ components).sum(axis=1)
        return replace(
            self,
            basis=basis,
            means=means,
            mean_scales=mean_scales,
            rows=rows,
            row_scales=row_scales,
            residuals=(np.bincount(codes, lost) / self.kept).astype(np.float32),
        )

    def distance(
        self,
        other: DatasetSignature,
        *,
        lambda_x: float = 1.0,
        lambda_y: float = 1.0,
        label_distance: str = "gaussian",
        reg: float | None = None,
        reg_unit: str = "cost",
        debiased: bool = True,
        return_coupling: bool = False,
    ) -> OTDDResult:
        """OTDD between two datasets; arguments and result as in
        :func:`supernetnas.distance.otdd.otdd`.

        At most 1000 rows of each signature enter the transport problem, and `rows_a` and `rows_b`
        of the result count among the kept rows.

        Raises
        ------
        SignatureError
            If embedder or normalisation of the two differ.
        """
        settings = Settings(
            lambda_x, lambda_y, label_distance, reg, reg_unit, debiased, return_coupling
        )
        return self.distances([other], settings)[0]

    def distances(
        self,
        others: Sequence[DatasetSignature],
        settings: Settings | None = None,
        *,
        device: str | torch.device = "cpu",
        n_jobs: int | None = None,
    ) -> list[OTDDResult]:
        """OTDD to each of several datasets: what :meth:`distance` gives, in one computation.

        Parameters
        ----------
        others : sequence of DatasetSignature
        settings : supernetnas.distance.otdd.Settings, optional
            What is measured; by default what :meth:`distance` measures.
        device : str or torch.device, default="cpu"
            A GPU computes all label distances in large batches.
        n_jobs : int, optional
            Threads; by default one for each core.

        Raises
        ------
        SignatureError
            If embedder or normalisation of two differ.
        """
        for other in others:
            self.check_comparable(other)
        with ThreadPoolExecutor(n_jobs or available_cores()) as pool:
            measures = list(pool.map(lambda other: other._measure, others))
        settings = settings or Settings()
        return distances_to_many(self._measure, measures, settings, device=device, n_jobs=n_jobs)

    def check_comparable(self, other: DatasetSignature) -> None:
        """Raise SignatureError if embedder or normalisation of the two differ."""
        for what in ("embedder_id", "normalize"):
            mine, theirs = getattr(self, what), getattr(other, what)
            if mine != theirs:
                raise SignatureError(
                    f"Signatures with different {what} cannot be compared: {mine!r} and {theirs!r}."
                )

    @property
    def _codes(self) -> np.ndarray:
        """Class index of each kept row."""
        return np.repeat(np.arange(len(self.kept)), self.kept)

    @cached_property
    def _measure(self) -> Measure:
        codes = self._codes
        rows = self.rows.astype(np.float64)
        means = self.means.astype(np.float64)
        if self.basis is not None:
            means *= _given(self.mean_scales)[:, np.newaxis]
            rows = (rows * _given(self.row_scales)) @ self.basis.components.astype(np.float64)
            rows += means[codes]
            rows += self._noise(means, self.basis)
        factors = tuple(covariance_factor(block) for block in self._by_class(rows))
        sample = stratified_sample(self.kept, max(_TRANSPORT_ROWS, len(self.kept)))
        return Measure(
            classes=self.class_names,
            rows=rows[sample],
            codes=codes[sample],
            weights=row_weights(self.counts, codes[sample]),
            means=means,
            factors=factors,
            traces=np.array([np.square(factor).sum() for factor in factors]),
            unit_rows=self.normalize == "l2",
            nonnegative=self.nonnegative,
            index=sample,
            complete=is_complete(sample, self.kept, self.dimension),
        )

    def _by_class(self, rows: np.ndarray) -> list[np.ndarray]:
        return np.split(rows, np.cumsum(self.kept)[:-1])

    def _noise(self, means: np.ndarray, basis: Basis) -> np.ndarray:
        """Stand-in (m, d) for what basis and rounding leave out, of the same energy in each class.

        Like that, it is orthogonal to the basis, and 0 on average over a class. Non-negative
        features vary the more the larger they are; the noise does as well.
        """
        # Seeded by content: equal noise in two signatures would be matched by the transport.
        rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(self.rows).data))
        noise = rng.normal(size=(len(self.rows), self.dimension))
        if self.nonnegative:
            noise *= np.sqrt(means.clip(0))[self._codes]
        components = basis.components.astype(np.float64)
        noise -= (noise @ components.T) @ components
        residuals = _given(self.residuals)
        for block, residual in zip(self._by_class(noise), residuals, strict=True):
            if len(block) > 1:
                block -= block.mean(axis=0)
            if (energy := np.square(block).sum() / len(block)) > 0:
                block *= math.sqrt(residual / energy)
        return noise

    # ------------------------------------------------------------------------------------ storage

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Arrays to store, as safetensors takes them. The basis is stored apart."""
        return {name: getattr(self, name) for name in _DTYPES[self.form]}

    def metadata(self) -> dict[str, str]:
        """What to store beside the arrays."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "embedder": self.embedder_id,
            "normalize": self.normalize,
            "nonnegative": json.dumps(self.nonnegative),
            "class_names": json.dumps(self.class_names, ensure_ascii=False),
            "basis": "" if self.basis is None else self.basis.id,
        }

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, np.ndarray],
        metadata: Mapping[str, str],
        basis: Basis | None = None,
    ) -> DatasetSignature:
        """A stored signature.

        Parameters
        ----------
        tensors, metadata : mapping
            What :meth:`to_tensors` and :meth:`metadata` gave. They may come from a stranger: names,
            types, shapes and values are all checked.
        basis : Basis, optional
            The zoo's basis, needed for the compact form. A full signature ignores it.

        Raises
        ------
        SignatureError
            If something is missing, malformed or too large, or if the basis is another one.
        """
        if (metadata.get("format"), metadata.get("version")) != (_FORMAT, _VERSION):
            raise SignatureError(
                f"Not a {_FORMAT} of version {_VERSION}, but {metadata.get('format')!r} of version "
                f"{metadata.get('version')!r}."
            )
        try:
            embedder_id, normalize = metadata["embedder"], metadata["normalize"]
            names = parse_json(metadata["class_names"].encode(), name="class_names")
            nonnegative = parse_json(metadata["nonnegative"].encode(), name="nonnegative")
            basis_id = metadata["basis"]
        except (AttributeError, KeyError, FileError, UnicodeError) as error:
            raise SignatureError(f"Malformed signature metadata: {error!r}.") from error
        if not embedder_id or normalize not in NORMALIZATIONS or not isinstance(nonnegative, bool):
            raise SignatureError(
                f"Malformed signature metadata: embedder {embedder_id!r}, normalize {normalize!r}, "
                f"nonnegative {nonnegative!r}."
            )
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise SignatureError("Malformed signature metadata: class_names must be a list of str.")
        if not basis_id:
            basis = None
        elif basis is None or basis.id != basis_id:
            found = "none is given" if basis is None else f"the one given is {basis.id}"
            raise SignatureError(f"The signature needs basis {basis_id}; {found}.")
        arrays = {name: np.asarray(array) for name, array in tensors.items()}
        _check_arrays(arrays, len(names), basis)
        return cls(embedder_id, normalize, tuple(names), nonnegative, basis=basis, **arrays)


def _check_arrays(arrays: dict[str, np.ndarray], n_classes: int, basis: Basis | None) -> None:
    expected = _DTYPES["full" if basis is None else "compact"]
    found = {name: str(array.dtype) for name, array in arrays.items()}
    if found != expected:
        raise SignatureError(f"A signature of this form holds {expected}; got {found}.")
    if arrays["means"].ndim != 2 or arrays["rows"].ndim != 2:
        raise SignatureError("means and rows of a signature must have two dimensions.")
    n_rows, width = arrays["rows"].shape
    d = width
    if basis is not None:
        q, d = basis.components.shape
        if width != q:
            raise SignatureError(f"rows have {width} coefficients; basis {basis.id} has {q}.")
    if not (0 < n_classes <= _MAX_CLASSES and n_rows <= _MAX_ROWS and 0 < d <= _MAX_DIMENSION):
        raise SignatureError(f"Unreasonable signature: {n_classes} classes, {n_rows} rows, d={d}.")
    shapes = {"means": (n_classes, d), "rows": (n_rows, width), "row_scales": (width,)}
    for name, array in arrays.items():
        shape = shapes.get(name, (n_classes,))
        if array.shape != shape:
            raise SignatureError(f"{name} must have shape {shape}; got {array.shape}.")
        if not np.isfinite(array).all():
            raise SignatureError(f"{name} has non-finite values.")
        if name in ("mean_scales", "row_scales", "residuals") and (array < 0).any():
            raise SignatureError(f"{name} has negative values.")
    counts, kept = arrays["counts"], arrays["kept"]
    if not ((kept >= 1) & (kept <= counts)).all() or kept.sum(dtype=np.int64) != n_rows:
        raise SignatureError("counts, kept and rows of the signature contradict each other.")


def _given(array: np.ndarray | None) -> np.ndarray:
    """An array that every compact signature has."""
    if array is None:
        raise SignatureError("A signature with a basis lacks its scales or residuals.")
    return array


def _class_means(features: np.ndarray, codes: np.ndarray) -> np.ndarray:
    sums = np.zeros((codes.max() + 1, features.shape[1]))
    np.add.at(sums, codes, features)
    return sums / np.bincount(codes)[:, np.newaxis]


def _to_int8(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """8-bit integers and the float32 units in which they count, one along `axis`."""
    scales = (np.abs(values).max(axis=axis, keepdims=True) / 127).astype(np.float32)
    units = np.where(scales > 0, scales, 1)
    return np.clip(np.rint(values / units), -127, 127).astype(np.int8), scales.squeeze(axis)
