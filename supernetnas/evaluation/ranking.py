"""How well a supernet keeps the order of its architectures.

The measures of Zhang et al., "Boosting Order-Preserving and Transferability for Neural Architecture
Search: a Joint Architecture Refined Search and Fine-tuning Approach" (CVPR 2024), section 4.3.
There 10 good architectures and 20 random ones are trained alone. Globally, a supernet is to tell
the good ones from the others: how many of its 10 best are good. Locally, it is to rank the good
ones: Kendall's tau of their scores and their true accuracies.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["OrderPreserving", "Trajectory", "order_preserving", "relative_improvement"]


@dataclass(frozen=True)
class OrderPreserving:
    """What a supernet's scores say of true accuracies.

    Attributes
    ----------
    n_good : int
        How many architectures are the good ones.
    global_hits : float
        How many of the supernet's ``n_good`` best are good. Of equal scores at the edge, each
        counts by its chance to be among them.
    local_tau : float
        Kendall's tau (b) of scores and accuracies of the good ones.
    tau, rho : float
        Kendall's tau (b) and Spearman's correlation of all.
    """

    n_good: int
    global_hits: float
    local_tau: float
    tau: float
    rho: float


def order_preserving(
    scores: Sequence[float], accuracies: Sequence[float], n_good: int = 10
) -> OrderPreserving:
    """Compare a supernet's scores of architectures with their accuracies when trained alone.

    Parameters
    ----------
    scores, accuracies : sequence of float, of n each
        The larger, the better.
    n_good : int, default=10
        How many of the most accurate are the good ones; from 2 to n - 1.

    Returns
    -------
    OrderPreserving
        Correlations are NaN where all scores, or all accuracies, are the same.

    Raises
    ------
    ValueError
        If there are not as many scores as accuracies, too few, or some that are not finite.

    Examples
    --------
    >>> found = order_preserving([3, 2, 1, 0], [0.9, 0.8, 0.6, 0.7], n_good=2)
    >>> found.global_hits, found.local_tau
    (2.0, 1.0)
    """
    scored, true = np.asarray(scores, dtype=float), np.asarray(accuracies, dtype=float)
    if scored.shape != true.shape or scored.ndim != 1:
        raise ValueError(
            "scores and accuracies must be of the same architectures, a number for each; got the "
            f"shapes {scored.shape} and {true.shape}."
        )
    if not 2 <= n_good < len(scored):
        raise ValueError(
            f"n_good must be at least 2 and less than the number of architectures, {len(scored)}; "
            f"got {n_good}."
        )
    if not (np.isfinite(scored).all() and np.isfinite(true).all()):
        raise ValueError("scores and accuracies must be finite.")
    good = np.zeros(len(true), bool)
    good[np.argsort(-true, kind="stable")[:n_good]] = True
    return OrderPreserving(
        n_good,
        _hits(scored, good, n_good),
        _correlation("kendalltau", scored[good], true[good]),
        _correlation("kendalltau", scored, true),
        _correlation("spearmanr", scored, true),
    )


def relative_improvement(accuracy: float, baseline: float) -> float:
    """Share by which an accuracy is above a baseline's, as in table 4 of the paper.

    Examples
    --------
    >>> round(100 * relative_improvement(74.28, 74.01), 2)
    0.36
    """
    if not baseline > 0:
        raise ValueError(f"The accuracy of a baseline must be positive; got {baseline}.")
    return (accuracy - baseline) / baseline


class Trajectory:
    """Scores of chosen architectures before a search, and after each of its generations.

    Call it with the search before that runs, and give it to ``run`` as ``on_epoch``. Neither
    supernet nor search are changed by it.

    Parameters
    ----------
    architectures : sequence of Architecture
        Of the supernet that is searched.

    Attributes
    ----------
    epochs : list of int
        Epochs of the search when the architectures were scored.
    scores : list of list of Score
        At each of them, of every architecture.
    """

    def __init__(self, architectures: Sequence[Hashable]) -> None:
        self.architectures = list(architectures)
        self.epochs: list[int] = []
        self.scores: list[list[Any]] = []

    def __call__(self, search: Any) -> None:
        """Score the architectures on the supernet of a search as it is now."""
        self.epochs.append(search.epoch)
        self.scores.append(search.scorer(self.architectures))

    def errors(self) -> np.ndarray:
        """Error rates of shape (times, architectures), as in figure 3 of the paper."""
        return np.array([[1 - score.accuracy for score in row] for row in self.scores])

    def measures(self, accuracies: Sequence[float], n_good: int = 10) -> list[OrderPreserving]:
        """Return the measures of each time, as in figure 5 of the paper.

        Parameters
        ----------
        accuracies : sequence of float
            Of the architectures when trained alone.
        n_good : int, default=10
        """
        return [
            order_preserving([score.accuracy for score in row], accuracies, n_good)
            for row in self.scores
        ]


def _hits(scores: np.ndarray, good: np.ndarray, n: int) -> float:
    """Expected number of good ones among the n best, equal scores in random order."""
    edge = np.sort(scores)[-n]
    above, tied = scores > edge, scores == edge
    places = n - above.sum()
    return float((good & above).sum() + places * (good & tied).sum() / tied.sum())


def _correlation(name: str, first: np.ndarray, second: np.ndarray) -> float:
    from scipy import stats

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(getattr(stats, name)(first, second).statistic)
