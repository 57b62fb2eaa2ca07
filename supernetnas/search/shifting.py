"""Supernet Shifting: an evolution that trains the supernet on the architectures it looks at.

Zhang et al., "Boosting Order-Preserving and Transferability for Neural Architecture Search: a Joint
Architecture Refined Search and Fine-tuning Approach" (CVPR 2024). Every architecture of a
generation is scored, and the gradient of its training loss computed. With "accumulate" (section
3.3, algorithm 1) these gradients are summed, and the supernet is updated once after the generation;
with "immediate" (section 3.4) it is updated after every batch, which takes a supernet to another
dataset. Evolution draws good architectures more often, so the supernet shifts to them.

An architecture may be drawn again in every generation, and its latest score counts. The best are
scored again on the supernet that the search leaves.

Where the paper and its released code differ, this is the paper: it accumulates, scores before it
trains, keeps 50 parents, and takes the loss of 640 images for each architecture. The code always
updates immediately, trains before it scores (``order="train_first"``), keeps 10 parents, takes
3,000 images, and never recalibrates batch norms. Deviations from both: labels are smoothed over the
true number of classes, and images are augmented as everywhere in this package.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..parameters import FLAG, Constraint, OneOf, Real, Whole
from ..training.batches import endless_batches
from ..training.checkpoints import optimizer_tensors, restore_optimizer
from ..training.clock import Stopwatch
from ..training.history import HistoryRow
from ..training.protocols import seed_draws
from .evolution import Evolution, EvolutionSearch
from .method import SearchTask
from .protocols import Architecture, Evolvable
from .samplers import seeded
from .splitting import SplitSupernet

__all__ = ["Shifting", "ShiftingSearch"]

A = TypeVar("A", bound=Architecture)

_MOMENTUM, _DECAY = 0.9, 4e-5  # of the authors' code


class ShiftingSearch(EvolutionSearch[A]):
    """An evolution that shifts its supernet.

    Parameters
    ----------
    supernet : Evolvable
        Trained in place.
    task : SearchTask
    method : Shifting

    Attributes
    ----------
    optimizer : torch.optim.SGD
        Of the whole supernet, or of the parts that it was split into.
    """

    method: Shifting

    def __init__(self, supernet: Evolvable[A], task: SearchTask, method: Shifting) -> None:
        super().__init__(supernet, task, method)
        self.optimizer = self._new_optimizer()

    def divergence(self) -> FloatingPointError:
        """Return the error of a loss that is not finite, which names the rate to lower."""
        if not self.training.ended:
            return super().divergence()
        number = min(self.n_generations + 1, int(self.method.generations))
        return FloatingPointError(
            f"The search diverged in generation {number}: its loss is not finite. Lower its "
            f"shift_rate ({self.method.shift_rate:g})."
        )

    def known(self) -> Iterable[A]:
        """None: every generation may draw what earlier ones had."""
        return ()

    def score(self, generation: Sequence[A]) -> None:
        """Score a generation, and train the supernet on it."""
        first = self.method.order == "train_first"
        generator, train = seeded(self.seed, self.n_generations), self.task.train
        device = train.images.index_device
        batches = endless_batches(len(train), self.task.batch_size, generator, device)
        if not self.n_generations:
            self.optimizer = self._new_optimizer()  # the training may have split the supernet
        number = seeded(self.seed + 1, self.n_generations).initial_seed()
        seed_draws(self.searched, torch.Generator(train.labels.device).manual_seed(number))
        self.searched.train()
        self.optimizer.zero_grad(set_to_none=True)
        if self.method.update == "immediate":
            for architecture in generation:
                if not first:
                    super().score([architecture])
                self._learn(architecture, batches, generator, immediately=True)
                if first:
                    super().score([architecture])
            return
        if not first:
            super().score(generation)
        for architecture in generation:
            self._learn(architecture, batches, generator, immediately=False)
        self._update()
        if first:
            super().score(generation)

    def derive(self, stopwatch: Stopwatch | None = None) -> A:
        """Score the best again, on the supernet as it is now, and return the best of them."""
        watch = Stopwatch()
        if not self.n_generations:
            super().derive(stopwatch)
        finalists = self.ranking()[: int(self.method.finalists)]
        self.scores = dict(zip(finalists, self.scorer(finalists), strict=True))
        best = super().derive(stopwatch)
        if best not in self.scores:  # none of them keeps the limit on latency
            super().score([best])
        # The last update may have spoiled what no path is that was scored after it.
        whole = all(bool(p.isfinite().all()) for p in self.searched.parameters())
        if not (whole and math.isfinite(self.scores[best].loss)):
            raise self.divergence()
        row: HistoryRow = {
            "stage": "derive",
            "epoch": self.epoch,
            "validation_loss": self.scores[best].loss,
            "validation_accuracy": self.scores[best].accuracy,
            "candidates": len(finalists),
            "seconds": watch.seconds,
        }
        self.history.append(row)
        return best

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As `EvolutionSearch.state`, with the optimizer."""
        tensors, state = super().state()
        return tensors | optimizer_tensors(self.optimizer, "optimizer"), state

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        super().load_state(tensors, state)
        self.optimizer = self._new_optimizer()
        restore_optimizer(self.optimizer, "optimizer", tensors)

    def _new_optimizer(self) -> torch.optim.SGD:
        split = isinstance(self.searched, SplitSupernet)
        parts: list[Any] = [*self.searched.parts] if split else [self.searched]
        if self.method.frozen:
            parts = [part.steps(self.bounds.cheapest)[-1].module for part in parts]
            trained = [p for classifier in parts for p in classifier.parameters()]
        else:
            trained = [p for part in parts for p in part.weight_parameters()]
        return torch.optim.SGD(
            [
                {"params": [p for p in trained if p.ndim > 1], "weight_decay": _DECAY},
                {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=float(self.method.shift_rate),
            momentum=_MOMENTUM,
        )

    def _learn(
        self,
        architecture: A,
        batches: Iterator[Tensor],
        generator: torch.Generator,
        *,
        immediately: bool,
    ) -> None:
        """Add the gradient of an architecture's mean loss, or update the supernet by it."""
        n_batches = max(1, round(int(self.method.n_images) / self.task.batch_size))
        for index in itertools.islice(batches, n_batches):
            loss = self._loss(architecture, index, generator)
            if not math.isfinite(float(loss.detach())):
                raise self.divergence()
            if immediately:
                loss.backward()
                self._update()
            else:
                (loss / n_batches).backward()

    def _update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # what is not used is not decayed either

    def _loss(self, architecture: A, index: Tensor, generator: torch.Generator) -> Tensor:
        train = self.task.train
        images, labels = train.images.augmented(index, generator), train.labels_at(index)
        with self.task.execution.autocast(images.device):
            if self.method.frozen:
                with torch.no_grad():
                    features = self.searched.features(images, architecture)
                *_, classifier = self.searched.steps(architecture)
                scores = classifier.module(features)
            else:
                scores = self.searched(images, architecture)
        return F.cross_entropy(
            scores.float(),
            labels,
            weight=self.task.class_weight,
            label_smoothing=float(self.method.label_smoothing),
        )


class Shifting(Evolution):
    """Supernet Shifting: an evolution that trains the supernet on the architectures it looks at.

    Parameters
    ----------
    generations, population
        Of `Evolution`.
    parents : int >= 1, default=50
        Best architectures so far, each by its latest score, that the next generation comes from.
    mutations, crossovers, mutation_probability
        Of `Evolution`.
    objectives, score
        Of `Evolution`.
    update : {"immediate", "accumulate"}, default="immediate"
        When the supernet is updated: after every batch, which takes it to new images and classes
        quickly, or once in a generation, by the sum of the gradients of its architectures.
    order : {"score_first", "train_first"}, default="score_first"
        Whether an architecture is scored before or after it has trained the supernet.
    frozen : bool, default=False
        Whether the classifier alone is trained.
    n_images : int >= 1, default=640
        Images, about, that each architecture of a generation trains the supernet on.
    shift_rate : float > 0, default=0.0001
        Learning rate of the updates.
    finalists : int >= 1, default=10
        Best architectures that are scored again on the final supernet.
    epochs : int >= 0, default=0
        Passes over the images that train the supernet before, each batch along a random path: for
        a supernet that starts from random weights.
    learning_rate, label_smoothing, validation_fraction, n_recalibration, split
        Of `Evolution`.

    References
    ----------
    .. [1] B. Zhang et al., "Boosting Order-Preserving and Transferability for Neural Architecture
       Search: a Joint Architecture Refined Search and Fine-tuning Approach", CVPR 2024.
    """

    name = "shifting"
    constraints: ClassVar[Mapping[str, Constraint]] = {
        **Evolution.constraints,
        "update": OneOf("immediate", "accumulate"),
        "order": OneOf("score_first", "train_first"),
        "frozen": FLAG,
        "n_images": Whole(1),
        "shift_rate": Real(),
        "finalists": Whole(1),
    }

    def __init__(
        self,
        generations=20,
        *,
        population=50,
        parents=50,
        mutations=25,
        crossovers=25,
        mutation_probability=0.1,
        objectives=("accuracy",),
        score="classifier",
        update="immediate",
        order="score_first",
        frozen=False,
        n_images=640,
        shift_rate=0.0001,
        finalists=10,
        epochs=0,
        learning_rate=0.001,
        label_smoothing=0.1,
        validation_fraction=0.2,
        n_recalibration=1280,
        split=None,
    ):
        super().__init__(
            generations,
            population=population,
            parents=parents,
            mutations=mutations,
            crossovers=crossovers,
            mutation_probability=mutation_probability,
            objectives=objectives,
            score=score,
            epochs=epochs,
            learning_rate=learning_rate,
            label_smoothing=label_smoothing,
            validation_fraction=validation_fraction,
            n_recalibration=n_recalibration,
            split=split,
        )
        self.update = update
        self.order = order
        self.frozen = frozen
        self.n_images = n_images
        self.shift_rate = shift_rate
        self.finalists = finalists

    def start(self, supernet: Any, task: SearchTask) -> ShiftingSearch:
        """Begin a search of a supernet, which will be changed in place."""
        return ShiftingSearch(supernet, task, self)
