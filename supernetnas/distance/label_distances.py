r"""Distances between the classes of labelled feature sets.

With the covariances factored as :math:`S = F^\top F`, the last term of the squared
Bures-Wasserstein distance is a nuclear norm,

.. math::

    \operatorname{tr} (S^{1/2} S' S^{1/2})^{1/2} = \| F F'^\top \|_*,

the sum of the singular values of a matrix with as many rows and columns as the two classes have
images, however many features there are. These matrices are blocks of one product of the stacked
factors, and are decomposed in batches of equal shape. Where the factors are the rows of the
transport problem less their class means, the inner products of all rows, which the costs need
anyway, give that product: each block less the means of its rows and columns. Everything is float64:
roots of rounded zeros would be noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..training.surroundings import own_surroundings
from .measures import Measure
from .transport import exact

if TYPE_CHECKING:
    import torch

__all__ = [
    "LABEL_DISTANCES",
    "RowProducts",
    "cross_traces",
    "cross_traces_on_device",
    "label_distances",
    "label_distances_to_many",
    "squared_distances",
]

LABEL_DISTANCES = ("gaussian", "diagonal", "means", "exact")

_BLOCK = 2**26  # numbers of a batch of products on a GPU: 512 MiB


@dataclass(frozen=True, eq=False)
class RowProducts:
    """Inner products of rows x (n, d) and y (m, d) about one origin.

    Attributes
    ----------
    inner : ndarray of shape (n, m)
        Of each row of x with each row of y.
    squares_x, squares_y : ndarray of shape (n,) and (m,)
        Of each row with itself.
    """

    inner: np.ndarray
    squares_x: np.ndarray
    squares_y: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> RowProducts:
        """Compute them about the mean of x; distances do not depend on it, cancellation does."""
        origin = x.mean(axis=0)
        x, y = x - origin, y - origin
        return cls(x @ y.T, np.einsum("ij,ij->i", x, x), np.einsum("ij,ij->i", y, y))

    def squared_distances(self, rows: slice = slice(None)) -> np.ndarray:
        """Squared Euclidean distances of some rows of x to all of y."""
        out = self.inner[rows] * -2
        out += self.squares_x[rows, np.newaxis]
        out += self.squares_y
        return np.maximum(out, 0, out=out)


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances (n, m) between rows (n, d) and (m, d)."""
    return RowProducts.of(x, y).squared_distances()


def label_distances(
    a: Measure,
    b: Measure,
    kind: str = "gaussian",
    device: str | torch.device = "cpu",
    products: RowProducts | None = None,
) -> np.ndarray:
    """W (C_a, C_b), the squared distances between the classes of two datasets.

    Parameters
    ----------
    a, b : Measure
    kind : {"gaussian", "diagonal", "means", "exact"}
        See `supernetnas.distance.otdd.otdd`.
    device : str or torch.device
        Where the decompositions of "gaussian" are computed.
    products : RowProducts, optional
        Of the rows of the two measures: saves work on a CPU where both are complete.
    """
    usable = a is not b and a.complete and b.complete and kind == "gaussian"
    if products is None or not usable or str(device) != "cpu":
        return label_distances_to_many(a, [b], kind, device)[0]
    distances = squared_distances(a.means, b.means)
    distances += a.traces[:, np.newaxis] + b.traces
    distances -= 2 * _cross_traces_of_rows(products.inner, _counts(a), _counts(b))
    return np.maximum(distances, 0, out=distances)


def _counts(m: Measure) -> np.ndarray:
    """Rows of each class."""
    return np.bincount(m.codes, minlength=len(m.classes))


def label_distances_to_many(
    a: Measure,
    others: Sequence[Measure],
    kind: str = "gaussian",
    device: str | torch.device = "cpu",
) -> list[np.ndarray]:
    """`label_distances` of one dataset to each of several, in one computation."""
    means = np.concatenate([b.means for b in others])
    if kind == "exact":
        rows = [block for b in others for block in _by_class(b)]
        distances = _empirical(_by_class(a), rows)
    else:
        distances = squared_distances(a.means, means)
    if kind in ("gaussian", "diagonal"):
        traces = np.concatenate([b.traces for b in others])
        factors: Sequence[np.ndarray] = [factor for b in others for factor in b.factors]
        factors = a.factors if len(others) == 1 and others[0] is a else factors
        distances += a.traces[:, np.newaxis] + traces
        if kind == "diagonal":
            distances -= 2 * _deviations(a.factors) @ _deviations(factors).T
        elif str(device) == "cpu":
            distances -= 2 * cross_traces(a.factors, factors)
        else:
            distances -= 2 * cross_traces_on_device(a.factors, factors, device)
    np.maximum(distances, 0, out=distances)
    ends = np.cumsum([len(b.classes) for b in others])[:-1]
    tables = np.split(distances, ends, axis=1)
    for table, b in zip(tables, others, strict=True):
        if b is a:
            np.fill_diagonal(table, 0)
    return tables


