"""How an image of any aspect becomes one of a given size: squeezed, cropped or padded.

All three filter bilinearly with antialiasing. Pictures and arrays go the same way, by Pillow and by
torch, which round differently.
"""

from __future__ import annotations

import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from ..parameters import OneOf

__all__ = ["ASPECTS", "RESIZING", "resized_picture", "resized_tensor", "shrinkage"]

ASPECTS = {"squeeze": "squeezed", "crop": "cropped", "pad": "padded with zeros"}
"""What becomes of images of another aspect, in words."""

RESIZING = OneOf(*ASPECTS)
"""What a parameter ``resize`` may be."""

_BILINEAR = Image.Resampling.BILINEAR


def resized_picture(image: Image.Image, height: int, width: int, resize: str) -> Image.Image:
    """Resize a picture.

    Parameters
    ----------
    image : PIL.Image.Image
        Of mode "L", "RGB" or "F".
    height, width : int
        Size in pixels.
    resize : {"squeeze", "crop", "pad"}
        "squeeze" changes the aspect, "crop" leaves out what is too long, on both sides alike, and
        "pad" adds zeros on both sides, which are black but where values may be negative.
    """
    if resize == "crop":
        return ImageOps.fit(image, (width, height), _BILINEAR)
    if resize == "squeeze":
        return image.resize((width, height), _BILINEAR, reducing_gap=2.0)
    inner_height, inner_width = _inner_size((image.height, image.width), (height, width))
    inner = image.resize((inner_width, inner_height), _BILINEAR)
    padded = Image.new(image.mode, (width, height))
    padded.paste(inner, (round((width - inner_width) / 2), round((height - inner_height) / 2)))
    return padded


def resized_tensor(images: Tensor, height: int, width: int, resize: str) -> Tensor:
    """Resize images of shape (n, channels, h, w), uint8 or float; otherwise as `resized_picture`.

    What "crop" leaves is a whole number of pixels.
    """
    own = images.shape[2], images.shape[3]
    if own == (height, width):
        return images
    if resize == "crop":
        inner_height, inner_width = _inner_size((height, width), own)
        top, left = (own[0] - inner_height) // 2, (own[1] - inner_width) // 2
        images = images[:, :, top : top + inner_height, left : left + inner_width]
    elif resize == "pad":
        inner_height, inner_width = _inner_size(own, (height, width))
        top, left = round((height - inner_height) / 2), round((width - inner_width) / 2)
        bottom, right = height - inner_height - top, width - inner_width - left
        inner = resized_tensor(images, inner_height, inner_width, "squeeze")
        return F.pad(inner, (left, right, top, bottom))
    if images.shape[2:] == (height, width):
        return images
    return F.interpolate(images, size=(height, width), mode="bilinear", antialias=True)


def _inner_size(size: tuple[int, int], within: tuple[int, int]) -> tuple[int, int]:
    """Largest height and width of the aspect of ``size`` that are within others."""
    if size[0] * within[1] >= size[1] * within[0]:  # the height fills what there is
        return within[0], max(1, round(size[1] / size[0] * within[0]))
    return max(1, round(size[0] / size[1] * within[1])), within[1]


def shrinkage(size: tuple[int, int], seen: tuple[int, int], resize: str) -> tuple[float, float]:
    """How images are changed by resizing.

    Parameters
    ----------
    size, seen : tuple of int (height, width)
        Before and after.
    resize : {"squeeze", "crop", "pad"}

    Returns
    -------
    times : float
        How many times smaller they become, along the side that shrinks most.
    aspect : float, at least 1
        How many times height against width, or width against height, is another.
    """
    by_height, by_width = size[0] / seen[0], size[1] / seen[1]
    if resize == "crop":
        return min(by_height, by_width), 1.0
    if resize == "pad":
        return max(by_height, by_width), 1.0
    least, most = sorted((by_height, by_width))
    return most, most / least
