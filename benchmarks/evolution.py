"""What do the generations of an evolution cost, and what does sharing of first layers save?

    python benchmarks/evolution.py

The supernet is that of single ShuffleNetV2 paths, trained once along random paths; images are noise
with a colour for each class. Every part begins with a copy of it. All figures are ratios of
processor seconds in one run, but for latency, which needs a quiet machine:

- "generations": each generation of an evolution of ``--population``, scored as a tree of first
  layers, to one architecture after another (whose scores must be the same), and the share of the
  layers that are run. It is scored on ``--few`` images only: the ratio depends on the layers.
- "shifting": a generation of Supernet Shifting to one of plain evolution, for both updates, of
  ``--shifted`` architectures. Each is scored on ``--images`` and ``--held-out``, and trains the
  supernet on ``--shift-images``: by default an eighth of what a search does by default. The last
  column is how many times an image that is trained on costs what one that is scored on costs.
- "bfloat16": scoring of ``--networks`` random architectures in bfloat16 to float32, with Kendall's
  tau of the losses;
- "latency": the rank correlation of predicted and measured latency over ``--networks`` networks,
  of multiply-accumulates and measured latency, and of two measurements of the same networks.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from common import add_output, write_results
from scipy.stats import kendalltau

from supernetnas.families.paths.config import PathConfig
from supernetnas.families.paths.space import PathSpace
from supernetnas.families.paths.supernet import PathSupernet
from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.search.evolution import Evolution, EvolutionSearch
from supernetnas.search.latency import LatencyModel, measured_seconds
from supernetnas.search.limits import Latency
from supernetnas.search.method import SearchTask
from supernetnas.search.scoring import Scorer
from supernetnas.search.shifting import Shifting
from supernetnas.training.batches import LabelledImages
from supernetnas.training.execution import Execution
from supernetnas.training.seeds import seeded_modules

BATCH = 20
N_CLASSES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--images", type=int, default=160, help="for statistics, and to train on")
    parser.add_argument("--held-out", type=int, default=25, help="images to score on")
    parser.add_argument("--few", type=int, default=32, help="for statistics, of whole generations")
    parser.add_argument("--population", type=int, default=50)
    parser.add_argument("--generations", type=int, default=3, help="as a tree, and one by one")
    parser.add_argument("--epochs", type=int, default=15, help="of the supernet's training")
    parser.add_argument("--shifted", type=int, default=6, help="in each of two generations")
    parser.add_argument("--shift-images", type=int, default=80, help="for each architecture")
    parser.add_argument("--networks", type=int, default=30, help="of the last two parts")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add_output(parser, __file__)
    args = parser.parse_args()
    data = coloured(args.images, args.side, 1), coloured(args.held_out, args.side, 2)
    taken, supernet = seconds(lambda: trained(args, data))
    print(f"training of the supernet: {taken:.0f} s", flush=True)
    found: dict[str, Any] = {
        "arguments": {name: value for name, value in vars(args).items() if name != "out"},
        "seconds": {"training": taken},
    }
    for part in args.parts:
        taken, measured = seconds(lambda part=part: PARTS[part](args, data, supernet))
        found["rows" if part == "generations" else part] = measured
        found["seconds"][part] = taken
        print(f"\n{part}: {taken:.0f} s\n")
        report(measured)
        write_results(args.out, **found)


def coloured(n: int, side: int, seed: int) -> LabelledImages:
    """Images of noise, of each class a colour, in part."""
    labels = torch.arange(n) % N_CLASSES
    colours = torch.randn(N_CLASSES, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))
    images = ImageTensors(
        noise + 0.5 * colours[labels], torch.zeros(3), torch.ones(3), Augmentation(0.125)
    )
    return LabelledImages(images, labels)


def trained(args: argparse.Namespace, data: tuple[LabelledImages, LabelledImages]) -> PathSupernet:
    """The supernet, trained along random paths."""
    config = PathConfig(PathSpace(width=args.width), (args.side,) * 2, 3, N_CLASSES)
    with seeded_modules(0):
        supernet = PathSupernet(config).to(memory_format=torch.channels_last)
    search = started(data, supernet, Evolution(epochs=args.epochs))
    while not search.training.ended:
        search.run_epoch()
    return search.supernet


def started(
    data: tuple[LabelledImages, LabelledImages], supernet: PathSupernet, method: Evolution
) -> EvolutionSearch:
    """A search of a copy of the supernet."""
    task = SearchTask(*data, BATCH, torch.Generator().manual_seed(0))
    return method.start(copy.deepcopy(supernet), task)


def population_of(n: int) -> dict[str, int]:
    """Parameters of a search: half of a generation are mutations, half crosses."""
    return {"population": n, "mutations": n // 2, "crossovers": n // 2, "epochs": 0}


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time of a call, and what it returns."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def generations(
    args: argparse.Namespace, data: Any, supernet: PathSupernet
) -> list[dict[str, Any]]:
    """Every generation as a tree, and one architecture after another."""
    method = Evolution(args.generations, n_recalibration=args.few, **population_of(args.population))
    search, rows = started(data, supernet, method), []

    class Compared(Scorer):
        def __call__(self, architectures: Any) -> Any:
            tree, together = seconds(lambda: Scorer.__call__(self, architectures))
            alone, apart = seconds(lambda: [Scorer.__call__(self, [a])[0] for a in architectures])
            assert together == apart, "scores depend on how they are computed"
            steps = [[step.key for step in self.supernet.steps(a)] for a in architectures]
            prefixes = {tuple(keys[: n + 1]) for keys in steps for n in range(len(keys))}
            rows.append(
                {
                    "generation": len(rows) + 1,
                    "tree_seconds": tree,
                    "one_by_one_seconds": alone,
                    "ratio": tree / alone,
                    "share_of_layers": len(prefixes) / sum(map(len, steps)),
                }
            )
            return together

    search.scorer.__class__ = Compared
    search.run()
    return rows


def shifting(args: argparse.Namespace, data: Any, supernet: PathSupernet) -> list[dict[str, Any]]:
    """Seconds of a generation with both updates, as a ratio to plain evolution."""
    rows, sizes = [], population_of(args.shifted)
    scored, shifted = args.images + args.held_out, args.shift_images
    methods = {
        "evolution": Evolution(2, **sizes),
        "accumulate": Shifting(2, update="accumulate", n_images=shifted, **sizes),
        "immediate": Shifting(2, update="immediate", n_images=shifted, **sizes),
    }
    for name, method in methods.items():
        search = started(data, supernet, method)
        taken = [seconds(search.run_epoch)[0] for _ in range(method.generations)]
        mean = sum(taken) / len(taken)
        plain = rows[0]["seconds"] if rows else mean
        trained_to_scored = (mean - plain) / shifted / (plain / scored) if rows else None
        rows.append(
            {
                "method": name,
                "seconds": mean,
                "ratio": mean / plain,
                "trained_to_scored": trained_to_scored,
            }
        )
    return rows


def bfloat16(args: argparse.Namespace, data: Any, supernet: PathSupernet) -> dict[str, float]:
    """Time of scoring in bfloat16 as a ratio to float32, and how alike they rank."""
    search = started(data, supernet, Evolution(1, **population_of(args.networks)))
    architectures, found = search.generation(), {}
    for precision in ("float32", "bfloat16"):
        scorer = Scorer(search.supernet, *data, seed=0, execution=Execution(precision))
        found[precision] = seconds(lambda scorer=scorer: scorer(architectures))
    losses = [[score.loss for score in scores] for _, scores in found.values()]
    return {
        "ratio": found["bfloat16"][0] / found["float32"][0],
        "tau": float(kendalltau(*losses).statistic),
    }


def latency(args: argparse.Namespace, data: Any, supernet: PathSupernet) -> dict[str, float]:
    """How well latency is predicted, and how well multiply-accumulates stand for it."""
    search = started(data, supernet, Evolution())
    supernet, shape = search.supernet, data[0].images.shape
    model = LatencyModel(supernet, shape, Latency())
    architectures = [search.bounds.random(search.generator) for _ in range(args.networks)]
    measured = model.measured(architectures)
    predicted = [model(a) for a in architectures]
    macs = [supernet.costs(a).macs for a in architectures]
    networks = [supernet.network(a) for a in architectures]
    again = measured_seconds(networks, shape, Latency(), model.device)
    return {
        "tau_predicted": float(kendalltau(predicted, measured).statistic),
        "tau_macs": float(kendalltau(macs, measured).statistic),
        "tau_measured_again": float(kendalltau(again, measured).statistic),
        "factor": model.factor,
        "median_ratio": sorted(p / m for p, m in zip(predicted, measured, strict=True))[
            args.networks // 2
        ],
    }


PARTS: dict[str, Callable[[argparse.Namespace, Any, PathSupernet], Any]] = {
    "generations": generations,
    "shifting": shifting,
    "bfloat16": bfloat16,
    "latency": latency,
}


def report(measured: dict[str, float] | list[dict[str, Any]]) -> None:
    """Print what a part has measured."""
    rows = measured if isinstance(measured, list) else [measured]
    print("| " + " | ".join(name.replace("_", " ") for name in rows[0]) + " |")
    print("|---" * len(rows[0]) + "|")
    for row in rows:
        cells = (f"{x:.2f}" if isinstance(x, float) else f"{x or ''}" for x in row.values())
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
