"""What a library says, in the words of whoever uses the command: options, not parameters."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping

__all__ = ["in_options", "options_of"]

_PART_OF = {"Retraining": "retraining", "Cells": "family", "Elastic": "family", "Paths": "family"}
_OWNER = re.compile(r"[Tt]he '(\w+)' parameter of (\w+)")
_PLACE = re.compile(r"\bX\[\d+\] = ")  # an image that has a path needs no number


def options_of(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Return the options of a command by the names that it stores their values under."""
    return {
        action.dest: action.option_strings[-1]
        for action in parser._actions
        if action.option_strings and action.dest != "help"
    }


def in_options(message: str, options: Mapping[str, str]) -> str:
    """Write the options of a command in place of the parameters that they set.

    Parameters
    ----------
    message : str
        An error or a warning.
    options : mapping of str to str
        What `options_of` returned. A parameter without an option of its own is set by ``--set``,
        if there is that.
    """
    settable = "set" in options
    nested = any("__" in name for name in options)  # else --set takes those of one part

    def owned(match: re.Match[str]) -> str:
        name, owner = match.groups()
        if owner != "SupernetTransferClassifier" and nested:
            name = f"{_PART_OF.get(owner, 'search')}__{name}"
        if name in options:
            return options[name]
        return f"--set {name}=..." if settable else match.group()

    message = _PLACE.sub("", _OWNER.sub(owned, message))
    names = {name: option for name, option in options.items() if name != "set"}
    if settable:
        names.setdefault("batch_size", "--set batch_size=...")
    for name, option in names.items():
        start = rf"(?<![\w/\\.'\"-]){name}"
        message = re.sub(rf"{start}=True\b", option, message)
        message = re.sub(rf"{start}=(?:'([^']*)'|(?=\w))", rf"{option} \1", message)
        if "_" in name:  # a word of its own; "search" and "zoo" are words of the language
            message = re.sub(rf"{start}(?![\w/\\'\"=-]|\.\w)", option, message)
    if "skip_unreadable" in options and re.search(r"\d+ of \d+ images cannot be read\.", message):
        message = message.removesuffix(".")  # that of another library, perhaps
        message += f". {options['skip_unreadable']} leaves out what cannot be read."
    return message
