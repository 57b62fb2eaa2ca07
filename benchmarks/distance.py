"""How fast, how exact and how small is the dataset distance?

    python benchmarks/distance.py
    python benchmarks/distance.py --real features.npz

The reference is a straightforward implementation with POT in double precision, kept here: a Bures-
Wasserstein distance from two full covariances for each pair of classes
(`ot.gaussian.bures_wasserstein_distance`, with its torch backend, as the numpy one gives NaN for
singular covariances), then either `ot.emd2` or the debiased `ot.sinkhorn2` at a twentieth of the
median cost. Where geomloss is installed, the way of the code that accompanies the OTDD paper
(microsoft/otdd) is measured, too: statistics and label distances in single precision, with one root
of each covariance and, for each pair of classes, one more; then geomloss's debiased Sinkhorn loop
at a regularisation of 0.1, which is stopped before it converges.

Repeats of all are interleaved in one process, and medians of wall and of CPU time are compared. A
repeat of a reference times ``--pairs`` pairs of classes and counts them as all; the values of the
first come from all of them where that is feasible, with ``--complete``.

``--real`` takes features of several datasets ("<name>/X" and "<name>/y" in one .npz) and measures
the vectors of `supernetnas.distance.dataset_vectors` and the compact signatures on them.

``--halves`` takes datasets (``.npz`` with X and y) and measures one half of each, 300 images at
most, against the other half, against that with its labels shuffled, and against the sources of
``--sources``, whose distances from each other come first.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import ot
import torch
from common import add_output, write_results
from scipy.stats import kendalltau
from sklearn.neighbors import NearestNeighbors

from supernetnas import Zoo, get_embedder
from supernetnas.distance.dataset_vectors import fit_vector_space
from supernetnas.distance.otdd import otdd
from supernetnas.distance.signature import DatasetSignature, fit_basis
from supernetnas.images.reading import as_image_set

PAIRS = [(512, 10), (512, 20), (512, 60), (512, 100), (1280, 20)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=40, help="pairs of classes that are timed")
    parser.add_argument("--complete", action="store_true", help="the reference's values, too: slow")
    parser.add_argument("--cases", default="", help="d:classes,... (default: the five above)")
    parser.add_argument("--parts", default="pairs,zoo,query", help="what to measure")
    parser.add_argument("--real", help=".npz file of features of real datasets")
    parser.add_argument("--halves", nargs="+", default=[], help=".npz files with X and y")
    parser.add_argument("--sources", default="builtin", help="zoo that halves are compared with")
    add_output(parser, __file__)
    arguments = parser.parse_args()
    cases = [tuple(map(int, case.split(":"))) for case in arguments.cases.split(",") if case]
    rows = []
    if "pairs" in arguments.parts:
        for d, n_classes in cases or PAIRS:
            rows.append(pair(d, n_classes, arguments))
            print(rows[-1], flush=True)
    if "zoo" in arguments.parts:
        for compact in (False, True):
            rows.append(zoo(arguments.rows, arguments.repeats, compact))
            print(rows[-1], flush=True)
    if "query" in arguments.parts:
        rows.append(query(arguments.repeats))
        print(rows[-1], flush=True)
    if arguments.real:
        for row in real(arguments.real):
            rows.append(row)
            print(row, flush=True)
    if arguments.halves:
        for row in halves(arguments.halves, Zoo.open(arguments.sources)):
            rows.append(row)
            print(row, flush=True)
    write_results(arguments.out, rows=rows)
    print(markdown(rows))


# ------------------------------------------------------------------------------- the reference


def class_statistics(x: np.ndarray, y: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(x[y == c].mean(axis=0), np.cov(x[y == c].T)) for c in np.unique(y)]


def squared_bures(a: tuple, b: tuple) -> float:
    (m, s), (m2, s2) = (tuple(map(torch.from_numpy, pair)) for pair in (a, b))
    return float(ot.gaussian.bures_wasserstein_distance(m, m2, s, s2)) ** 2


def reference_costs(x: np.ndarray, y: np.ndarray, x2: np.ndarray, y2: np.ndarray) -> np.ndarray:
    a, b = class_statistics(x, y), class_statistics(x2, y2)
    labels = np.array([[squared_bures(p, q) for q in b] for p in a])
    return ot.dist(x, x2) / 2 + labels[np.ix_(y, y2)] / 2


def sinkhorn(costs: np.ndarray, reg: float) -> float:
    """<plan, costs> + reg KL(plan | a x b), where POT's value leaves reg KL or its constant out."""
    n, m = costs.shape
    a, b = np.full(n, 1 / n), np.full(m, 1 / m)
    plan = ot.sinkhorn(a, b, costs, reg, method="sinkhorn_log", numItermax=5000, stopThr=1e-9)
    mass = plan[plan > 0]
    return float((plan * costs).sum() + reg * (mass @ np.log(mass) + np.log(n) + np.log(m)))


