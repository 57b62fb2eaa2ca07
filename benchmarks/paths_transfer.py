"""Does a pretrained supernet of single paths save time, and does its search earn its own?

    python benchmarks/paths_transfer.py ZOO gtsrb_signs.npz plantvillage11.npz --most 400

Fits of the family "paths" as those of `peers.py`, with the same splits: all images at
``--image-size`` pixels and all networks within ``--max-macs``. ZOO has a supernet of single paths
and has seen none of the targets.

The fits, beside "none" and "random" those of the Supernet Shifting paper:

- "new, evolution": random weights, trained along random paths for ``--epochs`` epochs; evolution;
  retraining.
- "new, shifting": the same with Supernet Shifting.
- "evolution", "shifting": the pretrained supernet, trained for 10 epochs or none before.
- "random": the best of fifty random paths of the pretrained supernet, trained for 10 epochs before.
- "none": a random path that inherits from the pretrained supernet, and is retrained.
- "none, long": the same, and 45 epochs of retraining instead of 15.
- "new, none": a random path of random weights, and 45 epochs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from common import add_output, write_results
from peers import Row, Split, add_arguments, known, measure, ours, table

from supernetnas import Retraining
from supernetnas.families.base import get_family

Fit = Callable[[Split, int, str], list[Row]]


def fits(args: argparse.Namespace) -> dict[str, Fit]:
    """The fits by name."""

    def fit(strategy: str, search: str, epochs: int | None = None, **given: Any) -> Fit:
        method = get_family("paths").method(search)
        if epochs is not None:
            given["epochs"] = epochs
        return ours(
            strategy,
            family="paths",
            search=method.set_params(**given),
            image_size=args.image_size,
            max_macs=args.max_macs,
            retraining=retraining,
        )

    retraining = Retraining(15)
    found = {
        "new, evolution": fit("scratch", "evolution", args.epochs),
        "new, shifting": fit("scratch", "shifting", args.epochs),
        "evolution": fit("multi", "evolution"),
        "shifting": fit("multi", "shifting", 0),
        "random": fit("multi", "random"),
        "none": fit("multi", "random", 0, candidates=1),
    }
    retraining = Retraining(45)
    found["none, long"] = fit("multi", "random", 0, candidates=1)
    found["new, none"] = fit("scratch", "random", 0, candidates=1)
    return found


NAMES = ["new, evolution", "new, shifting", "evolution", "shifting", "random", "none"]
NAMES += ["none, long", "new, none"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, NAMES)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--max-macs", type=int, default=17_500_000)
    parser.add_argument("--epochs", type=int, default=60, help="of a new supernet")
    add_output(parser, __file__, "continued if it exists")
    args = parser.parse_args()
    rows = known(args.out)
    for _ in measure(args, fits(args), rows):
        write_results(args.out, rows=rows)
    print(table(rows))


if __name__ == "__main__":
    main()
