"""What is checked before a zoo is pretrained, so that nothing is found out hours later."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..storage.destinations import refusal
from ..storage.files import clear_temporaries, write_atomic
from ..storage.formats import dump_json, read_json
from ..zoo.entries import (
    BASIS,
    INDEX,
    ZooError,
    check_name,
    check_names_differ,
)
from ..zoo.source import Source
from ..zoo.zoo import Zoo
from .data import PretrainingData
from .settings import MULTI, Pretraining
from .sources import check_same_supernet

__all__ = [
    "check_datasets",
    "check_kept",
    "check_multi",
    "check_storable",
    "claim_checkpoints",
    "existing_zoo",
    "warm_starts",
]

_RECORD = "pretraining.json"
_RECORD_LIMIT = 64 * 2**20


def check_datasets(
    datasets: Sequence[PretrainingData], pretraining: Pretraining, *, singles: bool
) -> None:
    """Refuse datasets without a name of their own, two classes and two images of each."""
    if not datasets:
        raise ValueError("There is no dataset to pretrain on.")
    names = [dataset.name for dataset in datasets]
    for dataset in datasets:
        check_name(dataset.name)
        if singles:
            check_name(pretraining.source_name(dataset.name))
        check_storable(dataset)
        if not len(dataset):
            raise ValueError(f"Dataset {dataset.name!r} has no images.")
        if dataset.name.lower() == MULTI:
            raise ValueError(f"{MULTI!r} is the source on all datasets: rename this dataset.")
        if names.count(dataset.name) > 1:
            raise ValueError(f"Two datasets have the name {dataset.name!r}.")
        classes, counts = dataset.classes, dataset.counts
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
    if singles:
        check_names_differ(names)


def check_storable(dataset: PretrainingData) -> None:
    """Refuse names of classes and provenance that a zoo cannot hold."""
    try:
        dump_json([[str(name) for name in dataset.class_names or ()], dataset.provenance])
    except TypeError as error:
        raise ValueError(
            f"Dataset {dataset.name!r} has names of classes or provenance that cannot be stored: "
            f"{error} Rename folders whose names are not UTF-8."
        ) from error


def existing_zoo(folder: Path, embedder_id: str, compact: bool | None) -> Zoo | None:
    """Open the zoo to be continued; None if a new one can be made there.

    ``compact`` is what signatures are to be; None if there will be no new ones.
    """
    if not (folder / INDEX).exists():
        if folder.exists() and not folder.is_dir():
            raise ZooError(f"{folder} is a file, not a folder.")
        ours = {BASIS} if compact else set()  # left where the making of the zoo was killed
        strangers = [p.name for p in folder.glob("[!.]*") if p.name not in ours]
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
    if compact not in (None, zoo.basis() is not None):
        raise ZooError(
            f"The signatures of the zoo in {folder} are {'full' if compact else 'compact'}: go on "
            f"with compact={not compact}."
        )
    return zoo


def check_multi(
    zoo: Zoo | None, datasets: Sequence[PretrainingData], pretraining: Pretraining
) -> None:
    """Refuse to leave a source "multi" that the datasets have outgrown, or whose name is taken."""
    if not datasets or zoo is None:
        return
    if (existing := zoo.multi(pretraining.family.name)) is None:
        if (name := pretraining.source_name(MULTI)) in zoo:
            raise ZooError(
                f"{name!r} is the name of another source in {zoo.folder}: {zoo[name]!r}."
            )
        return
    if existing.provenance.get("datasets") != [dataset.name for dataset in datasets]:
        raise ZooError(
            f"The source {existing.name!r} of the zoo in {zoo.folder} was pretrained on other "
            "datasets. Keep it with multi=False (--no-multi), or remove it first: "
            f"Zoo.open(folder).remove({existing.name!r})."
        )


def check_kept(
    zoo: Zoo, datasets: Sequence[PretrainingData], pretraining: Pretraining, *, singles: bool
) -> None:
    """Refuse another supernet than a zoo's; warn of sources whose datasets have changed.

    If there are to be sources of each dataset, refuse those whose names are taken, or whose
    datasets have changed since a source of another family was made of them.
    """
    for source in zoo.values():
        same_family = source.family == pretraining.family.name
        if same_family and (difference := pretraining.difference(source)):
            raise ZooError(
                f"The zoo in {zoo.folder} has another supernet, that of its source "
                f"{source.name!r}: {difference}. Choose another folder."
            )
    for dataset in datasets:
        name, now = pretraining.source_name(dataset.name), (len(dataset), len(dataset.classes))
        changed = {
            source.name: f"had {source.n_images} images of {source.n_classes} classes and now has "
            f"{now[0]} of {now[1]}"
            for source in zoo.singles()
            if source.dataset == dataset.name
            and (source.n_images or now[0], source.n_classes or now[1]) != now
        }
        if name not in zoo and changed and singles:
            raise ZooError(
                f"The dataset of {min(changed)!r} in {zoo.folder} {changed[min(changed)]}. Rename "
                f"the dataset {dataset.name!r}, since sources of one dataset share a signature."
            )
        if name not in zoo or not singles:
            continue
        if (zoo[name].family, zoo[name].dataset) != (pretraining.family.name, dataset.name):
            raise ZooError(
                f"{name!r} is the name of a source in {zoo.folder} of another dataset or family: "
                f"{zoo[name]!r}. Rename the dataset {dataset.name!r}."
            )
        if name in changed:
            warnings.warn(
                f"The source {name!r} is kept as it is, though its dataset {changed[name]}. To "
                f"pretrain it anew, remove it first: Zoo.open(folder).remove({name!r})",
                UserWarning,
                stacklevel=3,
            )
    if singles:
        check_names_differ([*zoo, *(pretraining.source_name(d.name) for d in datasets)])


def warm_starts(
    warm_start: Zoo | Source | None,
    datasets: Sequence[PretrainingData],
    multi: bool,
    pretraining: Pretraining,
) -> dict[str, Source]:
    """Find what each supernet starts from, by name; nothing for those that start anew."""
    if warm_start is None:
        return {}
    names = [pretraining.source_name(dataset.name) for dataset in datasets]
    together = pretraining.source_name(MULTI)
    if isinstance(warm_start, Source):
        starts = dict.fromkeys(names + [together] * multi, warm_start)
    else:
        starts = {name: warm_start[name] for name in names if name in warm_start}
        if multi and (source := warm_start.multi(pretraining.family.name)) is not None:
            starts[together] = source
        if not starts:
            raise ZooError(
                f"The zoo in {warm_start.folder} has none of the datasets to start from."
            )
    for source in starts.values():
        check_same_supernet(source, pretraining)
    return starts


def claim_checkpoints(
    folder: Path,
    pretraining: Pretraining,
    datasets: Sequence[PretrainingData],
    multi: bool,
    starts: Mapping[str, Source],
) -> None:
    """Write down what the checkpoints in a folder are of; refuse those of something else."""
    sizes = {
        pretraining.source_name(dataset.name): {
            "n_images": len(dataset),
            "classes": dataset.classes,
        }
        for dataset in datasets
    }
    record = {
        "pretraining": pretraining.to_dict(),
        "datasets": sizes,
        MULTI: sizes if multi else {},
        "warm_start": {name: source.weights_sha256 for name, source in starts.items()},
    }
    path, names = folder / _RECORD, {file.stem for file in folder.glob("*.ckpt")}
    if path.exists() and names:
        old = read_json(path, limit=_RECORD_LIMIT)
        if old["pretraining"] != record["pretraining"]:
            changed = "the pretraining's settings"
        elif any(
            old.get("warm_start", {}).get(name) != record["warm_start"].get(name)
            for name in names & {*sizes, *[pretraining.source_name(MULTI)] * multi}
        ):
            changed = "the supernets to start from"
        elif any(
            old["datasets"].get(name, sizes[name]) != sizes[name] for name in names & {*sizes}
        ):
            changed = "the datasets"
        elif (
            multi
            and pretraining.source_name(MULTI) in names
            and list(old[MULTI].items()) != list(sizes.items())
        ):
            changed = f"the datasets of {MULTI!r}"
        else:
            changed = None
        if changed:
            raise ValueError(
                f"The checkpoints in {folder} were made before {changed} changed. Go on with what "
                "they were made with, or delete them."
            )
        record["datasets"] = {**old["datasets"], **sizes}
        record["warm_start"] = {**old.get("warm_start", {}), **record["warm_start"]}
        record[MULTI] = record[MULTI] or old[MULTI]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clear_temporaries(path)
        write_atomic(path, dump_json(record))
    except OSError as error:
        raise refusal(ZooError, f"Checkpoints cannot be written to {folder}", error) from error
