"""Colours that follow matplotlib's style, light or dark, and contrast with what is behind them.

Contrast is that of the Web Content Accessibility Guidelines 2.2: from 1 to 21.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Palette", "contrast", "legible_on"]

Colour = tuple[float, float, float]

_LEAST = 3.0  # contrast of lines and large signs
_BLACK, _WHITE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Palette:
    """Colours for what is drawn on axes.

    Attributes
    ----------
    paper : tuple of float
        What is behind all.
    ink : tuple of float
        Of texts, by the style's ``text.color``.
    accent : tuple of float
        Of what matters, by the first colour of the style's ``axes.prop_cycle``.
    """

    paper: Colour
    ink: Colour
    accent: Colour

    @classmethod
    def of(cls, ax: Any) -> Palette:
        """Return the colours for axes, in the style that is in force."""
        import matplotlib as mpl
        from matplotlib.colors import to_rgb

        paper = _paper(ax)
        ink = to_rgb(mpl.rcParams["text.color"])
        if contrast(ink, paper) < _LEAST:  # as of a light picture within a dark one
            ink = legible_on(paper)
        colours = mpl.rcParams["axes.prop_cycle"].by_key().get("color", [ink])
        return cls(paper, ink, _visible(colours[0], paper, ink))

    def visible(self, colour: Any) -> Colour:
        """Return a colour, nearer to the ink if it would hardly be seen on the paper."""
        return _visible(colour, self.paper, self.ink)

    @property
    def muted(self) -> Colour:
        """Of lines that matter less."""
        return _mixed(self.paper, self.ink, 0.55)

    @property
    def pale(self) -> Colour:
        """Of areas that do not matter."""
        return _mixed(self.paper, self.ink, 0.3)

    @property
    def shade(self) -> Colour:
        """Of backgrounds that set something apart."""
        return _mixed(self.paper, self.ink, 0.07)

    def ramp(self, *, falling: bool = False) -> Any:
        """Colours from the paper to the accent and on towards the ink, or the other way."""
        from matplotlib.colors import LinearSegmentedColormap

        stops = [
            _mixed(self.paper, self.accent, 0.04),
            _mixed(self.paper, self.accent, 0.5),
            self.accent,
            _mixed(self.accent, self.ink, 0.45),
        ]
        return LinearSegmentedColormap.from_list("ramp", stops[::-1] if falling else stops)


def contrast(one: Any, other: Any) -> float:
    """Contrast of two colours, from 1 to 21."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def legible_on(colour: Any) -> Colour:
    """Black or white, whichever can be read on a colour."""
    return max(_BLACK, _WHITE, key=lambda ink: contrast(ink, colour))


def _visible(colour: Any, paper: Colour, ink: Colour) -> Colour:
    from matplotlib.colors import to_rgb

    seen = to_rgb(colour)
    while contrast(seen, paper) < _LEAST:
        seen = _mixed(seen, ink, 0.2)
    return seen


def _luminance(colour: Any) -> float:
    from matplotlib.colors import to_rgb

    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _paper(ax: Any) -> Colour:
    """Colour behind the drawing: of the axes over that of the figure over white."""
    from matplotlib.colors import to_rgba

    paper: Colour = _WHITE
    for layer in (ax.figure.canvas.figure, ax.figure, ax):
        *colour, opacity = to_rgba(layer.get_facecolor())
        paper = _mixed(paper, (colour[0], colour[1], colour[2]), opacity)
    return paper


def _mixed(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = ((1 - share) * a + share * b for a, b in zip(one, other, strict=True))
    return red, green, blue
