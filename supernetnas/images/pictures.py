"""Image files of strangers: which are opened, how large they may be, and which way is up.

Pillow tries every format that it knows, whatever a file is called, and for some of them, such as
EPS, it starts other programs. Here a file is tried for a few formats only, it must be a regular
file, since a pipe never ends, and its header must not ask for too many pixels.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Callable
from functools import cache
from typing import IO

from PIL import Image, ImageOps, UnidentifiedImageError, features

__all__ = ["IMAGE_EXTENSIONS", "open_picture", "shown_size", "upright"]

_EXTENSIONS = {
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jfif", ".jpe", ".jpeg", ".jpg"),
    "JPEG2000": (".j2k", ".jp2", ".jpx"),
    "PNG": (".png",),
    "PPM": (".pbm", ".pgm", ".pnm", ".ppm"),
    "TGA": (".tga",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
_OPTIONAL = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # parts of Pillow

IMAGE_EXTENSIONS = tuple(sorted(name for names in _EXTENSIONS.values() for name in names))
"""What the names of image files end with."""

_ORIENTATION = 0x0112  # in EXIF
_TURNED = (5, 6, 7, 8)  # orientations that exchange height and width
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_METADATA = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # in texts of PNG


def open_picture(source: str | bytes) -> Image.Image:
    """Open an image by its path or its content, without decoding it.

    Parameters
    ----------
    source : str or bytes
        A path, or what an image file holds. The format follows from the content, not from the
        name, apart from TGA, which has no mark of its own.

    Raises
    ------
    OSError
        If there is no such file, it is not a regular one, or of none of the formats.
    PIL.Image.DecompressionBombError
        If it has more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    suffix = "" if isinstance(source, bytes) else os.path.splitext(source)[1].lower()
    # Before it is opened, because opening a pipe waits for somebody who writes.
    if not isinstance(source, bytes) and not stat.S_ISREG(os.stat(source).st_mode):
        raise OSError("it is not a regular file but a folder, a pipe or a device")
    formats = [name for name in _readable() if name != "TGA" or suffix in _EXTENSIONS["TGA"]]
    try:
        image = Image.open(
            io.BytesIO(source) if isinstance(source, bytes) else source, "r", formats
        )
    except UnidentifiedImageError:
        what = "it is"
        if isinstance(source, bytes):
            what = "paths are passed as str, and these bytes are"
        raise UnidentifiedImageError(_unknown(what, suffix, formats)) from None
    except Image.DecompressionBombError as error:
        raise _too_large(str(error)) from None
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and (n_pixels := image.width * image.height) > limit:
        image.close()
        raise _too_large(f"it has {n_pixels:,} pixels, and more than {limit:,} are not decoded")
    return image


@cache
def _readable() -> tuple[str, ...]:
    """Those of the formats that the installed Pillow reads."""
    Image.init()
    return tuple(
        name
        for name in _EXTENSIONS
        if name in Image.OPEN and (name not in _OPTIONAL or features.check(_OPTIONAL[name]))
    )


def _unknown(what: str, suffix: str, formats: list[str]) -> str:
    for name, suffixes in _EXTENSIONS.items():
        if suffix in suffixes and name not in _readable():
            return f"the installed Pillow does not read {name}; a newer one may"
    return f"{what} not an image of the formats that are read ({', '.join(formats)})"


def _too_large(what: str) -> Image.DecompressionBombError:
    return Image.DecompressionBombError(
        f"{what}. Make it smaller; or, if you trust the file, raise PIL.Image.MAX_IMAGE_PIXELS"
    )


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Height and width of what `upright` gives, from the header alone wherever that says it."""
    width, height = image.size
    tags = getattr(image, "tag_v2", {})  # of TIFF
    if _ORIENTATION in tags:  # until it is decoded; some versions of Pillow have turned the size
        width, height = tags[_TIFF_WIDTH], tags[_TIFF_HEIGHT]
    # Pillow's own for PNG decodes the image to look behind it.
    early = image.format == "PNG" and not _has_late_metadata(getattr(image, "fp", None))
    orientation = _orientation(image, Image.Image.getexif if early else type(image).getexif)
    return (width, height) if orientation in _TURNED else (height, width)


def _orientation(
    image: Image.Image, getexif: Callable[[Image.Image], Image.Exif] = lambda image: image.getexif()
) -> int:
    """Which way an image lies; upright where the data that say it are damaged."""
    try:
        return getexif(image).get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, struct.error):
        return 1


def upright(image: Image.Image) -> Image.Image:
    """The decoded image as its EXIF or XMP data says that it is to be shown; may be `image`."""
    image.load()
    if _orientation(image) == 1:
        return image
    return ImageOps.exif_transpose(image)


def _has_late_metadata(file: IO[bytes] | None) -> bool:
    """Whether a PNG file has EXIF or XMP data behind its pixels. A decoded one, None, is read."""
    if file is None:
        return False
    before, behind = file.tell(), False
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            behind = behind or kind == b"IDAT"
            if behind and kind == b"eXIf":
                return True
            start = file.tell()
            if behind and kind in (b"iTXt", b"tEXt", b"zTXt"):
                if file.read(min(length, 32)).startswith(_METADATA):
                    return True
            elif kind == b"IEND":
                return False
            file.seek(start + length + 4)
        return False
    finally:
        file.seek(before)
