"""How images become what a network was trained on: size, channels, scale, statistics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..storage.counting import counted
from .augmentation import Augmentation, StandardisedImages
from .reading import ImageSet
from .scales import Scale, ScaleCheck, usual_scale
from .stored_pixels import StoredPixels, image_tensors

__all__ = ["SIDES", "Preprocessing", "channel_statistics"]

SIDES = (8, 224)
"""Least and greatest height and width in pixels that a network sees."""

_REACHED = 1 / 2  # of a scale, by images that are on it
_BLOCK_IMAGES = 1024  # decoded at a time where batches are made


@dataclass(frozen=True)
class Preprocessing:
    """What later images must go through to look like the images of a fit.

    Pixel values count as numbers, whatever their dtype: what was fitted on 0 to 255 is given 0 to
    255 later, be it as uint8, int64 or float. `batches` refuses values that are not on the fit's
    scale.

    Attributes
    ----------
    image_size : tuple of int (height, width)
        Size that images are resized to.
    channels : int
        Channels that the network takes.
    eight_bit : bool
        Whether the fit saw 8-bit images: files, PIL images or uint8 arrays. Their values are
        divided by 255; all others are taken as they are.
    value_range : tuple of float (low, high)
        Least and greatest pixel value of the fit, before that division.
    usual_range : tuple of float (low, high)
        Of a hundred images of the fit, 99 have a value of at most ``low``, and 99 one of at least
        ``high``, before that division.
    mean, std : tuple of float, one per channel
        Of the fit's pixels, after that division.
    resize : {"squeeze", "crop", "pad"}
        What becomes of another aspect than that of ``image_size``.
    """

    image_size: tuple[int, int]
    channels: int
    eight_bit: bool
    value_range: tuple[float, float]
    usual_range: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = "squeeze"

    def standardised_by(
        self, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
    ) -> Preprocessing:
        """Return the same with the mean and deviation that a network asks for.

        Parameters
        ----------
        mean, std : tuple of float or None
            In units of the range that pixels may have: 0 to 255, 0 to 1 or -1 to 1 where the images
            lie within it and use its brighter half; of others that of the values there are.
        """
        if mean is None or std is None:
            return self
        low, high = (value / 255 if self.eight_bit else value for value in self.value_range)
        low, high = usual_scale(low, high, _REACHED)
        extent = high - low
        return replace(
            self,
            mean=tuple(low + extent * value for value in mean),
            std=tuple(extent * value for value in std),
        )

    @property
    def black_and_white(self) -> tuple[float, float]:
        """The values that are drawn black and white."""
        return (0.0, 255.0) if self.eight_bit else usual_scale(*self.value_range)

    @property
    def input(self) -> str:
        """What the network takes, in words."""
        height, width = self.image_size
        return f"{height} x {width} pixels, {counted(self.channels, 'channel')}"

    @classmethod
    def of(cls, pixels: Tensor | StoredPixels, resize: str = "squeeze") -> Preprocessing:
        """Describe the images of a fit, resized that way, of shape (n, c, h, w)."""
        mean, std = channel_statistics(pixels)
        _, channels, height, width = pixels.shape
        scale = Scale.of(pixels.split(_BLOCK_IMAGES))
        return cls(
            image_size=(height, width),
            channels=channels,
            eight_bit=scale.eight_bit,
            value_range=scale.value_range,
            usual_range=scale.usual_range,
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
            resize=resize,
        )

    def pixels(self, images: ImageSet) -> Iterator[Tensor]:
        """Read images at the size, with the channels and in the dtype of the fit.

        Parameters
        ----------
        images : ImageSet
            n images.

        Yields
        ------
        torch.Tensor of shape (b, channels, height, width), uint8 or float32

        Raises
        ------
        ValueError
            If their values are on another scale than the fit's.
        OSError
            If a file cannot be read.

        Warns
        -----
        UserWarning
            If that is likely, but may also be the nature of these few images.
        """
        fitted = Scale(self.eight_bit, self.value_range, self.usual_range)
        check = ScaleCheck(fitted, images.held)
        size = *self.image_size, _BLOCK_IMAGES, self.channels
        for block in images.batches(*size, as_uint8=False, resize=self.resize):
            check.see(block)
            if self.eight_bit and block.dtype != torch.uint8:
                block = block.round().clamp(0, 255).to(torch.uint8)
            yield block if self.eight_bit else block.float()

    def on_device(
        self,
        pixels: Tensor | StoredPixels,
        device: str | torch.device,
        augmentation: Augmentation = Augmentation.NONE,
    ) -> StandardisedImages:
        """Put pixels on a device, at once or batch by batch, to be given out standardised."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return image_tensors(pixels, mean, std, augmentation, device)

    def batches(
        self, images: ImageSet, device: str | torch.device, batch_size: int = 256
    ) -> Iterator[Tensor]:
        """Yield all images in order: standardised batches of shape (b, channels, height, width).

        Files are decoded as their turn comes, so the images need not fit into memory. Raises and
        warns as `pixels`.
        """
        for pixels in self.pixels(images):
            block = self.on_device(pixels, device)
            for index in torch.arange(len(pixels)).split(batch_size):
                yield block.clean(index)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Rebuild what `to_dict` returned."""
        height, width = (int(n) for n in data["image_size"])
        low, high = (float(n) for n in data["value_range"])
        # Models of version 0.1 have none; this one no image falls short of.
        usual_low, usual_high = (float(n) for n in data.get("usual_range", (high, low)))
        return cls(
            image_size=(height, width),
            channels=int(data["channels"]),
            eight_bit=bool(data["eight_bit"]),
            value_range=(low, high),
            usual_range=(usual_low, usual_high),
            mean=tuple(float(n) for n in data["mean"]),
            std=tuple(float(n) for n in data["std"]),
            resize=str(data.get("resize", "squeeze")),
        )


def channel_statistics(pixels: Tensor | StoredPixels) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel, as `ImageTensors` takes them.

    Parameters
    ----------
    pixels : torch.Tensor or StoredPixels of shape (n, channels, height, width)
        uint8 values count as value / 255.

    Returns
    -------
    mean, std : torch.Tensor of shape (channels,), float32
        Over all images and pixels; the population's standard deviation.
    """
    unit = 255.0 if pixels.dtype == torch.uint8 else 1.0
    n_values = math.prod(pixels.shape) // pixels.shape[1]
    blocks = pixels.split(_BLOCK_IMAGES)
    zero = torch.zeros((), dtype=torch.float64)
    mean = sum((block.double().sum((0, 2, 3)) for block in blocks), start=zero) / n_values
    blocks = pixels.split(_BLOCK_IMAGES)  # again, because a file is read anew each time
    # Around the mean: sums of squares would cancel for data far from zero.
    squares = sum(
        ((block.double() - mean.view(-1, 1, 1)).square().sum((0, 2, 3)) for block in blocks),
        start=zero,
    )
    return (mean / unit).float(), ((squares / n_values).sqrt() / unit).float()
