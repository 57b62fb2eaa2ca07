"""Samplers that look at what the supernet makes of an architecture before they train it.

They take a callable that scores architectures, the larger the better, such as `NegativeLoss`, or
the accuracies of a `supernetnas.search.scoring.Scorer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..training.batch_norm import frozen_batch_norm
from .protocols import Architecture, Space
from .samplers import Sampler, seeded

__all__ = ["Attentive", "Greedy", "NegativeLoss"]

A = TypeVar("A", bound=Architecture)

Scores = Callable[[Sequence[A]], Sequence[float]]
"""Scores of architectures, by the supernet as it is at the time."""

_TRIES = 50  # to draw an architecture of a wanted cost


@dataclass(frozen=True)
class NegativeLoss(Generic[A]):
    """Scores architectures by their loss on a few images, which batch norms take statistics of.

    Attributes
    ----------
    supernet : torch.nn.Module
        A `PathSupernet`; left as it is.
    images : torch.Tensor of shape (n, channels, h, w)
        Standardised.
    labels : torch.Tensor of shape (n,), int64
    """

    supernet: Any
    images: Tensor
    labels: Tensor

    @torch.no_grad()
    def __call__(self, architectures: Sequence[A]) -> list[float]:
        """Return minus the loss of each architecture."""
        training = self.supernet.training
        self.supernet.train()
        try:
            with frozen_batch_norm(self.supernet):
                return [
                    -float(F.cross_entropy(self.supernet(self.images, a).float(), self.labels))
                    for a in architectures
                ]
        finally:
            self.supernet.train(training)


@dataclass(frozen=True)
class Greedy(Generic[A]):
    """The best of several that are drawn, more and more of them from a pool of good ones.

    The sampling of You et al., "GreedyNAS: Towards Fast One-Shot NAS with Greedy Supernet" (CVPR
    2020). Deviation: the paper ends the training once the pool has settled;
    here it ends after its epochs.

    Attributes
    ----------
    space : Space
    candidates : Sampler
        Draws those that are compared in a step, such as ``Uniform(space, 10)``.
    score : callable
        Returns a score for each architecture.
    n : int
        How many of the candidates a step trains.
    pool_size : int
        How many of the best so far are kept.
    share : float
        Probability, at last, of taking a candidate from the pool.
    rise : tuple of int
        Steps from and up to which the probability rises from 0.
    seed : int
    pool : dict of Architecture to float
        The best so far and their latest scores; what the sampler keeps between steps.
    """

    space: Space[A]
    candidates: Sampler[A]
    score: Scores[A]
    n: int = 5
    pool_size: int = 1000
    share: float = 0.8
    rise: tuple[int, int] = (0, 1000)
    seed: int = 0
    pool: dict[A, float] = field(default_factory=dict, compare=False)

    def __call__(self, step: int) -> tuple[A, ...]:
        """Return the architectures of a step, best first; they join the pool."""
        generator, good = seeded(self.seed, step), list(self.pool)
        drawn = []
        for candidate in self.candidates(step):
            if good and float(torch.rand((), generator=generator)) < self.probability(step):
                candidate = good[int(torch.randint(len(good), (), generator=generator))]
            drawn.append(candidate)
        drawn = list(dict.fromkeys(drawn))
        scores = dict(zip(drawn, self.score(drawn), strict=True))
        self._keep({**self.pool, **scores})
        return tuple(sorted(drawn, key=scores.__getitem__, reverse=True)[: self.n])

    def probability(self, step: int) -> float:
        """Probability of taking a candidate of a step from the pool."""
        start, end = self.rise
        return self.share * min(max((step - start) / max(end - start, 1), 0.0), 1.0)

    def state(self) -> dict[str, Any]:
        """Return plain values that `load_state` goes on from."""
        return {"pool": [[list(self.space.encode(a)), score] for a, score in self.pool.items()]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._keep({self.space.decode(genes): score for genes, score in state["pool"]})

    def _keep(self, scores: dict[A, float]) -> None:
        best = sorted(scores, key=scores.__getitem__, reverse=True)[: self.pool_size]
        self.pool.clear()
        self.pool.update({architecture: scores[architecture] for architecture in best})


@dataclass(frozen=True)
class Attentive(Generic[A]):
    """The best, or the worst, of several of about the same cost.

    The sampling of Wang et al., "AttentiveNAS: Improving Neural Architecture Search via Attentive
    Sampling" (CVPR 2021): a cost is drawn as costs are distributed, and of some
    architectures that cost it one is trained, to push the front of the best or of the worst. Here
    the first of them is drawn uniformly, which distributes costs so, and the others are drawn until
    their cost is near to its.

    Attributes
    ----------
    space : Space
    cost : callable
        What an architecture costs, such as its multiply-accumulates.
    score : callable
        Returns a score for each architecture.
    best : bool
        Whether it is the best that is trained, else the worst.
    n : int
        How many a step trains.
    n_candidates : int
        How many each is chosen from.
    tolerance : float
        By which share costs may differ.
    seed : int
    """

    space: Space[A]
    cost: Callable[[A], float]
    score: Scores[A]
    best: bool = True
    n: int = 2
    n_candidates: int = 3
    tolerance: float = 0.03
    seed: int = 0

    def __call__(self, step: int) -> tuple[A, ...]:
        """Return the architectures of a step."""
        generator = seeded(self.seed, step)
        return tuple(self._one(generator) for _ in range(self.n))

    def _one(self, generator: torch.Generator) -> A:
        first = self._draw(generator)
        cost = self.cost(first)
        alike = [first]
        for _ in range(_TRIES * (self.n_candidates - 1)):
            if len(alike) == self.n_candidates:
                break
            other = self._draw(generator)
            if abs(self.cost(other) - cost) <= self.tolerance * cost and other not in alike:
                alike.append(other)
        scores = dict(zip(alike, self.score(alike), strict=True))
        return (max if self.best else min)(alike, key=scores.__getitem__)

    def _draw(self, generator: torch.Generator) -> A:
        return self.space.decode(
            [int(torch.randint(n, (), generator=generator)) for n in self.space.genes]
        )
