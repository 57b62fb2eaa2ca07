"""What the displays share: the import of matplotlib, access to a fitted estimator, names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ..storage.foreign_text import one_line

__all__ = ["PLAIN", "fitted_attribute", "full_names", "import_pyplot", "short_names", "shown"]

PLAIN: dict[str, Any] = {"parse_math": False}
"""Of a text that is a name: dollar signs in it enclose no formula."""

_LONGEST = 60  # letters of a name


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


def short_names(names: Sequence[Any], longest: int) -> list[str]:
    """Shorten names to a number of letters, so that different names stay different.

    What is left out is in the middle, since names differ at their ends. Where that makes two
    names the same, it is what all long names begin and end with; if they still are, they are
    numbered.
    """
    texts = [one_line(str(name)) for name in names]
    short = [_shortened(text, longest) for text in texts]
    if len(set(short)) < len(set(texts)):
        short = [_shortened(text, longest) for text in _distinctive(texts, longest)]
    counts: dict[str, int] = {}
    for text, name in dict(zip(texts, short, strict=True)).items():
        if name != text:
            counts[name] = counts.get(name, 0) + 1
    seen: dict[str, int] = {}
    numbered: dict[str, str] = {}
    for text, name in zip(texts, short, strict=True):
        if counts.get(name, 0) > 1 and text not in numbered and name != text:
            seen[name] = seen.get(name, 0) + 1
            end = f"~{seen[name]}"
            numbered[text] = name[: max(longest - len(end), 1)] + end
    return [numbered.get(text, name) for text, name in zip(texts, short, strict=True)]


def full_names(short: Sequence[str], names: Sequence[Any]) -> dict[str, str]:
    """Full names of those that `short_names` has shortened."""
    pairs = zip(short, map(str, names), strict=True)
    return {text: name for text, name in pairs if text != one_line(name)}


def _distinctive(texts: Sequence[str], longest: int) -> list[str]:
    """Leave out what all names that are too long begin and end with."""
    long = {text for text in texts if len(text) > longest}
    start = _n_common(long)
    end = _n_common([text[start:][::-1] for text in long])
    parts = {text: text[start : len(text) - end].strip() for text in long}
    if not all(parts.values()):
        return list(texts)
    before, after = "…" * bool(start), "…" * bool(end)
    return [f"{before}{parts[text]}{after}" if text in parts else text for text in texts]


def _n_common(texts: Collection[str]) -> int:
    """Letters that all begin with."""
    columns = enumerate(zip(*texts, strict=False))
    return next((n for n, column in columns if len(set(column)) > 1), min(map(len, texts)))


def _shortened(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    if longest < 4:
        return text[:longest]
    end = (longest - 1) // 3
    return f"{text[: longest - 1 - end]}…{text[len(text) - end :]}"


def fitted_attribute(estimator: Any, name: str) -> Any:
    """Return an attribute of a fitted estimator; NotFittedError if it is not fitted."""
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(estimator)
    return getattr(estimator, name)
