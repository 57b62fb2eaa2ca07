"""The baselines: the source's architecture, a random one, and the best of some by shared weights.

Random search with weight sharing is that of Li and Talwalkar, "Random Search and Reproducibility
for Neural Architecture Search" (UAI 2019), section 4: each weight step trains one architecture
drawn uniformly, and after the training random architectures are compared by their accuracy on
validation images with the shared weights. Architectures are drawn as a genotype has them: two edges
into each node, any operation but ``none`` on each.

Two deviations: 50 architectures are compared instead of 1,000, on all validation images at once
instead of in two rounds; and batches are normalised by their own statistics, since no architecture
has running statistics of its own.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from ....search.loop import SearchLoop
from ....training.batch_norm import frozen_batch_norm
from ....training.clock import Stopwatch
from ....training.steps import evaluate
from ..genotype import Genotype, random_genotype
from ..paths import choices_of
from ..supernet import CellSupernet
from .weight_training import WeightTraining

__all__ = ["RandomChoice", "SharedWeightsSearch", "Unsearched"]


class Unsearched(SearchLoop):
    """No search at all: what the alphas stand for."""

    supernet: CellSupernet

    def derive(self, stopwatch: Stopwatch | None = None) -> Genotype:
        """Architecture that the alphas have decided for."""
        return self.supernet.genotype()


class RandomChoice(SearchLoop):
    """No search at all: one random architecture.

    Parameters
    ----------
    supernet : CellSupernet
        Left as it is.
    generator : torch.Generator
        On the CPU.
    """

    supernet: CellSupernet

    def __init__(self, supernet: CellSupernet, generator: torch.Generator) -> None:
        super().__init__(supernet, 0, generator)
        for _ in range(1 + (supernet.classifier.weight.device.type != "cpu")):
            # One draw for each generator that other searches seed, so that they all derive alike.
            torch.randint(2**31 - 1, (), generator=generator)

    def derive(self, stopwatch: Stopwatch | None = None) -> Genotype:
        """Draw the architecture."""
        return random_genotype(self.supernet.space, self.generator)


class SharedWeightsSearch(WeightTraining):
    """Random search with weight sharing.

    Attributes
    ----------
    n_candidates : int
        Architectures that are compared after the training.
    n_judges : int
        Architectures, always the same, that the validation accuracy of an epoch is measured with,
        each on every eighth batch: so epochs and sources can be compared.
    """

    capturable = False  # paths are drawn on the host
    n_candidates = 50
    n_judges = 8

    def before_epoch(self) -> None:
        """Draw the architectures that the epoch is judged by: the same for all epochs."""
        generator = torch.Generator().manual_seed(0)
        space = self.supernet.space
        self._judges = itertools.cycle(
            [random_genotype(space, generator) for _ in range(self.n_judges)]
        )

    def weight_scores(self, images: Tensor, labels: Tensor, radius: float | Tensor = 0.0) -> Tensor:
        """Scores of a random architecture."""
        return self._path(images, random_genotype(self.supernet.space, self.generator))

    def evaluation_scores(self, images: Tensor) -> Tensor:
        """Scores of the next of the architectures that epochs are judged by."""
        return self._path(images, next(self._judges))

    def derive(self, stopwatch: Stopwatch | None = None) -> Genotype:
        """Compare random architectures on validation images; the history gets a row for the best.

        Equal accuracies are told apart by their losses.
        """
        best, found, count, watch = (-math.inf, -math.inf), None, 0, Stopwatch()
        self.supernet.train()
        while count < self.n_candidates and not (count and stopwatch and stopwatch.expired()):
            candidate = random_genotype(self.supernet.space, self.generator)
            with frozen_batch_norm(self.supernet), self.fixed_noise():
                loss, accuracy = evaluate(
                    lambda images, candidate=candidate: self._path(  # type: ignore[misc]
                        images, candidate
                    ),
                    self.validation,
                    own_scores=self.own_scores,
                )
            if found is None or (accuracy, -loss) > best:
                best, found = (accuracy, -loss), candidate
            count += 1
        self.history.append(
            {
                "stage": "derive",
                "epoch": self.epoch,
                "validation_loss": -best[1],
                "validation_accuracy": best[0],
                "candidates": count,
                "seconds": watch.seconds,
            }
        )
        return found  # type: ignore[return-value]  # one at least was compared

    def _path(self, images: Tensor, genotype: Genotype) -> Tensor:
        return self.path_scores(images, choices_of(genotype, self.supernet))
