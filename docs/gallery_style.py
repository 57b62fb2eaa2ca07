"""How the pictures of the gallery look: on the white and on the dark page."""

from typing import Any

from matplotlib import rcParams

INK = "#7b7b7b"
"""About as far from the one as from the other."""

STYLE = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.facecolor": "none",
    **dict.fromkeys(
        (
            *("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor"),
            *("xtick.color", "ytick.color", "legend.edgecolor"),
        ),
        INK,
    ),
}


def reset(gallery_conf: dict[str, Any], name: str) -> None:
    """Begin an example with the gallery's style; sphinx-gallery calls it."""
    rcParams.update(STYLE)
