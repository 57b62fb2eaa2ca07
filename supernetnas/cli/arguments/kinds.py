"""Kinds of arguments: what reads a text, and says what it should have been."""

from __future__ import annotations

import argparse
import ast
from typing import Any

__all__ = ["count", "image_size", "positive", "positive_float", "setting", "share"]


def count(text: str) -> int:
    """Read a number of things."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def positive(text: str) -> int:
    """Read a number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def positive_float(text: str) -> float:
    """Read a positive number."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def share(text: str) -> float:
    """Read a share below 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0 and less than 1")
    return value


def setting(text: str) -> tuple[str, Any]:
    """Read a parameter's name and value; what is no number, tuple or such is a text."""
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def image_size(text: str) -> str | int | tuple[int, int]:
    """Read one side, both, or "auto"."""
    if text == "auto":
        return text
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is not auto, N or HxW")
    return int(text) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


# What argparse calls a type in "invalid ... value: 'x'".
count.__name__ = positive.__name__ = "int"
share.__name__ = positive_float.__name__ = "float"
