"""Pretraining of what the members of an elastic supernet share.

The largest member, with its own weights, teaches: all others learn its pooled features and its
class scores of the same views. A few members along the front of cost are trained in turn, each as
often as any other, and at several input sizes; they are those whose batch-norm statistics the
supernet keeps. Labels are not used.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ...images.augmentation import StandardisedImages
from ...search.distillation import Divergence, FromTeacher
from ...search.path_training import PathTraining, PathTrainingSettings
from ...search.samplers import InTurn
from ...storage.files import clear_temporaries
from ...training.checkpoints import load_checkpoint, save_checkpoint
from ...training.distributed import ALONE, Processes
from .space import ElasticArchitecture
from .supernet import ElasticSupernet
from .views import TeacherFeatures, Views

__all__ = ["ElasticPretraining", "pretrain_shared", "recalibrated"]

_CHECKPOINT = "checkpoint.safetensors"
_N_SCALED = 1024  # images that say how far the teacher's features vary


@dataclass(frozen=True)
class ElasticPretraining:
    """How the shared weights are pretrained.

    Attributes
    ----------
    training : PathTrainingSettings
    members_per_step : int
        How many members a step trains, on one batch.
    teacher_side : int
        Side of the views, which are what the teacher sees, in pixels.
    n_views : int
        How many views of each image there are; an epoch shows one.
    feature_weight, temperature, divergence
        See `supernetnas.search.distillation.FromTeacher`. Features count about as much as scores:
        in a short comparison this was better for every member than a weight of 2, most of all
        for the smallest.
    recalibration_batches : int
        Of 64 images, for the statistics of each member.
    save_every : float
        Seconds between checkpoints.
    """

    training: PathTrainingSettings = field(
        default_factory=lambda: PathTrainingSettings(weight_decay=0.0)
    )
    members_per_step: int = 3
    teacher_side: int = 128
    n_views: int = 4
    feature_weight: float = 40.0
    temperature: float = 2.0
    divergence: Divergence = "kl"
    recalibration_batches: int = 20
    save_every: float = 600.0


def pretrain_shared(
    supernet: ElasticSupernet,
    images: StandardisedImages,
    folder: str | os.PathLike,
    *,
    identity: str,
    settings: ElasticPretraining | None = None,
    on_epoch: Callable[[PathTraining[ElasticArchitecture]], bool | None] | None = None,
    processes: Processes = ALONE,
) -> ElasticSupernet:
    """Pretrain the weights that all members but the largest share.

    Parameters
    ----------
    supernet : ElasticSupernet
        As it starts, with the members to train in its config. The largest member and the
        classifier are the teacher, and stay as they are.
    images : StandardisedImages
        As the largest member wants them.
    folder : path
        For the checkpoint and the teacher's features. A training that was interrupted goes on.
    identity : str
        Of the largest member's weights.
    settings : ElasticPretraining, optional
    on_epoch : callable, optional
        Called with the training after each epoch; True ends it.
    processes : Processes
        Those that share every batch.

    Returns
    -------
    ElasticSupernet
        With the averaged weights and with recalibrated statistics, in evaluation mode.

    Raises
    ------
    ValueError
        If the supernet has no members to train.
    FileError
        If the folder belongs to other images or another teacher.
    """
    settings = settings or ElasticPretraining()
    members = supernet.config.members
    if not members:
        raise ValueError("The supernet's config lists no members to pretrain.")
    supernet.largest.requires_grad_(False)
    supernet.classifier.requires_grad_(False)
    views = Views(images, side=settings.teacher_side, n_views=settings.n_views)
    data = TeacherFeatures(
        views,
        copy.deepcopy(supernet.largest).eval(),  # training puts the supernet's own into its mode
        identity=identity,
        dimension=supernet.config.space.backbone.features,
        folder=Path(folder) / "teacher",
    )
    training = PathTraining(
        supernet,
        data,
        InTurn(members, min(settings.members_per_step, len(members))),
        FromTeacher(
            supernet.classifier.weight.detach().clone(),
            supernet.classifier.bias.detach().clone(),
            _deviations(data),
            settings.feature_weight,
            settings.divergence,
            settings.temperature,
        ),
        settings.training,
        processes,
    )
    checkpoint = _Checkpoint(Path(folder) / _CHECKPOINT, settings.save_every, processes)
    checkpoint.restore(training)
    training.run(checkpoint.save_now_and_then, on_epoch)
    checkpoint.save(training)
    return recalibrated(training, images, settings.recalibration_batches)


def recalibrated(
    training: PathTraining[ElasticArchitecture],
    images: StandardisedImages,
    max_batches: int,
    members: tuple[ElasticArchitecture, ...] | None = None,
) -> ElasticSupernet:
    """Return the averaged supernet of a training, its members' statistics those of images."""
    supernet = training.averaged()
    assert isinstance(supernet, ElasticSupernet)
    generator = torch.Generator().manual_seed(training.settings.seed)
    supernet.recalibrate(images, members, generator=generator, max_batches=max_batches)
    return supernet.eval()


class _Checkpoint:
    """The file that a training goes on from, written by the first process."""

    def __init__(self, path: Path, every: float, processes: Processes) -> None:
        self.path, self.every, self.processes = path, every, processes
        self._last = time.monotonic()

    def restore(self, training: PathTraining[ElasticArchitecture]) -> None:
        clear_temporaries(self.path)
        if self.path.exists():
            training.load_state(*load_checkpoint(self.path))

    def save_now_and_then(self, training: PathTraining[ElasticArchitecture]) -> None:
        if time.monotonic() - self._last > self.every:
            self.save(training)

    def save(self, training: PathTraining[ElasticArchitecture]) -> None:
        if self.processes.rank == 0:
            save_checkpoint(self.path, *training.state())
        self._last = time.monotonic()


@torch.no_grad()
def _deviations(data: TeacherFeatures) -> Tensor:
    """Standard deviation of each of the teacher's features."""
    index = torch.linspace(0, len(data) - 1, min(_N_SCALED, len(data))).long()
    features = torch.cat([data.batch(part, 0)[1] for part in index.split(64)])
    return features.std(dim=0, correction=0).clamp(min=1e-3)
