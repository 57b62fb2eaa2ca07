"""A few views of each image, with what stays the same in a training computed once for each.

Stages of a network that are not trained give the same activations of a view in every epoch, and a
teacher the same features. They are kept in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ...images.augmentation import StandardisedImages
from ...training.execution import fast_inference

__all__ = ["KeptViews", "bytes_of_a_view"]

_BATCH = 64
_KEPT = torch.bfloat16

Batch = TypeVar("Batch")
Look = Callable[[Tensor], Sequence[Tensor]]


class KeptViews(Generic[Batch]):
    """Augmented views of images, as what does not change any more sees them.

    Parameters
    ----------
    images : StandardisedImages
    look : callable
        Takes images (b, channels, h, w), returns tensors of which the first axis is that of the
        images, such as activations.
    batch : callable
        Makes what a training is given of such tensors.
    n_views : int
        Of each image.
    generator : torch.Generator
        Of the augmentation.

    Attributes
    ----------
    n_views : int
    shape : tuple of int
        Of the first tensor, for one image.
    index_device : torch.device
    """

    def __init__(
        self,
        images: StandardisedImages,
        look: Look,
        batch: Callable[[list[Tensor]], Batch],
        n_views: int,
        generator: torch.Generator,
    ) -> None:
        self.n_views, self.index_device, self._batch = n_views, images.index_device, batch
        self._kept: list[Tensor] = []
        for view in range(n_views):
            for index in torch.arange(len(images), device=self.index_device).split(_BATCH):
                seen = _looked(look, images.augmented(index, generator))
                if not self._kept:
                    shapes = [(len(images), n_views, *tensor.shape[1:]) for tensor in seen]
                    self._kept = [
                        torch.empty(shape, dtype=_KEPT, device=tensor.device)
                        for shape, tensor in zip(shapes, seen, strict=True)
                    ]
                for kept, tensor in zip(self._kept, seen, strict=True):
                    kept[index.to(kept.device), view] = tensor.to(_KEPT)
        self.shape = tuple(_channels_second(self._kept[0][:1, 0]).shape[1:])

    def __len__(self) -> int:
        return len(self._kept[0])

    def clean(self, index: Tensor) -> Batch:
        """The first view of each image at an index of shape (b,)."""
        return self._at(index, torch.zeros_like(index))

    def augmented(self, index: Tensor, generator: torch.Generator) -> Batch:
        """A view of each image at an index, drawn at random; maps are channels_last."""
        drawn = torch.randint(
            self.n_views, (len(index),), generator=generator, device=generator.device
        )
        return self._at(index, drawn)

    def _at(self, index: Tensor, view: Tensor) -> Batch:
        device = self._kept[0].device
        index, view = index.to(device), view.to(device)
        return self._batch([_channels_second(kept[index, view].float()) for kept in self._kept])


def bytes_of_a_view(images: StandardisedImages, look: Look) -> int:
    """How much memory a view of one image takes."""
    seen = _looked(look, images.clean(torch.zeros(1, dtype=torch.int64)))
    return sum(_KEPT.itemsize * tensor.numel() for tensor in seen)


@torch.no_grad()
def _looked(look: Look, images: Tensor) -> list[Tensor]:
    """What is to be kept, the channels of maps last."""
    with fast_inference(images.device).autocast(images.device):
        seen = look(images)
    return [tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor for tensor in seen]


def _channels_second(kept: Tensor) -> Tensor:
    return kept.permute(0, 3, 1, 2) if kept.ndim == 4 else kept
