"""``supernetnas export``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ..classifier import SupernetTransferClassifier
from ..images.datasets import load_dataset
from ..saving.export import ENDINGS
from ..storage.counting import counted
from ..storage.destinations import check_file
from .evaluating import known_labels
from .printing import fields

__all__ = ["export"]


def export(args: argparse.Namespace) -> None:
    """Write a saved classifier as a file for ONNX or torch, and print what was written."""
    formats = {ending: name for name, ending in ENDINGS.items()}
    ending = Path(args.path).suffix
    if ending not in formats:
        raise ValueError(f"PATH must end in {' or '.join(formats)}; got {args.path!r}.")
    if args.int8 is not None and formats[ending] != "onnx":
        raise ValueError(f"--int8 writes an ONNX file; PATH must end in {ENDINGS['onnx']}.")
    check_file(args.path, "PATH")
    dataset = None if args.int8 is None else load_dataset(args.int8)
    classifier = SupernetTransferClassifier.from_pretrained(args.model, device="cpu")
    images = labels = None
    if dataset is not None:
        known = {str(label) for label in classifier.classes_.tolist()}
        if unknown := sorted({*map(str, dataset.class_names or ())} - known):
            raise ValueError(
                f"--int8 {args.int8} has classes that the model does not know: "
                f"{', '.join(unknown[:5])}."
            )
        names = np.array(dataset.class_names or (), dtype=object)
        images, labels = dataset.images, known_labels(classifier, names, dataset.labels)
    found = classifier.export(args.path, formats[ending], calibration=images, labels=labels)
    size = f"{found.path} ({found.path.stat().st_size / 2**20:.2f} MiB)"
    rows = [("file", size), ("description", found.description)]
    if found.int8_path is not None:
        small = f"{found.int8_path} ({found.int8_path.stat().st_size / 2**20:.2f} MiB)"
        n_images = len(labels) if labels is not None else 0
        rows += [
            ("file in 8 bits", small),
            ("accuracy", f"{found.accuracy:.3f} on {counted(n_images, 'image')} of {args.int8}"),
            ("accuracy in 8 bits", f"{found.int8_accuracy:.3f}"),
            ("same class", f"{found.agreement:.3f} of these images"),
        ]
    print(fields(rows))