# ------------------------------------------------------------------------------ the paper's code


def root(matrix: torch.Tensor) -> torch.Tensor:
    """Square root of a covariance; eigenvalues that may be rounding alone count as zero."""
    values, vectors = torch.linalg.eigh(matrix)
    least = values.max() * len(values) * torch.finfo(values.dtype).eps
    values = torch.where(values > least, values, 0)
    return vectors @ torch.diag(values.sqrt()) @ vectors.T


def single(statistics: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[torch.Tensor, ...]]:
    """Class statistics in single precision."""
    return [tuple(torch.from_numpy(x).float() for x in one) for one in statistics]


def squared_bures_by_root(a: tuple, b: tuple, root_of_a: torch.Tensor) -> float:
    (m, s), (m2, s2) = a, b
    covariances = torch.trace(s + s2 - 2 * root(root_of_a @ s2 @ root_of_a))
    return float(((m - m2) ** 2).sum() + covariances.clamp(min=0))


def entropic_loop(x: np.ndarray, y: np.ndarray, x2: np.ndarray, y2: np.ndarray) -> Callable:
    """Geomloss's loop on rows with labels, which the label distances are looked up by."""
    from geomloss import SamplesLoss

    n_classes = [len(np.unique(labels)) for labels in (y, y2)]
    labels = torch.rand(2 * [sum(n_classes)])  # the time does not depend on the values

    def cost(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        index = a[..., -1].long()[..., :, None], b[..., -1].long()[..., None, :]
        return torch.cdist(a[..., :-1], b[..., :-1]) ** 2 / 2 + labels[index] / 2

    loss = SamplesLoss("sinkhorn", p=2, blur=0.1**0.5, cost=cost, backend="tensorized")
    rows = [
        torch.from_numpy(np.column_stack([features, classes])).float()
        for features, classes in ((x, y), (x2, y2 + n_classes[0]))
    ]
    return lambda: loss(*rows)


# -------------------------------------------------------------------------------------- measures


def pair(d: int, n_classes: int, arguments: argparse.Namespace) -> dict:
    """Time, ratio and error of one pair of datasets."""
    (x, y), (x2, y2) = (features(d, n_classes, arguments.rows, seed) for seed in (0, 1))
    a, b = class_statistics(x, y), class_statistics(x2, y2)
    rng = np.random.default_rng(0)
    sampled = [tuple(rng.integers(0, n_classes, 2)) for _ in range(arguments.pairs)]
    w = np.full(arguments.rows, 1 / arguments.rows)
    exact = otdd(x, y, x2, y2)
    stand_in = ot.dist(x, x2) / 2 + exact.label_distances[np.ix_(y, y2)] / 2

    def statistics() -> None:
        class_statistics(x, y), class_statistics(x2, y2)

    stages: dict[str, Callable[[], object]] = {
        "ours": lambda: otdd(x, y, x2, y2),
        "ours, entropic": lambda: otdd(x, y, x2, y2, reg=0.05, reg_unit="median"),
        "statistics": statistics,
        "labels": lambda: [squared_bures(a[i], b[j]) for i, j in sampled],
        "costs": lambda: ot.dist(x, x2),
        "emd2": lambda: ot.emd2(w, w, stand_in, numItermax=10_000_000),
        "sinkhorn2": lambda: ot.sinkhorn2(
            w, w, stand_in, 0.05 * np.median(stand_in), method="sinkhorn_log", stopThr=1e-9
        ),
    }
    covariances = [covariance for _, covariance in single(a + b)][: arguments.pairs]
    singles = single(a), single(b)
    if has_geomloss := importlib.util.find_spec("geomloss") is not None:
        roots = [root(covariance) for _, covariance in singles[0]]
        stages |= {
            "roots": lambda: [root(covariance) for covariance in covariances],
            "labels by root": lambda: [
                squared_bures_by_root(singles[0][i], singles[1][j], roots[i]) for i, j in sampled
            ],
            "loop": entropic_loop(x, y, x2, y2),
        }
    wall, cpu = interleaved(stages, arguments.repeats)
    row = {"what": "pair", "d": d, "classes": n_classes, "rows": arguments.rows}
    row |= {"seconds": wall["ours"], "cpu": cpu["ours"], "entropic": wall["ours, entropic"]}
    within = n_classes * (n_classes - 1)  # debiased: both sets' own labels, each pair once
    for suffix, times in (("", wall), ("_cpu", cpu)):
        labels = times["labels"] / arguments.pairs
        row[f"reference{suffix}"] = (
            times["statistics"] + n_classes**2 * labels + times["costs"] + times["emd2"]
        )
        row[f"reference{suffix}_entropic"] = (
            times["statistics"]
            + (n_classes**2 + within) * labels
            + 3 * (times["costs"] + times["sinkhorn2"])
        )
        if has_geomloss:
            row[f"paper_labels{suffix}"] = (
                2 * n_classes * times["roots"] / len(covariances)
                + (n_classes**2 + within) * times["labels by root"] / arguments.pairs
            )
            row[f"paper{suffix}"] = (
                times["statistics"] + row[f"paper_labels{suffix}"] + times["loop"]
            )
    row["ratio"] = row["reference_cpu"] / cpu["ours"]
    row["ratio_entropic"] = row["reference_cpu_entropic"] / cpu["ours, entropic"]
    if has_geomloss:
        row["ratio_paper"] = row["paper_cpu"] / cpu["ours"]
        row["ratio_paper_entropic"] = row["paper_cpu"] / cpu["ours, entropic"]
    labels = np.array([squared_bures(a[i], b[j]) for i, j in sampled])
    ours = np.array([exact.label_distances[i, j] for i, j in sampled])
    row["label_error"] = float(np.abs(ours / labels - 1).max())
    if has_geomloss:
        theirs = np.array(
            [squared_bures_by_root(singles[0][i], singles[1][j], roots[i]) for i, j in sampled]
        )
        row["label_error_paper"] = float(np.abs(theirs / labels - 1).max())
    if arguments.complete:
        costs = reference_costs(x, y, x2, y2)
        row["error"] = abs(exact.distance / ot.emd2(w, w, costs, numItermax=10_000_000) - 1)
        reg = 0.05 * np.median(costs)
        biased = otdd(x, y, x2, y2, reg=0.05, reg_unit="median", debiased=False)
        row["error_entropic"] = abs(biased.distance / sinkhorn(costs, reg) - 1)
    return row


def zoo(n_rows: int, repeats: int, compact: bool, d: int = 1280, n_sources: int = 20) -> dict:
    """One target against the stored signatures of many sources."""
    data = [features(d, 10 + 2 * seed, n_rows, seed) for seed in range(n_sources)]
    stored = [DatasetSignature.from_features(*one, embedder_id="benchmark") for one in data]
    if compact:
        basis = fit_basis(data)
        stored = [signature.compress(basis) for signature in stored]
    stored[0].distances(stored)  # what is computed once for each is kept
    target = features(d, 20, n_rows, 99)
    wall, cpu = interleaved(
        {
            "ours": lambda: DatasetSignature.from_features(
                *target, embedder_id="benchmark"
            ).distances(stored)
        },
        repeats,
    )
    what = "zoo of compact signatures" if compact else "zoo of full signatures"
    return {"what": what, "sources": n_sources, "seconds": wall["ours"], "cpu": cpu["ours"]}


def query(repeats: int, n_sources: int = 100_000, dimension: int = 65) -> dict:
    """The nearest of very many vectors."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(n_sources, dimension)).astype(np.float32)
    neighbours = NearestNeighbors(algorithm="brute").fit(vectors)
    one = rng.normal(size=(1, dimension)).astype(np.float32)
    wall, cpu = interleaved({"ours": lambda: neighbours.kneighbors(one, 20)}, 5 * repeats)
    return {"what": "query", "sources": n_sources, "seconds": wall["ours"], "cpu": cpu["ours"]}


def real(path: str) -> list[dict]:
    """Compact signatures and vectors against full features, each dataset as a target once."""
    with np.load(path, allow_pickle=False) as file:
        names = sorted({key.split("/")[0] for key in file})
        data = {name: (file[f"{name}/X"], file[f"{name}/y"]) for name in names}
    basis = fit_basis(data.values())
    full = [DatasetSignature.from_features(*data[n], embedder_id="real") for n in names]
    whole = [
        DatasetSignature.from_features(*data[n], embedder_id="real", n_samples=None) for n in names
    ]
    compact = [signature.compress(basis) for signature in whole]
    n = len(names)
    exact, found, vectors = (np.zeros((n, n)) for _ in range(3))
    for i in range(n):
        exact[i, i + 1 :] = [result.distance for result in full[i].distances(full[i + 1 :])]
        found[i] = [result.distance for result in full[i].distances(compact)]
        others = [signature for j, signature in enumerate(full) if j != i]
        space = fit_vector_space(others)  # the target is new to it
        at, energy = space.query(full[i])
        vectors[i] = [np.square(at - space.vector(s)).sum() / 2 + energy for s in full]
    exact += exact.T
    rows = []
    sizes = [sum(array.nbytes for array in s.to_tensors().values()) / 1024 for s in compact]
    for name, table in (("compact signatures", found), ("vectors", vectors)):
        taus, ranks, errors = [], [], []
        for i in range(n):
            others = np.arange(n) != i
            taus.append(kendalltau(exact[i][others], table[i][others]).statistic)
            best = exact[i][others].argmin()
            ranks.append(int((table[i][others] < table[i][others][best]).sum()))
            errors.extend(np.abs(table[i][others] / exact[i][others] - 1))
        row = {"what": name, "datasets": n, "tau": float(np.mean(taus))}
        row |= {f"recall@{k}": float(np.mean(np.array(ranks) < k)) for k in (1, 3, 5, 10)}
        row |= {"median_error": float(np.median(errors)), "largest_error": float(np.max(errors))}
        if name.startswith("compact"):
            row |= {"median_KiB": float(np.median(sizes)), "largest_KiB": float(np.max(sizes))}
        rows.append(row)
    return rows


def halves(paths: list[str], zoo: Zoo) -> list[dict]:
    """What distances are within a dataset, and between datasets."""
    signatures = {source.name: source.signature() for source in zoo.singles()}
    names, stored = list(signatures), list(signatures.values())
    between = np.array([[result.distance for result in a.distances(stored)] for a in stored])
    between = between[np.triu_indices(len(stored), 1)]
    row = {"what": "sources of a zoo", "least": float(between.min())}
    rows = [row | {"median": float(np.median(between)), "most": float(between.max())}]
    embedder = get_embedder()
    for path in map(Path, paths):
        with np.load(path, allow_pickle=False) as data:
            x, y = embedder.embed(as_image_set(data["X"][:600])), data["y"][:600]
        first = np.arange(len(y)) % 2 == 0
        shuffled = np.random.default_rng(0).permutation(y)
        one, other, mixed = (
            DatasetSignature.from_features(x[part], labels[part], embedder_id=embedder.identity)
            for part, labels in ((first, y), (~first, y), (~first, shuffled))
        )
        found = {
            name: result.distance
            for name, result in zip(names, one.distances(stored), strict=True)
            if name != path.stem
        }
        near, far = min(found, key=found.get), max(found, key=found.get)
        row = {"what": f"half of {path.stem}", "other half": one.distance(other).distance}
        row |= {"labels shuffled": one.distance(mixed).distance}
        row |= {f"nearest, {near}": found[near], f"farthest, {far}": found[far]}
        rows.append(row)
    return rows


def features(d: int, n_classes: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative features of classes with covariances of their own."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    x = rng.normal(size=(n_classes, d))[y]
    x += rng.normal(size=(n, 16)) @ rng.normal(size=(16, d)) / 4 + rng.normal(size=(n, d))
    x = np.maximum(x, 0)
    return x / np.linalg.norm(x, axis=1, keepdims=True), y


def interleaved(stages: dict[str, Callable], repeats: int) -> tuple[dict, dict]:
    """Median wall and CPU seconds of each stage, the stages taking turns."""
    wall, cpu = ({name: [] for name in stages} for _ in range(2))
    for _ in range(repeats):
        for name, run in stages.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            run()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - start_cpu)
    return tuple({k: float(np.median(v)) for k, v in times.items()} for times in (wall, cpu))


def markdown(rows: list[dict]) -> str:
    """The results as Markdown; times in seconds."""
    lines = []
    for row in rows:
        shown = (
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in row.items()
            if name != "what"
        )
        lines.append(f"- {row['what']}: {', '.join(shown)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
