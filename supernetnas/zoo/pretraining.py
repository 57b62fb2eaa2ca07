"""Pretraining of supernets: what fills a zoo.

Algorithm 1 of the supernet transfer paper (Singh and Vanschoren) pretrains one supernet on each
source dataset; algorithm 3 starts from one that was pretrained on all of them together. Here the
latter is one supernet with a classifier head per dataset on batches that mix the datasets; the
paper does not say how it joins the label sets. Heads are dropped afterwards.

Every task writes a checkpoint after each epoch and continues from it when it is started again.
`pretrain_zoo` runs them all, and writes a zoo of what they give.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..augmentation import Augmentation, ImageTensors, channel_statistics
from ..devices import resolve_device
from ..embedding import DEFAULT_EMBEDDER, Embedder, get_embedder
from ..files import dump_json, plain, read_json, sha256, write_atomic
from ..images import as_image_set
from ..search.bilevel import BilevelSearch, SearchSettings
from ..signature import Basis, DatasetSignature, fit_basis
from ..supernets.cell import CellSupernet, SupernetConfig
from ..supernets.warm_start import warm_started_supernet
from ..training import (
    LabelledImages,
    load_checkpoint,
    save_checkpoint,
    seeded_modules,
    stratified_split,
)
from .index import INDEX, ZooError, check_name
from .source import Source
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

OnEpoch = Callable[[BilevelSearch], bool | None]

MULTI = "multi"
"""Name of the source on all datasets, and of its checkpoint."""

_WORK, _RECORD = ".pretraining", "pretraining.json"
_RECORD_LIMIT = 64 * 2**20
_BASIS_SIZE = 64

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
    settings: SearchSettings = _SETTINGS
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
        self.index_device = torch.device("cpu")  # which part an image is in is worked out there

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
        if self.settings.label_smoothing:
            raise ValueError(
                "Label smoothing would spread over the classes of all datasets; "
                "a search over several datasets takes label_smoothing=0."
            )

    def own_scores(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Scores with those of other datasets' classes at minus infinity."""
        foreign = self.dataset_of_class[None, :] != self.dataset_of_class[labels][:, None]
        return scores.masked_fill(foreign, -torch.inf)


