"""Several datasets in one search: their images mixed, each class with the dataset of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..families.cells.search.bilevel import BilevelSearch
from ..images.augmentation import StandardisedImages
from ..training.distributed import ALONE, Processes

__all__ = ["MixedImages", "MultiDatasetSearch"]


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
