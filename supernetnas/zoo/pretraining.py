"""Pretraining of supernets: what fills a zoo.

Algorithm 1 of the supernet transfer paper (Singh and Vanschoren) pretrains one supernet on each
source dataset; algorithm 3 starts from one that was pretrained on all of them together. Here the
latter is one supernet with a classifier head per dataset on batches that mix the datasets; the
paper does not say how it joins the label sets. Heads are dropped afterwards.

Every task writes a checkpoint after each epoch and continues from it when it is started again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..augmentation import Augmentation, ImageTensors, channel_statistics
from ..images import as_image_set
from ..search.bilevel import BilevelSearch, SearchSettings
from ..supernets.cell import CellSupernet, SupernetConfig
from ..training import (
    LabelledImages,
    load_checkpoint,
    save_checkpoint,
    seeded_modules,
    stratified_split,
)

__all__ = [
    "MixedImages",
    "MultiDatasetSearch",
    "Pretraining",
    "SourceDataset",
    "pretrain_multi",
    "pretrain_single",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceDataset:
    """A labelled dataset to pretrain on.

    Attributes
    ----------
    name : str
        Name of the source in the zoo.
    images : object
        Whatever `supernetnas.images.as_image_set` accepts.
    labels : array-like of shape (n,)
    class_names : sequence of str, optional
        Names of the sorted labels.
    provenance : dict
        Where the images come from and under which licence, as their source states it.
    """

    name: str
    images: object
    labels: np.ndarray
    class_names: Sequence[str] | None = None
    provenance: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Pretraining:
    """How supernets are pretrained.

    Attributes
    ----------
    space, init_channels, n_cells, image_side
        The supernet, see `SupernetConfig`; images are resized to a square of this side.
    steps : int
        Weight steps on a single source; the epochs follow from it, at least ``min_epochs``.
    multi_epochs : int
        Epochs on all sources together.
    validation_fraction : float
        Share of the images, in every class, that train the alphas.
    settings : SearchSettings
        Everything else; its epochs are replaced.
    random_state : int
    """

    space: str = "s1"
    init_channels: int = 16
    n_cells: int = 5
    image_side: int = 32
    steps: int = 400
    min_epochs: int = 10
    multi_epochs: int = 20
    validation_fraction: float = 1 / 3
    settings: SearchSettings = SearchSettings(
        learning_rate=0.1,
        alpha_learning_rate=1e-2,
        weight_steps_per_alpha_step=2,
    )
    random_state: int = 0


class MixedImages:
    """Several sets of images behind one index, each with its own statistics and augmentation.

    Parameters
    ----------
    parts : sequence of ImageTensors
        All of one shape and on one device.
    """

    def __init__(self, parts: Sequence[ImageTensors]) -> None:
        self.parts = list(parts)
        sizes = torch.tensor([0] + [len(part) for part in self.parts])
        self._starts = sizes.cumsum(0)
        self.shape = self.parts[0].shape

    def __len__(self) -> int:
        return int(self._starts[-1])

    def clean(self, index: Tensor) -> Tensor:
        """As `ImageTensors.clean`."""
        return self._gather(index, lambda part, inner: part.clean(inner))

    def augmented(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """As `ImageTensors.augmented`."""
        return self._gather(index, lambda part, inner: part.augmented(inner, generator))

    def _gather(self, index: Tensor, take: Callable[[ImageTensors, Tensor], Tensor]) -> Tensor:
        owner = torch.bucketize(index, self._starts, right=True) - 1
        order = owner.argsort(stable=True)
        batches = [
            take(self.parts[part], index[owner == part] - self._starts[part])
            for part in owner.unique().tolist()
        ]
        joined = torch.cat(batches)
        result = torch.empty_like(joined, memory_format=torch.channels_last)
        result[order.to(joined.device)] = joined
        return result


class MultiDatasetSearch(BilevelSearch):
    """A search over several datasets at once, each class with the dataset that it belongs to.

    The supernet's classifier is the concatenation of one head per dataset: an image's loss and
    prediction look at the scores of its own dataset's classes only.

    Parameters
    ----------
    dataset_of_class : torch.Tensor of shape (n_classes,), int64
    *args, **kwargs
        As for `BilevelSearch`.
    """

    def __init__(self, dataset_of_class: Tensor, *args, **kwargs) -> None:
        self.dataset_of_class = dataset_of_class
        super().__init__(*args, **kwargs)

    def own_scores(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Scores with those of other datasets' classes at minus infinity."""
        foreign = self.dataset_of_class[None, :] != self.dataset_of_class[labels][:, None]
        return scores.masked_fill(foreign, -torch.inf)


