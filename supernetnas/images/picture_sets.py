"""Images that are files, bytes of files or PIL images, decoded as they are needed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .pictures import open_picture, shown_size, upright
from .resizing import resized_picture
from .scales import eight_bit_range, reaches_pixels, usual_scale, values_held_by
from .sets import ImageSet, median_size

__all__ = ["PictureImages"]

_WHITE = 65535.0  # of grey pictures of more than 8 bits: what their transparent parts are shown on
_BLOCK_FILES = 1024  # handed to the threads at a time: a waiting call takes a kilobyte or two
_LARGE_PIXELS = 1 << 25  # from here on images are decoded one at a time, for the memory
_ONE_AT_A_TIME = threading.Lock()


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
        return median_size([header[:2] for header in self._headers])

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
