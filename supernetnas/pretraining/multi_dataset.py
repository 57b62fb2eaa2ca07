"""Images of several datasets in one search."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..images.augmentation import StandardisedImages
from ..training.distributed import ALONE, Processes

__all__ = ["MixedImages"]


class MixedImages:
    """Several sets of images behind one index, each with its own statistics and augmentation.

    Parameters
    ----------
    parts : sequence of ImageTensors or StoredImages
        All of one shape and on one device.
    processes : Processes, optional
        Those that train together. A dataset of its own augmentation makes its own number of draws,
        so each process draws from a generator of its own.
    """

    def __init__(self, parts: Sequence[StandardisedImages], processes: Processes = ALONE) -> None:
        self.parts, self.processes = list(parts), processes
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
        own = self.processes.own_generator(generator)
        return self._gather(index, lambda part, inner: part.augmented(inner, own))

    def _gather(
        self, index: Tensor, take: Callable[[StandardisedImages, Tensor], Tensor]
    ) -> Tensor:
        owner = torch.bucketize(index.contiguous(), self._starts, right=True) - 1
        order = owner.argsort(stable=True)
        batches = [
            take(self.parts[part], index[owner == part] - self._starts[part])
            for part in owner.unique().tolist()
        ]
        joined = torch.cat(batches)
        result = torch.empty_like(joined, memory_format=torch.channels_last)
        result[order.to(joined.device)] = joined
        return result
