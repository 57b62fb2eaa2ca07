"""Decoded images in a temporary file, for sets that would fill the memory.

Every image is decoded and resized once, written to a file without a name, and read from there
batch by batch. It is read and not mapped: mapped pages would count as memory of the process, while
the system's cache of a file gives way to whoever needs room. What comes out is, to the last bit,
what images in memory give.
"""

from __future__ import annotations

import math
import tempfile
import threading
import weakref
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .augmentation import Augmentation, ImageTensors, StandardisedImages
from .sets import ImageSet

__all__ = ["MEMORY", "StoredImages", "StoredPixels", "decode", "decoded_size", "image_tensors"]

MEMORY = 128 * 2**20
"""Bytes of decoded images, before augmentation's margins, that are kept in memory."""

_BLOCK_IMAGES = 1024


class _File:
    """A temporary file without a name, closed and gone when nothing reads from it any more."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="supernetnas-", buffering=0)  # noqa: SIM115
        self._lock = threading.Lock()  # of the one position, which threads would move for others
        weakref.finalize(self, self._file.close)

    def write(self, array: np.ndarray) -> None:
        rest = array.data.cast("B")
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise OSError(
                error.errno,
                f"Decoded images do not fit into {tempfile.gettempdir()}: {error.strerror}. Point "
                "the environment variable TMPDIR to a folder with more room",
            ) from error

    def read(self, position: int, array: np.ndarray) -> None:
        rest = array.data.cast("B")
        with self._lock:
            self._file.seek(position)
            while rest:
                n_read = self._file.readinto(rest)
                if not n_read:
                    raise OSError(f"A file in {tempfile.gettempdir()} was cut while it was used.")
                rest = rest[n_read:]


class StoredPixels:
    """Pixels of shape (n, channels, height, width) in a file; indexed like a tensor of them.

    Parameters
    ----------
    images : ImageSet
        Decoded block by block.
    height, width, channels : int
    resize : str
        As for `ImageSet.tensor`.

    Attributes
    ----------
    shape : tuple of int (n, channels, height, width)
    dtype : torch.dtype
        uint8 or float32.

    Raises
    ------
    OSError
        If an image cannot be read, or the folder for temporary files is full.
    """

    def __init__(
        self, images: ImageSet, height: int, width: int, channels: int, resize: str = "squeeze"
    ) -> None:
        self._file = _File()
        self._positions = torch.arange(len(images))
        self._image_shape = (channels, height, width)
        size = height, width, _BLOCK_IMAGES, channels
        for block in images.batches(*size, as_uint8=False, resize=resize):
            self.dtype = block.dtype
            self._file.write(block.contiguous().numpy())
        self._image_bytes = math.prod(self._image_shape) * self.dtype.itemsize

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), *self._image_shape

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: Tensor | slice) -> StoredPixels:
        """The images at ``index``, still in the file."""
        part = object.__new__(StoredPixels)
        part.__dict__.update(self.__dict__)
        part._positions = self._positions[index]
        return part

    def read(self, index: Tensor) -> Tensor:
        """Read the images at ``index``, of shape (b,), int64, into memory."""
        pixels = torch.empty((len(index), *self._image_shape), dtype=self.dtype)
        rows = pixels.view(len(index), -1).numpy()
        for row, position in zip(rows, self._positions[index].tolist(), strict=True):
            self._file.read(position * self._image_bytes, row)
        return pixels

    def split(self, size: int) -> Iterator[Tensor]:
        """Read all images in order, ``size`` at a time."""
        for index in torch.arange(len(self)).split(size):
            yield self.read(index)


class StoredImages:
    """Images in a file, given out as `ImageTensors` gives out images in memory.

    Parameters
    ----------
    pixels : StoredPixels
    mean, std, augmentation, device
        As for `ImageTensors`, which the images of each batch go through.

    Attributes
    ----------
    shape : tuple of int (channels, height, width)
    """

    def __init__(
        self,
        pixels: StoredPixels,
        mean: Tensor,
        std: Tensor,
        augmentation: Augmentation = Augmentation.NONE,
        device: str | torch.device = "cpu",
    ) -> None:
        self._pixels = pixels
        self._arguments = mean, std, augmentation, device
        self.shape = pixels.shape[1:]
        self.augmentation = augmentation
        self.device = torch.device(device)
        self.index_device = torch.device("cpu")  # where the file is read

    def __len__(self) -> int:
        return len(self._pixels)

    def clean(self, index: Tensor) -> Tensor:
        """As `ImageTensors.clean`."""
        return self._batch(index).clean(torch.arange(len(index)))

    def augmented(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """As `ImageTensors.augmented`, from the same draws."""
        return self._batch(index).augmented(torch.arange(len(index)), generator)

    def _batch(self, index: Tensor) -> ImageTensors:
        return ImageTensors(self._pixels.read(index.cpu()), *self._arguments)


def decoded_size(images: ImageSet, height: int, width: int, channels: int) -> int:
    """Bytes that images take when they are decoded and resized, if they are of 8 bits."""
    return len(images) * channels * height * width


def decode(
    images: ImageSet,
    height: int,
    width: int,
    channels: int | None = None,
    *,
    resize: str = "squeeze",
    memory: int | None = None,
) -> Tensor | StoredPixels:
    """Decode and resize all images, into memory or into a temporary file.

    Parameters
    ----------
    images : ImageSet
    height, width, channels, resize
        As for `ImageSet.tensor`.
    memory : int, optional
        Most bytes that go into memory; by default `MEMORY`.

    Returns
    -------
    torch.Tensor or StoredPixels
        Of shape (n, channels, height, width), uint8 or float32.

    Raises
    ------
    OSError
        If images cannot be read.
    """
    channels = channels or images.channels
    if decoded_size(images, height, width, channels) <= (MEMORY if memory is None else memory):
        return images.tensor(height, width, channels, resize)
    return StoredPixels(images, height, width, channels, resize)


def image_tensors(
    pixels: Tensor | StoredPixels,
    mean: Tensor,
    std: Tensor,
    augmentation: Augmentation = Augmentation.NONE,
    device: str | torch.device = "cpu",
) -> StandardisedImages:
    """Give out pixels as standardised batches; arguments as for `ImageTensors`."""
    if isinstance(pixels, StoredPixels):
        return StoredImages(pixels, mean, std, augmentation, device)
    return ImageTensors(pixels, mean, std, augmentation, device)
