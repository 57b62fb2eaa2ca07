"""Pretraining of the supernet of one dataset, or of several together.

Algorithm 1 of the supernet transfer paper (Singh and Vanschoren) pretrains one supernet on each
source dataset; algorithm 3 starts from one that was pretrained on all of them together. Here the
latter is one supernet with a classifier head per dataset on batches that mix the datasets; the
paper does not say how it joins the label sets. Heads are dropped afterwards. Families that learn
without labels are pretrained on the images of all datasets alone.

A pretraining writes a checkpoint after each epoch and continues from it when it is started again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..families.base import Pretrained
from ..families.warm_start import starting_supernet
from ..images.datasets import SourceDataset
from ..search.loop import SearchLoop
from ..training.batches import LabelledImages
from ..training.checkpoints import Checkpoint
from ..training.devices import resolve_device
from ..training.distributed import Processes, process_group
from ..training.memory import explained_memory_error
from ..training.surroundings import own_surroundings
from ..zoo.source import Source
from .data import PretrainingData, decode_all
from .multi_dataset import MixedImages
from .settings import Pretraining

__all__ = ["OnEpoch", "check_same_supernet", "pretrain_multi", "pretrain_single"]

OnEpoch = Callable[[Any], bool | None]
"""What is called with the search, or the pretraining, after each epoch; True ends it."""


def _run(search: SearchLoop, batch_size: int, path: Path, on_epoch: OnEpoch | None) -> None:
    checkpoint = Checkpoint(path, search.processes)
    checkpoint.restore(search)

    def save(search: SearchLoop) -> bool | None:
        checkpoint.save(search)
        return on_epoch(search) if on_epoch else None

    with explained_memory_error(batch_size, search.supernet.execution.checkpointing):
        search.run(on_epoch=save)


@own_surroundings()
def pretrain_single(
    dataset: SourceDataset | PretrainingData,
    pretraining: Pretraining,
    checkpoint: Path,
    *,
    warm_start: Source | None = None,
    device: str = "auto",
    on_epoch: OnEpoch | None = None,
) -> SearchLoop:
    """Pretrain a supernet on one source (algorithm 1).

    Parameters
    ----------
    dataset : SourceDataset or PretrainingData
    pretraining : Pretraining
    checkpoint : Path
        Written after each epoch, continued from if it exists.
    warm_start : Source, optional
        Whose weights and alphas to start from instead of random ones; of the same supernet.
    device : str, default="auto"
        "auto" is a GPU where there is one.
    on_epoch : callable, optional
        Called with the search after each epoch.

    Returns
    -------
    SearchLoop
        With the pretrained supernet and its history.

    Raises
    ------
    ValueError
        If the family is not pretrained on single datasets.
    """
    pretraining.with_singles(singles=True, multi=True)
    seed, resolved = pretraining.random_state, resolve_device(device)
    data = _data(dataset)
    train, validation = data.split(
        pretraining.seen, pretraining.validation_fraction, seed, resolved
    )
    settings = pretraining.search_settings
    per_epoch = max(1, round(len(train) / settings.batch_size))
    epochs = max(pretraining.min_epochs, -(-pretraining.steps // per_epoch))
    search = pretraining.family.pretraining_search(
        _new_supernet(pretraining, len(data.classes), resolved, warm_start),
        train,
        validation,
        replace(settings, epochs=epochs),
        torch.Generator().manual_seed(seed),
    )
    _run(search, settings.batch_size, checkpoint, on_epoch)
    return search


@own_surroundings()
def pretrain_multi(
    datasets: Sequence[SourceDataset | PretrainingData],
    pretraining: Pretraining,
    checkpoint: Path,
    *,
    warm_start: Source | None = None,
    device: str = "auto",
    on_epoch: OnEpoch | None = None,
) -> Pretrained:
    """Pretrain one supernet on all sources together (the supernet that algorithm 3 starts from).

    Under ``torchrun``, or in a default process group, all processes call this together and each
    trains on its part of every batch; see `supernetnas.training.distributed`.

    Parameters and result as for `pretrain_single`, with the callback called in every process. For
    a family that learns without labels the checkpoint is a folder, and the result its training.
    """
    resolved = resolve_device(device)
    batch_size = pretraining.search_settings.batch_size
    with process_group(resolved) as processes:
        data = decode_all([_data(dataset) for dataset in datasets], pretraining.seen)
        if pretraining.family.learns_labels:
            search = _multi_search(data, pretraining, warm_start, resolved, processes)
            _run(search, batch_size, checkpoint, on_epoch)
            return search
        seen, settings = pretraining.seen, pretraining.search_settings
        with explained_memory_error(batch_size, checkpointing=True):
            return pretraining.family.pretrain_on_images(
                MixedImages([part.whole(seen, resolved) for part in data], processes),
                seen,
                checkpoint,
                settings=replace(settings, epochs=pretraining.multi_epochs),
                seed=pretraining.random_state,
                device=resolved,
                start=_start(warm_start, pretraining),
                on_epoch=on_epoch,
                processes=processes,
            )


def _data(dataset: SourceDataset | PretrainingData) -> PretrainingData:
    return PretrainingData.read(dataset) if isinstance(dataset, SourceDataset) else dataset


def _multi_search(
    datasets: Sequence[PretrainingData],
    pretraining: Pretraining,
    warm_start: Source | None,
    device: torch.device,
    processes: Processes,
) -> SearchLoop:
    seed, fraction = pretraining.random_state, pretraining.validation_fraction
    trains, validations, owners, offset = [], [], [], 0
    for number, data in enumerate(datasets):
        train, validation = data.split(pretraining.seen, fraction, seed, device)
        trains.append((train.images, train.labels + offset))
        validations.append((validation.images, validation.labels + offset))
        owners += [number] * len(data.classes)
        offset += len(data.classes)
    train, validation = (
        LabelledImages(
            MixedImages([images for images, _ in parts], processes),
            torch.cat([labels for _, labels in parts]),
        )
        for parts in (trains, validations)
    )
    supernet = _new_supernet(pretraining, offset, device, warm_start)
    if processes.size > 1 and device.type == "cuda":
        supernet = nn.SyncBatchNorm.convert_sync_batchnorm(supernet)
    return pretraining.family.pretraining_search(
        supernet,
        train,
        validation,
        replace(pretraining.search_settings, epochs=pretraining.multi_epochs),
        torch.Generator().manual_seed(seed),
        dataset_of_class=torch.tensor(owners, device=device),
        processes=processes,
    )


def _new_supernet(
    pretraining: Pretraining, n_classes: int, device: torch.device, warm_start: Source | None
) -> Any:
    start, seed = _start(warm_start, pretraining), pretraining.random_state
    supernet = starting_supernet(pretraining.family, pretraining.seen, n_classes, seed, start)
    return supernet.place(device)


def _start(warm_start: Source | None, pretraining: Pretraining) -> tuple[Any, Any] | None:
    """Configuration and state of the source to start from."""
    if warm_start is None:
        return None
    check_same_supernet(warm_start, pretraining)
    return warm_start.config, warm_start.state_dict()


def check_same_supernet(source: Source, pretraining: Pretraining) -> None:
    """Refuse a source whose supernet is not the one to be pretrained."""
    if difference := pretraining.difference(source):
        raise ValueError(
            f"The supernet of source {source.name!r} is not the one to be pretrained: "
            f"{difference}. To start from it, pretrain the same."
        )
