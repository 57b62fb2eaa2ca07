"""``supernetnas fit`` and ``supernetnas predict``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..classifier import SupernetTransferClassifier
from ..families.base import get_family
from ..fitting.resolved import retraining_of, searching_method_of
from ..images.datasets import load_dataset
from ..images.image_files import ImageFiles, image_paths
from ..images.reading import as_image_set
from ..saving.model_files import check_destination
from ..storage.counting import counted
from ..storage.destinations import check_file, check_folder, user_path, write_file
from ..storage.files import FileError
from ..storage.foreign_text import printable
from ..storage.formats import dump_csv, is_text
from .printing import as_json, fields, progress_shown, table

__all__ = ["fit", "predict"]

_FEW = 256  # images that are predicted without a progress bar


def fit(args: argparse.Namespace) -> None:
    """Fit a classifier, print what was found, and save it."""
    _check_model_folder(user_path(args.out))
    dataset = load_dataset(args.data)
    names = np.asarray(dataset.class_names)
    classes, codes = np.unique(dataset.labels, return_inverse=True)
    if args.skip_unreadable:
        kept = _readable(dataset.images)
        dataset = replace(dataset, images=dataset.images[kept])
        classes, codes = np.unique(codes[kept], return_inverse=True)
        names = names[classes]  # a class may have lost all of its images
    _check_classes(codes, names, args.test_fraction)
    classifier = SupernetTransferClassifier(
        args.strategy,
        zoo=args.zoo,
        embedder=args.embedder,
        image_size=args.image_size,
        resize=args.resize,
        search=args.search,
        preset=args.preset,
        time_limit=args.time_limit,
        max_macs=args.max_macs,
        max_parameters=args.max_parameters,
        max_latency=args.max_latency,
        checkpoint_dir=args.checkpoint_dir,
        holdout_fraction=args.test_fraction,
        class_weight=None if args.class_weight == "none" else args.class_weight,
        device=args.device,
        random_state=args.seed,
        verbose=int(progress_shown(args.quiet)),
    ).set_params(**_settings(args))
    start = time.monotonic()
    classifier.fit(dataset.images, names[codes])
    seconds = time.monotonic() - start
    folder = _save(classifier, args.out)
    accuracy, held_out = None, classifier.holdout_
    if held_out is not None:
        low, high = held_out.accuracy_interval
        accuracy = (
            f"{held_out.accuracy:.3f} on {len(held_out)} images held out "
            f"(95 % interval {low:.3f} to {high:.3f}), see held_out.csv"
        )
    n_trained = len(codes) - (0 if held_out is None else len(held_out))
    print(
        fields(
            [
                ("data", f"{n_trained} images of {len(classes)} classes"),
                ("source", classifier.source_),
                ("distances", _nearest(classifier.distances_)),
                (get_family(classifier.family_).architecture_name, classifier.architecture_),
                ("search", classifier.outcome_),
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
    parts = {
        "search": searching_method_of(classifier),
        "retraining": retraining_of(classifier),
    }
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


def _check_classes(codes: np.ndarray, names: np.ndarray, fraction: float) -> None:
    """Refuse, in the words of the options, classes too small to hold a share out."""
    counts = np.bincount(codes)
    left = counts - np.maximum(np.rint(fraction * counts), 1)
    if fraction and left.min() < 2:
        least = left.argmin()
        raise ValueError(
            f"Class {str(names[least])!r} has {counted(counts[least], 'image')}; at least 2 must "
            f"be left when --test-fraction {fraction:g} is held out. Hold out less, or use all "
            "images with --test-fraction 0."
        )


def _nearest(distances: dict[str, float] | None) -> str | None:
    if not distances:
        return None
    nearest = [f"{name} {distance:.3g}" for name, distance in list(distances.items())[:3]]
    return ", ".join(nearest) + (", ..." if len(distances) > 3 else "")


def predict(args: argparse.Namespace) -> None:
    """Predict images and print or write a row for each."""
    if args.csv:
        check_file(args.csv, "--csv")
    paths = _image_files(args.images)
    classifier = SupernetTransferClassifier.from_pretrained(args.model, device=args.device)
    if args.skip_unreadable:
        paths = [paths[position] for position in _readable(ImageFiles(paths))]
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
        what = f"--csv {args.csv}: it cannot be written, so the rows were printed"
        try:
            write_file(args.csv, dump_csv(rows), what)
        except OSError:
            print(dump_csv(rows).decode(), end="")
            raise
    else:
        print(table(list(rows[0]), (row.values() for row in rows)))


def _readable(images: Any) -> np.ndarray:
    """Positions of the images that can be read; lists the others on the standard error."""
    read = as_image_set(images)
    failures = read.unreadable()
    for position, error in sorted(failures.items()):
        text = f"skipped {images[position]}: {type(error).__name__}: {error}"
        print(f"supernetnas: {printable(text)}", file=sys.stderr)
    if len(failures) == len(read):
        raise ValueError(f"None of the {len(read)} images can be read.")
    if failures:
        print(f"supernetnas: skipped {len(failures)} of {len(read)} images", file=sys.stderr)
    return np.array([n for n in range(len(read)) if n not in failures])


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
