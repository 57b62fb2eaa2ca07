"""Does a supernet rank architectures better once it is split, in equal training time?

    python benchmarks/ranking.py --seeds 3

On the digits of scikit-learn, some single ShuffleNetV2 paths are trained alone, several times, and
their losses on images held out averaged. How well these trainings agree with each other, by
Kendall's tau of two of them, says what can be hoped for. Then supernets are trained, each for the
time of ``--epochs`` passes over the images, and Kendall's tau of their scores of the same paths
with these losses is compared:

- "whole": one supernet;
- "choices": after half of the time one layer, another one for each seed, is split into a part for
  each of its choices (few-shot NAS);
- "gradients": the layer and two groups of its choices are chosen by matching gradients (GM-NAS),
  for which there are that many fewer steps afterwards.

Seconds are of the processor.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np
import torch
from common import add_output, mean_and_std, write_results
from scipy.stats import kendalltau
from sklearn.datasets import load_digits

from supernetnas import Evolution, PathArchitecture, Split
from supernetnas.evaluation.ranking import order_preserving
from supernetnas.families.paths import PathConfig, PathSpace, PathSupernet
from supernetnas.fitting.retraining import RetrainSettings, retrain
from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.images.preprocessing import channel_statistics
from supernetnas.search.evolution import EvolutionSearch
from supernetnas.search.method import SearchTask
from supernetnas.search.samplers import Uniform
from supernetnas.training.batch_norm import recalibrate_batch_norm
from supernetnas.training.batches import LabelledImages, stratified_split
from supernetnas.training.seeds import seeded_modules
from supernetnas.training.steps import evaluate

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, architectures=16)
    parser.add_argument("--batches", type=int, default=3, help="that gradients are compared on")
    add_output(parser, __file__)
    args = parser.parse_args()

    data, space = digits(args), space_of(args)
    architectures, apart = trained_alone(args, space, data)
    losses = apart.mean(axis=1)
    pairs = [kendalltau(*pair).statistic for pair in itertools.combinations(apart.T, 2)]
    agreement = float(np.mean(pairs)) if pairs else None
    print(f"losses alone: {losses.min():.3f} to {losses.max():.3f}")
    print(f"Kendall's tau of two trainings of each: {agreement}", flush=True)
    rows = []
    for seed in range(args.seeds):
        for name, method in methods(args, space, seed).items():
            search, seconds = trained(args, space, data, method, seed)
            scores = [-score.loss for score in search.scorer(architectures)]
            n_good = max(2, len(losses) // 3)
            found = order_preserving(scores, -losses, n_good)
            row = {
                "way": name,
                "seed": seed,
                "split": next((r["split"] for r in search.history if "split" in r), None),
                "tau": found.tau,
                "hits": found.global_hits,
                "seconds": seconds,
            }
            rows.append(row)
            print(
                f"seed {seed}  {name:10s} tau {row['tau']:.3f}  {row['seconds']:.1f} s", flush=True
            )

    print("\n| way | Kendall's tau | good ones among the best | processor seconds |")
    print("|---|---|---|---|")
    for name in dict.fromkeys(row["way"] for row in rows):
        columns = ([r[key] for r in rows if r["way"] == name] for key in ("tau", "hits", "seconds"))
        print(f"| {name} | " + " | ".join(map(mean_and_std, columns)) + " |")
    arguments = {name: value for name, value in vars(args).items() if name != "out"}
    found = {"losses": losses.tolist(), "agreement": agreement, "rows": rows}
    write_results(args.out, arguments=arguments, **found)


def add_arguments(parser: argparse.ArgumentParser, *, architectures: int) -> None:
    """Add the sizes of the space, the images, and the trainings of paths and of supernets."""
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument(
        "--depth", type=int, nargs=4, default=[1, 1, 2, 1], help="layers of a stage"
    )
    parser.add_argument("--side", type=int, default=8, help="of the images, in pixels")
    parser.add_argument("--images", type=int, default=800, help="to train on; others are held out")
    parser.add_argument("--architectures", type=int, default=architectures)
    parser.add_argument("--alone-epochs", type=int, default=8, help="of an architecture alone")
    parser.add_argument("--alone-seeds", type=int, default=2, help="trainings of each alone")
    parser.add_argument("--epochs", type=int, default=24, help="of a supernet")
    parser.add_argument("--learning-rate", type=float, default=0.002, help="of a supernet")
    parser.add_argument("--seeds", type=int, default=3)


def space_of(args: argparse.Namespace) -> PathSpace:
    """Paths of the given width and depths."""
    return PathSpace(width=args.width, depths=tuple(args.depth))


def digits(args: argparse.Namespace) -> tuple[LabelledImages, LabelledImages]:
    """Images to train on, and the others."""
    X, y = load_digits(return_X_y=True)
    pixels = torch.from_numpy(X).float().view(-1, 1, 8, 8)
    pixels = torch.nn.functional.interpolate(pixels, (args.side,) * 2, mode="bilinear")
    labels = torch.from_numpy(y)
    generator = torch.Generator().manual_seed(0)
    held_out, train = stratified_split(labels, args.images / len(labels), generator)
    mean, std = channel_statistics(pixels[train])
    return tuple(
        LabelledImages(ImageTensors(pixels[index], mean, std, Augmentation(0.125)), labels[index])
        for index in (train, held_out)
    )


def supernet_of(args: argparse.Namespace, space: PathSpace, seed: int) -> PathSupernet:
    """A supernet of random weights."""
    with seeded_modules(seed):
        return PathSupernet(PathConfig(space, (args.side,) * 2, 1, 10)).to(
            memory_format=torch.channels_last
        )


def trained_alone(
    args: argparse.Namespace, space: PathSpace, data: tuple[LabelledImages, LabelledImages]
) -> tuple[list[PathArchitecture], np.ndarray]:
    """Random paths, and the losses of shape (paths, trainings) of their networks alone."""
    drawn = Uniform(space, 4 * args.architectures, seed=0)(0)
    architectures = [*dict.fromkeys(drawn)][: args.architectures]
    return architectures, np.array([alone(args, space, data, a) for a in architectures])


def alone(
    args: argparse.Namespace,
    space: PathSpace,
    data: tuple[LabelledImages, LabelledImages],
    architecture: PathArchitecture,
) -> list[float]:
    """Losses, on images held out, of trainings of an architecture's network alone."""
    train, held_out = data
    losses = []
    for seed in range(args.alone_seeds):
        generator = torch.Generator().manual_seed(seed)
        network = supernet_of(args, space, 1000 + seed).network(architecture)
        settings = RetrainSettings(epochs=args.alone_epochs, batch_size=BATCH, label_smoothing=0.0)
        retrain(network, train, settings, generator)
        recalibrate_batch_norm(network, train.images, generator=generator)
        losses.append(evaluate(network.eval(), held_out)[0])
    return losses


