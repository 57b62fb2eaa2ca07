"""Time and test accuracy on scikit-learn's digits, next to simpler classifiers.

    python benchmarks/digits.py --seeds 3

For every seed a new stratified split of 1,347 training and 450 test images. "random architecture"
is a genotype drawn uniformly from the space, with new weights and the same retraining as the
searched ones: what the search and the transfer have to beat. Seconds are of the processor, those
of all threads together, and include the predictions.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from common import (
    add_output,
    mean_and_interval,
    plain_cnn,
    random_genotype,
    train_network,
    write_results,
)
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from supernetnas import SupernetTransferClassifier
from supernetnas.families.cells.config import NetworkConfig
from supernetnas.families.cells.network import Network
from supernetnas.training.seeds import seeded_modules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strategies", default="auto,multi,ot,scratch")
    add_output(parser, __file__)
    arguments = parser.parse_args()

    X, y = load_digits(return_X_y=True)
    rows = []
    for seed in range(arguments.seeds):
        split = train_test_split(X, y, stratify=y, random_state=seed)
        for name, fit in methods(arguments.strategies.split(","), seed).items():
            started = time.process_time()
            score = fit(*split)
            seconds = time.process_time() - started
            rows.append({"method": name, "seed": seed, "seconds": seconds, "accuracy": score})
            print(f"seed {seed}  {name:20s} {score:.4f}  {seconds:6.1f} s", flush=True)

    print("\n| method | accuracy, 95 % interval over splits | seconds |\n|---|---|---|")
    for name in dict.fromkeys(row["method"] for row in rows):
        chosen = [row for row in rows if row["method"] == name]
        accuracy = mean_and_interval([row["accuracy"] for row in chosen])
        seconds = np.mean([row["seconds"] for row in chosen])
        print(f"| {name} | {accuracy} | {seconds:.2f} |")
    write_results(arguments.out, rows=rows)


def methods(strategies: list[str], seed: int) -> dict:
    """Functions from a split to a test accuracy, by name."""

    def estimator(clf):
        return lambda X, X_test, y, y_test: clf.fit(X, y).score(X_test, y_test)

    found = {
        strategy: estimator(SupernetTransferClassifier(strategy, random_state=seed))
        for strategy in strategies
    }
    found["random architecture"] = lambda *split: random_architecture(*split, seed=seed)
    found["plain CNN"] = lambda *split: cnn(*split, seed=seed)
    found["SVC"] = estimator(SVC(C=10))
    found["k-NN"] = estimator(KNeighborsClassifier(3))
    found["random forest"] = estimator(RandomForestClassifier(500, random_state=seed))
    found["logistic regression"] = estimator(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    )
    return found


def random_architecture(X, X_test, y, y_test, *, seed: int) -> float:
    genotype = random_genotype("s1", np.random.RandomState(seed))
    with seeded_modules(seed):
        network = Network(NetworkConfig(genotype, 16, 5, 1, 10))
    predict = train_network(network, images(X), y, seed=seed)
    return float((predict(images(X_test)) == y_test).mean())


def cnn(X, X_test, y, y_test, *, seed: int) -> float:
    with seeded_modules(seed):
        network = plain_cnn(1, 10)
    predict = train_network(network, images(X), y, seed=seed)
    return float((predict(images(X_test)) == y_test).mean())


def images(X) -> torch.Tensor:
    """Rows as the (n, 1, 8, 8) images that the estimator makes of them."""
    return torch.from_numpy(X).float().reshape(-1, 1, 8, 8)


if __name__ == "__main__":
    main()
