"""How many of what there are, for people."""

from __future__ import annotations

__all__ = ["counted"]


def counted(n: int, one: str, many: str | None = None) -> str:
    """Write a number with what it counts: "1 image", "40,772 images".

    Parameters
    ----------
    n : int
    one : str
        The word for one of them.
    many : str, optional
        The word for more; by default with an "s".
    """
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"
