"""Does a supernet keep the order of architectures, and does Supernet Shifting help it to?

    python benchmarks/order_preserving.py --seeds 3 --picture order_preserving.png

The experiment of Zhang et al. (CVPR 2024, section 4.3, figure 5) in small. On the digits of
scikit-learn, 30 single ShuffleNetV2 paths are trained alone, several times; the ``--good`` of the
lowest mean losses on images held out are the good ones. How many good ones one such training has
among its best, and Kendall's tau of the good ones with the mean of the other trainings, say what
can be hoped for.

Then supernets are trained, all for the time of ``--epochs`` passes of one path over the images, of
four paths on every batch, so they also update equally often. The paths are drawn

- "uniform": uniformly (SPOS, which has one path on a batch);
- "fair": each block of a layer once in four paths (FairNAS);
- "greedy": the best four of eight, more and more of them from a pool (GreedyNAS), whose passes that
  only compare come on top;
- "sandwich": two uniformly, with the largest and the smallest path. Blocks of a layer share no
  weights, so the rule's reason, that others are parts of the largest, does not hold in this space;
  those two get half of the training.

Each is then searched by Shifting, and the 30 paths are scored before, after half of the generations
and at the end. The paper's search updates the supernet 20,000 times at a rate of 0.0001; here there
are 96 updates, at a rate that makes about the same product. Plain evolution leaves the
supernet, and so the measures, as they are before.
Seconds are of the processor.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import add_output, mean_and_std, write_results
from ranking import BATCH, add_arguments, digits, space_of, supernet_of, trained_alone

from supernetnas import OrderPreservingDisplay, Shifting, TrajectoryDisplay
from supernetnas.evaluation.ranking import OrderPreserving, Trajectory, order_preserving
from supernetnas.families.paths import PathSupernet
from supernetnas.search.distillation import FromLabels
from supernetnas.search.method import SearchTask
from supernetnas.search.path_training import AugmentedImages, PathTraining, PathTrainingSettings
from supernetnas.search.samplers import Sampler, Sandwich, StrictlyFair, Uniform
from supernetnas.search.scored_samplers import Greedy, NegativeLoss
from supernetnas.training.batches import LabelledImages

KINDS = ("uniform", "fair", "greedy", "sandwich")
PATHS = 4  # of a step: as many as a layer has blocks
POOL = 100  # good paths that the greedy sampler keeps, of the 1,024 of the default depths
FEW = 64  # images that it compares paths on

Data = tuple[LabelledImages, LabelledImages]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, architectures=30)
    parser.set_defaults(alone_epochs=3, epochs=20, learning_rate=0.004)
    parser.add_argument("--good", type=int, default=10, help="architectures")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--generations", type=int, default=6)
    parser.add_argument("--population", type=int, default=8)
    parser.add_argument("--compared", type=int, default=300, help="images held out, by the search")
    parser.add_argument("--update", choices=("immediate", "accumulate"), default="immediate")
    parser.add_argument("--shift-images", type=int, default=64, help="for each architecture")
    parser.add_argument("--shift-rate", type=float, default=0.02)
    parser.add_argument("--picture", type=Path, help="file for the trajectories of the first seed")
    add_output(parser, __file__)
    args = parser.parse_args()

    data, space = digits(args), space_of(args)
    start = time.process_time()
    architectures, apart = trained_alone(args, space, data)
    losses = apart.mean(axis=1)
    print(f"alone: losses {losses.min():.3f} to {losses.max():.3f}, ", end="")
    print(f"{time.process_time() - start:.0f} s", flush=True)
    ceiling = in_columns(agreement(apart, args.good))
    arguments = {n: v for n, v in vars(args).items() if n not in ("out", "picture")}
    rows: list[dict[str, Any]] = []
    pictured: dict[str, Trajectory] = {}
    for seed in range(args.seeds):
        for kind in args.kinds:
            start = time.process_time()
            supernet = trained(args, data, kind, seed)
            between = time.process_time()
            trajectory = shifted(args, data, supernet, seed, Trajectory(architectures))
            end = time.process_time()
            rows.append(
                {
                    "kind": kind,
                    "seed": seed,
                    "generations": trajectory.epochs,
                    "accuracy": (1 - trajectory.errors()).mean(axis=1).tolist(),
                    **in_columns(trajectory.measures(-losses, args.good)),
                    "training_seconds": between - start,
                    "seconds": end - between,
                }
            )
            pictured.setdefault(kind, trajectory)
            print(f"seed {seed}  {kind:9s} {end - start:.0f} s", flush=True)
            found = {"losses": losses.tolist(), "alone": ceiling, "rows": rows}
            write_results(args.out, arguments=arguments, **found)

    print()
    report(rows, ceiling)
    if args.picture:
        draw(args.picture, pictured, losses, args.good)


def trained(args: argparse.Namespace, data: Data, kind: str, seed: int) -> PathSupernet:
    """A supernet after the training of a kind."""
    train, held_out = data
    supernet = supernet_of(args, space_of(args), seed)
    epochs = max(1, args.epochs // PATHS)
    settings = PathTrainingSettings(epochs, BATCH, args.learning_rate, warmup=20, seed=seed)
    images = AugmentedImages(train, seed + 1)
    n_steps = epochs * max(1, round(len(train) / BATCH))
    sampler = sampler_of(kind, supernet, held_out, n_steps, seed)
    training = PathTraining(supernet, images, sampler, FromLabels(0.1), settings)
    training.run()
    return training.averaged()


def sampler_of(
    kind: str, supernet: PathSupernet, held_out: LabelledImages, n_steps: int, seed: int
) -> Sampler[Any]:
    """What draws the paths of each of so many steps."""
    space = supernet.space
    if kind == "fair":
        return StrictlyFair(space, seed)
    if kind == "sandwich":
        return Sandwich(space, PATHS - 2, seed)
    if kind == "greedy":
        some = torch.arange(FEW)
        score = NegativeLoss(supernet, held_out.images.clean(some), held_out.labels_at(some))
        candidates = Uniform(space, 2 * PATHS, seed)
        rise = (n_steps // 10, n_steps)
        return Greedy(space, candidates, score, PATHS, POOL, rise=rise, seed=seed)
    return Uniform(space, PATHS, seed)


def shifted(
    args: argparse.Namespace,
    data: Data,
    supernet: PathSupernet,
    seed: int,
    trajectory: Trajectory,
) -> Trajectory:
    """Scores before, after half of the generations of Shifting, and at the end."""
    half = args.population // 2
    method = Shifting(
        args.generations,
        population=args.population,
        mutations=half,
        crossovers=half,
        update=args.update,
        n_images=args.shift_images,
        shift_rate=args.shift_rate,
        n_recalibration=128,
    )
    train, held_out = data
    compared = LabelledImages(held_out.images, held_out.labels[: args.compared])
    task = SearchTask(train, compared, BATCH, torch.Generator().manual_seed(seed))
    search = method.start(supernet, task)
    trajectory(search)
    for generations in (args.generations // 2, args.generations - args.generations // 2):
        for _ in range(generations):
            search.run_epoch()
        trajectory(search)
    return trajectory


def agreement(apart: np.ndarray, n_good: int) -> list[OrderPreserving]:
    """What each training alone says of the mean of the others; none where there is but one."""
    n = apart.shape[1]
    others = [np.delete(apart, place, axis=1) for place in range(n)] if n > 1 else []
    return [
        order_preserving(-apart[:, place], -other.mean(axis=1), n_good)
        for place, other in enumerate(others)
    ]


def in_columns(measures: list[OrderPreserving]) -> dict[str, list[float]]:
    """The global and the local measure of each time, and Kendall's tau of all."""
    return {
        "hits": [measure.global_hits for measure in measures],
        "local_tau": [measure.local_tau for measure in measures],
        "tau": [measure.tau for measure in measures],
    }