def cross_traces(factors_a: Sequence[np.ndarray], factors_b: Sequence[np.ndarray]) -> np.ndarray:
    """Nuclear norms (C_a, C_b) of all products F F'^T; half the work if both are one object."""
    sizes = np.array([len(factor) for factor in factors_b])
    groups = []
    for size in np.unique(sizes):
        members = np.flatnonzero(sizes == size)
        groups.append((size, members, np.concatenate([factors_b[j] for j in members.tolist()])))
    traces = np.empty((len(factors_a), len(factors_b)))
    for i, factor in enumerate(factors_a):
        for size, members, stack in groups:
            if factors_a is factors_b:
                done = np.searchsorted(members, i)
                members, stack = members[done:], stack[done * size :]
            products = (factor @ stack.T).reshape(len(factor), len(members), size)
            singular = np.linalg.svd(products.swapaxes(0, 1), compute_uv=False)
            traces[i, members] = singular.sum(axis=1)
            if factors_a is factors_b:
                traces[members, i] = traces[i, members]
    return traces


def _cross_traces_of_rows(
    inner: np.ndarray, counts_a: np.ndarray, counts_b: np.ndarray
) -> np.ndarray:
    """`cross_traces` of the factors of two complete measures, from their rows' inner products."""
    ends = np.cumsum(counts_b)
    groups = []
    for size in np.unique(counts_b):
        members = np.flatnonzero(counts_b == size)
        columns = (ends[members] - size)[:, np.newaxis] + np.arange(size)
        groups.append((size, members, columns.ravel()))
    traces = np.empty((len(counts_a), len(counts_b)))
    for i, block in enumerate(np.split(inner, np.cumsum(counts_a)[:-1])):
        for size, members, columns in groups:
            products = block[:, columns].reshape(len(block), len(members), size)
            products -= products.mean(axis=0)
            products -= products.mean(axis=2, keepdims=True)
            products /= math.sqrt(max(len(block) - 1, 1) * max(size - 1, 1))
            singular = np.linalg.svd(products.swapaxes(0, 1), compute_uv=False)
            traces[i, members] = singular.sum(axis=1)
    return traces


@own_surroundings()
def cross_traces_on_device(
    factors_a: Sequence[np.ndarray],
    factors_b: Sequence[np.ndarray],
    device: str | torch.device,
) -> np.ndarray:
    """`cross_traces` by torch, in large batches.

    A GPU has no fast batched singular values, but eigenvalues: of the smaller Gram matrix of each
    product. They agree with `cross_traces` to 1e-6 of the traces where products are singular, and
    to 1e-10 elsewhere.
    """
    import torch

    def stacked(factors: Sequence[np.ndarray]) -> list[tuple[np.ndarray, torch.Tensor]]:
        sizes = np.array([len(factor) for factor in factors])
        groups = (np.flatnonzero(sizes == size) for size in np.unique(sizes))
        return [
            (members, torch.from_numpy(np.stack([factors[j] for j in members.tolist()])).to(device))
            for members in groups
        ]

    traces = np.empty((len(factors_a), len(factors_b)))
    for rows, left in stacked(factors_a):
        for columns, right in stacked(factors_b):
            if left.shape[1] > right.shape[1]:
                small, large, names = right, left, (columns, rows)
            else:
                small, large, names = left, right, (rows, columns)
            step = max(1, _BLOCK // (small.shape[1] * large.shape[0] * large.shape[1]))
            found = []
            for part in small.split(step):
                products = torch.einsum("apd,bqd->abpq", part, large)
                squares = torch.linalg.eigvalsh(products @ products.mT)
                found.append(squares.clamp_(min=0).sqrt_().sum(dim=-1))
            table = torch.cat(found).cpu().numpy()
            if names[0] is columns:
                table = table.T
            traces[np.ix_(rows, columns)] = table
    return traces


def _deviations(factors: Sequence[np.ndarray]) -> np.ndarray:
    """Standard deviation (C, d) of each feature in each class."""
    return np.stack([np.linalg.norm(factor, axis=0) for factor in factors])


def _by_class(m: Measure) -> list[np.ndarray]:
    return np.split(m.rows, np.flatnonzero(np.diff(m.codes)) + 1)


def _empirical(blocks_a: list[np.ndarray], blocks_b: list[np.ndarray]) -> np.ndarray:
    """Squared 2-Wasserstein distances of rows of equal weight, by linear programs."""

    def equal(rows: np.ndarray) -> np.ndarray:
        return np.full(len(rows), 1 / len(rows))

    def value(p: np.ndarray, q: np.ndarray) -> float:
        return exact(equal(p), equal(q), squared_distances(p, q))[0]

    return np.array([[value(p, q) for q in blocks_b] for p in blocks_a])