def methods(args: argparse.Namespace, space: PathSpace, seed: int) -> dict[str, Evolution]:
    """Ways of training that take the same time."""
    half = args.epochs // 2
    steps = max(1, round(args.images / BATCH))
    gradients = args.batches * (1 + sum(n - 1 for n in space.genes))
    choices = Split(seed % len(space.genes), by="choices", epochs=args.epochs - half)
    after = max(1, args.epochs - half - round(gradients / steps))
    return {
        "whole": Evolution(epochs=args.epochs),
        "choices": Evolution(epochs=half, split=choices),
        "gradients": Evolution(epochs=half, split=Split(epochs=after, n_batches=args.batches)),
    }


def trained(
    args: argparse.Namespace,
    space: PathSpace,
    data: tuple[LabelledImages, LabelledImages],
    method: Evolution,
    seed: int,
) -> tuple[EvolutionSearch, float]:
    """A search after the training of its supernet, and the seconds of that."""
    method.set_params(learning_rate=args.learning_rate, n_recalibration=args.images)
    task = SearchTask(*data, BATCH, torch.Generator().manual_seed(seed))
    search = method.start(supernet_of(args, space, seed), task)
    start = time.process_time()
    while not search.training.ended:
        search.run_epoch()
    return search, time.process_time() - start


if __name__ == "__main__":
    main()
