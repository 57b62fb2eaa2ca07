"""``supernetnas benchmark``."""

from __future__ import annotations

import argparse
from functools import partial

import torch

from ..classifier import SupernetTransferClassifier
from ..families.base import get_family
from ..saving.folding import for_predictions
from ..search.latency import time_in_turn
from ..storage.counting import counted
from .printing import as_json, fields

__all__ = ["benchmark"]

_BATCHES = (1, 32)
_LAYOUT = torch.channels_last


def benchmark(args: argparse.Namespace) -> None:
    """Measure the network of a saved classifier, as it predicts, and print what it costs."""
    classifier = SupernetTransferClassifier.from_pretrained(args.model, device=args.device)
    network = for_predictions(classifier.network_, get_family(classifier.family_).folded)
    shape = (classifier.preprocessing_.channels, *classifier.image_size_)
    device = torch.device(classifier.device_)
    calls = [
        partial(network, torch.zeros(n, *shape, device=device).to(memory_format=_LAYOUT))
        for n in _BATCHES
    ]
    with torch.inference_mode():
        one, many = time_in_turn(calls, args.repeats)
    tensors = [*classifier.network_.parameters(), *classifier.network_.buffers()]
    found = {
        "latency_1": one,
        "latency_32": many,
        "images_per_second": _BATCHES[1] / many,
        "macs": classifier.n_macs_,
        "parameters": classifier.n_parameters_,
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        "image_size": list(classifier.image_size_),
        "device": classifier.device_,
        "threads": torch.get_num_threads(),
        "repeats": args.repeats,
    }
    if args.json:
        print(as_json(found))
        return
    height, width = classifier.image_size_
    where = classifier.device_
    if device.type == "cpu":
        where += f", {counted(torch.get_num_threads(), 'thread')}"
    print(
        fields(
            [
                ("latency", f"{1000 * one:.3g} ms for 1 image"),
                ("", f"{1000 * many:.3g} ms for {_BATCHES[1]} images"),
                ("throughput", f"{_BATCHES[1] / many:,.0f} images per second, by {_BATCHES[1]}"),
                ("MACs", f"{classifier.n_macs_:,} per image"),
                ("parameters", f"{classifier.n_parameters_:,}"),
                ("size", f"{found['bytes'] / 2**20:.2f} MiB of weights"),
                ("images", f"{height} x {width} pixels"),
                ("measured", f"on {where}; medians of {args.repeats} runs"),
            ]
        )
    )
