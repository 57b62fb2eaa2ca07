"""What the arguments of several commands have in common."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = [
    "Parser",
    "add_command",
    "add_device",
    "add_embedder",
    "add_model",
    "add_skipping",
    "messages",
]


class Parser(argparse.ArgumentParser):
    """A parser that keeps the line breaks of its texts and takes no abbreviations."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs = {"formatter_class": argparse.RawDescriptionHelpFormatter, **kwargs}
        super().__init__(allow_abbrev=False, **kwargs)


def messages() -> argparse.ArgumentParser:
    """Options of every command, before or after its name; a new parser for each that takes them.

    Without defaults, for those of the inner parser would replace what the outer one has read.
    """
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = common.add_argument_group("messages")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
    group.add_argument("-v", "--verbose", action="count", help="log what is done; -vv logs more")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return common


def add_command(to: Any, name: str, summary: str, handler: str | None, **kwargs: Any) -> Parser:
    """Add a command, which "module:function" runs; returns the parser of its arguments."""
    kwargs = {"description": f"{summary[0].upper()}{summary[1:]}.", **kwargs}
    command = to.add_parser(name, help=summary, parents=[messages()], **kwargs)
    command.set_defaults(handler=handler, parser=command)
    return command


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the model that a command is about."""
    parser.add_argument("model", metavar="MODEL", help="what `supernetnas fit` wrote, or org/name")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add where networks run."""
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N (default: a GPU if there is one)",
    )


def add_embedder(parser: argparse._ActionsContainer) -> None:
    """Add what images are embedded with."""
    parser.add_argument(
        "--embedder",
        metavar="NAME",
        default="efficientnet_lite0",
        help=(
            "frozen network whose features are compared; the zoo's must be the same (default: "
            "%(default)s)"
        ),
    )


def add_skipping(parser: argparse.ArgumentParser) -> None:
    """Add whether images that cannot be read are left out."""
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out images that cannot be read, and list them",
    )
