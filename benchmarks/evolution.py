"""What do the generations of an evolution cost, and what does sharing of first layers save?

    python benchmarks/evolution.py --width 0.5 --side 64

The supernet is that of single ShuffleNetV2 paths, trained along random paths for some epochs;
images are noise with a colour for each class. All figures are ratios of processor seconds in one
run, but for latency, which needs a quiet machine:

- each generation of an evolution, scored as a tree of first layers, to one architecture after
  another (whose scores must be the same), and the share of the layers that are run;
- a generation of Supernet Shifting to one of plain evolution, for both updates;
- scoring in bfloat16 to float32, with Kendall's tau of the losses;
- and the rank correlation of predicted and measured latency over ``--networks`` networks.
"""

from __future__ import annotations

import argparse
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
from supernetnas.search.latency import LatencyModel
from supernetnas.search.limits import Latency
from supernetnas.search.method import SearchTask
from supernetnas.search.scoring import Scorer
from supernetnas.search.shifting import Shifting
from supernetnas.training.batches import LabelledImages
from supernetnas.training.execution import Execution
from supernetnas.training.seeds import seeded_modules

N_CLASSES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--side", type=int, default=64, help="of the images, in pixels")
    parser.add_argument("--images", type=int, default=640, help="for statistics, and to train on")
    parser.add_argument("--held-out", type=int, default=200, help="images to score on")
    parser.add_argument("--population", type=int, default=50)
    parser.add_argument("--generations", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=5, help="of the supernet's training")
    parser.add_argument("--shift-images", type=int, default=640, help="for each architecture")
    parser.add_argument("--networks", type=int, default=30, help="whose latency is measured")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add_output(parser, __file__)
    args = parser.parse_args()
    data = coloured(args.images, args.side, 1), coloured(args.held_out, args.side, 2)
    found: dict[str, Any] = {
        "arguments": {name: value for name, value in vars(args).items() if name != "out"}
    }
    for part in args.parts:
        found["rows" if part == "generations" else part] = PARTS[part](args, data)
    report(found)
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


def supernet_of(args: argparse.Namespace) -> PathSupernet:
    """The supernet, of random weights."""
    config = PathConfig(PathSpace(width=args.width), (args.side,) * 2, 3, N_CLASSES)
    with seeded_modules(0):
        return PathSupernet(config).to(memory_format=torch.channels_last)


def started(
    args: argparse.Namespace, data: tuple[LabelledImages, LabelledImages], method: Evolution
) -> EvolutionSearch:
    """A search of the given sizes."""
    half = args.population // 2
    method.set_params(
        population=args.population,
        mutations=half,
        crossovers=half,
        generations=args.generations,
        epochs=args.epochs,
    )
    return method.start(supernet_of(args), SearchTask(*data, 64, torch.Generator().manual_seed(0)))


def trained(args: argparse.Namespace, data: Any, method: Evolution) -> EvolutionSearch:
    """A search after the training of its supernet."""
    search = started(args, data, method)
    while not search.training.ended:
        search.run_epoch()
    return search


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time of a call, and what it returns."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def generations(args: argparse.Namespace, data: Any) -> list[dict[str, Any]]:
    """Every generation as a tree, and one architecture after another."""
    search, rows = started(args, data, Evolution()), []

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


def shifting(args: argparse.Namespace, data: Any) -> list[dict[str, Any]]:
    """Seconds of a generation with both updates, as a ratio to plain evolution."""
    rows = []
    methods = {
        "evolution": Evolution(),
        "accumulate": Shifting(update="accumulate", n_images=args.shift_images),
        "immediate": Shifting(update="immediate", n_images=args.shift_images),
    }
    for name, method in methods.items():
        search = trained(args, data, method)
        scored = [seconds(search.run_epoch)[0] for _ in range(args.generations)]
        rows.append({"method": name, "seconds": sum(scored) / len(scored)})
    for row in rows:
        row["ratio"] = row["seconds"] / rows[0]["seconds"]
    return rows


def bfloat16(args: argparse.Namespace, data: Any) -> dict[str, float]:
    """Time of scoring in bfloat16 as a ratio to float32, and how alike they rank."""
    search = trained(args, data, Evolution())
    architectures, found = search.generation(), {}
    for precision in ("float32", "bfloat16"):
        scorer = Scorer(search.supernet, *data, seed=0, execution=Execution(precision))
        found[precision] = seconds(lambda scorer=scorer: scorer(architectures))
    losses = [[score.loss for score in scores] for _, scores in found.values()]
    return {
        "ratio": found["bfloat16"][0] / found["float32"][0],
        "tau": float(kendalltau(*losses).statistic),
    }


def latency(args: argparse.Namespace, data: Any) -> dict[str, float]:
    """How well latency is predicted, and how well multiply-accumulates stand for it."""
    search = started(args, data, Evolution())
    supernet, shape = search.supernet, data[0].images.shape
    model = LatencyModel(supernet, shape, Latency())
    architectures = [search.bounds.random(search.generator) for _ in range(args.networks)]
    measured = model.measured(architectures)
    predicted = [model(a) for a in architectures]
    macs = [supernet.costs(a).macs for a in architectures]
    return {
        "tau_predicted": float(kendalltau(predicted, measured).statistic),
        "tau_macs": float(kendalltau(macs, measured).statistic),
        "factor": model.factor,
        "median_ratio": sorted(p / m for p, m in zip(predicted, measured, strict=True))[
            args.networks // 2
        ],
    }


PARTS: dict[str, Callable[[argparse.Namespace, Any], Any]] = {
    "generations": generations,
    "shifting": shifting,
    "bfloat16": bfloat16,
    "latency": latency,
}


def report(found: dict[str, Any]) -> None:
    """Print tables."""
    if rows := found.get("rows"):
        print("| generation | tree / one by one | share of layers | tree, s |\n|---|---|---|---|")
        for row in rows:
            print(
                f"| {row['generation']} | {row['ratio']:.2f} | {row['share_of_layers']:.2f} "
                f"| {row['tree_seconds']:.1f} |"
            )
    if rows := found.get("shifting"):
        print("\n| method | seconds a generation | ratio |\n|---|---|---|")
        for row in rows:
            print(f"| {row['method']} | {row['seconds']:.1f} | {row['ratio']:.2f} |")
    for name in ("bfloat16", "latency"):
        if name in found:
            print(f"\n{name}: " + ", ".join(f"{k} {v:.3f}" for k, v in found[name].items()))


if __name__ == "__main__":
    main()
