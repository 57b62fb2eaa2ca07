"""What the displays share: colours, the import of matplotlib, access to a fitted estimator."""

from __future__ import annotations

from typing import Any

__all__ = ["ACCENT", "INK", "MUTED", "PALE", "SHADE", "fitted_attribute", "import_pyplot", "shown"]
from ..storage.foreign_text import one_line

PLAIN: dict[str, Any] = {"parse_math": False}
"""Of a text that is a name: dollar signs in it enclose no formula."""

_LONGEST = 60  # letters of a name

INK = "#24292f"
MUTED = "#8b96a1"
PALE = "#b9c4d0"
SHADE = "#eef1f4"
ACCENT = "#1f5fa8"


def import_pyplot() -> Any:
    """Import ``matplotlib.pyplot``, or say how to install it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            'Drawing needs matplotlib. Install it with: pip install "supernetnas[plot]"'
        ) from error
    return plt


def shown(name: Any) -> str:
    """Return a name, which may be a stranger's, on one line that a picture can hold."""
    text = one_line(str(name)[: _LONGEST + 1])
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def fitted_attribute(estimator: Any, name: str) -> Any:
    """Return an attribute of a fitted estimator; NotFittedError if it is not fitted."""
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(estimator)
    return getattr(estimator, name)
