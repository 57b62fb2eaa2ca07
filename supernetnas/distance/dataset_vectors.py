r"""A short vector for each dataset, whose Euclidean distances follow the dataset distance.

For zoos of many sources: nearest neighbours among the vectors propose a few, and the exact distance
is computed for these alone.

The vector is a linear optimal transport embedding (Wang et al. [1]_; Kolouri et al. [2]_ use it for
labelled datasets). With :math:`z = (x, m_y)`, a row and the mean of its class,

.. math::

    d(A, B) = \min_\pi \sum_{ij} \pi_{ij} \tfrac12 \left[ \|z_i - z'_j\|^2
              + \operatorname{tr} S_{y_i} + \operatorname{tr} S_{y'_j} \right]

up to the last term of the Bures-Wasserstein distance, which for tens of images in a thousand
dimensions is small. A dataset is transported to K fixed reference points, each reference point k
receives the mean :math:`T_k` of what it is matched with, and :math:`v = (T_k / \sqrt K)_k` is
projected to its principal directions: :math:`d(A, B) \approx \tfrac12 \|v_A - v_B\|^2 + u_A + u_B`.

The scalar u is the energy that the embedding of a dataset leaves out, half of: what the projections
and the averages over a reference point lose of z, and the mean trace of the class covariances.
Transport cannot match within-class noise, so that it adds to every distance; without u the order
of sources is another. As :math:`\sqrt{2 u}` it is one more coordinate of the sources' vectors, in
which a target is at 0.

References
----------
.. [1] W. Wang et al., "A linear optimal transportation framework for quantifying and visualizing
   variations in sets of images", IJCV 2013.
.. [2] X. Liu et al., "Wasserstein Task Embedding for Measuring Task Similarities",
   2022.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .measures import Measure
from .signature import DatasetSignature
from .transport import exact

__all__ = ["VectorSpace", "fit_vector_space"]

_MAX_NUMBERS = 2**26
_SUBSETS = 200  # random subsets of classes that principal directions are fitted to
_ROWS = 200  # of a dataset, from which reference points are chosen


@dataclass(frozen=True, eq=False)
class VectorSpace:
    """What turns datasets into vectors of p + 1 numbers: float32 arrays, fitted once for a zoo.

    Attributes
    ----------
    center : (d,)
        Mean of the features.
    components : (q, d)
        Principal directions of the features.
    reference : (K, 2 q)
        Reference points, of equal weight.
    mean : (K * 2 q,)
    directions : (p, K * 2 q)
        Principal directions of the embeddings.
    """

    center: np.ndarray
    components: np.ndarray
    reference: np.ndarray
    mean: np.ndarray
    directions: np.ndarray

    def __post_init__(self) -> None:
        (d,), (q, _), (k, _) = self.center.shape, self.components.shape, self.reference.shape
        shapes = {
            "center": (d,),
            "components": (q, d),
            "reference": (k, 2 * q),
            "mean": (2 * k * q,),
            "directions": (len(self.directions), 2 * k * q),
        }
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != np.float32 or array.size > _MAX_NUMBERS:
                raise ValueError(
                    f"{name} must be float32 {shape}; got {array.dtype} {array.shape}."
                )
            if not np.isfinite(array).all():
                raise ValueError(f"{name} has non-finite values.")

    @property
    def dimension(self) -> int:
        """Length p + 1 of a vector."""
        return len(self.directions) + 1

    def vector(self, signature: DatasetSignature) -> np.ndarray:
        """The vector (p + 1,) of a dataset, float32, its energy last."""
        m = signature._measure
        if m.means.shape[1] != len(self.center):
            raise ValueError(
                f"The signature has {m.means.shape[1]} features, the zoo's vectors are for "
                f"{len(self.center)}."
            )
        embedding, energy = self._embed(m)
        embedding -= self.mean
        coordinates = self.directions.astype(np.float64) @ embedding
        energy += np.square(embedding).sum() - np.square(coordinates).sum()
        return np.append(coordinates, math.sqrt(max(energy, 0))).astype(np.float32)

    def query(self, signature: DatasetSignature) -> tuple[np.ndarray, float]:
        """The vector (p + 1,) of a target, whose last number is 0, and its energy u.

        ``squared distance / 2 + u`` to the vector of a source estimates the dataset distance.
        """
        vector = self.vector(signature)
        energy = float(vector[-1]) ** 2 / 2
        vector[-1] = 0
        return vector, energy

    def _embed(self, m: Measure) -> tuple[np.ndarray, float]:
        """The embedding v (K * 2 q,) of a measure, and 2 u, the energy that it leaves out."""
        components = self.components.astype(np.float64)
        rows, means = m.rows - self.center, m.means - self.center
        z = np.hstack([rows @ components.T, (means @ components.T)[m.codes]])
        class_weights = np.bincount(m.codes, m.weights)
        energy = m.weights @ np.square(rows).sum(axis=1)
        energy += class_weights @ (np.square(means).sum(axis=1) + m.traces)
        reference = self.reference.astype(np.float64)
        costs = np.square(z).sum(axis=1) - 2 * reference @ z.T
        costs += np.square(reference).sum(axis=1)[:, np.newaxis]
        n = len(reference)
        _, plan = exact(np.full(n, 1 / n), m.weights, np.maximum(costs, 0))
        embedding = (plan @ z).ravel() * math.sqrt(n)
        return embedding, float(energy - np.square(embedding).sum())

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Arrays to store, as safetensors takes them."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> VectorSpace:
        """Rebuild what `to_tensors` gave; ValueError if it is anything else."""
        names = set(cls.__dataclass_fields__)
        if set(tensors) != names:
            raise ValueError(f"A vector space holds {sorted(names)}; got {sorted(tensors)}.")
        ranks = {"center": 1, "mean": 1}
        for name, array in tensors.items():
            if np.ndim(array) != ranks.get(name, 2) or 0 in np.shape(array):
                raise ValueError(f"{name} has the shape {np.shape(array)}.")
        return cls(**tensors)


def fit_vector_space(
    signatures: Sequence[DatasetSignature],
    *,
    n_dimensions: int = 64,
    n_points: int = 32,
    n_components: int = 32,
    random_state: int = 0,
) -> VectorSpace:
    """Choose features, reference points and directions from the datasets of a zoo.

    Parameters
    ----------
    signatures : sequence of DatasetSignature
        Of one embedder. Random subsets of their classes serve as further datasets.
    n_dimensions, n_points, n_components : int
        Most principal directions p of the embeddings, reference points K, and principal directions
        q of the features.
    random_state : int, default=0

    Returns
    -------
    VectorSpace
    """
    from sklearn.cluster import KMeans

    if not signatures:
        raise ValueError("fit_vector_space needs at least one signature.")
    for signature in signatures[1:]:
        signatures[0].check_comparable(signature)
    rng = np.random.RandomState(random_state)
    measures = [signature._measure for signature in signatures]
    center = np.mean([m.weights @ m.rows for m in measures], axis=0)
    scatter = sum((m.rows - center).T @ ((m.rows - center) * m.weights[:, None]) for m in measures)
    components = _principal(scatter, n_components)

    projected = []
    for m in measures:
        chosen = rng.choice(len(m.rows), min(_ROWS, len(m.rows)), replace=False, p=m.weights)
        z = np.hstack([m.rows[chosen], m.means[m.codes[chosen]]]) - np.tile(center, 2)
        projected.append(np.hstack([part @ components.T for part in np.hsplit(z, 2)]))
    points = np.concatenate(projected)
    n_points = min(n_points, len(np.unique(points, axis=0)))
    clusters = KMeans(n_points, n_init=1, random_state=rng).fit(points)

    space = VectorSpace(
        center.astype(np.float32),
        components.astype(np.float32),
        clusters.cluster_centers_.astype(np.float32),
        mean=np.zeros(n_points * points.shape[1], np.float32),
        directions=np.zeros((1, n_points * points.shape[1]), np.float32),
    )
    embeddings = [space._embed(m)[0] for m in measures]
    for _ in range(_SUBSETS):
        m = measures[rng.randint(len(measures))]
        n_classes = rng.randint(1, len(m.classes) + 1)
        embeddings.append(space._embed(_subset(m, rng.permutation(len(m.classes))[:n_classes]))[0])
    mean = np.mean(embeddings, axis=0)
    deviations = np.array(embeddings) - mean
    _, singular, directions = np.linalg.svd(deviations, full_matrices=False)
    rank = max(1, int((singular > 1e-6 * max(singular[0], 1e-30)).sum()))
    directions = _signed(directions[: min(n_dimensions, rank)])
    return replace(space, mean=mean.astype(np.float32), directions=directions.astype(np.float32))


def _principal(scatter: np.ndarray, n: int) -> np.ndarray:
    """The first eigenvectors (n, d) of a symmetric matrix."""
    _, vectors = np.linalg.eigh(scatter)
    return _signed(vectors[:, : -min(n, len(scatter)) - 1 : -1].T)


def _signed(vectors: np.ndarray) -> np.ndarray:
    """Give each vector the sign that makes its largest entry positive: it has none of its own."""
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
    return vectors * np.where(largest < 0, -1, 1)


def _subset(m: Measure, classes: np.ndarray) -> Measure:
    """The measure of some of the classes."""
    classes = np.sort(classes)
    rows = np.isin(m.codes, classes)
    return replace(
        m,
        classes=tuple(m.classes[c] for c in classes),
        rows=m.rows[rows],
        codes=np.searchsorted(classes, m.codes[rows]),
        weights=m.weights[rows] / m.weights[rows].sum(),
        means=m.means[classes],
        factors=tuple(m.factors[c] for c in classes),
        traces=m.traces[classes],
        index=None,
        self_terms={},
    )
