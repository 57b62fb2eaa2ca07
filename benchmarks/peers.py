"""Is a fit better than what its user would have picked instead, and in about the same time?

    python benchmarks/peers.py ZOO flowers5.npz sports.npz --seeds 3 --peers default probe lite0

For every target (``.npz`` with arrays X, y), seed and peer a fit on a stratified 75 % of at most
``--most`` images, and the accuracy on the other 25 % and at most ``--more`` of the images beyond
``--most``. ZOO must hold nothing of the targets; its sources of kind "multi" are what the fits
start from. Seconds are of the processor, those of all threads together, and include reading,
choosing and, for peers, choosing the image size, and predicting the test images. How many of those
are predicted a second is by the processor's time with one thread.

The fits of the package:

- "default": ``SupernetTransferClassifier(zoo=ZOO)``; "quick" and "best": the other presets.
- "elastic 56", "elastic 64", "elastic 80", "elastic 96", "elastic 128": the largest elastic network
  at these pixels, its first stages frozen; "elastic 96 free": nothing frozen, "elastic 128 deep":
  five stages frozen.
- "half", "quarter", "eighth": ``max_macs`` at these shares of EfficientNet-Lite0's at 128 pixels;
  "random member": an elastic network drawn at random that keeps the limit of "half"; "eighth
  long": an elastic network, trained for as long as "eighth" takes with its races; "eighth
  evolved": of three hundred elastic networks within that limit the one whose features a linear
  classifier does best on, in place of eighteen that were pretrained.
- "scratch": ``strategy="scratch"``, a search from random weights.
- "front": one fit of several elastic networks at 96 pixels; every network is a row.
- "shares": one fit of several at 128 pixels; its networks at a half, a quarter and an eighth of the
  largest's cost: those that ``at`` gives, and the most expensive ones.
- "one by one": the same networks, each trained alone after the largest, which teaches it.
- "cells": the multi-dataset supernet of cells without a search and 30 epochs of retraining; all
  others with cells take as long: "cells random": a random architecture and 30 epochs; "cells
  search": SmoothDARTS and 15 epochs; "cells soft": the same, the source's alphas softened and their
  rate ten times higher; "cells race": the source's architecture and three random ones, each trained
  for 4 epochs on three quarters of the images and compared on the others, and 15 epochs for the
  best; "cells scratch": as "cells search", from random weights. "cells short": no search, and 15
  epochs. "cells eighth": no search, within the limit of "eighth", with as many pixels as the
  source's genotype keeps it with; "cells eighth 32": at 32 pixels, if images have so many, with
  cheaper operations, for about as long.

What its user could pick instead:

- "probe": logistic regression on EfficientNet-Lite0's features, at the best of 64, 96 and 128
  pixels by cross-validation.
- "lite0": EfficientNet-Lite0 fine-tuned as a whole at 128 pixels, batch norms frozen; rates, new
  classifier and epochs are the best of twenty-one settings on eight other datasets.
- "plain": a plain convolutional network of three layers.
- "skorch": torchvision's ResNet-18 from random weights, its first convolution of 3x3, trained by
  skorch at 64 pixels for 25 epochs, which take about as long as the default. Needs the extra
  ``benchmarks``.

After the table stands what the best of the latter has on each set, and the default in comparison;
with ``--against cells`` by how many points the other fits of these targets and seeds are better
than "cells".
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import (
    add_output,
    best_of_each,
    commit,
    differences,
    import_skorch,
    plain_cnn,
    predictor,
    table,
    train_by_skorch,
    train_network,
    write_results,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from supernetnas import (
    Elastic,
    Evolution,
    Retraining,
    SmoothDARTS,
    SupernetTransferClassifier,
    get_embedder,
)
from supernetnas.families.base import get_family
from supernetnas.families.cells.genotype import Genotype, random_genotype
from supernetnas.families.cells.search.methods import NoSearch
from supernetnas.families.cells.space import get_space
from supernetnas.families.elastic.lite0 import LITE0_SPACE, lite0_supernet
from supernetnas.families.elastic.network import Network
from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.images.preprocessing import channel_statistics
from supernetnas.images.reading import as_image_set
from supernetnas.search.costs import count_macs, count_parameters
from supernetnas.search.distillation import divergence

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Row = dict[str, Any]

_LITE0_MACS = 125.3e6  # at 128 pixels
_CELLS_EIGHTH = {"family": "cells", "max_macs": int(_LITE0_MACS / 8)}
_HALVES = torch.full((3,), 0.5), torch.full((3,), 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, list(PEERS))
    parser.add_argument("--against", choices=[*PEERS], help="print what others are better by")
    add_output(parser, __file__, "continued if it exists")
    arguments = parser.parse_args()
    if "skorch" in arguments.peers:
        import_skorch()
    rows = known(arguments.out)
    for _ in measure(arguments, PEERS, rows):
        write_results(arguments.out, rows=rows)
    print(table(rows))
    print(f"\n{best_of_each(rows, OTHERS)}")
    if arguments.against:
        targets = {path.stem for path in arguments.targets}
        rows = [r for r in rows if r["target"] in targets and r["seed"] in arguments.seeds]
        others = dict.fromkeys(row["peer"] for row in rows if row["fit"] in arguments.peers)
        print(f"\n{differences(rows, arguments.against, others)}")


def add_arguments(parser: argparse.ArgumentParser, peers: list[str]) -> None:
    """Add what says which fits there are to be."""
    parser.add_argument("zoo", help="folder of a zoo that holds none of the targets")
    parser.add_argument("targets", nargs="+", type=Path, help=".npz files with X and y")
    parser.add_argument("--peers", nargs="+", default=peers, choices=peers)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--most", type=int, default=800, help="images of a target")
    parser.add_argument("--more", type=int, default=300, help="further images to test on")


def known(path: Path) -> list[Row]:
    """Rows that were measured before."""
    return json.loads(path.read_text())["rows"] if path.exists() else []


def measure(
    arguments: argparse.Namespace,
    peers: dict[str, Callable[[Split, int, str], list[Row]]],
    rows: list[Row],
) -> Iterator[None]:
    """Add to the rows those of every fit that is not among them, and stop after each fit."""
    done = {(row["target"], row["seed"], row["fit"]) for row in rows}
    given = {"commit": commit(), "options": f"--most {arguments.most} --more {arguments.more}"}
    for seed in arguments.seeds:
        for path in arguments.targets:
            missing = [peer for peer in arguments.peers if (path.stem, seed, peer) not in done]
            if missing:  # else the images are not needed
                split = load(path, arguments.most, seed, arguments.more)
            for peer in missing:
                started = time.process_time()
                found = [judged(row, split) for row in peers[peer](split, seed, arguments.zoo)]
                seconds = time.process_time() - started
                for row in found:
                    fixed = {"target": path.stem, "seed": seed, "fit": peer, "peer": peer}
                    rows.append({**fixed, "seconds": round(seconds, 1), **row, **given})
                    print(*(f"{k}={_short(v)}" for k, v in rows[-1].items()), flush=True)
                yield


def judged(row: Row, split: Split) -> Row:
    """A row with what its "predict" makes of the test images, and how fast with one thread."""
    if "predict" not in row:
        return row
    _, X_test, _, y_test = split
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        started = time.process_time()
        predicted = row["predict"](X_test)
        seconds = time.process_time() - started
    finally:
        torch.set_num_threads(threads)
    found = {
        "accuracy": float(np.mean(predicted == y_test)),
        "images_per_second": round(len(y_test) / seconds, 1),
    }
    return {**found, **{name: value for name, value in row.items() if name != "predict"}}


def load(path: Path, most: int, seed: int, more: int = 0) -> Split:
    with np.load(path, allow_pickle=False) as data:
        X, y = data["X"], data["y"]
    X_rest, y_rest = X[:0], y[:0]
    if len(y) > most:
        X, X_rest, y, y_rest = train_test_split(X, y, train_size=most, stratify=y, random_state=0)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.25, stratify=y, random_state=seed)
    X_test, y_test = np.concatenate([X_test, X_rest[:more]]), np.append(y_test, y_rest[:more])
    return X, X_test, y, y_test


def ours(strategy: str, **parameters: Any) -> Callable[[Split, int, str], list[Row]]:
    """A fit of the package."""

    def fit(split: Split, seed: int, zoo: str) -> list[Row]:
        X, _, y, _ = split
        clf = SupernetTransferClassifier(strategy, zoo=zoo, random_state=seed, **parameters)
        clf.fit(X, y)
        more = {"family": clf.family_, "size": clf.image_size_[0], "scores": clf.scores_}
        return [{**of_classifier(clf), **more}]

    return fit


def of_classifier(clf: SupernetTransferClassifier) -> Row:
    """What a row says of every fit of the package."""
    return {"predict": clf.predict, "macs": clf.n_macs_, "parameters": clf.n_parameters_}


def of_network(network: nn.Module, side: int, mean: Tensor, std: Tensor) -> Row:
    """What a row says of every other network, of colour images with so many pixels a side."""
    predict = predictor(network, mean, std)
    return {
        "predict": lambda X: predict(pixels(X, side)),
        "macs": count_macs(network, (3, side, side)),
        "parameters": count_parameters(network),
        "size": side,
    }


def front(split: Split, seed: int, zoo: str) -> list[Row]:
    """All networks of one fit."""
    X, _, y, _ = split
    clf = SupernetTransferClassifier(
        "multi", family="elastic", zoo=zoo, search="front", image_size=96, random_state=seed
    ).fit(X, y)
    rows = []
    for place, row in enumerate(clf.front_):
        started = time.perf_counter()
        other = clf.at(max_macs=row["n_macs"], max_parameters=row["n_parameters"])
        seconds = time.perf_counter() - started
        rows.append(
            {
                "peer": f"front {place}",
                **of_classifier(other),
                "validation": row["validation_accuracy"],
                "seconds_of_at": round(seconds, 2),
            }
        )
    return rows


def shares(split: Split, seed: int, zoo: str) -> list[Row]:
    """One fit of a front, and of it the best and the most expensive at each share of the cost."""
    X, X_test, y, y_test = split
    clf = SupernetTransferClassifier(
        "multi", family="elastic", zoo=zoo, search="front", image_size=128, random_state=seed
    ).fit(X, y)
    state = {name: torch.from_numpy(array) for name, array in clf.supernet_state_.items()}
    rows = []
    for name, share in {"largest": 1, "half": 1 / 2, "quarter": 1 / 4, "eighth": 1 / 8}.items():
        limit = int(share * clf.front_[0]["n_macs"])
        chosen = clf.at(max_macs=limit)
        rows.append(
            {
                "peer": f"front, {name}",
                "accuracy": chosen.score(X_test, y_test),
                "macs": chosen.n_macs_,
            }
        )
        dearest = max(
            (row for row in clf.front_ if row["n_macs"] <= limit), key=lambda row: row["n_macs"]
        )
        chosen.network_ = get_family("elastic").member(
            clf.supernet_config_, state, dearest["architecture"]
        )
        rows.append(
            {
                "peer": f"front, dearest {name}",
                "accuracy": chosen.score(X_test, y_test),
                "macs": dearest["n_macs"],
                "validation": dearest["validation_accuracy"],
            }
        )
    return rows


def one_by_one(split: Split, seed: int, zoo: str) -> list[Row]:
    """The networks of a front one after another, the largest first, which teaches the others."""
    X, _, y, _ = split
    parameters = {"family": "elastic", "zoo": zoo, "image_size": 96, "random_state": seed}
    start = SupernetTransferClassifier(
        "multi", search="front", retraining=Retraining(1, learning_rate=1e-9), **parameters
    ).fit(X, y)  # for its members, as they are before training
    family, rows, teacher = get_family("elastic"), [], None
    state = {name: torch.from_numpy(array) for name, array in start.supernet_state_.items()}
    for place, row in enumerate(start.front_):
        network = family.member(start.supernet_config_, state, row["architecture"])
        network.requires_grad_(True)
        found = finetune(network, split, 96, seed, epochs=12, teacher=teacher)
        teacher = teacher or network
        rows.append({"peer": f"one by one {place}", **found})
    return rows


class Given(NoSearch):
    """No search: this architecture of cells."""

    def __init__(self, genotype: Genotype | None = None) -> None:
        self.genotype = genotype

    def derive(self, search: Any, task: Any, stopwatch: Any = None) -> Genotype:
        return super().derive(search, task, stopwatch) if self.genotype is None else self.genotype


def race(split: Split, seed: int, zoo: str) -> list[Row]:
    """A few architectures of cells, the best of which on held-out images is trained to the end."""
    X, _, y, _ = split
    generator = torch.Generator().manual_seed(seed)
    space = get_space("s1")
    genotypes = [None, *(random_genotype(space, generator) for _ in range(3))]
    X_part, X_held, y_part, y_held = train_test_split(
        X, y, test_size=0.25, stratify=y, random_state=seed
    )

    def fit(
        genotype: Genotype | None, epochs: int, X: np.ndarray, y: np.ndarray
    ) -> SupernetTransferClassifier:
        return SupernetTransferClassifier(
            *("multi",),
            zoo=zoo,
            family="cells",
            search=Given(genotype),
            retraining=Retraining(epochs),
            random_state=seed,
        ).fit(X, y)

    scores = [fit(genotype, 4, X_part, y_part).score(X_held, y_held) for genotype in genotypes]
    clf = fit(genotypes[int(np.argmax(scores))], 15, X, y)
    return [{**of_classifier(clf), "winner": int(np.argmax(scores)), "validation": scores}]


def cells_eighth_32(split: Split, seed: int, zoo: str) -> list[Row]:
    """Cells within a limit that see as many pixels as without it."""
    side, retraining = min(split[0].shape[1], 32), Retraining(60)
    parameters = {**_CELLS_EIGHTH, "image_size": side, "retraining": retraining}
    return ours("multi", **parameters)(split, seed, zoo)


def probe(split: Split, seed: int, zoo: str) -> list[Row]:
    """Logistic regression of features, penalty and image size by cross-validation."""
    X, _, y, _ = split
    best: Any = None
    for size in (64, 96, 128):
        embedder = get_embedder("efficientnet_lite0", input_size=size)
        features = embedder.embed(as_image_set(X))
        for strength in (1e-3, 1e-2, 1e-1):
            model = make_pipeline(
                StandardScaler(), LogisticRegression(C=strength, max_iter=200, tol=1e-3)
            )
            score = cross_val_score(model, features, y, cv=4).mean()
            if best is None or score > best[0]:
                best = score, embedder, model.fit(features, y)
    _, embedder, model = best
    side = embedder.input_size[0]
    return [
        {
            **of_network(new_lite0(split, side, seed), side, *_HALVES),  # its costs
            "predict": lambda X: model.predict(embedder.embed(as_image_set(X))),
        }
    ]


def lite0(split: Split, seed: int, zoo: str, side: int = 128) -> list[Row]:
    """The usual fine-tuning: all weights, a new classifier, AdamW, a cosine, flips and shifts."""
    network = new_lite0(split, side, seed)
    return [finetune(network, split, side, seed, epochs=25, of_classifier=10.0)]


def new_lite0(split: Split, side: int, seed: int) -> Network:
    """EfficientNet-Lite0 as published, with a new classifier."""
    network = lite0_supernet().network(LITE0_SPACE.largest.at(side))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network.classifier = nn.Linear(network.classifier.in_features, n_classes(split))
    return network


def finetune(
    network: Network,
    split: Split,
    side: int,
    seed: int,
    *,
    epochs: int,
    of_classifier: float = 1.0,
    teacher: Network | None = None,
) -> Row:
    """Fine-tune a network as a whole, batch norms frozen.

    A teacher's probabilities are half of the loss.
    """
    X, _, y, _ = split
    network.to(memory_format=torch.channels_last)
    network.dropout.share = 0.2
    photographs = X.shape[1] > 32
    augmentation = Augmentation(shift=0.125, flip=photographs, cutout=0.25 if photographs else 0)
    train = ImageTensors(pixels(X, side), *_HALVES, augmentation)
    labels, generator = torch.from_numpy(y), torch.Generator().manual_seed(seed)
    network.dropout.generator = generator
    head = list(network.classifier.parameters())
    groups = [
        {"params": list(network.trunk.parameters()), "base": 5e-4},
        {"params": head, "base": 5e-4 * of_classifier},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.02)
    step, n_steps = 0, epochs * -(-len(y) // 32)
    for _ in range(epochs):
        network.train()
        network.trunk.eval()  # batch norms as they are
        for index in torch.randperm(len(y), generator=generator).split(32):
            share = min((step + 1) / (0.1 * n_steps), (1 + np.cos(np.pi * step / n_steps)) / 2)
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * share
            images = train.augmented(index, generator)
            scores = network(images)
            loss = F.cross_entropy(scores, labels[index], label_smoothing=0.1)
            if teacher is not None:
                with torch.no_grad():
                    taught = teacher.eval()(images)
                loss = (loss + divergence(scores, taught, "kl", 1.0)) / 2
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    return of_network(network, side, *_HALVES)


def plain(split: Split, seed: int, zoo: str) -> list[Row]:
    X, _, y, _ = split
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = plain_cnn(3, n_classes(split))
    side = min(X.shape[1], 32)
    augmentation = Augmentation.choose(X.shape[1], X.shape[2], True)
    train = pixels(X, side)
    train_network(network, train, y, seed=seed, augmentation=augmentation)
    return [of_network(network, side, *channel_statistics(train))]


def skorch(split: Split, seed: int, zoo: str, epochs: int = 25) -> list[Row]:
    """A residual network from random weights, with a stem for small images."""
    _, _, resnet18 = import_skorch()
    X, _, y, _ = split
    side = 64
    images = pixels(X, side)
    statistics = channel_statistics(images)
    augmentation = Augmentation.choose(X.shape[1], X.shape[2], True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = resnet18(num_classes=n_classes(split))
        network.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    train = ImageTensors(images, *statistics, augmentation)
    train_by_skorch(network, train, y, epochs=epochs, seed=seed)
    return [of_network(network, side, *statistics)]


def n_classes(split: Split) -> int:
    return int(split[2].max()) + 1


def pixels(X: np.ndarray, side: int) -> Tensor:
    found = torch.from_numpy(X).permute(0, 3, 1, 2)
    if found.shape[-1] == side:
        return found
    found = F.interpolate(found.float(), (side, side), mode="bilinear", antialias=True)
    return found.round().clamp(0, 255).to(torch.uint8)


def _elastic(size: int, frozen: int | str = "auto") -> Callable[[Split, int, str], list[Row]]:
    return ours("multi", family=Elastic(frozen_stages=frozen), image_size=size)


def _share(share: float, **parameters: Any) -> Callable[[Split, int, str], list[Row]]:
    return ours("auto", max_macs=int(share * _LITE0_MACS), **parameters)


def _cells(
    search: Any, epochs: int, strategy: str = "multi"
) -> Callable[[Split, int, str], list[Row]]:
    return ours(strategy, family="cells", search=search, retraining=Retraining(epochs))


OTHERS: dict[str, Callable[[Split, int, str], list[Row]]] = {
    "probe": probe,
    "lite0": lite0,
    "plain": plain,
    "skorch": skorch,
}
PEERS: dict[str, Callable[[Split, int, str], list[Row]]] = {
    "default": ours("auto"),
    "quick": ours("auto", preset="quick"),
    "best": ours("auto", preset="best"),
    "elastic 56": _elastic(56),
    "elastic 64": _elastic(64),
    "elastic 80": _elastic(80),
    "elastic 96": _elastic(96),
    "elastic 96 free": _elastic(96, 0),
    "elastic 128": _elastic(128),
    "elastic 128 deep": _elastic(128, 5),
    "half": _share(1 / 2),
    "quarter": _share(1 / 4),
    "eighth": _share(1 / 8),
    "eighth evolved": _share(
        1 / 8, family="elastic", search=Evolution(6, population=50, score="probe", epochs=0)
    ),
    "eighth long": _share(1 / 8, family="elastic", retraining=Retraining(40)),
    "random member": _share(1 / 2, family="elastic", search="random"),
    "scratch": ours("scratch"),
    "front": front,
    "shares": shares,
    "one by one": one_by_one,
    "cells": _cells("none", 30),
    "cells short": _cells("none", 15),
    "cells eighth": ours("multi", **_CELLS_EIGHTH),
    "cells eighth 32": cells_eighth_32,
    "cells random": _cells("random", 30),
    "cells search": _cells("sdarts", 15),
    "cells soft": _cells(SmoothDARTS(alpha_scale=0.1, alpha_learning_rate=0.03), 15),
    "cells race": race,
    "cells scratch": _cells("sdarts", 15, "scratch"),
    **OTHERS,
}


def _short(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value}"[:60]


if __name__ == "__main__":
    main()
