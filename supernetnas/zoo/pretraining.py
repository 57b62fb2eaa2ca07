"""Pretraining of a whole zoo.

`pretrain_zoo` pretrains a supernet on each dataset and one on all together, and writes a zoo of
what they give. The supernets themselves are in `supernetnas.zoo.source_pretraining`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..devices import resolve_device
from ..embedding import DEFAULT_EMBEDDER, Embedder, get_embedder
from ..images import as_image_set
from ..search.bilevel import BilevelSearch
from ..signature import Basis, DatasetSignature, fit_basis
from .multi_dataset import MixedImages, MultiDatasetSearch
from .pretraining_checks import (
    MULTI,
    check_datasets,
    check_multi,
    claim_checkpoints,
    existing_zoo,
    warm_starts,
)
from .source import Source
from .source_pretraining import (
    OnEpoch,
    Pretraining,
    SourceDataset,
    pretrain_multi,
    pretrain_single,
)
from .zoo import Zoo

__all__ = [
    "MixedImages",
    "MultiDatasetSearch",
    "Pretraining",
    "SourceDataset",
    "pretrain_multi",
    "pretrain_single",
    "pretrain_zoo",
]

logger = logging.getLogger(__name__)

_WORK = ".pretraining"
_BASIS_SIZE = 64


def pretrain_zoo(
    datasets: Iterable[SourceDataset],
    out: str | os.PathLike,
    *,
    pretraining: Pretraining | None = None,
    embedder: str | Callable[[Tensor], Tensor] | Embedder = DEFAULT_EMBEDDER,
    multi: bool = True,
    warm_start: Zoo | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    compact: bool = False,
    work: str | os.PathLike | None = None,
    device: str = "auto",
    on_epoch: OnEpoch | None = None,
    verbose: int = 0,
) -> Zoo:
    """Pretrain a supernet on each dataset and one on all together, and write them to a zoo.

    A source is added to the zoo as soon as it is finished. After an interruption the same call
    goes on where it was: sources in the zoo are kept as they are, others continue from their
    checkpoints. Datasets can be added to a zoo in the same way.

    Parameters
    ----------
    datasets : iterable of SourceDataset
        Each of at least two classes, of at least two images each.
    out : path
        Folder of the zoo; made, or a zoo with the same embedder.
    pretraining : Pretraining, optional
        How to pretrain; by default ``Pretraining()``.
    embedder : str, callable or Embedder, default="efficientnet_lite0"
        What the signatures are made with; see `supernetnas.get_embedder`.
    multi : bool, default=True
        Whether to add the source "multi", pretrained on all datasets together.
    warm_start : Zoo, optional
        Start the supernet of a dataset from the source of the same name in this zoo, and "multi"
        from its supernet on many datasets, where it has them: to pretrain a zoo further.
    dtype : {"float32", "float16"}, default="float32"
        Precision that weights are stored in.
    compact : bool, default=False
        Whether signatures are compact, which needs a twentieth of the room. Their basis is that
        of the zoo or, for a new zoo, is fitted to all datasets.
    work : path, optional
        Where checkpoints are kept. By default in the hidden folder ``.pretraining`` of the zoo,
        which is deleted at the end.
    device : str, default="auto"
        "auto" is a GPU where there is one.
    on_epoch : callable, optional
        Called with the search after each epoch; True ends that search, and its source is added
        as it is.
    verbose : int, default=0
        1 shows progress bars.

    Returns
    -------
    Zoo
        Its sources have the metrics ``validation_accuracy`` and ``train_accuracy`` of the last
        epoch, ``chance_accuracy`` (share of the largest class; for "multi" the largest class of
        the image's own dataset), ``epochs`` and ``seconds``. Epochs, seconds and history include
        those of the supernet that was started from.

    Raises
    ------
    ValueError
        If the datasets do not suit, or the checkpoints are of other datasets or settings.
    ZooError
        If the zoo cannot be made, has another embedder or kind of signature, or has a source
        "multi" of other datasets. All this is found before any training.
    """
    datasets, folder = list(datasets), Path(out)
    pretraining = Pretraining() if pretraining is None else pretraining
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be 'float32' or 'float16'; got {dtype!r}.")
    check_datasets(datasets)
    embedder = get_embedder(embedder)
    zoo = existing_zoo(folder, embedder.identity, compact)
    check_multi(zoo, datasets if multi else [])
    starts = warm_starts(warm_start, datasets, multi, pretraining)
    checkpoints = folder / _WORK if work is None else Path(work)
    claim_checkpoints(checkpoints, pretraining, datasets, multi, warm_start)

    new = [dataset for dataset in datasets if zoo is None or dataset.name not in zoo]
    basis = None if zoo is None else zoo.basis()
    signatures, basis = _signatures(
        new,
        embedder,
        basis,
        compact=compact,
        seed=pretraining.random_state,
        device=resolve_device(device),
        verbose=verbose,
    )
    if zoo is None:
        zoo = Zoo.create(folder, embedder_id=embedder.identity, basis=basis)

    for dataset in new:
        with _bar(dataset.name, verbose, on_epoch) as advance:
            search = pretrain_single(
                dataset,
                pretraining,
                checkpoints / f"{dataset.name}.ckpt",
                warm_start=starts.get(dataset.name),
                device=device,
                on_epoch=advance,
            )
        zoo.add(
            dataset.name,
            signature=signatures[dataset.name],
            dtype=dtype,
            **_contents(search, [dataset], dataset.provenance, starts.get(dataset.name)),
        )
    if multi and zoo.multi() is None:
        with _bar(MULTI, verbose, on_epoch) as advance:
            search = pretrain_multi(
                datasets,
                pretraining,
                checkpoints / f"{MULTI}.ckpt",
                warm_start=starts.get(MULTI),
                device=device,
                on_epoch=advance,
            )
        provenance = {
            "dataset": f"all {len(datasets)} datasets together",
            "licence": "see the single sources",
            "datasets": [dataset.name for dataset in datasets],
        }
        contents = _contents(search, datasets, provenance, starts.get(MULTI))
        zoo.add(MULTI, kind="multi", dtype=dtype, **contents)
    if work is None:
        shutil.rmtree(checkpoints)
    return zoo


def _signatures(
    datasets: Sequence[SourceDataset],
    embedder: Embedder,
    basis: Basis | None,
    *,
    compact: bool,
    seed: int,
    device: torch.device,
    verbose: int,
) -> tuple[dict[str, DatasetSignature], Basis | None]:
    """Embed datasets; returns their signatures, and the basis of compact ones."""
    signatures, labelled = {}, []
    for dataset in datasets:
        logger.info("embedding %s", dataset.name)
        images = as_image_set(dataset.images, name=dataset.name)
        features = embedder.embed(images, device=device, verbose=bool(verbose))
        signatures[dataset.name] = DatasetSignature.from_features(
            features,
            dataset.labels,
            embedder_id=embedder.identity,
            n_samples=None if compact else 1000,
            class_names=dataset.class_names,
            random_state=seed,
        )
        if compact and basis is None:
            labelled.append((features, dataset.labels))
    if labelled:
        basis = fit_basis(labelled, min(_BASIS_SIZE, embedder.dimension))
    if compact:
        signatures = {name: full.compress(basis) for name, full in signatures.items()}
    return signatures, basis


@contextlib.contextmanager
def _bar(name: str, verbose: int, on_epoch: OnEpoch | None) -> Iterator[OnEpoch]:
    """Draw a bar over the epochs of one source; yields the callback that moves it."""
    with tqdm(desc=f"pretrain {name}", unit="epoch", disable=not verbose) as bar:

        def advance(search: BilevelSearch) -> bool | None:
            row = search.history[-1]
            bar.total, bar.n = search.settings.epochs, search.epoch
            bar.set_postfix(
                loss=f"{row['train_loss']:.3f}", accuracy=f"{row['validation_accuracy']:.3f}"
            )
            return on_epoch(search) if on_epoch else None

        yield advance


def _contents(
    search: BilevelSearch,
    datasets: Sequence[SourceDataset],
    provenance: Mapping[str, Any],
    warm_start: Source | None,
) -> dict[str, Any]:
    """What `Zoo.add` takes of a finished pretraining."""
    counts = [np.unique(np.asarray(d.labels), return_counts=True)[1] for d in datasets]
    n_images = sum(int(count.sum()) for count in counts)
    last = search.history[-1]
    before = [] if warm_start is None else warm_start.history()
    history = before + [{**row, "epoch": len(before) + row["epoch"]} for row in search.history]
    return {
        "config": search.supernet.config,
        "state_dict": search.supernet.state_dict(),
        "provenance": {
            **provenance,
            "n_images": n_images,
            "n_classes": sum(len(count) for count in counts),
        },
        "metrics": {
            "validation_accuracy": last["validation_accuracy"],
            "train_accuracy": last["train_accuracy"],
            "chance_accuracy": sum(int(count.max()) for count in counts) / n_images,
            "epochs": len(history),
            "seconds": round(sum(row["seconds"] for row in history), 1),
        },
        "history": history,
    }
