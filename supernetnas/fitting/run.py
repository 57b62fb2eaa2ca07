"""What the stages of a fit share: randomness, clock, display, checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from ..training.batch_norm import recalibrate_batch_norm
from ..training.batches import LabelledImages
from ..training.clock import Stopwatch
from .checkpoints import FitCheckpoints
from .progress import Progress

__all__ = ["Run"]

_LEAST_BATCH = 16  # images, of statistics
_STATISTICS = 1280  # images, about


@dataclass(frozen=True)
class Run:
    """Randomness, clock, display and checkpoints of a fit."""

    generator: torch.Generator
    watch: Stopwatch
    progress: Progress
    checkpoints: FitCheckpoints

    def draw_seed(self) -> int:
        """Draw the seed of something that has its own source of randomness."""
        return int(torch.randint(2**31 - 1, (), generator=self.generator))

    def recalibrate(self, module: nn.Module, train: LabelledImages, batch_size: int) -> None:
        """Give a module the batch-norm statistics of the images.

        Of as many, whatever the size of a batch, and not of a few at a time, whose variances are
        too small: without gradients more of them fit into memory.
        """
        size = max(batch_size, _LEAST_BATCH)
        recalibrate_batch_norm(
            *(module, train.images),
            batch_size=size,
            max_batches=math.ceil(_STATISTICS / size),
            generator=self.generator,
        )
