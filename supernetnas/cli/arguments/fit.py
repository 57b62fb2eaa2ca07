"""The arguments of ``supernetnas fit``."""

from __future__ import annotations

import argparse
from typing import Any

from ...selection.strategies import STRATEGIES
from .kinds import count, image_size, positive, positive_float, setting, share
from .shared import add_command, add_device, add_embedder, add_skipping

__all__ = ["add_fit"]

_FIT = """\
Search an architecture for the images of a folder, train it, and save it.

DATA is a folder of class folders, or an .npz file with the arrays X (uint8;
n, height, width, channels), y (integers) and classes (names). A fifth of the
images is held out of the whole fit to measure the network; --test-fraction 0
uses all. MODEL/held_out.csv lists them, with what was predicted, and the card
MODEL/README.md has the accuracy.
"""

_FIT_EPILOG = """\
strategies (what the search starts from):
{strategies}
  NAME     start from the source of this name, see `supernetnas zoo list`

examples:
  supernetnas fit flowers --out flower-model
  supernetnas fit flowers --out flower-model --strategy ot --time-limit 120
  supernetnas fit flowers --out flower-model --zoo my-zoo --image-size 64
  supernetnas fit flowers --out quick --preset quick
  supernetnas fit flowers --out other --search drnas --set search__patience=2
"""


def add_fit(commands: Any) -> None:
    """Add the command."""
    _add_fit(
        add_command(
            commands,
            "fit",
            "search and train a network for the images of a folder",
            "fitting:fit",
            description=_FIT,
            epilog=_FIT_EPILOG.format(strategies=_strategies()),
        )
    )


def _add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="folder of class folders, or an .npz file")
    parser.add_argument(
        "--out",
        metavar="MODEL",
        required=True,
        help="folder to save the model in; replaced if it holds a saved model",
    )
    parser.add_argument(
        "--strategy",
        default="auto",
        help="what the search starts from, see below (default: %(default)s)",
    )
    parser.add_argument(
        "--zoo",
        default="builtin",
        help="folder of a zoo, or org/name on the Hub (default: %(default)s)",
    )
    add_embedder(parser)
    parser.add_argument(
        "--image-size",
        metavar="SIZE",
        type=image_size,
        default="auto",
        help="N or HxW pixels that the network sees (default: of cells the size of the images "
        "within 8 to 32; of elastic networks 128; of paths within 32 to 64); by default cells see "
        "fewer where --max-macs asks for it",
    )
    parser.add_argument(
        "--resize",
        choices=("squeeze", "crop", "pad"),
        default="squeeze",
        help="what becomes of images of another aspect (default: %(default)s)",
    )
    parser.add_argument(
        "--preset",
        choices=("quick", "default", "best"),
        default="default",
        help="quick: a third of the epochs of the final training; best: three times as many "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--search",
        metavar="METHOD",
        default="auto",
        help="of cells none, sdarts, darts, darts2, pc_darts, drnas, gdas, evolution, shifting, "
        "random, random_search; of elastic networks probe, front, random or evolution; of paths "
        "evolution, shifting or random (default: %(default)s, the first of these; sdarts with "
        "scratch and oracle of cells)",
    )
    parser.add_argument(
        "--search-epochs",
        metavar="N",
        dest="search__epochs",
        type=int,
        help="most epochs of a search of cells, by default of sdarts (default: 6)",
    )
    parser.add_argument(
        "--retrain-epochs",
        metavar="N",
        dest="retraining__epochs",
        type=int,
        help="epochs of the final training; under limits elastic networks have as many again or "
        "more, of what the largest teaches (default: cells: 30, 15 from random weights; "
        "elastic: 25; paths: 45, 15 from random weights)",
    )
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        type=setting,
        help="any parameter of SupernetTransferClassifier, such as search__patience=2, "
        "family__network_cells=8 or batch_size=32; repeat it for several",
    )
    parser.add_argument(
        "--time-limit", metavar="SECONDS", type=float, help="most seconds that the fit may take"
    )
    parser.add_argument(
        "--max-macs",
        metavar="N",
        type=positive,
        help="most multiply-accumulates that the network may need for one image",
    )
    parser.add_argument(
        "--max-parameters", metavar="N", type=positive, help="most parameters of the network"
    )
    parser.add_argument(
        "--max-latency",
        metavar="SECONDS",
        type=positive_float,
        help="most seconds that the network takes here for one image",
    )
    parser.add_argument(
        "--checkpoint-dir",
        metavar="FOLDER",
        help="keep checkpoints there, and go on from them when the same command is run again",
    )
    parser.add_argument(
        "--class-weight",
        choices=("none", "balanced"),
        default="none",
        help="balanced: rare classes count as much as frequent ones (default: %(default)s)",
    )
    add_skipping(parser)
    parser.add_argument(
        "--test-fraction",
        metavar="SHARE",
        type=share,
        default=0.2,
        help="share of each class that is held out to measure accuracy (default: %(default)s)",
    )
    add_device(parser)
    parser.add_argument(
        "--seed", type=count, default=0, help="of everything random (default: %(default)s)"
    )


def _strategies() -> str:
    return "\n".join(f"  {s.name:<8} {s.meaning}" for s in STRATEGIES.values())