def _labelled(
    dataset: SourceDataset, side: int, fraction: float, seed: int, device: torch.device
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
        LabelledImages(
            ImageTensors(pixels[part], mean, std, augmentation, device), labels[part].to(device)
        )
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

    Parameters and result as for `pretrain_single`.
    """
    seed, resolved = pretraining.random_state, resolve_device(device)
    trains, validations, owners, offset = [], [], [], 0
    for number, dataset in enumerate(datasets):
        train, validation, n_classes = _labelled(
            dataset, pretraining.image_side, pretraining.validation_fraction, seed, resolved
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
        torch.tensor(owners, device=resolved),
        _new_supernet(pretraining, offset, seed, resolved, warm_start),
        train,
        validation,
        replace(pretraining.settings, epochs=pretraining.multi_epochs),
        torch.Generator().manual_seed(seed),
    )
    _run(search, checkpoint, on_epoch)
    return search


def _new_supernet(
    pretraining: Pretraining,
    n_classes: int,
    seed: int,
    device: torch.device,
    warm_start: Source | None,
) -> CellSupernet:
    config = SupernetConfig(
        pretraining.space,
        pretraining.init_channels,
        pretraining.n_cells,
        (pretraining.image_side, pretraining.image_side),
        3,
        n_classes,
    )
    if warm_start is None:
        with seeded_modules(seed):
            supernet = CellSupernet(config)
    else:
        _check_same_supernet(warm_start, pretraining)
        supernet = warm_started_supernet(
            warm_start.config,
            warm_start.state_dict(),
            image_size=config.image_size,
            input_channels=config.input_channels,
            n_classes=n_classes,
            seed=seed,
        )
    return supernet.place(device)


def _check_same_supernet(source: Source, pretraining: Pretraining) -> None:
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
    _check_datasets(datasets)
    embedder = get_embedder(embedder)
    zoo = _existing_zoo(folder, embedder.identity, compact)
    _check_multi(zoo, datasets if multi else [])
    starts = _warm_starts(warm_start, datasets, multi, pretraining)
    checkpoints = folder / _WORK if work is None else Path(work)
    _claim_checkpoints(checkpoints, pretraining, datasets, multi, warm_start)

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


def _check_datasets(datasets: Sequence[SourceDataset]) -> None:
    if not datasets:
        raise ValueError("There is no dataset to pretrain on.")
    names = [dataset.name for dataset in datasets]
    for dataset in datasets:
        check_name(dataset.name)
        if dataset.name.lower() == MULTI:
            raise ValueError(f"{MULTI!r} is the source on all datasets: rename this dataset.")
        if names.count(dataset.name) > 1:
            raise ValueError(f"Two datasets have the name {dataset.name!r}.")
        classes, counts = np.unique(np.asarray(dataset.labels), return_counts=True)
        if len(classes) < 2 or counts.min() < 2:
            raise ValueError(
                f"Dataset {dataset.name!r} must have at least two classes of at least two images "
                f"each; class {str(classes[counts.argmin()])!r} of {len(classes)} has "
                f"{counts.min()}."
            )
        if dataset.class_names is not None and len(dataset.class_names) != len(classes):
            raise ValueError(
                f"Dataset {dataset.name!r} has {len(dataset.class_names)} class names for "
                f"{len(classes)} classes."
            )


def _existing_zoo(folder: Path, embedder_id: str, compact: bool) -> Zoo | None:
    """Open the zoo to be continued; None if a new one can be made there."""
    if not (folder / INDEX).exists():
        if folder.exists() and not folder.is_dir():
            raise ZooError(f"{folder} is a file, not a folder.")
        strangers = [p.name for p in folder.glob("*") if not p.name.startswith(".")]
        if strangers:
            raise ZooError(
                f"{folder} is neither empty nor a zoo: it holds {min(strangers)!r}. Choose another "
                "folder."
            )
        return None
    zoo = Zoo.open(folder)
    if zoo.embedder_id != embedder_id:
        raise ZooError(
            f"The zoo in {folder} was embedded with {zoo.embedder_id!r}, not {embedder_id!r}."
        )
    if compact != (zoo.basis() is not None):
        raise ZooError(
            f"The signatures of the zoo in {folder} are {'full' if compact else 'compact'}: go on "
            f"with compact={not compact}."
        )
    return zoo


def _check_multi(zoo: Zoo | None, datasets: Sequence[SourceDataset]) -> None:
    """Refuse to leave a source "multi" that the datasets have outgrown."""
    existing = None if zoo is None else zoo.multi()
    if not datasets or existing is None:
        return
    if existing.provenance.get("datasets") != [dataset.name for dataset in datasets]:
        raise ZooError(
            f"The source {existing.name!r} of the zoo in {zoo.folder} was pretrained on other "
            "datasets. Keep it with multi=False (--no-multi), or remove it first: "
            f"Zoo.open(folder).remove({existing.name!r})."
        )


def _warm_starts(
    zoo: Zoo | None, datasets: Sequence[SourceDataset], multi: bool, pretraining: Pretraining
) -> dict[str, Source]:
    """Find what each supernet starts from, by name; nothing for those that start anew."""
    if zoo is None:
        return {}
    starts = {d.name: zoo[d.name] for d in datasets if d.name in zoo}
    if multi and (source := zoo.multi()) is not None:
        starts[MULTI] = source
    if not starts:
        raise ZooError(f"The zoo in {zoo.folder} has none of the datasets to start from.")
    for source in starts.values():
        _check_same_supernet(source, pretraining)
    return starts


def _claim_checkpoints(
    folder: Path,
    pretraining: Pretraining,
    datasets: Sequence[SourceDataset],
    multi: bool,
    warm_start: Zoo | None,
) -> None:
    """Write down what the checkpoints in a folder are of; refuse those of something else."""
    sizes = {
        dataset.name: {
            "n_images": len(dataset.labels),
            "classes": np.unique(np.asarray(dataset.labels)).tolist(),
        }
        for dataset in datasets
    }
    record = {
        "pretraining": plain(asdict(pretraining)),
        "datasets": sizes,
        MULTI: sizes if multi else {},
        "warm_start": None if warm_start is None else sha256(warm_start.folder / INDEX),
    }
    path, names = folder / _RECORD, {file.stem for file in folder.glob("*.ckpt")}
    if path.exists() and names:
        old = read_json(path, limit=_RECORD_LIMIT)
        if old["pretraining"] != record["pretraining"]:
            changed = "the pretraining's settings"
        elif old.get("warm_start") != record["warm_start"]:
            changed = "the zoo to start from"
        elif any(
            old["datasets"].get(name, sizes[name]) != sizes[name] for name in names & {*sizes}
        ):
            changed = "the datasets"
        elif multi and MULTI in names and list(old[MULTI].items()) != list(sizes.items()):
            changed = f"the datasets of {MULTI!r}"
        else:
            changed = None
        if changed:
            raise ValueError(
                f"The checkpoints in {folder} were made before {changed} changed. Go on with what "
                "they were made with, or delete them."
            )
        record["datasets"] = {**old["datasets"], **sizes}
        record[MULTI] = record[MULTI] or old[MULTI]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, dump_json(record))


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
    history = before + [
        {**row, "epoch": len(before) + row["epoch"]} for row in search.history
    ]
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
