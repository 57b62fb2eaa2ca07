"""Text that strangers wrote, shown to people.

Names of files, of classes and of sources may hold anything: control characters that steer a
terminal, marks that reverse what follows, half characters that cannot be written at all.
"""

from __future__ import annotations

__all__ = ["ForeignError", "one_line", "printable"]


class ForeignError(OSError):
    """An error whose message may quote a stranger's file; `printable` whatever it quotes."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(printable(a) if isinstance(a, str) else a for a in arguments))


def printable(text: str) -> str:
    """Return text with everything but line breaks that is not printable written as its escape."""
    return "\n".join(map(one_line, text.split("\n")))


def one_line(text: str) -> str:
    """Return text with everything that is not printable, line breaks too, written as its escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
