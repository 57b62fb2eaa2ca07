"""Which way of choosing a source finds the one that transfers best?

    python benchmarks/selection.py ZOO flowers5.npz cifar10.npz

For every target (``.npz`` with arrays X, y) every source of the zoo but the one of the target's own
name is tried: a fit with ``strategy=<source>`` on 75 % of the images (or ``--train-images``), whose
accuracy on the rest is what the source is worth. Then every method of `scores.RANKINGS` (and OTDD
of raw features where ``--raw`` is given) and sums of their ranks order the sources from the same
training images.

Printed for each: Kendall's tau between its order and that of the accuracies, the regret (the best
accuracy minus that of its choice), both averaged over the targets with their standard errors, and
the seconds that it took for a target, the fits left out. Beside them what a random choice would
give.

Everything is written to ``--out`` after each fit and each score, and an interrupted run goes on
there. ``--accuracies`` takes the accuracies from a file ``{target: {source: accuracy}}`` instead of
fitting, or their means over the seeds of the lines of fits that `transfer_table.py` writes; what
it lacks is not fitted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import add_output, write_results
from scipy.stats import kendalltau
from sklearn.model_selection import train_test_split

from supernetnas import (
    DatasetSignature,
    Retraining,
    SmoothDARTS,
    SupernetTransferClassifier,
    Zoo,
    get_embedder,
)
from supernetnas.distance.otdd import otdd
from supernetnas.images.preprocessing import Preprocessing
from supernetnas.images.reading import as_image_set
from supernetnas.selection.scores import RANKINGS, ScoredTarget, rank_by, rank_sum
from supernetnas.training.batches import LabelledImages

SETTINGS = ("zoo", "most", "train_images", "search_epochs", "retrain_epochs", "image_size")
SETTINGS += ("embedder",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("zoo", help="folder of a zoo, or builtin")
    parser.add_argument("targets", nargs="+", help=".npz files with X and y")
    parser.add_argument("--accuracies", help="file with accuracies; no fits")
    parser.add_argument("--raw", help="folder of .npz files of the sources: OTDD of raw features")
    parser.add_argument("--search-epochs", type=int, default=3)
    parser.add_argument("--retrain-epochs", type=int, default=5)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--most", type=int, help="images of a target")
    parser.add_argument("--train-images", type=int, help="instead of 75 %% of them")
    parser.add_argument("--seeds", type=int, default=1, help="fits of each pair")
    parser.add_argument("--embedder", default="efficientnet_lite0")
    parser.add_argument("--device", default="cpu")
    add_output(parser, __file__, "continued if it exists")
    arguments = parser.parse_args()
    study(arguments, get_embedder(arguments.embedder))


def study(arguments: argparse.Namespace, embedder) -> list[dict]:
    """Run what is missing, and print and return the table."""
    zoo = Zoo.open(arguments.zoo)
    settings = {name: getattr(arguments, name) for name in SETTINGS}
    record = Record(arguments.out, settings)
    given = read(Path(arguments.accuracies), arguments) if arguments.accuracies else None
    for path in map(Path, arguments.targets):
        sources = [source for source in zoo.singles() if source.name != path.stem]
        if given is not None:
            record.data["accuracies"][path.stem] = {
                name: [value] for name, value in given.get(path.stem, {}).items()
            }
        else:
            fit_all(arguments, path, sources, record)
        tried = record.data["accuracies"].get(path.stem, {})
        sources = [source for source in sources if tried.get(source.name)]
        if len(sources) < 3:
            print(f"{path.stem}: fewer than 3 sources with an accuracy, left out")
            continue
        score_all(arguments, path, sources, embedder, record)
    rows = table(record.data)
    print(markdown(rows))
    return rows


def read(path: Path, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Accuracies by target and source; of lines of fits, over the seeds that all sources have."""
    if path.suffix != ".jsonl":
        return json.loads(path.read_text())
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        settings = {**rows[0]["settings"], "zoo": arguments.zoo, "most": arguments.most}
        if row["settings"] != settings:
            raise SystemExit(f"{path} holds fits with other settings: {row['settings']}.")
        of_target = found.setdefault(row["target"], {})
        of_target.setdefault(row["start"], {})[row["seed"]] = row["accuracy"]
    means = {}
    for target, starts in found.items():
        seeds = set.intersection(*map(set, starts.values()))
        if not seeds:
            raise SystemExit(f"{path} has no seed that all sources were fitted with on {target}.")
        means[target] = {
            start: float(np.mean([of[seed] for seed in seeds])) for start, of in starts.items()
        }
    return means


