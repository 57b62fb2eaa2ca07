"""The training of a supernet before its architectures are compared, which may split it.

Every batch goes along a uniformly drawn path. After a split, see `supernetnas.search.splitting`,
the parts take turns.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ..training.batches import endless_batches
from ..training.clock import Stopwatch
from ..training.history import HistoryRow
from ..training.protocols import seed_draws
from .distillation import FromLabels
from .method import SearchTask
from .path_training import AugmentedImages, PathTraining, PathTrainingSettings
from .protocols import Architecture, Evolvable, Space
from .samplers import Grouped, Sampler, Uniform, seeded
from .splitting import Groups, Split, SplitSupernet

__all__ = ["SupernetTraining"]

logger = logging.getLogger(__name__)

A = TypeVar("A", bound=Architecture)

_WARMUP = 20  # steps
_SHARE = 0.5  # of a time limit, that the training gets
_SPLIT, _DRAWS = 2**40, 2**41  # further than any epoch: where other draws come from


class SupernetTraining(Generic[A]):
    """Epochs of training, and perhaps a split and epochs after it.

    It gets half of a time limit at most; of that, what comes before a split gets its share.

    Parameters
    ----------
    supernet : Evolvable
        Trained in place.
    space : Space
        Of the supernet.
    task : SearchTask
    seed : int
        Of everything that is drawn.
    epochs : int
        Passes over the images before a split.
    learning_rate, label_smoothing : float
    split : Split or None

    Attributes
    ----------
    trained : Evolvable
        The supernet, or the parts that it was split into.
    ended : bool
    """

    def __init__(
        self,
        supernet: Evolvable[A],
        space: Space[A],
        task: SearchTask,
        *,
        seed: int,
        epochs: int,
        learning_rate: float,
        label_smoothing: float,
        split: Split | None = None,
    ) -> None:
        if split is not None:
            split.candidates(space)
        self.supernet: Any = supernet
        self.trained: Any = supernet
        self.space, self.task, self.seed = space, task, seed
        self.epochs, self.learning_rate, self.split = epochs, learning_rate, split
        self.distillation = FromLabels[A](label_smoothing, task.class_weight)
        self.ended = not epochs and split is None
        self._training = self._new_training() if epochs else None

    def run_epoch(self, row: HistoryRow, stopwatch: Stopwatch | None = None) -> None:
        """Pass once over the images; the row gets the loss, and what was split before."""
        self._seed_draws(row["epoch"])
        if self._training is None:
            self._divide(*self._choose())
            self._seed_draws(row["epoch"])  # of the parts
            row["split"] = self._described()
            logger.info("the supernet is split at %s", row["split"])
            self._training = self._new_training()
        training, split, share = self._training, self.split, _SHARE
        training.run(on_epoch=lambda training: True)
        row["train_loss"] = training.loss
        split_follows = split is not None and not isinstance(self.trained, SplitSupernet)
        if split is not None and split_follows:
            share *= self.epochs / (self.epochs + int(split.epochs))
        late = stopwatch is not None and stopwatch.expired(share)
        if late or training.epoch == training.epochs:
            self.trained.load_state_dict(training.average, strict=False)
            self._training, self.ended = None, not split_follows

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and plain values that `load_state` goes on from, but for the supernet."""
        tensors: dict[str, Tensor] = {}
        state: dict[str, Any] = {"ended": self.ended, "split": None, "training": None}
        if isinstance(self.trained, SplitSupernet):
            state["split"] = [self.trained.gene, [[*group] for group in self.trained.groups]]
            tensors |= {f"parts.{name}": t for name, t in self.trained.parts.state_dict().items()}
        if self._training is not None:
            own, state["training"] = self._training.state()
            tensors |= {name: t for name, t in own.items() if not name.startswith("weights.")}
        return tensors, state

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned; the supernet has been restored before."""
        self.ended, self._training = state["ended"], None
        if state["split"] is not None:
            self._divide(*state["split"])
            prefix = "parts."
            self.trained.parts.load_state_dict(
                {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            )
        if state["training"] is not None:
            self._training = self._new_training()
            weights = {f"weights.{name}": t for name, t in self.trained.state_dict().items()}
            self._training.load_state({**tensors, **weights}, dict(state["training"]))

    def _new_training(self) -> PathTraining[A]:
        """Return a training of the supernet, or of its parts."""
        seed, epochs = self.seed, self.epochs
        sampler: Sampler[A] = Uniform(self.space, seed=seed)
        if self.split is not None and isinstance(self.trained, SplitSupernet):
            seed, epochs = self.seed + 2, int(self.split.epochs)  # other numbers than before
            sampler = Grouped(self.space, self.trained.gene, self.trained.groups, seed=seed)
        return PathTraining(
            self.trained,
            AugmentedImages(self.task.train, seed + 1),  # other numbers than those of the order
            sampler,
            self.distillation,
            PathTrainingSettings(
                epochs=epochs,
                batch_size=self.task.batch_size,
                learning_rate=self.learning_rate,
                warmup=_WARMUP,
                seed=seed,
            ),
            execution=self.task.execution,
        )

    def _choose(self) -> tuple[int, Groups]:
        """Choose what to split, and into what."""
        assert self.split is not None
        train, generator = self.task.train, seeded(self.seed, _SPLIT)
        device = train.images.index_device
        indices = endless_batches(len(train), self.task.batch_size, generator, device)
        batches = ((train.images.augmented(i, generator), train.labels_at(i)) for i in indices)
        return self.split.choose(self.supernet, self.space, self.distillation, batches, generator)

    def _seed_draws(self, epoch: int) -> None:
        """Let what draws in training draw what follows from the epoch, whatever came before."""
        number = seeded(self.seed, _DRAWS + epoch).initial_seed()
        device = self.task.train.labels.device
        seed_draws(self.trained, torch.Generator(device).manual_seed(number))

    def _divide(self, gene: int, groups: Groups) -> None:
        self.trained = SplitSupernet(self.supernet, self.space, gene, groups)

    def _described(self) -> str:
        choices = " | ".join(" ".join(map(str, group)) for group in self.trained.groups)
        return f"layer {self.trained.gene}: choices {choices}"
