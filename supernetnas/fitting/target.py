"""The images that a network is searched for, as it will see them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from ..families.base import NetworkInput
from ..images.augmentation import Augmentation
from ..images.preprocessing import Preprocessing
from ..images.stored_pixels import StoredPixels, decode
from ..training.batches import LabelledImages
from ..training.memory import explained_shortage
from ..training.steps import class_weights
from .validation import TrainingData

__all__ = ["Target", "prepare"]


@dataclass(frozen=True)
class Target:
    """The images that a network is searched for, decoded and resized.

    Attributes
    ----------
    pixels : torch.Tensor or StoredPixels of shape (n, c, h, w), uint8 or float32
    labels : torch.Tensor of shape (n,), int64
        Class indices.
    n_classes : int
    class_weight : torch.Tensor of shape (n_classes,) or None
        On the device.
    preprocessing : Preprocessing
    augmentation : Augmentation
    device : torch.device
        Where networks are trained.
    """

    pixels: Tensor | StoredPixels
    labels: Tensor
    n_classes: int
    class_weight: Tensor | None
    preprocessing: Preprocessing
    augmentation: Augmentation
    device: torch.device

    def part(self, index: Tensor | slice = slice(None)) -> LabelledImages:
        """Put the images at ``index``, by default all, on the device."""
        images = self.preprocessing.on_device(self.pixels[index], self.device, self.augmentation)
        return LabelledImages(images, self.labels[index].to(self.device))


@explained_shortage("prepare the images", "Try a smaller image_size or fewer images.")
def prepare(
    data: TrainingData,
    seen: NetworkInput,
    augmentation: str | Augmentation,
    device: torch.device,
    resize: str = "squeeze",
) -> Target:
    """Decode and resize the images, and choose what they go through.

    Parameters
    ----------
    data : TrainingData
    seen : NetworkInput
        What the network is to see.
    augmentation : "auto", "none" or Augmentation
    device : torch.device
        Where networks are trained.
    resize : {"squeeze", "crop", "pad"}
        What becomes of another aspect than what the network sees.
    """
    pixels = decode(data.images, *seen.size, resize=resize)
    preprocessing = Preprocessing.of(pixels, resize)
    low, high = preprocessing.value_range
    if low == high:
        warnings.warn(
            f"All pixels of X are {low:g}, so there is nothing to learn from.",
            UserWarning,
            stacklevel=5,  # the caller of `fit`
        )
    labels, n_classes = torch.from_numpy(data.labels), len(data.classes)
    weights = class_weights(labels, n_classes, data.class_weight)
    if augmentation == "none":
        augmentation = Augmentation.NONE
    elif not isinstance(augmentation, Augmentation):
        augmentation = Augmentation.choose(*data.images.typical_size, data.images.colour)
    return Target(
        pixels=pixels,
        labels=labels,
        n_classes=n_classes,
        class_weight=None if weights is None else weights.to(device),
        preprocessing=preprocessing.standardised_by(seen.mean, seen.std),
        augmentation=augmentation,
        device=device,
    )
