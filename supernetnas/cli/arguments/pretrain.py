"""The arguments of ``supernetnas zoo pretrain``."""

from __future__ import annotations

import argparse
from typing import Any

from .kinds import count, positive, positive_float, setting
from .shared import add_command, add_embedder

__all__ = ["add_pretrain"]

_PRETRAIN = """\
Pretrain a supernet on each dataset and one on all together, and write a zoo.

DATA is a folder of class folders; an .npz file with the arrays X (uint8; n,
height, width, channels), y (integers) and classes (names); or a folder of such
files. An album.json beside .npz files says where their images come from:

  {"datasets": [{"file": "flowers.npz", "upstream": "name of the collection",
                 "licence": "as its source states it", "source": "URL"}]}

Of the family elastic there is one supernet alone: EfficientNet-Lite0 with its
ImageNet weights, which teaches smaller networks on the images of all datasets
together, without labels. --steps and --min-epochs are not for it. Of the family
paths a step trains one random path of the supernet.

Interrupt it whenever you like: the same command goes on where it stopped, and
every finished source is in the zoo already.
"""

_PRETRAIN_EPILOG = """\
examples:
  supernetnas zoo pretrain flowers butterflies --out my-zoo
  supernetnas zoo pretrain album/ --out my-zoo --dtype float16 --compact
  supernetnas zoo pretrain album/ --out quick-zoo --steps 50 --no-multi
  supernetnas zoo pretrain album/ --out better-zoo --warm-start quick-zoo
  supernetnas zoo pretrain album/ --out my-zoo --family elastic --dtype float16
  supernetnas zoo pretrain album/ --out my-zoo --family paths --no-singles
  supernetnas zoo pretrain album/ --out my-zoo --jobs 4 --threads 1
  supernetnas fit mushrooms --out model --zoo my-zoo --strategy ot
"""


def add_pretrain(commands: Any) -> None:
    """Add the command."""
    _add_pretrain(
        add_command(
            commands,
            "pretrain",
            "pretrain supernets on your own datasets",
            "zoos:pretrain",
            description=_PRETRAIN,
            epilog=_PRETRAIN_EPILOG,
        )
    )


def _add_pretrain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", nargs="+", help="datasets, see above")
    parser.add_argument("--out", metavar="ZOO", required=True, help="folder of the zoo")
    parser.add_argument(
        "--work",
        metavar="FOLDER",
        help="where checkpoints are kept (default: ZOO/.pretraining, deleted at the end)",
    )
    training = parser.add_argument_group("pretraining")
    for option, default, text in (
        ("--steps", 400, "weight steps on a single dataset"),
        ("--min-epochs", 10, "least epochs on a single dataset"),
        ("--multi-epochs", 20, "epochs on all datasets together"),
        ("--batch-size", None, "images in a step"),
    ):
        default_text = "64; elastic: 96; paths: 64" if default is None else "%(default)s"
        text += f" (default: {default_text})"
        training.add_argument(option, metavar="N", type=positive, default=default, help=text)
    training.add_argument(
        "--learning-rate",
        metavar="RATE",
        type=positive_float,
        help="peak learning rate of the weights (default: 0.1; elastic: 0.001; paths: 0.002)",
    )
    training.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N (default: a GPU if there is one)",
    )
    training.add_argument(
        "--jobs",
        metavar="N",
        type=positive,
        default=1,
        help="sources to pretrain at the same time (default: %(default)s)",
    )
    training.add_argument(
        "--threads",
        metavar="N",
        type=positive,
        help="threads for each of them; decides the rounding (default: those of torch)",
    )
    training.add_argument(
        "--no-singles",
        dest="singles",
        action="store_const",
        const=False,
        help='make only "multi", not a source for each dataset; elastic never has those',
    )
    training.add_argument(
        "--no-multi",
        dest="multi",
        action="store_false",
        help='leave out "multi", the supernet on all datasets together',
    )
    training.add_argument(
        "--warm-start",
        metavar="ZOO",
        help="start from the sources of the same names in this zoo, to pretrain it further",
    )
    training.add_argument(
        "--warm-start-source",
        metavar="SOURCE",
        help="start every supernet from this one source of that zoo, such as multi",
    )
    training.add_argument(
        "--seed", type=count, default=0, help="of everything random (default: %(default)s)"
    )
    supernet = parser.add_argument_group("supernet")
    supernet.add_argument(
        "--family",
        metavar="NAME",
        help="kind of supernet: cells, which is the default, elastic or paths",
    )
    supernet.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        type=setting,
        help="a size of the family's supernets, such as space=s2, init_channels=8 or n_cells=3, or "
        "width=1 or depth=1 of paths; repeat it for several",
    )
    supernet.add_argument(
        "--image-size",
        metavar="N",
        type=positive,
        help="side of the images in pixels (default: 32; elastic: 64; paths: 32)",
    )
    storage = parser.add_argument_group("storage")
    add_embedder(storage)
    storage.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="precision that weights are stored in (default: %(default)s)",
    )
    storage.add_argument(
        "--compact",
        action="store_true",
        help="compact signatures, a twentieth of the size, with a basis that they share",
    )
    parser.set_defaults(interrupted="run the same command again to go on.")
