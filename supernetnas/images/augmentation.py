"""Training batches out of memory: shifted, flipped and cut out on the device, by one seed.

The images are kept once, padded, in their own dtype; a batch is one gather of windows at a
random offset per image. Per-image draws are independent, as in a loader that augments image by
image, but come from one generator in whole-batch draws: the same generator state gives the same
batch, on one device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import torch

__all__ = ["Augmentation", "ImageTensors", "StandardisedImages", "scale_and_offset"]


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied, in fractions of their sides.

    Parameters
    ----------
    shift : float in [0, 1), default=0.125
        Every image moves by a whole number of pixels, uniform in ±round(shift * side), along
        each axis. 1/8 is the 4 of 32 pixels of He et al., "Deep Residual Learning for Image
        Recognition" (2016), section 4.2.
    flip : bool, default=False
        Mirror left and right with probability 1/2.
    cutout : float in [0, 1], default=0.0
        Erase a rectangle of round(cutout * side) pixels along each axis, centred on a uniformly
        drawn pixel, so parts of it may fall outside: DeVries and Taylor, "Improved
        Regularization of Convolutional Neural Networks with Cutout" (2017), section 3.2.
    """

    shift: float = 0.125
    flip: bool = False
    cutout: float = 0.0

    NONE: ClassVar[Augmentation]

    def __post_init__(self) -> None:
        if not 0 <= self.shift < 1:
            raise ValueError(f"shift must be in [0, 1), got {self.shift!r}.")
        if not 0 <= self.cutout <= 1:
            raise ValueError(f"cutout must be in [0, 1], got {self.cutout!r}.")

    @classmethod
    def choose(cls, native_height: int, native_width: int, colour: bool) -> Augmentation:
        """What "auto" means for images of this size.

        - A side below 8: nothing. A row of features or a tiny map has no neighbourhoods whose
          contents could move.
        - Colour images with more than 32 pixels a side are taken for photographs: shift, flip
          and a cutout of a quarter.
        - Others shift only. Grey or small images are often glyphs or signs, where orientation
          is meaning (a mirrored b is a d) and a hole can hide the one stroke that tells two
          classes apart.

        Parameters
        ----------
        native_height, native_width : int
            Size of the images as they came, in pixels, not as they are resized.
        colour : bool
            Whether they have three channels that differ.
        """
        side = min(native_height, native_width)
        if side < 8:
            return cls.NONE
        photographs = colour and side > 32
        return cls(shift=0.125, flip=photographs, cutout=0.25 if photographs else 0.0)

    def to_dict(self) -> dict[str, Any]:
        """The parameters, as JSON can hold them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, parameters: Mapping[str, Any]) -> Augmentation:
        """The inverse of `to_dict`."""
        return cls(**parameters)


Augmentation.NONE = Augmentation(shift=0.0, flip=False, cutout=0.0)


def scale_and_offset(
    mean: torch.Tensor, std: torch.Tensor, unit: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what standardises pixels in one pass: x * scale + offset is (x / unit - mean) / std.

    Parameters
    ----------
    mean, std : torch.Tensor of shape (channels,)
        A standard deviation of zero counts as 1.
    unit : float
        255 for pixels of 8 bits, else 1.

    Returns
    -------
    scale, offset : torch.Tensor of shape (channels,), float32
    """
    mean, std = mean.double(), std.double()
    std = torch.where(std > 0, std, 1.0)
    return (1 / (unit * std)).float(), (-mean / std).float()