def _labelled(
    dataset: SourceDataset, side: int, fraction: float, seed: int
) -> tuple[LabelledImages, LabelledImages, int]:
    """Split a dataset; returns training and validation images and the number of classes."""
    image_set = as_image_set(dataset.images, name=dataset.name)
    classes, labels = np.unique(np.asarray(dataset.labels), return_inverse=True)
    pixels = image_set.tensor(side, side, channels=3)
    mean, std = channel_statistics(pixels)
    augmentation = Augmentation.choose(*image_set.typical_size, image_set.colour)
    labels = torch.from_numpy(labels)
    parts = stratified_split(labels, fraction, torch.Generator().manual_seed(seed))
    train, validation = (
        LabelledImages(ImageTensors(pixels[part], mean, std, augmentation), labels[part])
        for part in parts
    )
    return train, validation, len(classes)


def _run(search: BilevelSearch, checkpoint: Path, on_epoch: Callable | None) -> None:
    if checkpoint.exists():
        search.restore(*load_checkpoint(checkpoint))
        logger.info("resuming %s after epoch %d", checkpoint.stem, search.epoch)

    def save(search: BilevelSearch) -> bool | None:
        save_checkpoint(checkpoint, *search.checkpoint())
        return on_epoch(search) if on_epoch else None

    search.run(on_epoch=save)


def pretrain_single(
    dataset: SourceDataset,
    pretraining: Pretraining,
    checkpoint: Path,
    *,
    on_epoch: Callable[[BilevelSearch], bool | None] | None = None,
) -> BilevelSearch:
    """Pretrain a supernet on one source (algorithm 1).

    Parameters
    ----------
    dataset : SourceDataset
    pretraining : Pretraining
    checkpoint : Path
        Written after each epoch, continued from if it exists.
    on_epoch : callable, optional
        Called with the search after each epoch.

    Returns
    -------
    BilevelSearch
        With the pretrained supernet and its history.
    """
    seed = pretraining.random_state
    train, validation, n_classes = _labelled(
        dataset, pretraining.image_side, pretraining.validation_fraction, seed
    )
    settings = pretraining.settings
    per_epoch = max(1, round(len(train) / settings.batch_size))
    epochs = max(pretraining.min_epochs, -(-pretraining.steps // per_epoch))
    search = BilevelSearch(
        _new_supernet(pretraining, n_classes, seed),
        train,
        validation,
        replace(settings, epochs=epochs),
        torch.Generator().manual_seed(seed),
    )
    _run(search, checkpoint, on_epoch)
    return search


def pretrain_multi(
    datasets: Sequence[SourceDataset],
    pretraining: Pretraining,
    checkpoint: Path,
    *,
    on_epoch: Callable[[BilevelSearch], bool | None] | None = None,
) -> MultiDatasetSearch:
    """Pretrain one supernet on all sources together (the supernet that algorithm 3 starts from).

    Parameters and result as for `pretrain_single`.
    """
    seed = pretraining.random_state
    trains, validations, owners, offset = [], [], [], 0
    for number, dataset in enumerate(datasets):
        train, validation, n_classes = _labelled(
            dataset, pretraining.image_side, pretraining.validation_fraction, seed
        )
        trains.append((train.images, train.labels + offset))
        validations.append((validation.images, validation.labels + offset))
        owners += [number] * n_classes
        offset += n_classes
    train, validation = (
        LabelledImages(
            MixedImages([images for images, _ in parts]), torch.cat([labels for _, labels in parts])
        )
        for parts in (trains, validations)
    )
    search = MultiDatasetSearch(
        torch.tensor(owners),
        _new_supernet(pretraining, offset, seed),
        train,
        validation,
        replace(pretraining.settings, epochs=pretraining.multi_epochs),
        torch.Generator().manual_seed(seed),
    )
    _run(search, checkpoint, on_epoch)
    return search


def _new_supernet(pretraining: Pretraining, n_classes: int, seed: int) -> CellSupernet:
    config = SupernetConfig(
        pretraining.space,
        pretraining.init_channels,
        pretraining.n_cells,
        (pretraining.image_side, pretraining.image_side),
        3,
        n_classes,
    )
    with seeded_modules(seed):
        return CellSupernet(config).to(memory_format=torch.channels_last)
