"""Scores that rank the sources of a zoo for a target before anything is trained on it.

`RANKINGS` names them and says what each costs. Some compare datasets, by signatures alone; others
run the target's images through the supernet of each source:

- "batch_norm": how far the statistics of the target's activations are from those that the batch
  norms of the source's supernet have kept from their own data.
- "logme": log maximum evidence [1]_ of the labels under a linear model of the supernet's features.
- "linear_probe": accuracy of such a model, each image left out in turn.

Before features are computed for the last two, the batch norms are given the target's statistics, as
they are before a search.

References
----------
.. [1] K. You, Y. Liu, J. Wang, M. Long, "LogME: Practical Assessment of Pre-trained Models for
   Transfer Learning", ICML 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..distance.label_distances import label_distances
from ..distance.measures import Measure, covariance_factor
from ..distance.signature import DatasetSignature
from ..families.base import NetworkInput, get_family
from ..families.warm_start import starting_supernet
from ..training.batch_norm import recalibrate_batch_norm
from ..training.batches import LabelledImages
from ..training.devices import placed
from ..training.probes import linear_probe
from ..training.surroundings import own_surroundings

if TYPE_CHECKING:
    from ..zoo.source import Source

__all__ = [
    "RANKINGS",
    "Ranking",
    "ScoredTarget",
    "batch_norm_distance",
    "frechet_distance",
    "log_evidence",
    "rank_by",
    "rank_sum",
    "supernet_features",
]

_BATCH = 256


@dataclass(frozen=True)
class ScoredTarget:
    """What scores need of a target.

    Attributes
    ----------
    signature : DatasetSignature
        Made with the zoo's embedder.
    data : LabelledImages
        n images at the size that supernets will see, not augmented, and their labels, with at least
        two images of each class.
    random_state : int
        Seed of the supernets' recalibration.
    """

    signature: DatasetSignature
    data: LabelledImages
    random_state: int = 0

    @property
    def labels(self) -> np.ndarray:
        """Class indices (n,)."""
        return self.data.labels.cpu().numpy()


@dataclass(frozen=True)
class Ranking:
    """A score of a source for a target.

    Attributes
    ----------
    score : callable
        Takes a `ScoredTarget` and a `Source`; greater is better.
    meaning, cost : str
        What it is, and what it takes.
    """

    score: Callable[[ScoredTarget, Source], float]
    meaning: str
    cost: str


@own_surroundings()
def rank_by(method: str, target: ScoredTarget, sources: Iterable[Source]) -> dict[str, float]:
    """Score sources for a target.

    Parameters
    ----------
    method : str
        A key of `RANKINGS`.
    target : ScoredTarget
    sources : iterable of Source
        Of kind "single".

    Returns
    -------
    dict of str to float
        Scores by name of the source, the best first; greater is better.
    """
    if method not in RANKINGS:
        raise ValueError(f"method must be one of {tuple(RANKINGS)}; got {method!r}.")
    scores = {source.name: float(RANKINGS[method].score(target, source)) for source in sources}
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def rank_sum(*scores: Mapping[str, float]) -> dict[str, float]:
    """Combine several scores of the same sources: minus the sum of the ranks, the best first.

    Equal scores share the mean of their ranks.
    """
    from scipy.stats import rankdata

    names = list(scores[0])
    if any(set(other) != set(names) for other in scores):
        raise ValueError("rank_sum needs scores of the same sources.")
    ranks = sum(rankdata([-other[name] for name in names]) for other in scores)
    return dict(sorted(zip(names, (-ranks).tolist(), strict=True), key=lambda item: -item[1]))


def frechet_distance(a: DatasetSignature, b: DatasetSignature) -> float:
    """Squared Frechet distance of the Gaussians fitted to all features, whatever their class.

    Up to 1000 rows of each signature, without regard to weights.
    """
    a.check_comparable(b)
    return float(label_distances(_pooled(a), _pooled(b))[0, 0])


def log_evidence(features: np.ndarray, labels: np.ndarray) -> float:
    """LogME: log maximum evidence of linear models of the classes, per image.

    For each class, its indicator y is modelled as ``y = F w + noise`` with
    ``w ~ N(0, I / alpha)`` and ``noise ~ N(0, I / beta)``. The evidence p(y | F, alpha, beta) is
    maximised over both by MacKay's fixed point (algorithm 1 there), in the basis of the singular
    vectors of F. Its logarithm is divided by n and averaged over the classes.

    Parameters
    ----------
    features : ndarray of shape (n, d)
        F; used as they are, without centring.
    labels : ndarray of shape (n,)

    Returns
    -------
    float
    """
    f = np.asarray(features, dtype=np.float64)
    y = (np.unique(labels)[:, np.newaxis] == np.asarray(labels)).astype(np.float64).T  # (n, C)
    n, d = f.shape
    u, sigma, _ = np.linalg.svd(f, full_matrices=False)
    squares = np.square(sigma)[:, np.newaxis]  # (r, 1)
    z2 = np.square(u.T @ y)  # (r, C)
    outside = np.maximum(y.sum(axis=0) - z2.sum(axis=0), 0)  # squared length outside F's span
    alpha, beta = np.ones(y.shape[1]), np.ones(y.shape[1])
    before = -np.inf
    for _ in range(1000):
        shrunk = alpha + beta * squares
        weights = (np.square(beta) * squares * z2 / np.square(shrunk)).sum(axis=0)  # |m|^2
        residual = (np.square(alpha / shrunk) * z2).sum(axis=0) + outside
        log_determinant = np.log(shrunk).sum(axis=0) + (d - len(sigma)) * np.log(alpha)
        evidence = (
            n * np.log(beta)
            + d * np.log(alpha)
            - n * np.log(2 * np.pi)
            - beta * residual
            - alpha * weights
            - log_determinant
        ) / 2
        if np.abs(evidence - before).max() <= 1e-9 * n:
            break
        before = evidence
        gamma = (beta * squares / shrunk).sum(axis=0)
        # Bounds for labels that features say nothing or everything about.
        alpha = np.clip(gamma / np.maximum(weights, 1e-300), 1e-12, 1e12)
        beta = np.clip((n - gamma) / np.maximum(residual, 1e-300), 1e-12, 1e12)
    return float(evidence.mean() / n)


@torch.no_grad()
def supernet_features(supernet: Any, data: LabelledImages) -> np.ndarray:
    """Pooled features (n, d) of images, by a supernet in evaluation mode."""
    supernet.eval()
    batches = torch.arange(len(data)).split(_BATCH)
    return (
        torch.cat([supernet.features(data.images.clean(b)).float() for b in batches]).cpu().numpy()
    )


@torch.no_grad()
def batch_norm_distance(supernet: Any, data: LabelledImages) -> float:
    """How far activations are from the running statistics of a supernet's batch norms.

    The mean over all channels of a layer of
    ``((mean - running_mean)^2 + (std - running_std)^2) / (running_var + eps)``,
    summed over the layers; mean and std are those of the layer's input over all images and places,
    in a network that normalises by the running statistics.
    """
    norms = [m for m in supernet.modules() if isinstance(m, nn.BatchNorm2d)]
    totals: dict[nn.BatchNorm2d, Tensor | float] = dict.fromkeys(norms, 0.0)

    def collect(norm: nn.BatchNorm2d, inputs: tuple) -> None:
        x = inputs[0].double()
        count = torch.full_like(x[0, :, 0, 0], x.numel() / x.shape[1])
        sums = torch.stack([x.sum((0, 2, 3)), x.square().sum((0, 2, 3)), count])
        totals[norm] = totals[norm] + sums

    handles = [norm.register_forward_pre_hook(collect) for norm in norms]
    fused, supernet.fused = supernet.fused, False  # which calls its batch norms one by one
    try:
        supernet_features(supernet, data)
    finally:
        supernet.fused = fused
        for handle in handles:
            handle.remove()
    distance = 0.0
    for norm, sums in totals.items():
        if isinstance(sums, float):
            continue  # a layer of an operation that was never called
        first, second, count = sums
        mean = first / count
        std = (second / count - mean.square()).clamp(min=0).sqrt()
        # For torch a batch norm may lack them.
        running_mean = norm.running_mean.double()  # type: ignore[union-attr]
        running_var = norm.running_var.double()  # type: ignore[union-attr]
        gap = (mean - running_mean).square() + (std - running_var.sqrt()).square()
        distance = distance + (gap / (running_var + norm.eps)).mean()
    return float(distance)


def _pooled(signature: DatasetSignature) -> Measure:
    """The measure of a dataset as one class."""
    m = signature._measure
    factor = covariance_factor(m.rows)
    return Measure(
        classes=("all",),
        rows=m.rows,
        codes=np.zeros(len(m.rows), dtype=int),
        weights=m.weights,
        means=m.rows.mean(axis=0, keepdims=True),
        factors=(factor,),
        traces=np.array([np.square(factor).sum()]),
        unit_rows=m.unit_rows,
        nonnegative=m.nonnegative,
    )


def _supernet(target: ScoredTarget, source: Source, recalibrated: bool) -> Any:
    """The supernet that a search from a source starts with."""
    images = target.data.images
    _, channels, height, width = images.clean(torch.arange(1)).shape
    family = get_family(source.family)
    supernet = starting_supernet(
        family,
        NetworkInput((height, width), channels),
        int(target.data.labels.max()) + 1,
        target.random_state,
        (source.config, source.state_dict()),
    )
    placed(supernet, target.data.labels.device)
    if recalibrated and not family.keeps_statistics:
        generator = torch.Generator().manual_seed(target.random_state)
        recalibrate_batch_norm(supernet, images, generator=generator)
    return supernet


def _log_evidence(target: ScoredTarget, source: Source) -> float:
    features = supernet_features(_supernet(target, source, True), target.data)
    return log_evidence(features, target.labels)


def _linear_probe(target: ScoredTarget, source: Source) -> float:
    features = supernet_features(_supernet(target, source, True), target.data)
    return linear_probe(features, target.labels)


_SIGNATURES = "embeds the target once, then {} for each source"
_FORWARD = "runs the target through the supernet of each source{}"

RANKINGS = {
    "ot": Ranking(
        lambda target, source: -target.signature.distance(source.signature()).distance,
        "optimal transport dataset distance",
        _SIGNATURES.format("some 0.2 s"),
    ),
    "frechet": Ranking(
        lambda target, source: -frechet_distance(target.signature, source.signature()),
        "Frechet distance of all features, without labels",
        _SIGNATURES.format("some 0.5 s"),
    ),
    "classes": Ranking(
        lambda target, source: source.n_classes or 0,
        "number of the source's classes, whatever the target is",
        "nothing",
    ),
    "batch_norm": Ranking(
        lambda target, source: -batch_norm_distance(_supernet(target, source, False), target.data),
        "distance to the statistics of the supernet's batch norms",
        _FORWARD.format(""),
    ),
    "logme": Ranking(
        _log_evidence,
        "log maximum evidence of the labels given the supernet's features",
        _FORWARD.format(" twice"),
    ),
    "linear_probe": Ranking(
        _linear_probe,
        "accuracy of a linear model of the supernet's features, each image left out in turn",
        _FORWARD.format(" twice"),
    ),
}
"""Scores by name."""
