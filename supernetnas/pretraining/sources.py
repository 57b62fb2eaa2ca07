"""Pretraining of the supernet of one dataset, or of several together.

Algorithm 1 of the supernet transfer paper (Singh and Vanschoren) pretrains one supernet on each
source dataset; algorithm 3 starts from one that was pretrained on all of them together. Here the
latter is one supernet with a classifier head per dataset on batches that mix the datasets; the
paper does not say how it joins the label sets. Heads are dropped afterwards.

A pretraining writes a checkpoint after each epoch and continues from it when it is started again.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..families.base import NetworkInput
from ..families.cells.family import Cells
from ..families.cells.search.bilevel import BilevelSearch
from ..families.cells.search.weight_training import SearchSettings
from ..families.cells.supernet import CellSupernet
from ..families.warm_start import starting_supernet
from ..images.augmentation import Augmentation
from ..images.preprocessing import channel_statistics
from ..images.reading import as_image_set
from ..images.stored_pixels import MEMORY, decode, image_tensors
from ..storage.files import clear_temporaries
from ..training.batches import LabelledImages, stratified_split
from ..training.checkpoints import load_checkpoint, save_checkpoint
from ..training.devices import resolve_device
from ..training.distributed import Processes, process_group
from ..training.memory import explained_memory_error
from ..training.surroundings import own_surroundings
from ..zoo.source import Source
from .multi_dataset import MixedImages, MultiDatasetSearch

__all__ = [
    "OnEpoch",
    "Pretraining",
    "SourceDataset",
    "check_same_supernet",
    "pretrain_multi",
    "pretrain_single",
]

logger = logging.getLogger(__name__)

OnEpoch = Callable[[BilevelSearch], bool | None]

_SETTINGS = SearchSettings(
    learning_rate=0.1,
    alpha_learning_rate=1e-2,
    weight_steps_per_alpha_step=2,
)


@dataclass(frozen=True)
class SourceDataset:
    """A labelled dataset to pretrain on.

    Attributes
    ----------
    name : str
        Name of the source in the zoo.
    images : object
        Whatever `supernetnas.images.reading.as_image_set` accepts.
    labels : array-like of shape (n,)
    class_names : sequence of str, optional
        Names of the sorted labels.
    provenance : dict
        Where the images come from and under which licence, as their source states it.
    """

    name: str
    images: Any
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
    settings: SearchSettings = _SETTINGS
    random_state: int = 0


def _labelled(
    dataset: SourceDataset,
    side: int,
    fraction: float,
    seed: int,
    device: torch.device,
    memory: int | None = None,
) -> tuple[LabelledImages, LabelledImages, int]:
    """Split a dataset; returns training and validation images and the number of classes."""
    image_set = as_image_set(dataset.images, name=dataset.name)
    classes, codes = np.unique(np.asarray(dataset.labels), return_inverse=True)
    pixels = decode(image_set, side, side, channels=3, memory=memory)
    mean, std = channel_statistics(pixels)
    augmentation = Augmentation.choose(*image_set.typical_size, image_set.colour)
    labels = torch.from_numpy(codes)
    parts = stratified_split(labels, fraction, torch.Generator().manual_seed(seed))
    train, validation = (
        LabelledImages(
            image_tensors(pixels[part], mean, std, augmentation, device), labels[part].to(device)
        )
        for part in parts
    )
    return train, validation, len(classes)


def _run(search: BilevelSearch, checkpoint: Path, on_epoch: Callable | None) -> None:
    processes = search.processes
    if processes.rank == 0:
        clear_temporaries(checkpoint)
    # The first process does not write before the others have joined it in an epoch.
    if checkpoint.exists():
        search.load_state(*load_checkpoint(checkpoint))
        logger.info("resuming %s after epoch %d", checkpoint.stem, search.epoch)
    processes.check_same(search.epoch, f"the epoch that they find in {checkpoint}")
    processes.equalise(search.supernet)

    def save(search: BilevelSearch) -> bool | None:
        if processes.rank == 0:
            try:
                save_checkpoint(checkpoint, *search.state())
            except OSError as error:
                warnings.warn(
                    f"The checkpoint {checkpoint} cannot be written; the pretraining goes on: "
                    f"{error}",
                    UserWarning,
                    stacklevel=2,
                )
        return on_epoch(search) if on_epoch else None

    settings = search.settings
    with explained_memory_error(settings.batch_size, search.supernet.execution.checkpointing):
        search.run(on_epoch=save)


@own_surroundings()
def pretrain_single(
    dataset: SourceDataset,
    pretraining: Pretraining,
    checkpoint: Path,
    *,
    warm_start: Source | None = None,
    device: str = "auto",
    on_epoch: OnEpoch | None = None,
) -> BilevelSearch:
    """Pretrain a supernet on one source (algorithm 1).

    Parameters
    ----------
    dataset : SourceDataset
    pretraining : Pretraining
    checkpoint : Path
        Written after each epoch, continued from if it exists.
    warm_start : Source, optional
        Whose weights and alphas to start from instead of random ones; of the same space and size.
    device : str, default="auto"
        "auto" is a GPU where there is one.
    on_epoch : callable, optional
        Called with the search after each epoch.

    Returns
    -------
    BilevelSearch
        With the pretrained supernet and its history.
    """
    seed, resolved = pretraining.random_state, resolve_device(device)
    train, validation, n_classes = _labelled(
        dataset, pretraining.image_side, pretraining.validation_fraction, seed, resolved
    )
    settings = pretraining.settings
    per_epoch = max(1, round(len(train) / settings.batch_size))
    epochs = max(pretraining.min_epochs, -(-pretraining.steps // per_epoch))
    search = BilevelSearch(
        _new_supernet(pretraining, n_classes, seed, resolved, warm_start),
        train,
        validation,
        replace(settings, epochs=epochs),
        torch.Generator().manual_seed(seed),
    )
    _run(search, checkpoint, on_epoch)
    return search


@own_surroundings()
def pretrain_multi(
    datasets: Sequence[SourceDataset],
    pretraining: Pretraining,
    checkpoint: Path,
    *,
    warm_start: Source | None = None,
    device: str = "auto",
    on_epoch: OnEpoch | None = None,
) -> MultiDatasetSearch:
    """Pretrain one supernet on all sources together (the supernet that algorithm 3 starts from).

    Under ``torchrun``, or in a default process group, all processes call this together and each
    trains on its part of every batch; see `supernetnas.training.distributed`.

    Parameters and result as for `pretrain_single`, with the callback called in every process.
    """
    resolved = resolve_device(device)
    with process_group(resolved) as processes:
        search = _multi_search(datasets, pretraining, warm_start, resolved, processes)
        _run(search, checkpoint, on_epoch)
    return search


def _multi_search(
    datasets: Sequence[SourceDataset],
    pretraining: Pretraining,
    warm_start: Source | None,
    device: torch.device,
    processes: Processes,
) -> MultiDatasetSearch:
    seed, side = pretraining.random_state, pretraining.image_side
    decoded = sum(3 * side * side * len(dataset.labels) for dataset in datasets)
    memory = MEMORY if decoded <= MEMORY else 0  # all of them together count
    trains, validations, owners, offset = [], [], [], 0
    for number, dataset in enumerate(datasets):
        train, validation, n_classes = _labelled(
            dataset, side, pretraining.validation_fraction, seed, device, memory
        )
        trains.append((train.images, train.labels + offset))
        validations.append((validation.images, validation.labels + offset))
        owners += [number] * n_classes
        offset += n_classes
    train, validation = (
        LabelledImages(
            MixedImages([images for images, _ in parts], processes),
            torch.cat([labels for _, labels in parts]),
        )
        for parts in (trains, validations)
    )
    supernet = _new_supernet(pretraining, offset, seed, device, warm_start)
    if processes.size > 1 and device.type == "cuda":
        supernet = nn.SyncBatchNorm.convert_sync_batchnorm(supernet)
    return MultiDatasetSearch(
        torch.tensor(owners, device=device),
        supernet,
        train,
        validation,
        replace(pretraining.settings, epochs=pretraining.multi_epochs),
        torch.Generator().manual_seed(seed),
        processes=processes,
    )


def _new_supernet(
    pretraining: Pretraining,
    n_classes: int,
    seed: int,
    device: torch.device,
    warm_start: Source | None,
) -> CellSupernet:
    side = pretraining.image_side
    seen = NetworkInput((side, side), 3)
    family = Cells(pretraining.space, pretraining.init_channels, pretraining.n_cells)
    source = None
    if warm_start is not None:
        check_same_supernet(warm_start, pretraining)
        source = warm_start.config, warm_start.state_dict()
    supernet = starting_supernet(family, seen, n_classes, seed, source)
    return supernet.place(device)


def check_same_supernet(source: Source, pretraining: Pretraining) -> None:
    """Refuse a source whose supernet is not the one to be pretrained."""
    has = source.config
    if (has.space, has.init_channels, has.n_cells) != (
        pretraining.space,
        pretraining.init_channels,
        pretraining.n_cells,
    ):
        raise ValueError(
            f"The supernet of source {source.name!r} has space {has.space}, {has.init_channels} "
            f"channels and {has.n_cells} cells. To start from it, pretrain the same, not space "
            f"{pretraining.space}, {pretraining.init_channels} channels and "
            f"{pretraining.n_cells} cells."
        )
