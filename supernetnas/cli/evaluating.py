"""``supernetnas evaluate`` and ``supernetnas report``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from ..classifier import SupernetTransferClassifier
from ..evaluation.evaluation import Evaluation
from ..images.datasets import SourceDataset, load_dataset
from ..storage.destinations import check_file
from .pictures import check_picture, save_picture
from .printing import fields, table

__all__ = ["described", "evaluate", "known_labels", "report"]

_SHOWN = 10  # lines of a table


def evaluate(args: argparse.Namespace) -> None:
    """Measure a model on images of known classes, print what it is worth, and write files."""
    for option in ("csv", "json"):
        if path := getattr(args, option):
            check_file(path, f"--{option}")
    for option in ("confusion", "errors"):
        if path := getattr(args, option):
            check_picture(f"--{option}", path)
    dataset = load_dataset(args.data)
    classifier = SupernetTransferClassifier.from_pretrained(args.model, device=args.device)
    images, labels = _labelled(classifier, dataset)
    found = classifier.evaluate(images, labels)
    print(described(found, args.worst))
    if args.csv:
        found.to_csv(args.csv)
    if args.json:
        found.to_json(args.json)
    if args.confusion:
        from ..plotting import ConfusionDisplay

        save_picture(ConfusionDisplay.from_evaluation(found), args.confusion)
    if args.errors:
        from ..plotting import ErrorsDisplay

        display = ErrorsDisplay.from_evaluation(found, images, n=args.worst)
        save_picture(display, args.errors)


def report(args: argparse.Namespace) -> None:
    """Write what there is to say of a model as one page, and print where it is."""
    out = args.out or f"{Path(args.model.partition('@')[0]).resolve().name}.html"
    check_file(out, "--out")
    dataset = None if args.data is None else load_dataset(args.data)
    classifier = SupernetTransferClassifier.from_pretrained(args.model, device=args.device)
    images, labels = (None, None) if dataset is None else _labelled(classifier, dataset)
    print(classifier.report(out, images, labels, title=args.title))


def _labelled(
    classifier: SupernetTransferClassifier, dataset: SourceDataset
) -> tuple[Any, np.ndarray]:
    labels = known_labels(classifier, np.asarray(dataset.class_names), dataset.labels)
    return dataset.images, labels


def described(found: Evaluation, n_worst: int) -> str:
    """Return the figures, the classes, and the worst mistakes as tables."""
    parts = [
        fields(found.described().items()),
        table(
            ["class", "images", "precision", "recall", "f1"],
            ([_rounded(value) for value in row.values()] for row in found.per_class),
        ),
    ]
    if confusions := found.confusions(_SHOWN):
        rows = ([_rounded(value) for value in row.values()] for row in confusions)
        parts.append(table(["class", "taken for", "images", "share of the class"], rows))
    if errors := found.errors(n_worst):
        rows = (
            [row["image"], row["class"], row["predicted"], _rounded(row["confidence"])]
            for row in errors
        )
        parts.append(table(["worst mistakes", "class", "predicted", "confidence"], rows))
    return "\n\n".join(parts)


def known_labels(
    classifier: SupernetTransferClassifier, names: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Return the names of classes for each image, as the classifier's own labels.

    Names in a folder are text; a classifier may have been fitted on numbers.
    """
    own = {str(label): label for label in classifier.classes_.tolist()}
    codes = np.unique(labels, return_inverse=True)[1]
    given = [own.get(str(name), str(name)) for name in names.tolist()]
    if any(isinstance(name, str) for name in given):
        return np.array([given[code] for code in codes], dtype=object)
    return np.array(given)[codes]


def _rounded(value: object) -> object:
    return f"{value:.3f}" if isinstance(value, float) else value
