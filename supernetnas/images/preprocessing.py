"""How images become what a network was trained on: size, channels, scale, statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .augmentation import Augmentation, StandardisedImages, channel_statistics
from .reading import ImageSet
from .stored_pixels import StoredPixels, image_tensors

__all__ = ["SIDES", "Preprocessing"]

SIDES = (8, 224)
"""Least and greatest height and width in pixels that a network sees."""

_FARTHEST = 4  # times the range of the fit that a value may lie above it

_BLOCK_IMAGES = 1024  # decoded at a time where batches are made


@dataclass(frozen=True)
class Preprocessing:
    """What later images must go through to look like the images of a fit.

    Pixel values count as numbers, whatever their dtype: what was fitted on 0 to 255 is given 0 to
    255 later, be it as uint8, int64 or float. A dtype that differs from the fit's is a hint that
    the scale may differ too, so then `pixels` refuses values that cannot be on the fit's scale.

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
    mean, std : tuple of float, one per channel
        Of the fit's pixels, after that division.
    """

    image_size: tuple[int, int]
    channels: int
    eight_bit: bool
    value_range: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, pixels: Tensor | StoredPixels) -> Preprocessing:
        """Describe the resized images of a fit, of shape (n, c, h, w), uint8 or float32."""
        mean, std = channel_statistics(pixels)
        _, channels, height, width = pixels.shape
        limits = [torch.aminmax(block) for block in pixels.split(_BLOCK_IMAGES)]
        return cls(
            image_size=(height, width),
            channels=channels,
            eight_bit=pixels.dtype == torch.uint8,
            value_range=(
                float(min(low for low, _ in limits)),
                float(max(high for _, high in limits)),
            ),
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
        )

    def pixels(self, images: ImageSet) -> Tensor:
        """Read images at the size, with the channels and in the dtype of the fit.

        Parameters
        ----------
        images : ImageSet
            n images.

        Returns
        -------
        torch.Tensor of shape (n, channels, height, width), uint8 or float32

        Raises
        ------
        ValueError
            If their values are on another scale than the fit's.
        OSError
            If a file cannot be read.
        """
        pixels = images.tensor(*self.image_size, channels=self.channels)
        if pixels.dtype == torch.uint8 and self.eight_bit:
            return pixels
        low, high = float(pixels.min()), float(pixels.max())
        fitted_low, fitted_high = self.value_range
        if pixels.dtype != torch.uint8 and not self.eight_bit:
            if high > fitted_high + _FARTHEST * (fitted_high - fitted_low):
                raise ValueError(
                    f"X holds values up to {high:g}, but the classifier was fitted on values from "
                    f"{fitted_low:g} to {fitted_high:g}. Pass images on that scale."
                )
            return pixels
        if self.eight_bit:
            rounded = pixels.round()
            # Resizing may overshoot by a rounding error. Fractions that end at 1 are not 8-bit.
            unit_scale = high <= 1 < fitted_high and not torch.equal(rounded, pixels)
            if low < -0.5 or high > 255.5 or unit_scale:
                raise ValueError(
                    f"X holds values from {low:g} to {high:g}, but the classifier was fitted on "
                    "8-bit images. Pass values of 0 to 255."
                )
            return rounded.clamp(0, 255).to(torch.uint8)
        if high > fitted_high + (fitted_high - fitted_low):
            raise ValueError(
                f"X holds 8-bit images with values up to {high:g}, but the classifier was fitted "
                f"on values from {fitted_low:g} to {fitted_high:g}. Pass images on that scale."
            )
        return pixels.float()

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

        Files are decoded as their turn comes, so the images need not fit into memory.
        """
        for start in range(0, len(images), _BLOCK_IMAGES):
            pixels = self.pixels(images.take(slice(start, start + _BLOCK_IMAGES)))
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
        return cls(
            image_size=(height, width),
            channels=int(data["channels"]),
            eight_bit=bool(data["eight_bit"]),
            value_range=(low, high),
            mean=tuple(float(n) for n in data["mean"]),
            std=tuple(float(n) for n in data["std"]),
        )
