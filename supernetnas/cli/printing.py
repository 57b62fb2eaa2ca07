"""Tables for a terminal."""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..storage.foreign_text import printable

__all__ = ["HarmlessFormatter", "as_json", "fields", "progress_shown", "table"]


class HarmlessFormatter(logging.Formatter):
    """Writes log records without anything that could steer the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def as_json(value: Any) -> str:
    """Write JSON for people, with escapes for what is not printable."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)


def table(head: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """Align rows in columns under a head; numbers to the right, and their points as well."""
    body = [list(row) for row in rows]
    formats = [_format([row[column] for row in body]) for column in range(len(head))]
    lines = [
        [
            format(value, spec) if isinstance(value, float) else _text(value)
            for value, spec in zip(row, formats, strict=True)
        ]
        for row in [head, *body]
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    right = [any(_is_number(row[column]) for row in body) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def fields(pairs: Iterable[tuple[str, Any]]) -> str:
    """Align names and values, a line each; what is None is left out.

    On a terminal long values are continued under their column, but for paths, to be copied.
    """
    shown = [(_text(name), value) for name, value in pairs if value is not None]
    indent = max(len(name) for name, _ in shown) + 2
    lines = [f"{name.ljust(indent)}{_text(value)}" for name, value in shown]
    if sys.stdout.isatty():
        width = max(shutil.get_terminal_size().columns, indent + 20)
        wrapper = textwrap.TextWrapper(
            width,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines = [
            line if isinstance(value, Path) else wrapper.fill(line)
            for line, (_, value) in zip(lines, shown, strict=True)
        ]
    return "\n".join(lines)


def progress_shown(quiet: bool) -> bool:
    """Whether to draw progress bars: on a terminal, unless it is to be quiet."""
    return not quiet and sys.stderr.isatty()


def _text(value: Any) -> str:
    """What is shown of a value; a stranger's text cannot steer the terminal."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return "".join(c if c.isprintable() else " " for c in str(value))


def _format(values: Iterable[Any]) -> str:
    """Format of a column of numbers: as many decimals for all, unless that hid the small ones."""
    sizes = [abs(v) for v in values if isinstance(v, float) and math.isfinite(v) and v]
    if not sizes or min(sizes) < max(sizes) / 1000:
        return ".4g"
    return f".{max(0, 3 - math.floor(math.log10(max(sizes))))}f"


def _escaped(character: str) -> str:
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
