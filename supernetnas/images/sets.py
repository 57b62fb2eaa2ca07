"""A set of images, whatever it was made of: one array, unequal arrays, files, PIL images.

Arrays are kept as they came, viewed as (n, height, width, channels). Files stay paths until
their pixels are asked for, so a set can be larger than memory.
"""

from __future__ import annotations

import contextlib
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .pictures import open_picture, shown_size, upright
from .resizing import resized_picture, resized_tensor
from .scales import eight_bit_range, reaches_pixels, usual_scale, values_held_by

__all__ = ["ArrayImages", "ImageSet", "PictureImages", "UnequalImages"]

# ITU-R BT.601-7, section 2.5.1: the luma of red, green and blue; also what Pillow's "L" is.
LUMA = (0.299, 0.587, 0.114)

_WHITE = 65535.0  # of grey pictures of more than 8 bits: what their transparent parts are shown on
_BLOCK_FILES = 1024  # handed to the threads at a time: a waiting call takes a kilobyte or two
_LARGE_PIXELS = 1 << 25  # from here on images are decoded one at a time, for the memory
_ONE_AT_A_TIME = threading.Lock()
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
        self.typical_size = _median_size([image.typical_size for image in images])

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


class PictureImages(ImageSet):
    """Images that Pillow decodes when they are read: paths, contents of files, or PIL images.

    Grey pictures of more than 8 bits hold numbers on any scale: a file of 16 bits may hold those
    of a camera of 12. They are taken as they are, as those of an array would be.
    """

    def __init__(self, pictures: Sequence[str | bytes | Image.Image], name: str) -> None:
        self._pictures = pictures
        self._positions = np.arange(len(pictures))  # in what the user passed, for messages
        self._in_memory = len(pictures) > 0 and isinstance(pictures[0], Image.Image)
        self._name = name
        self._whole = self  # whose range counts

    def __len__(self) -> int:
        return len(self._pictures)

    @cached_property
    def _opened(self) -> tuple[dict[int, tuple[int, int, bool, str]], dict[int, Exception]]:
        """Height, width, whether it is grey and mode of every picture; why some have none."""
        headers: dict[int, tuple[int, int, bool, str]] = {}
        failures = self._each(range(len(self)), _header, headers.__setitem__)
        return headers, failures

    @property
    def _headers(self) -> list[tuple[int, int, bool, str]]:
        headers, failures = self._opened
        if failures:
            raise self._unreadable(failures)
        return [headers[slot] for slot in range(len(self))]

    @cached_property
    def channels(self) -> int:
        return 1 if all(grey for _, _, grey, _ in self._headers) else 3

    @cached_property
    def typical_size(self) -> tuple[int, int]:
        return _median_size([header[:2] for header in self._headers])

    @cached_property
    def colour(self) -> bool:
        if self.channels != 3:
            return False
        for position in np.linspace(0, len(self) - 1, min(len(self), 64)).astype(int):
            image = self._read(slice(position, position + 1), 32, 32, 3)
            if (image[:, :1] != image[:, 1:]).any():
                return True
        return False

    @cached_property
    def _values(self) -> str:
        """What every picture holds; ValueError if not all hold the same, so scales may differ."""
        found = {slot: _held_values(mode) for slot, (*_, mode) in self._opened[0].items()}
        if not found:
            return _BYTES
        first = min(found)
        for slot in sorted(found):
            if found[slot] != found[first]:
                raise ValueError(
                    f"{self._name} mixes images whose scales may differ: {self._where(first)} "
                    f"holds {found[first]}, {self._where(slot)} {found[slot]}. Convert them to "
                    "one kind."
                )
        return found[first]

    @cached_property
    def value_range(self) -> tuple[float, float]:
        if self._whole is not self:
            return self._whole.value_range
        limits: list[tuple[float, float]] = []

        def read(image: Image.Image) -> tuple[float, float]:
            with _in_turn_if_large(image):
                values = np.asarray(_upright(image, 3, self._values))
            return float(values.min()), float(values.max())

        eight_bit = self._values == _BYTES
        step = 1 if eight_bit else _BLOCK_FILES  # the first is enough, but for masks
        for start in range(0, len(self), step):
            slots = range(start, min(start + step, len(self)))
            self._read_each(slots, read, lambda _, found: limits.append(found))
            if eight_bit and reaches_pixels(limits[-1][1]):
                break
        low, high = min(low for low, _ in limits), max(high for _, high in limits)
        return eight_bit_range(high) if eight_bit else usual_scale(low, high)

    @property
    def held(self) -> tuple[float, float] | None:
        # Not uint16 for 16 bits: older versions of Pillow read those as 32.
        dtypes = {_BYTES: np.uint8, _INTEGERS: np.int32, _FLOATS: np.float32}
        return values_held_by(np.dtype(dtypes[self._values]))

    def check(self) -> None:
        _ = self._headers, self._values

    def unreadable(self) -> dict[int, Exception]:
        def decode(image: Image.Image) -> None:
            _header(image)
            if not self._in_memory:
                image.draft(None, (8, 8))  # all of the file is read, and little computed
            with _in_turn_if_large(image):
                _upright(image, 3, _held_values(image.mode))

        return self._each(range(len(self)), decode, lambda *_: None)

    def contents(self) -> Iterator[bytes]:
        for picture in self._pictures:
            if isinstance(picture, Image.Image):
                yield repr((picture.mode, picture.size)).encode() + picture.tobytes()
            else:
                yield picture if isinstance(picture, bytes) else Path(picture).read_bytes()

    def take(self, index: slice | np.ndarray | Sequence[int]) -> ImageSet:
        positions = np.arange(len(self))[index]
        subset = PictureImages([self._pictures[i] for i in positions], self._name)
        subset._positions = self._positions[positions]
        subset._opened = {slot: self._headers[i] for slot, i in enumerate(positions)}, {}
        subset._values = self._values
        subset._whole = self._whole
        subset.channels = self.channels
        return subset

    def _read(
        self, part: slice, height: int, width: int, channels: int, resize: str = "squeeze"
    ) -> torch.Tensor:
        if channels not in (1, 3):
            raise ValueError(f"Files and PIL images give 1 or 3 channels, not {channels}.")
        slots = range(len(self))[part]
        values = self._values
        dtype = np.uint8 if values == _BYTES else np.float32
        pixels = np.empty((len(slots), channels, height, width), dtype)

        def decode(image: Image.Image) -> np.ndarray:
            if not self._in_memory:
                # A large JPEG is decoded at 1/2, 1/4 or 1/8, still twice the wanted size. The
                # square holds for turned images too.
                image.draft(None, (2 * max(height, width),) * 2)
            with _in_turn_if_large(image):
                decoded = _decode(image, height, width, channels, values, resize)
            return decoded.transpose(2, 0, 1)

        self._read_each(slots, decode, pixels.__setitem__)
        return torch.from_numpy(pixels)

    def _read_each(
        self,
        slots: range,
        read: Callable[[Image.Image], Any],
        store: Callable[[int, Any], None],
    ) -> None:
        """Do as `_each`; raise OSError if a picture of the whole set cannot be read."""
        failures = self._each(slots, read, store)
        if failures:
            for rest in (range(slots.start), range(slots.stop, len(self))):
                failures |= self._each(rest, read, lambda *_: None)
            raise self._unreadable(failures)

    def _each(
        self,
        slots: range,
        read: Callable[[Image.Image], Any],
        store: Callable[[int, Any], None],
    ) -> dict[int, Exception]:
        """Call ``store(k, read(opened picture))`` for the k-th of `slots`; returns what failed."""

        def attempt(slot: int) -> Exception | None:
            try:
                picture = self._pictures[slot]
                if isinstance(picture, Image.Image):
                    store(slot - slots.start, read(picture))
                else:
                    with open_picture(picture) as image:
                        store(slot - slots.start, read(image))
            except Exception as error:  # decoders raise all kinds of it on damaged files
                return error
            return None

        if self._in_memory:
            # Not in threads: one lazily opened image may be in the list twice.
            failures = list(map(attempt, slots))
        else:
            # torch's number of threads respects joblib's and the user's limits.
            failures = []
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                for start in range(0, len(slots), _BLOCK_FILES):
                    failures += pool.map(attempt, slots[start : start + _BLOCK_FILES])
        return {
            slot: error for slot, error in zip(slots, failures, strict=True) if error is not None
        }

    def _unreadable(self, failures: dict[int, Exception]) -> OSError:
        """What to raise; its cause is the first failure."""
        first = min(failures)
        error = OSError(
            f"{len(failures)} of {len(self)} images cannot be read. The first is "
            f"{self._where(first)}: {type(failures[first]).__name__}: {failures[first]}"
        )
        error.__cause__ = failures[first]
        return error

    def _where(self, slot: int) -> str:
        """Name a picture in messages."""
        where = f"{self._name}[{self._positions[slot]}]"
        picture = self._pictures[slot]
        return f"{where} = {picture!r}" if isinstance(picture, str) else where


