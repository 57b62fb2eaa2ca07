"""Pretraining of what the members of an elastic supernet share.

The largest member, with its own weights, teaches: all others learn its pooled features and its
class scores of the same views. A few members along the front of cost are trained in turn, each as
often as any other, and at several input sizes; they are those whose batch-norm statistics the
supernet keeps. Labels are not used.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...images.augmentation import StandardisedImages
from ...search.distillation import Divergence, FromTeacher
from ...search.path_training import PathTraining, PathTrainingSettings
from ...search.samplers import InTurn
from ...training.checkpoints import Checkpoint
from ...training.distributed import ALONE, Processes
from ...training.execution import fast_inference
from .network import Trunk
from .space import ElasticArchitecture
from .supernet import ElasticSupernet
from .views import TeacherFeatures, Views

__all__ = ["ElasticPretraining", "SharedTraining", "pretrain_shared"]

_CHECKPOINT = "checkpoint.safetensors"
_N_SCALED = 1024  # images that say how far the teacher's features vary


@dataclass(frozen=True)
class ElasticPretraining(PathTrainingSettings):
    """How the shared weights are pretrained.

    Attributes
    ----------
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
        Most seconds between checkpoints, of which there is one after each epoch anyhow.
    """

    weight_decay: float = 0.0
    members_per_step: int = 3
    teacher_side: int = 128
    n_views: int = 4
    feature_weight: float = 40.0
    temperature: float = 2.0
    divergence: Divergence = "kl"
    recalibration_batches: int = 20
    save_every: float = 600.0


class SharedTraining(PathTraining[ElasticArchitecture]):
    """The pretraining of the shared weights.

    Parameters
    ----------
    supernet : ElasticSupernet
        Whose largest member and classifier are the teacher, and stay as they are.
    images : StandardisedImages
        As the largest member wants them.
    folder : path
        For the teacher's features.
    identity : str
        Of the largest member's weights.
    settings : ElasticPretraining
    processes : Processes

    Raises
    ------
    ValueError
        If there are no members to train, or too few images.
    FileError
        If the folder belongs to other images or another teacher.
    """

    def __init__(
        self,
        supernet: ElasticSupernet,
        images: StandardisedImages,
        folder: Path,
        identity: str,
        settings: ElasticPretraining,
        processes: Processes = ALONE,
    ) -> None:
        members = supernet.config.members
        if not members:
            raise ValueError("The supernet's config lists no members to pretrain.")
        if len(images) < 2 * processes.size:
            raise ValueError(
                f"Each of {processes.size} processes that pretrain together needs at least 2 "
                f"images; there are {len(images)}."
            )
        supernet.largest.requires_grad_(False)
        supernet.classifier.requires_grad_(False)
        data = TeacherFeatures(
            Views(images, side=settings.teacher_side, n_views=settings.n_views, seed=settings.seed),
            # A copy, since training puts the supernet's own into its mode.
            _Teacher(copy.deepcopy(supernet.largest).eval()),
            identity=identity,
            dimension=supernet.config.space.backbone.features,
            folder=folder,
        )
        super().__init__(
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
            settings,
            processes,
        )
        self._images, self._n_batches = images, settings.recalibration_batches

    def recalibrated(self, members: Iterable[ElasticArchitecture] | None = None) -> ElasticSupernet:
        """Return a copy with the averaged weights, the statistics of members those of the images.

        By default those of all members.
        """
        supernet = self.averaged()
        assert isinstance(supernet, ElasticSupernet)
        generator = torch.Generator().manual_seed(self.settings.seed)
        supernet.recalibrate(
            self._images, members, generator=generator, max_batches=self._n_batches
        )
        return supernet.eval()

    def searched_supernet(self) -> ElasticSupernet:
        """Return the supernet as zoos keep it."""
        return self.recalibrated()


def pretrain_shared(
    supernet: ElasticSupernet,
    images: StandardisedImages,
    folder: str | os.PathLike,
    *,
    identity: str,
    settings: ElasticPretraining | None = None,
    on_epoch: Callable[[SharedTraining], bool | None] | None = None,
    processes: Processes = ALONE,
) -> SharedTraining:
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
    SharedTraining
        At its end; `SharedTraining.recalibrated` gives the supernet.

    Raises
    ------
    ValueError
        If the supernet has no members to train, or there are too few images.
    FileError
        If the folder belongs to other images or another teacher.
    """
    settings = settings or ElasticPretraining()
    folder = Path(folder)
    training = SharedTraining(supernet, images, folder / "teacher", identity, settings, processes)
    checkpoint = Checkpoint(folder / _CHECKPOINT, processes)
    checkpoint.restore(training)

    def save(training: SharedTraining) -> bool | None:
        checkpoint.save(training)
        return on_epoch(training) if on_epoch else None

    training.run(lambda training: checkpoint.save_after(settings.save_every, training), save)
    return training


class _Teacher:
    """The features of a frozen trunk, in the precision that is fastest."""

    def __init__(self, trunk: Trunk) -> None:
        self.trunk = trunk

    def __call__(self, views: Tensor) -> Tensor:
        with fast_inference(views.device).autocast(views.device):
            return self.trunk(views).float()


@torch.no_grad()
def _deviations(data: TeacherFeatures) -> Tensor:
    """Standard deviation of each of the teacher's features."""
    index = torch.linspace(0, len(data) - 1, min(_N_SCALED, len(data))).long()
    features = torch.cat([data.batch(part, 0)[1] for part in index.split(64)])
    return features.std(dim=0, correction=0).clamp(min=1e-3)