class StandardisedImages(Protocol):
    """What gives out images as standardised batches, as `ImageTensors` does."""

    shape: tuple[int, int, int]
    index_device: torch.device

    def __len__(self) -> int: ...
    def clean(self, index: torch.Tensor) -> torch.Tensor: ...
    def augmented(self, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor: ...


class ImageTensors:
    """Images on a device, given out as standardised float batches.

    uint8 values are first divided by 255; float values are taken as they are. What moves in
    from beyond an image's edge has the mean value (for uint8 the nearest of the 256), as has what
    is cut out: zero after standardisation, like the padding of a convolution, whatever the
    background.

    Parameters
    ----------
    pixels : torch.Tensor of shape (n, channels, height, width), uint8 or float32
        The images; copied.
    mean, std : array-like of shape (channels,)
        Of the values as described above, such as from `channel_statistics`. A standard deviation
        of zero counts as 1.
    augmentation : Augmentation
        What `augmented` does.
    device : str or torch.device, default="cpu"
        Where the images are kept and the batches made.

    Attributes
    ----------
    shape : tuple of int (channels, height, width)
    index_device : torch.device
        Where indices had better be: the device of the images.
    """

    def __init__(
        self,
        pixels: torch.Tensor,
        mean: torch.Tensor,
        std: torch.Tensor,
        augmentation: Augmentation = Augmentation.NONE,
        device: str | torch.device = "cpu",
    ) -> None:
        if pixels.dtype not in (torch.uint8, torch.float32):
            raise TypeError(f"pixels must be uint8 or float32, got {pixels.dtype}.")
        n, channels, height, width = pixels.shape
        mean = torch.as_tensor(mean, dtype=torch.float64).cpu()
        std = torch.as_tensor(std, dtype=torch.float64).cpu()
        if mean.shape != (channels,) or std.shape != (channels,):
            raise ValueError(
                f"mean and std must have shape ({channels},), one value per channel; got "
                f"{tuple(mean.shape)} and {tuple(std.shape)}."
            )
        unit = 255.0 if pixels.dtype == torch.uint8 else 1.0
        self.shape = (channels, height, width)
        self.augmentation = augmentation
        self.device = self.index_device = torch.device(device)
        scale, offset = scale_and_offset(mean, std, unit)
        # Repeated over a row of pixels, because an inner dimension of 1 or 3 is not vectorised.
        self._scale = scale.repeat(width).to(self.device)
        self._offset = offset.repeat(width).to(self.device)

        self._pad = round(augmentation.shift * height), round(augmentation.shift * width)
        self._hole = round(augmentation.cutout * height), round(augmentation.cutout * width)
        down, right = self._pad
        edge = (mean * unit).round() if pixels.dtype == torch.uint8 else mean
        padded = edge.to(self.device, pixels.dtype).repeat(
            n, height + 2 * down, width + 2 * right, 1
        )
        padded[:, down : down + height, right : right + width] = pixels.permute(0, 2, 3, 1)
        # (n, 2 down + 1, 2 right + 1, height, width, channels): every window of every image, as
        # a view, so that one gather copies whole windows
        self._windows = padded.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)

    def __len__(self) -> int:
        return len(self._windows)

    def clean(self, index: torch.Tensor) -> torch.Tensor:
        """The images at `index`, standardised.

        Parameters
        ----------
        index : torch.Tensor of shape (b,), int64
            On any device.

        Returns
        -------
        torch.Tensor of shape (b, channels, height, width), float32, channels_last
        """
        down, right = self._pad
        return self._standardise(
            self._windows[:, down, right][index.to(self.device, non_blocking=True)]
        )

    def augmented(self, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The images at `index`, each with its own shift, flip and cutout, standardised.

        Parameters
        ----------
        index : torch.Tensor of shape (b,), int64
            On any device.
        generator : torch.Generator
            Where the draws come from; on the images' device there is no transfer. Nothing is
            drawn for what `augmentation` leaves out.

        Returns
        -------
        torch.Tensor of shape (b, channels, height, width), float32, channels_last
        """
        n = len(index)
        channels, height, width = self.shape

        def draw(values: int) -> torch.Tensor:
            drawn = torch.randint(values, (n,), generator=generator, device=generator.device)
            return drawn.to(self.device, non_blocking=True)

        down, right = self._pad
        index = index.to(self.device, non_blocking=True)
        if down or right:
            images = self._windows[index, draw(2 * down + 1), draw(2 * right + 1)]
        else:
            images = self._windows[:, 0, 0][index]
        if self.augmentation.flip:
            # Sums and products, exact here, are vectorised on a CPU; torch.where is not.
            mirrored = draw(2).bool().view(n, 1, 1, 1)
            images = images.flip(2) * mirrored + images * ~mirrored
        if min(self._hole) == 0:
            return self._standardise(images)
        rows = _hole(draw(height), height, self._hole[0])
        columns = _hole(draw(width), width, self._hole[1]).repeat_interleave(channels, dim=1)
        return self._standardise(images, rows[:, :, None].float() * columns[:, None, :])

    def _standardise(
        self, images: torch.Tensor, erased: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(b, height, width, channels) of any dtype to the float (b, channels, height, width).

        `erased`, of shape (b, height, width * channels), is 1 where the result shall be 0.
        """
        batch = torch.addcmul(self._offset, images.flatten(2).float(), self._scale)
        if erased is not None:
            batch.addcmul_(batch, erased, value=-1)
        # What torch calls channels_last: the channels of a pixel lie together.
        return batch.view(images.shape).permute(0, 3, 1, 2)


def _hole(centre: torch.Tensor, side: int, size: int) -> torch.Tensor:
    """For every centre, which of `side` positions a hole of `size` covers; (b, side), bool."""
    start = (centre - size // 2)[:, None]
    position = torch.arange(side, device=centre.device)
    return (position >= start) & (position < start + size)
