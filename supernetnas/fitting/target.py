"""The images that a network is searched for, as it will see them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..families.base import NetworkInput
from ..images.augmentation import Augmentation
from ..images.preprocessing import SIDES, Preprocessing
from ..images.reading import ImageSet
from ..images.resizing import shrinkage
from ..images.stored_pixels import StoredPixels, decode
from ..training.batches import LabelledImages
from ..training.memory import explained_shortage
from ..training.steps import class_weights
from .validation import TrainingData

__all__ = ["Target", "prepare", "warn_of_lost_detail"]

_MOST_SHRINKAGE, _MOST_ASPECT = 4.0, 1.2  # that are not warned of


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


def warn_of_lost_detail(
    images: ImageSet, seen: tuple[int, int], image_size: Any, resize: str
) -> None:
    """Warn of images that become much smaller, or of another shape, than they are.

    Parameters
    ----------
    images : ImageSet
    seen : tuple of int
        Height and width that the network sees.
    image_size : int, tuple of int or "auto"
        What the user wants; who wants a size is not warned of how small it is, nor who wants a
        rectangle of its shape.
    resize : {"squeeze", "crop", "pad"}
    """
    size = images.typical_size
    times, aspect = shrinkage(size, seen, resize)
    said = []
    if times > _MOST_SHRINKAGE and isinstance(image_size, str):
        said.append(
            f"Details smaller than {times:.0f} pixels are lost; a larger image_size, up to "
            f"{SIDES[1]}, keeps more of them and takes longer."
        )
    chosen = not isinstance(image_size, str) and len(np.unique(image_size)) > 1
    if aspect > _MOST_ASPECT and not chosen and min(size) >= SIDES[0]:  # of rows there is no shape
        said.append(
            f"Their height against their width changes {aspect:.2g} times; resize='crop' or "
            "'pad' keeps shapes as they are."
        )
    if said:
        given, shown = (f"{height} x {width}" for height, width in (size, seen))
        warnings.warn(
            f"Images of {given} pixels, which is the median, become {shown} for the network. "
            + " ".join(said),
            UserWarning,
            stacklevel=4,  # the caller of `fit`
        )