class Record:
    """What was measured so far, in a file."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.data = {"settings": settings, "accuracies": {}, "scores": {}, "seconds": {}}
        if path.exists():
            known = json.loads(path.read_text())
            if known.get("settings") != settings:
                raise SystemExit(f"{path} was measured with other settings: name another --out.")
            self.data = {key: known[key] for key in self.data}

    def write(self) -> None:
        write_results(self.path, **self.data)


def split(path: Path, n_train: int | None, most: int | None = None) -> tuple[np.ndarray, ...]:
    """Training and test images, training and test labels: those of `transfer_table.py`, seed 0."""
    with np.load(path, allow_pickle=False) as data:
        X, y = data["X"], data["y"]
    if most is not None and len(y) > most:
        X, _, y, _ = train_test_split(X, y, train_size=most, stratify=y, random_state=0)
    share = 0.75 if n_train is None else n_train
    return train_test_split(X, y, train_size=share, stratify=y, random_state=0)


def fit_all(arguments: argparse.Namespace, path: Path, sources: list, record: Record) -> None:
    """Measure what each source is worth, a fit at a time."""
    accuracies = record.data["accuracies"].setdefault(path.stem, {})
    X, X_test, y, y_test = split(path, arguments.train_images, arguments.most)
    for seed, source in itertools.product(range(arguments.seeds), sources):
        done = accuracies.setdefault(source.name, [])
        if len(done) > seed:
            continue
        clf = SupernetTransferClassifier(
            source.name,
            zoo=arguments.zoo,
            image_size=arguments.image_size,
            search=SmoothDARTS(epochs=arguments.search_epochs, patience=None),
            retraining=Retraining(epochs=arguments.retrain_epochs),
            device=arguments.device,
            random_state=seed,
        )
        started = time.perf_counter()
        done.append(float(clf.fit(X, y).score(X_test, y_test)))
        record.write()
        seconds = time.perf_counter() - started
        print(f"{path.stem:16s} from {source.name:16s} {done[-1]:.3f}  {seconds:.1f} s", flush=True)


def score_all(
    arguments: argparse.Namespace, path: Path, sources: list, embedder, record: Record
) -> None:
    """Let every method score the sources."""
    scores = record.data["scores"].setdefault(path.stem, {})
    seconds = record.data["seconds"].setdefault(path.stem, {})
    names = {source.name for source in sources}
    methods = [*RANKINGS, *(["ot_raw"] if arguments.raw else [])]
    missing = [name for name in methods if set(scores.get(name, ())) < names]
    if not missing:
        return
    X, _, y, _ = split(path, arguments.train_images, arguments.most)
    labels = np.unique(y, return_inverse=True)[1]
    started = time.perf_counter()
    features = embedder.embed(as_image_set(X), device=arguments.device)
    seconds["embedding"] = time.perf_counter() - started
    signature = DatasetSignature.from_features(features, labels, embedder_id=embedder.identity)
    pixels = as_image_set(X).tensor(arguments.image_size, arguments.image_size)
    images = Preprocessing.of(pixels).on_device(pixels, arguments.device)
    data = LabelledImages(images, torch.as_tensor(labels, device=arguments.device))
    target = ScoredTarget(signature, data)
    for name in missing:
        started = time.perf_counter()
        if name == "ot_raw":
            folder = Path(arguments.raw)
            scores[name] = {
                source.name: -raw_distance(
                    features, labels, folder / f"{source.name}.npz", embedder
                )
                for source in sources
            }
        else:
            scores[name] = rank_by(name, target, sources)
        seconds[name] = time.perf_counter() - started
        record.write()


EMBEDDED = {"ot", "frechet", "ot_raw"}

_RAW: dict[Path, tuple[np.ndarray, np.ndarray]] = {}


def raw_distance(features: np.ndarray, labels: np.ndarray, path: Path, embedder) -> float:
    """OTDD of features as they are: the paper's, but for its tiny regularisation."""
    if path not in _RAW:
        with np.load(path, allow_pickle=False) as data:
            _RAW[path] = embedder.embed(as_image_set(data["X"])), data["y"]
    return otdd(features, labels, *_RAW[path], normalize="none").distance


def table(data: dict) -> list[dict]:
    """A row for each method and combination: tau and regret over the targets."""
    combinations: dict[tuple[str, ...], list[tuple[str, float, float]]] = {}
    random = []
    for target, scores in data["scores"].items():
        accuracies = {
            name: float(np.mean(values))
            for name, values in data["accuracies"].get(target, {}).items()
            if values and all(name in score for score in scores.values())
        }
        if len(accuracies) < 3:
            continue
        best = max(accuracies.values())
        random.append((0.0, best - np.mean(list(accuracies.values()))))
        scores = {
            method: {name: score[name] for name in accuracies} for method, score in scores.items()
        }
        for size in (1, 2, 3):
            for methods in itertools.combinations(scores, size):
                combined = rank_sum(*(scores[method] for method in methods))
                tau = kendalltau(
                    [combined[name] for name in accuracies], list(accuracies.values())
                ).statistic
                regret = best - expected_accuracy(combined, accuracies)
                found = (0.0 if np.isnan(tau) else float(tau), regret)
                combinations.setdefault(methods, []).append(found)
    rows = [
        {
            "method": " + ".join(methods),
            **summary(found),
            "seconds": seconds(methods, data["seconds"].values()),
        }
        for methods, found in combinations.items()
        if len(found) == len(random)
    ]
    rows.sort(key=lambda row: row["regret"])
    return [*rows, {"method": "random", **summary(random), "seconds": 0.0}] if random else rows


def seconds(methods: tuple[str, ...], measured: Iterable[dict]) -> float:
    """Median seconds of a target; methods that need its features share the embedding."""
    needed = {*methods} | ({"embedding"} if {*methods} & EMBEDDED else set())
    return sum(float(np.median([times[name] for times in measured])) for name in needed)


def expected_accuracy(scores: dict[str, float], accuracies: dict[str, float]) -> float:
    """Accuracy of the best by the scores; the mean over those that are equally good."""
    top = max(scores.values())
    return float(np.mean([accuracies[name] for name in accuracies if scores[name] == top]))


def summary(found: list[tuple[float, float]]) -> dict[str, float]:
    taus, regrets = np.array(found).T
    error = np.sqrt(max(len(taus) - 1, 1) * len(taus))
    return {
        "targets": len(taus),
        "tau": float(taus.mean()),
        "tau_error": float(np.linalg.norm(taus - taus.mean()) / error),
        "regret": float(regrets.mean()),
        "regret_error": float(np.linalg.norm(regrets - regrets.mean()) / error),
    }


def markdown(rows: list[dict]) -> str:
    lines = [
        "| ranked by | targets | Kendall tau | mean regret | seconds |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['method']} | {row['targets']} | {row['tau']:+.2f} ± {row['tau_error']:.2f} | "
            f"{row['regret']:.4f} ± {row['regret_error']:.4f} | {row['seconds']:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
