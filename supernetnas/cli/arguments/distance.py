"""The arguments of ``supernetnas distance``."""

from __future__ import annotations

import argparse
from typing import Any

from .shared import add_command, add_device, add_embedder

__all__ = ["add_distance"]

_DISTANCE = """\
Measure how far datasets are from each other, labels included (optimal transport
dataset distance of the features of a frozen network), and rank them.

A and B are folders of class folders, .npz files, or names of sources of the
zoo. Without B, A is compared with every source of the zoo, or, in a zoo of more
than 50, with the 20 that are likely to be nearest.
"""

_DISTANCE_EPILOG = """\
examples:
  supernetnas distance flowers                      # which source is nearest?
  supernetnas distance flowers --plot distances.png
  supernetnas distance flowers --coupling classes.png --heatmap zoo.png
  supernetnas distance flowers butterflies birds    # your own datasets
  supernetnas distance flowers cifar10              # a source of the builtin zoo
"""


def add_distance(commands: Any) -> None:
    """Add the command."""
    _add_distance(
        add_command(
            commands,
            "distance",
            "rank datasets by their distance",
            "distances:distance",
            description=_DISTANCE,
            epilog=_DISTANCE_EPILOG,
        )
    )


def _add_distance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="dataset or source")
    parser.add_argument("b", metavar="B", nargs="*", help="what to compare it with")
    parser.add_argument(
        "--zoo", default="builtin", help="whose sources are meant (default: %(default)s)"
    )
    add_embedder(parser)
    parser.add_argument("--plot", metavar="FILE", help="draw the ranking (.png, .svg, .pdf, ...)")
    parser.add_argument(
        "--heatmap", metavar="FILE", help="draw the distances between all of them, in pairs"
    )
    parser.add_argument(
        "--coupling", metavar="FILE", help="draw which classes of A go to which of the nearest B"
    )
    parser.add_argument(
        "--classes", action="store_true", help="print that for the largest share of each class"
    )
    add_device(parser)