def report(rows: list[dict[str, Any]], ceiling: dict[str, list[float]]) -> None:
    """Print a line for each kind of training and each time."""
    print("| supernet | Shifting | good ones found | local tau | tau of all | accuracy | s |")
    print("|---|---|---|---|---|---|---|")
    measures = ("hits", "local_tau", "tau")
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        for time_, when in enumerate(("before", "half", "after")):
            values = ([row[name][time_] for row in own] for name in (*measures, "accuracy"))
            cells = [mean_and_std([*column]) for column in values]
            taken = {"before": "training_seconds", "after": "seconds"}.get(when)
            cells.append(f"{np.mean([row[taken] for row in own]):.1f}" if taken else "")
            print(f"| {kind} | {when} | " + " | ".join(cells) + " |")
    if ceiling["tau"]:
        cells = [mean_and_std(ceiling[name]) for name in measures]
        print("| another training alone | | " + " | ".join(cells) + " | | |")


def draw(path: Path, pictured: dict[str, Trajectory], losses: np.ndarray, n_good: int) -> None:
    """Draw error rates, and below them the measures, of each kind."""
    import matplotlib.pyplot as plt

    good = (losses.argsort(kind="stable").argsort(kind="stable") < n_good).tolist()
    size = (3.2 * len(pictured), 6.0)
    figure, axes = plt.subplots(
        2,
        len(pictured),
        figsize=size,
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for (kind, trajectory), (above, below) in zip(pictured.items(), axes.T, strict=True):
        TrajectoryDisplay.from_trajectory(trajectory, good, ax=above)
        above.set_title(kind)
        measures = trajectory.measures(-losses, n_good)
        OrderPreservingDisplay(trajectory.epochs, measures).plot(ax=below)
        for ax in (above, below):
            ax.label_outer()
            if kind != next(iter(pictured)):
                ax.get_legend().remove()
    figure.savefig(path)


if __name__ == "__main__":
    main()
