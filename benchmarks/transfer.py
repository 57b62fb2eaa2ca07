"""Does a zoo help on data that it has not seen?

    python benchmarks/transfer.py ZOO flowers5.npz cifar10.npz --seeds 3

For every target (``.npz`` with arrays X, y) and seed a stratified split of 75 % training and 25 %
test images, and one fit per strategy with equal budgets. Prints accuracy, relative improvement over
"scratch" (``(a - b) / b``, section 5 of the supernet transfer paper) and the epochs and seconds
after which the search has the validation accuracy that the search from scratch ends with.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from common import add_output, mean_and_std, write_results
from sklearn.model_selection import train_test_split

from supernetnas import SupernetTransferClassifier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("zoo", help="folder of a zoo that holds none of the targets")
    parser.add_argument("targets", nargs="+", help=".npz files with X and y")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strategies", default="scratch,ot,multi")
    parser.add_argument("--search-epochs", type=int, default=None)
    parser.add_argument("--retrain-epochs", type=int, default=None)
    add_output(parser, __file__, "continued if it exists")
    arguments = parser.parse_args()
    options = {
        "search__epochs": arguments.search_epochs,
        "retraining__epochs": arguments.retrain_epochs,
    }
    budget = {name: value for name, value in options.items() if value is not None}

    out = arguments.out
    rows = json.loads(out.read_text())["rows"] if out.exists() else []
    done = {(row["target"], row["seed"], row["strategy"]) for row in rows}
    for seed in range(arguments.seeds):
        for path in map(Path, arguments.targets):
            for strategy in arguments.strategies.split(","):
                if (path.stem, seed, strategy) not in done:
                    rows.append(run(arguments.zoo, path, strategy, seed, budget))
                    write_results(out, rows=rows)
    print(table(rows))


def run(zoo: str, path: Path, strategy: str, seed: int, budget: dict) -> dict:
    """Fit one strategy on one split."""
    with np.load(path, allow_pickle=False) as data:
        X, y = data["X"], data["y"]
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.25, stratify=y, random_state=seed)
    # No early stopping: equal budgets, and whole curves to compare.
    clf = SupernetTransferClassifier(strategy, zoo=zoo, random_state=seed)
    clf.set_params(search__patience=None, **budget)
    started = time.perf_counter()
    clf.fit(X, y)
    seconds = time.perf_counter() - started
    search = [row for row in clf.history_ if row["stage"] == "search"]
    row = {
        "target": path.stem,
        "seed": seed,
        "strategy": strategy,
        "source": clf.source_,
        "accuracy": clf.score(X_test, y_test),
        "seconds": seconds,
        "search_seconds": [row["seconds"] for row in search],
        "validation_accuracy": [row["validation_accuracy"] for row in search],
        "parameters": clf.n_parameters_,
    }
    print(
        f"{path.stem:16s} seed {seed}  {strategy:8s} {row['accuracy']:.3f}  {seconds:6.1f} s  "
        f"validation {row['validation_accuracy'][-1]:.3f}  from {clf.source_}",
        flush=True,
    )
    return row


def table(rows: list[dict]) -> str:
    """The results as Markdown."""
    lines = [
        "| target | strategy | accuracy | relative improvement | epochs to scratch's end | ratio |",
        "|---|---|---|---|---|---|",
    ]
    improvements: dict[str, list[float]] = {}
    totals: dict[str, tuple[float, float]] = {}
    for target in dict.fromkeys(row["target"] for row in rows):
        of_target = [row for row in rows if row["target"] == target]
        scratch = {row["seed"]: row for row in of_target if row["strategy"] == "scratch"}
        for strategy in dict.fromkeys(row["strategy"] for row in of_target):
            chosen = [row for row in of_target if row["strategy"] == strategy]
            chosen = [row for row in chosen if row["seed"] in scratch]
            if not chosen:  # nothing to compare with yet
                continue
            accuracy = np.mean([row["accuracy"] for row in chosen])
            base = np.mean([scratch[row["seed"]]["accuracy"] for row in chosen])
            improvement = (accuracy - base) / base
            improvements.setdefault(strategy, []).append(improvement)
            reached = [_reached(row, scratch[row["seed"]]) for row in chosen]
            spent = totals.get(strategy, (0, 0.0))
            for row, r in zip(chosen, reached, strict=True):
                seconds = row["search_seconds"]
                r = len(seconds) + 1 if r is None else r
                spent = spent[0] + r, spent[1] + sum(seconds[:r])
            totals[strategy] = spent
            total = np.mean([len(row["validation_accuracy"]) for row in chosen])
            epochs = np.mean([total + 1 if r is None else r for r in reached])
            never = sum(r is None for r in reached)
            note = f" ({never} never)" if never else ""
            lines.append(
                f"| {target} | {strategy} | {mean_and_std([r['accuracy'] for r in chosen])} | "
                f"{improvement:+.3f} | {epochs:.1f}{note} | {total / epochs:.1f}x |"
            )
    for strategy, values in improvements.items():
        lines.append(
            f"\nmean relative improvement of {strategy}: {np.mean(values):+.3f}, positive on "
            f"{sum(v > 0 for v in values)} of {len(values)} targets; to where the search from "
            f"scratch ends, all fits together: {totals[strategy][0]} epochs, "
            f"{totals[strategy][1]:,.0f} s"
        )
    return "\n".join(lines)


def _reached(row: dict, scratch: dict) -> int | None:
    """First epoch at the validation accuracy that the search from scratch ends with."""
    goal = scratch["validation_accuracy"][-1]
    epochs = (i + 1 for i, a in enumerate(row["validation_accuracy"]) if a >= goal)
    return next(epochs, None)


if __name__ == "__main__":
    main()
