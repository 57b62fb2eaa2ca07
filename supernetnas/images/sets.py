"""A set of images, whatever it was made of: one array, unequal arrays, files or PIL images.

Arrays, here, are kept as they came, viewed as (n, height, width, channels). Files stay paths until
their pixels are asked for, so a set can be larger than memory: `supernetnas.images.picture_sets`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch

from .resizing import resized_tensor
from .scales import values_held_by

__all__ = ["ArrayImages", "ImageSet", "UnequalImages", "median_size"]

# ITU-R BT.601-7, section 2.5.1: the luma of red, green and blue; also what Pillow's "L" is.
LUMA = (0.299, 0.587, 0.114)

_BLOCK_VALUES = 1 << 22  # pixel values resized at a time: 16 MB as float32


class ImageSet(ABC):
    """Images of any origin; build one with `as_image_set`.

    Attributes
    ----------
    is_array : bool
        Whether the images came as one array (then `rows` exists).
    native_shape : tuple of int (height, width, channels) or None
        None for files, PIL images and arrays of different sizes: they have no common shape
        that later images would have to share.
    typical_size : tuple of int (height, width)
        The size of the images, or the median height and width where sizes may differ.
    channels : int
        How many channels `tensor` gives unless told otherwise. Files and PIL images have 3,
        or 1 if all of them are grey.
    colour : bool
        Whether there are three channels and they differ. Files and PIL images are judged by
        up to 64 of them.
    value_range : tuple of float (low, high)
        The values that `batches` maps to 0 and 255: (0, 255) for 8-bit images; (0, 255), (0, 1)
        or (-1, 1) for others within it that reach a quarter of it; else the least and greatest
        value of the whole set. 8-bit images that stay below 64, such as masks of
        0 and 1 or digits of 0 to 16, count as data on a scale of their own too. Subsets keep
        the range of their set. May be set: later images must be read on the scale of the
        images that were fitted. Files and PIL images are decoded to find it, those of 8 bits
        until one reaches 64.
    held : tuple of float (low, high) or None
        Least and greatest value that the images' integer type could hold; None for floats.
    """

    is_array: bool = False
    native_shape: tuple[int, int, int] | None = None
    typical_size: tuple[int, int]
    channels: int
    colour: bool
    value_range: tuple[float, float]
    held: tuple[float, float] | None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, index: slice | np.ndarray | Sequence[int]) -> ImageSet:
        """The images at `index`: a slice, integers or a boolean mask."""

    @abstractmethod
    def _read(
        self, part: slice, height: int, width: int, channels: int, resize: str = "squeeze"
    ) -> torch.Tensor:
        """The pixels of a contiguous part, as `tensor` gives them."""

    @abstractmethod
    def contents(self) -> Iterator[bytes]:
        """Bytes that all pixels follow from, of one image or of several at a time."""

    def check(self) -> None:  # noqa: B027 (an array has nothing left to check)
        """Open every file, without decoding it; raise OSError if any is not an image."""

    def unreadable(self) -> dict[int, Exception]:
        """Decode every file; returns the positions of those that cannot be, and why."""
        return {}

    def rows(self) -> np.ndarray:
        """The images as rows of height * width * channels values, in that order.

        Returns
        -------
        ndarray of shape (n, height * width * channels)
            In the dtype of the source; a view where its memory allows.

        Raises
        ------
        TypeError
            If the images did not come as one array.
        """
        raise TypeError("Only images that came as one array can be written as rows.")

    def tensor(
        self, height: int, width: int, channels: int | None = None, resize: str = "squeeze"
    ) -> torch.Tensor:
        """All images, decoded and resized.

        Resizing is bilinear with antialiasing. Three
        channels become one as ITU-R 601 luma; one becomes three by repetition. Any other
        number, asked for 1 or 3, is read thus: of four channels the first three are RGB (RGBA,
        or near infrared last); otherwise the mean over the channels is a grey image.

        Parameters
        ----------
        height, width : int
            Size in pixels.
        channels : int, optional
            Number of channels; by default the set's own.
        resize : {"squeeze", "crop", "pad"}, default="squeeze"
            What becomes of another aspect, see `supernetnas.images.resizing.resized_picture`.

        Returns
        -------
        torch.Tensor of shape (n, channels, height, width)
            uint8 (0 to 255) for 8-bit files and PIL images and uint8 arrays, else float32 on the
            scale of the source. A copy, never the caller's memory.

        Raises
        ------
        OSError
            If images cannot be read: names the first and counts them all.
        ValueError
            If the channels cannot be converted, or files or PIL images mix scales.
        """
        return self._read(slice(None), height, width, channels or self.channels, resize)

    def batches(
        self,
        height: int,
        width: int,
        batch_size: int,
        channels: int = 3,
        as_uint8: bool = True,
        resize: str = "squeeze",
    ) -> Iterator[torch.Tensor]:
        """Successive batches in order, decoded one at a time, for embedders.

        Parameters
        ----------
        height, width : int
            Size in pixels.
        batch_size : int
            Images in a batch; the last may be smaller.
        channels : int, default=3
            Number of channels.
        as_uint8 : bool, default=True
            Map `value_range` to 0 ... 255 (values beyond it are clipped). Otherwise batches are
            as `tensor` gives them.
        resize : {"squeeze", "crop", "pad"}, default="squeeze"
            As for `tensor`.

        Yields
        ------
        torch.Tensor of shape (b, channels, height, width)
            uint8 if `as_uint8`.
        """
        for start in range(0, len(self), batch_size):
            pixels = self._read(slice(start, start + batch_size), height, width, channels, resize)
            yield _to_uint8(pixels, self.value_range) if as_uint8 else pixels


class ArrayImages(ImageSet):
    """Images of one shape in one array."""

    is_array = True

    def __init__(self, pixels: np.ndarray, value_range: tuple[float, float]) -> None:
        self._pixels = pixels  # (n, height, width, channels), any strides
        self.value_range = value_range
        self.held = values_held_by(pixels.dtype)
        self.native_shape: tuple[int, int, int] = pixels.shape[1:]
        self.typical_size = pixels.shape[1:3]
        self.channels = pixels.shape[3]

    def __len__(self) -> int:
        return len(self._pixels)

    @cached_property
    def colour(self) -> bool:
        if self.channels != 3:
            return False
        blocks = (self._pixels[b] for b in _blocks(len(self), math.prod(self.native_shape)))
        return any((block[..., :1] != block[..., 1:]).any() for block in blocks)

    def take(self, index: slice | np.ndarray | Sequence[int]) -> ImageSet:
        return ArrayImages(self._pixels[index], self.value_range)

    def contents(self) -> Iterator[bytes]:
        yield repr((self._pixels.dtype.str, self._pixels.shape, self.value_range)).encode()
        for block in _blocks(len(self), math.prod(self.native_shape)):
            yield self._pixels[block].tobytes()

    def rows(self) -> np.ndarray:
        return self._pixels.reshape(len(self), -1)

    def _read(
        self, part: slice, height: int, width: int, channels: int, resize: str = "squeeze"
    ) -> torch.Tensor:
        source = self._pixels[part]
        dtype = np.uint8 if source.dtype == np.uint8 else np.float32
        pixels = torch.from_numpy(np.empty((len(source), channels, height, width), dtype))
        values_per_image = max(math.prod(self.native_shape), channels * height * width)
        for block in _blocks(len(source), values_per_image):
            # A copy, because torch warns about read-only memory.
            images = torch.from_numpy(np.array(source[block], dtype=dtype, order="C"))
            images = _convert_channels(images.permute(0, 3, 1, 2), channels)
            images = resized_tensor(images, height, width, resize)
            pixels[block] = images  # repeats a grey image over the channels
        return pixels


class UnequalImages(ImageSet):
    """Images in arrays of different sizes, each an `ArrayImages` of one image."""

    def __init__(
        self,
        images: list[ArrayImages],
        value_range: tuple[float, float],
        held: tuple[float, float] | None,
    ) -> None:
        self._images = images
        self.value_range = value_range
        self.held = held
        self.channels = max(image.channels for image in images)
        self.typical_size = median_size([image.typical_size for image in images])

    def __len__(self) -> int:
        return len(self._images)

    @cached_property
    def colour(self) -> bool:
        return any(image.colour for image in self._images)

    def take(self, index: slice | np.ndarray | Sequence[int]) -> ImageSet:
        positions = np.arange(len(self))[index]
        subset = UnequalImages([self._images[i] for i in positions], self.value_range, self.held)
        subset.channels = self.channels
        return subset

    def contents(self) -> Iterator[bytes]:
        for image in self._images:
            yield from image.contents()

    def _read(
        self, part: slice, height: int, width: int, channels: int, resize: str = "squeeze"
    ) -> torch.Tensor:
        parts = (image.tensor(height, width, channels, resize) for image in self._images[part])
        return torch.cat(list(parts))


def _to_uint8(pixels: torch.Tensor, value_range: tuple[float, float]) -> torch.Tensor:
    low, high = value_range
    if pixels.dtype == torch.uint8 and (low, high) == (0, 255):
        return pixels
    scale = 255 / (high - low) if high > low else 0.0
    return pixels.float().sub_(low).mul_(scale).round_().clamp_(0, 255).to(torch.uint8)


def _convert_channels(images: torch.Tensor, channels: int) -> torch.Tensor:
    """Images of `channels` channels, or of one grey channel for the caller to repeat."""
    own = images.shape[1]
    if own == channels:
        return images
    if channels not in (1, 3):
        raise ValueError(f"Images of {own} channels cannot be read as {channels} channels.")
    if own == 1:
        return images
    if own == 4:
        images = images[:, :3]
        if channels == 3:
            return images
    weights = LUMA if own in (3, 4) else (1 / own,) * own
    grey = torch.einsum("nchw,c->nhw", images.float(), torch.tensor(weights))[:, None]
    return grey.round_().to(torch.uint8) if images.dtype == torch.uint8 else grey


def _blocks(n: int, values_per_image: int) -> list[slice]:
    size = max(1, _BLOCK_VALUES // values_per_image)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def median_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    height, width = np.median(sizes, axis=0)
    return round(height), round(width)
