"""``supernetnas fit`` and ``supernetnas predict``."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..classifier import SupernetTransferClassifier
from ..families.base import get_family
from ..images.datasets import load_dataset
from ..images.reading import ImageFiles, as_image_set, image_paths
from ..saving.persistence import check_destination
from ..storage.destinations import check_file, check_folder, refusal, user_path, write_file
from ..storage.files import FileError, dump_csv, is_text
from ..training.batches import stratified_split
from .printing import as_json, fields, progress_shown, table

__all__ = ["fit", "predict"]

_FEW = 256  # images that are predicted without a progress bar


def fit(args: argparse.Namespace) -> None:
    """Fit a classifier, print what was found, and save it."""
    _check_model_folder(user_path(args.out))
    dataset = load_dataset(args.data)
    names = np.asarray(dataset.class_names)
    classes, codes = np.unique(dataset.labels, return_inverse=True)
    train, test = _split(codes, names, args.test_fraction, args.seed)
    classifier = SupernetTransferClassifier(
        args.strategy,
        zoo=args.zoo,
        embedder=args.embedder,
        image_size=args.image_size,
        search=args.search,
        time_limit=args.time_limit,
        max_macs=args.max_macs,
        max_parameters=args.max_parameters,
        checkpoint_dir=args.checkpoint_dir,
        class_weight=None if args.class_weight == "none" else args.class_weight,
        device=args.device,
        random_state=args.seed,
        verbose=int(progress_shown(args.quiet)),
    ).set_params(**_settings(args))
    if len(test):  # one that cannot be read is better found before the fit than after
        images = as_image_set(dataset.images)
        images.check()
        images.take(test).tensor(8, 8)
    start = time.monotonic()
    classifier.fit(dataset.images[train], names[codes[train]])
    seconds = time.monotonic() - start
    folder = _save(classifier, args.out)
    accuracy = None
    if len(test):
        share = classifier.score(dataset.images[test], names[codes[test]])
        accuracy = f"{share:.3f} on {len(test)} images held out"
    print(
        fields(
            [
                ("data", f"{len(train)} images of {len(classes)} classes"),
                ("source", classifier.source_),
                ("distances", _nearest(classifier.distances_)),
                (get_family(classifier.family_).architecture_name, classifier.architecture_),
                ("parameters", f"{classifier.n_parameters_:,}"),
                ("MACs", f"{classifier.n_macs_:,} per image"),
                ("accuracy", accuracy),
                ("time", f"{seconds:.1f} s"),
                ("model", folder),
            ]
        )
    )


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Parameters that were named by options of their own, or by ``--set``."""
    named = {"search__epochs": "--search-epochs", "retraining__epochs": "--retrain-epochs"}
    found = {name: getattr(args, name) for name in named if getattr(args, name) is not None}
    classifier = SupernetTransferClassifier(search=args.search)
    parts = {"search": classifier._searching_method(), "retraining": classifier._retraining()}
    for name, value in found.items():
        part, _, parameter = name.partition("__")
        if parameter not in parts[part].get_params():
            raise ValueError(f"{named[name]} has no effect with --search {args.search}.")
        constraint = parts[part].constraints[parameter]
        if not constraint.allows(value):
            raise ValueError(f"{named[name]} must be {constraint}; got {value}.")
    return {**found, **dict(args.set)}


def _save(classifier: SupernetTransferClassifier, out: str) -> Path:
    """Save a classifier; if that fails, elsewhere, before it is lost with the process."""
    try:
        return classifier.save_pretrained(out)
    except OSError as error:
        try:
            rescue = classifier.save_pretrained(tempfile.mkdtemp(prefix="supernetnas-"))
        except OSError:
            raise error from None
        elsewhere = FileError(f"{error} Until then, it is in {rescue}.")
        elsewhere.errno = error.errno
        raise elsewhere from error


def _check_model_folder(folder: Path) -> None:
    """Refuse now what `save_pretrained` would refuse after the fit."""
    folder = folder.resolve()
    check_destination(folder)
    check_folder(folder)


def _split(
    codes: np.ndarray, names: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices to train on, and to hold out of each class."""
    if fraction == 0:
        return np.arange(len(codes)), np.arange(0)
    counts = np.bincount(codes)
    if counts.min() < 3:
        raise ValueError(
            f"Class {str(names[counts.argmin()])!r} has {counts.min()} image(s); at least 3 are "
            "needed to hold one out. Use all images with --test-fraction 0, which needs 2."
        )
    generator = torch.Generator().manual_seed(seed)
    train, test = stratified_split(torch.from_numpy(codes), fraction, generator)
    return train.numpy(), test.numpy()


def _nearest(distances: dict[str, float] | None) -> str | None:
    if not distances:
        return None
    nearest = [f"{name} {distance:.3g}" for name, distance in list(distances.items())[:3]]
    return ", ".join(nearest) + (", ..." if len(distances) > 3 else "")


def predict(args: argparse.Namespace) -> None:
    """Predict images and print or write a row for each."""
    if args.csv:
        check_file(args.csv, "--csv")
    classifier = SupernetTransferClassifier.from_pretrained(args.model, device=args.device)
    paths = _image_files(args.images)
    hidden = len(paths) <= _FEW or not progress_shown(args.quiet)
    batches = []
    with tqdm(total=len(paths), desc="predict", unit="image", disable=hidden) as progress:
        for batch in classifier._predicted_batches(ImageFiles(paths)):
            batches.append(batch)
            progress.update(len(batch))
    probabilities = np.concatenate(batches)
    classes = classifier.classes_.tolist()
    best = probabilities.argmax(axis=1)
    rows: list[dict[str, Any]] = [
        {"path": path, "class": classes[index], "probability": round(float(row[index]), 6)}
        for path, index, row in zip(paths, best, probabilities, strict=True)
    ]
    if args.json:
        if args.proba:
            for row, values in zip(rows, probabilities, strict=True):
                row["probabilities"] = _by_class(classes, values)
        print(as_json(rows))
        return
    if args.proba:
        for row, values in zip(rows, probabilities, strict=True):
            row |= {f"p({name})": value for name, value in _by_class(classes, values).items()}
    if args.csv:
        try:
            write_file(args.csv, dump_csv(rows))
        except OSError as error:
            print(dump_csv(rows).decode(), end="")
            what = f"--csv {args.csv}: it cannot be written, so the rows were printed"
            raise refusal(FileError, what, error) from error
    else:
        print(table(list(rows[0]), (row.values() for row in rows)))


def _by_class(classes: list[Any], values: np.ndarray) -> dict[str, float]:
    return {str(name): round(float(value), 6) for name, value in zip(classes, values, strict=True)}


def _image_files(arguments: Iterable[str]) -> list[str]:
    """Paths of the images that are named, or are in folders that are named."""
    paths: list[str] = []
    for argument in arguments:
        if not os.path.isdir(argument):
            if not os.path.exists(argument):
                raise FileNotFoundError(f"There is no file or folder {argument!r}.")
            paths.append(argument)
        elif found := image_paths(Path(argument)):
            paths += found
        else:
            raise ValueError(f"The folder {argument!r} has no images.")
    if nameless := [path for path in paths if not is_text(path)]:
        raise ValueError(
            f"The names of {len(nameless)} of {len(paths)} images are not UTF-8, so they cannot be "
            f"written; rename them. The first: {os.fsencode(nameless[0])!r}."
        )
    return paths
