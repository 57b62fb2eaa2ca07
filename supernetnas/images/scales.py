"""What numbers the pixels of images are, and whether later images hold the same ones.

A pixel is a number, whatever its type: 200 as uint8 is 200 as float. What scale the numbers are on
cannot be read off their type, so it is taken from the images of a fit: their range, and the range
that nearly every single one of them reaches. Later images are compared with it both ways. Values
far beyond it are on another scale; so are values that stay within a small part of it, unless they
are few images, which may be dark.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Scale",
    "ScaleCheck",
    "eight_bit_range",
    "reaches_pixels",
    "usual_scale",
    "values_held_by",
]

_SCALES = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))  # that pixels usually have
_DIM = 64  # 8-bit values that stay below count as data on a scale of their own

_FARTHEST = 4  # times the range of the fit that a value may lie beyond it
_FARTHEST_8_BIT = 1  # the same for 8-bit images where the fit had none: their type is a hint
_NEGATIVE = 1 / 4  # share of the range that a value may lie below 0 where the fit had none
_SMALLEST = 1 / 8  # share of what an image of the fit reaches that is no longer just dark
_SIGNED = 1 / 8  # share of the range by which images of the fit lie below 0 if they are signed
_FRACTIONS = 8  # fractions up to 1 are on another scale than images that reach this
_MANY = 10  # images that are not all exceptions
_USUAL = 0.99  # share of the images of the fit that reach the usual range


def eight_bit_range(greatest: float) -> tuple[float, float]:
    """The scale of 8-bit values: that of pixels, or their own if they stay far below it."""
    return 0.0, greatest if 0 < greatest < _DIM else 255.0


def usual_scale(low: float, high: float, reached: float = _DIM / 255) -> tuple[float, float]:
    """The scale that pixels from low to high are on, so that a picture is the same on each.

    It is 0 to 255, 0 to 1 or -1 to 1 where they lie within it and the brightest reaches as much of
    it; otherwise their own. Of -1 to 1 some have to be dark, too.
    """
    for first, last in _SCALES:
        bright = high >= first + reached * (last - first)
        if first <= low and high <= last and bright and low <= (first / 2 or high):
            return first, last
    return low, high


def reaches_pixels(greatest: float) -> bool:
    """Whether 8-bit values are pixels from 0 to 255 for certain."""
    return greatest >= _DIM


def values_held_by(dtype: np.dtype) -> tuple[float, float] | None:
    """Least and greatest value of an integer type or bool; None for floats."""
    if dtype.kind == "b":
        return 0.0, 1.0
    if dtype.kind in "iu":
        return float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
    return None


@dataclass(frozen=True)
class Scale:
    """The numbers that the images of a fit hold.

    Attributes
    ----------
    eight_bit : bool
        Whether they are of 8 bits.
    value_range : tuple of float (low, high)
        Least and greatest value.
    usual_range : tuple of float (low, high)
        Of a hundred images, 99 have a value of at most ``low``, and 99 one of at least ``high``.
    """

    eight_bit: bool
    value_range: tuple[float, float]
    usual_range: tuple[float, float]

    @classmethod
    def of(cls, blocks: Iterable[Tensor]) -> Scale:
        """Measure images that come in blocks of shape (b, channels, height, width)."""
        limits = []
        eight_bit = True
        for block in blocks:
            eight_bit = block.dtype == torch.uint8
            limits.append(torch.stack(block.flatten(1).aminmax(dim=1)).double())
        least, greatest = torch.cat(limits, dim=1).numpy()
        return cls(
            eight_bit,
            (float(least.min()), float(greatest.max())),
            (
                float(np.quantile(least, _USUAL, method="higher")),
                float(np.quantile(greatest, 1 - _USUAL, method="lower")),
            ),
        )


class ScaleCheck:
    """Compares images, block by block, with those of a fit.

    Parameters
    ----------
    fitted : Scale
        Of the fit.
    held : tuple of float (low, high) or None
        What the integer type of the images could hold; None for floats.
    """

    def __init__(self, fitted: Scale, held: tuple[float, float] | None) -> None:
        self._fitted = fitted
        self._held = held
        self._low, self._high = np.inf, -np.inf  # of all images so far
        self._count = 0

    def see(self, pixels: Tensor) -> None:
        """Take notice of the next block, of shape (b, channels, height, width).

        Raises
        ------
        ValueError
            If the values so far are on another scale than the fit's.

        Warns
        -----
        UserWarning
            If there are only a few images, so that these may be exceptions instead.
        """
        low, high = (float(value) for value in torch.aminmax(pixels))
        self._low, self._high = min(self._low, low), max(self._high, high)
        self._count += len(pixels)
        eight_bit = pixels.dtype == torch.uint8
        if self._impossible(eight_bit) or self._fractions(pixels):
            raise ValueError(self._message(eight_bit))
        if self._unlikely():
            usual_low, usual_high = self._fitted.usual_range
            message = (
                f"X holds values from {self._low:g} to {self._high:g} only, but nearly every image "
                f"that the classifier was fitted on reaches from {usual_low:g} to {usual_high:g}. "
                "Pass images on that scale."
            )
            if self._count >= _MANY:
                raise ValueError(message)
            warnings.warn(message, UserWarning, stacklevel=6)

    def _impossible(self, eight_bit: bool) -> bool:
        """Whether values lie where those of the fit cannot, or their type has no room for them."""
        low, high = self._fitted.value_range
        if self._held is not None:
            middle = (low + high) / 2
            if self._held[1] < middle or self._held[0] > middle:
                return True
        if self._fitted.eight_bit and (self._low < -0.5 or self._high > 255.5):
            return True  # resizing may overshoot by a rounding error
        far = _FARTHEST_8_BIT if eight_bit and not self._fitted.eight_bit else _FARTHEST
        below = _FARTHEST if low < 0 else _NEGATIVE
        width = high - low
        return self._high > high + far * width or self._low < low - below * width

    def _fractions(self, pixels: Tensor) -> bool:
        """Whether there are fractions from 0 to 1 only, and the fit went far beyond 1."""
        if self._held is not None or self._low < 0 or self._high > 1:
            return False
        fitted = self._fitted
        far = fitted.eight_bit and fitted.value_range[1] > 1
        if not far and fitted.usual_range[1] <= _FRACTIONS:
            return False
        return not torch.equal(pixels.round(), pixels)

    def _unlikely(self) -> bool:
        """Whether no image reaches what nearly every image of the fit does."""
        low, high = self._fitted.value_range
        usual_low, usual_high = self._fitted.usual_range
        reach = usual_high - low
        if reach > 0 and self._low < self._high and self._high - low < _SMALLEST * reach:
            return True
        return self._low >= 0 > usual_low + _SIGNED * (high - low)

    def _message(self, eight_bit: bool) -> str:
        low, high = self._fitted.value_range
        values = f"values from {self._low:g} to {self._high:g}"
        if self._fitted.eight_bit and reaches_pixels(high):
            return (
                f"X holds {values}, but the classifier was fitted on 8-bit images. Pass values of "
                "0 to 255."
            )
        if self._high > high and self._low >= low:
            values = f"values up to {self._high:g}"
        kind = "8-bit images with " if eight_bit else ""
        return (
            f"X holds {kind}{values}, but the classifier was fitted on values from {low:g} to "
            f"{high:g}. Pass images on that scale."
        )
