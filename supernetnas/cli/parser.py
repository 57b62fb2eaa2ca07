"""The arguments of the command, and its help."""

from __future__ import annotations

import argparse

from ..version import __version__
from .arguments.distance import add_distance
from .arguments.fit import add_fit
from .arguments.models import add_model_commands
from .arguments.shared import Parser, messages
from .arguments.zoo import add_zoo_commands

__all__ = ["build_parser"]

_DESCRIPTION = """\
Find a small convolutional network for your images: the search for its
architecture starts from a supernet that was pretrained on other images.
"""

_EPILOG = """\
Begin with a folder that holds one folder of images per class
(flowers/rose/1.jpg, flowers/tulip/1.jpg, ...):

  supernetnas fit flowers --out flower-model
  supernetnas predict flower-model unknown.jpg

What the search can start from, and how near your images are to each of it:

  supernetnas zoo list
  supernetnas distance flowers

`supernetnas COMMAND --help` explains a command and shows examples.
Exit status: 0 success, 2 wrong usage or input, 130 interrupted, 1 other errors.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser.

    What it parses has ``handler``, "module:function" of what runs the command, or None where a
    command is missing.
    """
    parser = Parser(
        prog="supernetnas", description=_DESCRIPTION, epilog=_EPILOG, parents=[messages()]
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.set_defaults(
        handler=None,
        parser=parser,
        debug=False,
        quiet=False,
        verbose=0,
        interrupted="nothing was written.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    add_fit(commands)
    add_model_commands(commands)
    add_zoo_commands(commands)
    add_distance(commands)
    return parser
