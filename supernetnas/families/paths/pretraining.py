"""Pretraining of a single-path supernet on the classes of one dataset, or of several together.

Of several, the classifier is the concatenation of one head for each, and of an image's scores those
of its own dataset's classes alone count. Every step trains one random path; what zoos keep is the
exponential average of the weights. The validation accuracy of an epoch is that of eight random
paths, always the same, each on every eighth batch, under the statistics of the batch.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from ...search.distillation import FromLabels
from ...search.loop import SearchLoop
from ...search.path_training import AugmentedImages, PathTraining, PathTrainingSettings
from ...search.samplers import Uniform
from ...training.batch_norm import frozen_batch_norm
from ...training.batches import LabelledImages
from ...training.clock import Stopwatch
from ...training.distributed import ALONE, Processes
from ...training.history import HistoryRow
from ...training.steps import evaluate
from .space import PathArchitecture
from .supernet import PathSupernet

__all__ = ["PathPretraining"]

logger = logging.getLogger(__name__)

_JUDGES = 8


class PathPretraining(SearchLoop):
    """Training of a supernet along random paths, epoch by epoch.

    Parameters
    ----------
    supernet : PathSupernet
        Changed in place; on its final device.
    train, validation : LabelledImages
        Images for the weights, and images that epochs are judged by.
    settings : PathTrainingSettings
        Its seed is replaced by one from the generator.
    generator : torch.Generator
        On the CPU; the source of every random draw.
    dataset_of_class : torch.Tensor of shape (n_classes,), int64, optional
        Number of the dataset that each class belongs to; by default there is one.
    processes : Processes, optional
        Those that train together; all with the same arguments.
    label_smoothing : float
        Share of the label that is spread over the classes of the image's dataset.
    """

    supernet: PathSupernet

    def __init__(
        self,
        supernet: PathSupernet,
        train: LabelledImages,
        validation: LabelledImages,
        settings: PathTrainingSettings,
        generator: torch.Generator,
        *,
        dataset_of_class: Tensor | None = None,
        processes: Processes = ALONE,
        label_smoothing: float = 0.1,
    ) -> None:
        processes.check_enough(len(train), len(validation))
        super().__init__(supernet, settings.epochs, generator, processes=processes)
        self.validation, self.settings = validation, settings
        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        self._labels = FromLabels[PathArchitecture](
            label_smoothing, dataset_of_class=dataset_of_class, observe=self._observe
        )
        self._hits = torch.zeros((), device=train.labels.device)
        self._seen = 0
        self.training: PathTraining[PathArchitecture] = PathTraining(
            supernet,
            AugmentedImages(train, seed),
            Uniform(supernet.space, seed=seed + 1),
            self._labels,
            replace(settings, seed=seed),
            processes,
        )

    def run_epoch(self) -> HistoryRow:
        """Pass once over the training images; returns and appends the epoch's row."""
        watch = Stopwatch()
        self._hits, self._seen = torch.zeros_like(self._hits), 0
        self.training.run(on_epoch=lambda training: True)
        seen = float(self.processes.sum(torch.tensor(float(self._seen), dtype=torch.float64)))
        row: HistoryRow = {
            "stage": "search",
            "epoch": self.epoch + 1,
            "train_loss": self.training.history[-1]["train_loss"],
            "train_accuracy": float(self.processes.sum(self._hits)) / seen,
        }
        row["validation_loss"], row["validation_accuracy"] = self._judged()
        row["seconds"] = watch.seconds
        if not (math.isfinite(row["train_loss"]) and math.isfinite(row["validation_loss"])):
            raise FloatingPointError(
                f"The pretraining diverged in epoch {row['epoch']}: its loss is not finite. Lower "
                f"its learning rate ({self.settings.learning_rate:g})."
            )
        self.epoch += 1
        self.history.append(row)
        logger.info("epoch %(epoch)d: validation accuracy %(validation_accuracy).3f", row)
        return row

    def searched_supernet(self) -> PathSupernet:
        """Return a copy with the average of the weights, and the statistics of the training."""
        return cast(PathSupernet, self.training.averaged())

    def derive(self, stopwatch: Stopwatch | None = None) -> PathArchitecture:
        """Refuse: nothing is chosen in a pretraining."""
        raise NotImplementedError("A pretraining trains all paths and chooses none.")

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As `SearchLoop.state`, with that of the training."""
        tensors, state = super().state()
        own, state["training"] = self.training.state()
        tensors |= {
            f"training.{name}": tensor
            for name, tensor in own.items()
            if not name.startswith("weights.")
        }
        return tensors, state

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        super().load_state(tensors, state)
        own = {f"weights.{name}": t for name, t in self.supernet.state_dict().items()}
        own |= {
            name.removeprefix("training."): t
            for name, t in tensors.items()
            if name.startswith("training.")
        }
        self.training.load_state(own, state["training"])

    def _observe(self, scores: Tensor, labels: Tensor) -> None:
        self._hits = self._hits + (scores.argmax(1) == labels).sum()
        self._seen += len(labels)

    def _judged(self) -> tuple[float, float]:
        """Loss and accuracy of the paths that epochs are judged by, of averaged weights."""
        supernet = self.searched_supernet().train()
        judges = itertools.cycle(Uniform(supernet.space, _JUDGES)(0))
        with frozen_batch_norm(supernet):
            return evaluate(
                lambda images: supernet(images, next(judges)),
                self.validation,
                own_scores=self._labels.own_scores,
                processes=self.processes,
            )
