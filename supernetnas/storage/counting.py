"""How many of what there are, for people."""

from __future__ import annotations

from decimal import Decimal

__all__ = ["counted", "roughly"]


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


def roughly(n: int) -> str:
    """Write a large number in words: "2.1 billion", "1.1 x 10^18"; small ones as they are.

    Parameters
    ----------
    n : int >= 0
    """
    if n < 1_000_000:
        return f"{n:,}"
    if n < 10**15:
        for size, word in ((10**6, "million"), (10**9, "billion"), (10**12, "trillion")):
            if round(n / size, 1) < 1000:
                return f"{n / size:.1f} {word}"
    digits, power = f"{Decimal(n):.1e}".split("e")
    return f"{digits} x 10^{int(power)}"
