"""Images with their labels, and the batches that they are trained in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..images.augmentation import StandardisedImages
from .distributed import ALONE, Processes

__all__ = [
    "LabelledImages",
    "balanced_batches",
    "endless_batches",
    "stratified_split",
]


@dataclass(frozen=True)
class LabelledImages:
    """Images on a device with their labels.

    Attributes
    ----------
    images : StandardisedImages
        n images.
    labels : torch.Tensor of shape (n,), int64
        Class indices, on the device of the images.
    """

    images: StandardisedImages
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def labels_at(self, index: Tensor) -> Tensor:
        """Labels at an index on any device, without waiting for one that has to move."""
        return self.labels[index.to(self.labels.device, non_blocking=True)]


def balanced_batches(
    n: int,
    batch_size: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    processes: Processes = ALONE,
) -> list[Tensor]:
    """Shuffle ``n`` indices into batches whose sizes differ by one at most.

    No batch holds a single image unless ``n`` is one, so batch norm always has statistics. The
    indices go to ``device`` in one transfer, which nothing waits for. Of several processes with
    equal generators, each gets its part of every batch.
    """
    order = processes.own_part(torch.randperm(n, generator=generator))
    order = order.to(device, non_blocking=True)
    return list(order.tensor_split(max(1, min(round(n / batch_size), len(order) // 2))))


def endless_batches(
    n: int,
    batch_size: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    processes: Processes = ALONE,
) -> Iterator[Tensor]:
    """Yield balanced batches for ever, reshuffled every time all ``n`` indices have been seen."""
    while True:
        yield from balanced_batches(n, batch_size, generator, device, processes)


def stratified_split(
    labels: Tensor, fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Split images in two, class by class.

    Parameters
    ----------
    labels : torch.Tensor of shape (n,), int64
        Class indices from 0, each of at least two images.
    fraction : float
        Share of each class that goes to the second part, rounded; at least one image and not all.
    generator : torch.Generator

    Returns
    -------
    first, second : torch.Tensor of int64
        Sorted indices.
    """
    first, second = [], []
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        n_second = min(max(round(fraction * len(members)), 1), len(members) - 1)
        second.append(members[:n_second])
        first.append(members[n_second:])
    return torch.cat(first).sort().values, torch.cat(second).sort().values