def _in_turn_if_large(image: Image.Image) -> contextlib.AbstractContextManager[Any]:
    """What a large image is decoded in: one at a time, whose memory is that of one."""
    large = image.width * image.height > _LARGE_PIXELS
    return _ONE_AT_A_TIME if large else contextlib.nullcontext()


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


_BYTES, _INTEGERS, _FLOATS = "8 bits a value", "integers of 16 or 32 bits", "floats"


def _held_values(mode: str) -> str:
    """What the pictures of a mode of Pillow's hold."""
    if mode.startswith("I"):
        return _INTEGERS
    return _FLOATS if mode == "F" else _BYTES


def _header(image: Image.Image) -> tuple[int, int, bool, str]:
    """Height and width as shown, whether the image is grey and its mode, without decoding it."""
    if 0 in image.size:
        raise ValueError(f"it has no pixels: its size is {image.size}")
    grey = image.mode[0] in "1IF" or image.mode in ("L", "LA", "La")
    return *shown_size(image), grey, image.mode


def _decode(
    image: Image.Image, height: int, width: int, channels: int, values: str, resize: str
) -> np.ndarray:
    """One picture as an array (height, width, channels or 1), uint8 or float32."""
    image = resized_picture(_upright(image, channels, values), height, width, resize)
    return np.asarray(image).reshape(height, width, -1)


def _upright(image: Image.Image, channels: int, values: str) -> Image.Image:
    """One picture as shown, of mode "L", "RGB" or, if it holds no bytes, "F"."""
    transparent = image.info.get("transparency")
    image = upright(image)
    if values != _BYTES:
        numbers = np.array(image, dtype=np.float32)
        if not np.isfinite(numbers).all():
            raise ValueError("it contains NaN or infinity")
        if isinstance(transparent, int):
            numbers[numbers == transparent] = _WHITE
        return Image.fromarray(numbers)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)  # which would be a copy


def _blocks(n: int, values_per_image: int) -> list[slice]:
    size = max(1, _BLOCK_VALUES // values_per_image)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _median_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    height, width = np.median(sizes, axis=0)
    return round(height), round(width)
