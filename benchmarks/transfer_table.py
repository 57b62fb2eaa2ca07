"""The tables and figures of the supernet transfer paper, on datasets of one's own.

    python benchmarks/transfer_table.py ALBUM --work WORK --seeds 3 --jobs 2
    python benchmarks/transfer_table.py ALBUM --work WORK --folds 3 --figures FIGURES
    python benchmarks/transfer_table.py flowers5.npz sports.npz --work WORK --zoo builtin

ALBUM is a folder of datasets (or several, or .npz files). Every dataset is a target once, and
nothing that it is fitted from has seen it: with its single sources, each trained on one other
dataset, and with a supernet on many that was trained on all others (leave-one-out, as in the paper)
or, with ``--folds``, on those of the other folds. What is pretrained lies in WORK, and is gone on
with if the script is interrupted. With ``--zoo`` nothing is pretrained: the sources are those of a
zoo, but for a target's own, and a target that others have seen is refused.

A fit is a target, a seed (its split into 75 % training and 25 % test images), and what it starts
from: "scratch", "multi", or a single source. Every fit is one line of ``--fits`` as soon as it is
done, and is not done again; lines of other machines are read with ``--also``, and refused if they
were measured with other settings. Out of these, for each target and seed:

- "ot" is the fit from the source at the smallest dataset distance (algorithm 2 of the paper),
- "random" is the mean over all sources,
- "oracle" is the fit from the best source by its test accuracy, as in the paper: an upper bound,
  which the noise of the fits raises.

With ``--sources nearest`` only that of "ot" is fitted, and "random" and "oracle" are left out; with
``none`` "ot" is, too.

Table 1 has the accuracy, the relative improvement over scratch, ``(a - b) / b``, the share of
scratch's errors that is removed, ``(a - b) / (1 - b)``, the distance to the oracle, and the epochs
and seconds after which the search has the validation accuracy that the search from scratch ends
with. ``--figures`` draws the improvement of every source (figure 2), the curves of the searches
(figure 3), and the improvement of the final networks (figure 4).
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import add_output, mean_and_std, write_results
from joblib import Parallel, delayed
from sklearn.model_selection import train_test_split

from supernetnas import (
    DatasetSignature,
    Execution,
    Retraining,
    SmoothDARTS,
    SupernetTransferClassifier,
    Zoo,
    get_embedder,
)
from supernetnas.images.datasets import SourceDataset, load_datasets
from supernetnas.images.reading import as_image_set
from supernetnas.pretraining.settings import Pretraining
from supernetnas.pretraining.whole_zoo import pretrain_zoo
from supernetnas.selection.ranking import rank_sources

Row = dict[str, Any]
STRATEGIES = ("scratch", "ot", "multi", "random", "oracle")
BUDGET = ("steps", "multi_epochs", "from_multi", "folds", "zoo")
BUDGET += ("search_epochs", "retrain_epochs", "most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="+", help="folders of datasets, or .npz files")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is pretrained")
    parser.add_argument("--targets", nargs="*", help="names; by default all datasets")
    parser.add_argument("--folds", type=int, default=0, help="instead of leaving one out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sources", choices=["all", "nearest", "none"], default="all")
    parser.add_argument("--steps", type=int, default=400, help="of a single source")
    parser.add_argument("--multi-epochs", type=int, default=20)
    parser.add_argument(
        "--from-multi", action="store_true", help="start single sources from that on many"
    )
    parser.add_argument("--zoo", help="whose sources to fit from, instead of pretraining some")
    parser.add_argument("--search-epochs", type=int, default=6)
    parser.add_argument("--retrain-epochs", type=int, default=10)
    parser.add_argument("--most", type=int, help="images of a target")
    parser.add_argument("--jobs", type=int, default=1, help="fits side by side, of a thread each")
    parser.add_argument(
        "--graphs", action="store_true", help="capture steps as CUDA graphs, on a GPU"
    )
    parser.add_argument("--fits", type=Path, help="lines of fits (default: in WORK)")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="lines to read")
    parser.add_argument("--figures", type=Path, help="folder to draw into; needs matplotlib")
    add_output(parser, __file__)
    arguments = parser.parse_args()

    datasets = load_datasets(arguments.datasets)
    targets = arguments.targets or [dataset.name for dataset in datasets]
    if unknown := set(targets) - {dataset.name for dataset in datasets}:
        parser.error(f"no such datasets: {', '.join(sorted(unknown))}")
    settings = {name: getattr(arguments, name) for name in BUDGET}
    settings["datasets"] = sorted(dataset.name for dataset in datasets)
    fits = arguments.fits or arguments.work / "fits.jsonl"
    rows = [row for path in (fits, *arguments.also) for row in read(path, settings)]
    zoos = pretrained(datasets, targets, arguments)
    ranked = rankings(datasets, targets, zoos, arguments)
    missing = wanted(targets, zoos, ranked, arguments, rows)
    fits.parent.mkdir(parents=True, exist_ok=True)
    of_name = {dataset.name: dataset for dataset in datasets}
    done = Parallel(n_jobs=arguments.jobs, return_as="generator_unordered")(
        delayed(fit)(
            *(of_name[target], seed, start, zoos[target][start != "multi"], settings),
            graphs=arguments.graphs,
        )
        for target, seed, start in missing
    )
    with fits.open("a", encoding="utf-8") as file:
        for row in done:
            file.write(json.dumps({**row, "settings": settings}) + "\n")
            file.flush()
            rows.append(row)
            print(
                f"{row['target']:16s} seed {row['seed']}  {row['start']:16s} "
                f"{row['accuracy']:.3f}  {row['seconds']:6.1f} s",
                flush=True,
            )
    table = summary(rows, ranked)
    write_results(arguments.out, settings=settings, rows=table)
    print(markdown(table))
    if arguments.figures:
        draw(rows, ranked, table, arguments.figures)


def read(path: Path, settings: Row) -> list[Row]:
    """Fits of a file; none if there is no file."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if row["settings"] != settings:
            raise SystemExit(
                f"{path} holds fits with other settings, {row['settings']}, than {settings}: "
                "name another file."
            )
    return rows


# ------------------------------------------------------------------------------------ what there is


def pretrained(
    datasets: Sequence[SourceDataset], targets: Sequence[str], arguments: argparse.Namespace
) -> dict[str, tuple[Zoo, Zoo]]:
    """For each target a zoo with a source on many datasets, and one of single sources."""
    if arguments.zoo:
        zoo = Zoo.open(arguments.zoo)
        singles = arguments.sources != "none"
        return {target: (zoo, unseen(zoo, target, singles)) for target in targets}
    pretraining = Pretraining(steps=arguments.steps, multi_epochs=arguments.multi_epochs)
    options = {"pretraining": pretraining, "n_jobs": arguments.jobs, "n_threads": 1}
    n_folds = arguments.folds or len(datasets)
    found = {}
    for fold in range(n_folds):
        held_out = [dataset.name for dataset in datasets[fold::n_folds]]
        if not set(held_out) & set(targets):
            continue
        others = [dataset for dataset in datasets if dataset.name not in held_out]
        multi = pretrain_zoo(others, arguments.work / f"multi-{fold}", singles=False, **options)
        if arguments.from_multi:
            folder, own, start = arguments.work / f"singles-{fold}", others, multi["multi"]
        else:
            folder, own, start = arguments.work / "singles", datasets, None
        singles = pretrain_zoo(own, folder, multi=False, warm_start=start, **options)
        for name in set(held_out) & set(targets):
            alone = singles.subset(source for source in singles if source != name)
            found[name] = multi, alone
    return found


def unseen(zoo: Zoo, target: str, with_singles: bool) -> Zoo:
    """The single sources of cells on other datasets than a target, none of which has seen it."""
    multi, singles = zoo.multi(), []
    if with_singles:
        singles = [s for s in zoo.singles() if s.family == "cells" and s.dataset != target]
    for source in (*singles, *([] if multi is None else [multi])):
        told = source.provenance
        if target in (*told.get("datasets", ()), *told.get("warm_start_datasets", ())):
            raise SystemExit(f"The source {source.name!r} of the zoo has seen {target!r}.")
    return zoo.subset(source.name for source in singles)


def rankings(
    datasets: Sequence[SourceDataset],
    targets: Sequence[str],
    zoos: dict[str, tuple[Zoo, Zoo]],
    arguments: argparse.Namespace,
) -> dict[tuple[str, int], list[str]]:
    """Names of the sources, nearest first, for each target and seed."""
    embedder, ranked = get_embedder(), {}
    for dataset in datasets:
        if dataset.name not in targets:
            continue
        for seed in range(arguments.seeds):
            if arguments.sources == "none":
                ranked[dataset.name, seed] = []
                continue
            X, _, y, _ = split(dataset, seed, arguments.most)
            signature = DatasetSignature.from_features(
                embedder.embed(as_image_set(X)), y, embedder_id=embedder.identity
            )
            ranked[dataset.name, seed] = list(rank_sources(signature, zoos[dataset.name][1]))
    return ranked


def split(dataset: SourceDataset, seed: int, most: int | None) -> list[Any]:
    """Training and test images, training and test labels."""
    X, y = dataset.images, np.asarray(dataset.labels)
    if most is not None and len(y) > most:
        X, _, y, _ = train_test_split(X, y, train_size=most, stratify=y, random_state=0)
    return train_test_split(X, y, test_size=0.25, stratify=y, random_state=seed)


# --------------------------------------------------------------------------------------- the fits


def wanted(
    targets: Sequence[str],
    zoos: dict[str, tuple[Zoo, Zoo]],
    ranked: dict[tuple[str, int], list[str]],
    arguments: argparse.Namespace,
    rows: Sequence[Row],
) -> Iterator[tuple[str, int, str]]:
    """Target, seed and start of every fit that is missing; seed by seed."""
    done = {(row["target"], row["seed"], row["start"]) for row in rows}
    for seed in range(arguments.seeds):
        for target in targets:
            sources = ranked[target, seed]
            if arguments.sources == "nearest":
                sources = sources[:1]
            for start in ("scratch", "multi", *sources):
                if (target, seed, start) not in done:
                    yield target, seed, start


def fit(
    dataset: SourceDataset,
    seed: int,
    start: str,
    zoo: Zoo,
    settings: Row,
    *,
    graphs: bool = False,
) -> Row:
    """Fit from one start on one split."""
    X, X_test, y, y_test = split(dataset, seed, settings["most"])
    clf = SupernetTransferClassifier(
        start,
        family="cells",
        zoo=zoo,
        # No early stopping: equal budgets, and whole curves to compare.
        search=SmoothDARTS(epochs=settings["search_epochs"], patience=None),
        retraining=Retraining(epochs=settings["retrain_epochs"]),
        precision=Execution(compile="graph") if graphs else "auto",
        random_state=seed,
    )
    started = time.perf_counter()
    clf.fit(X, y)
    seconds = time.perf_counter() - started
    search = [row for row in clf.history_ if row["stage"] == "search"]
    return {
        "target": dataset.name,
        "seed": seed,
        "start": start,
        "accuracy": float(clf.score(X_test, y_test)),
        "seconds": round(seconds, 2),
        "search_seconds": [round(row["seconds"], 3) for row in search],
        "train_accuracy": [row["train_accuracy"] for row in search],
        "validation_accuracy": [row["validation_accuracy"] for row in search],
        "n_parameters": clf.n_parameters_,
        "genotype": str(clf.genotype_),
    }


# ------------------------------------------------------------------------------------ the summary


def strategies(rows: Sequence[Row], nearest: Sequence[str]) -> dict[str, list[Row]]:
    """The fits of one target and seed that each strategy stands for; several are averaged."""
    of = {row["start"]: row for row in rows}
    found = {name: [of[name]] for name in ("scratch", "multi") if name in of}
    if nearest and nearest[0] in of:
        found["ot"] = [of[nearest[0]]]
    if nearest and all(name in of for name in nearest):
        found["random"] = [of[name] for name in nearest]
        found["oracle"] = [max(found["random"], key=lambda row: row["accuracy"])]
    return found


def reached(row: Row, scratch: Row) -> tuple[int, float]:
    """Epochs and seconds to the validation accuracy that the search from scratch ends with.

    A search that never gets there counts as one epoch longer than it was.
    """
    goal = scratch["validation_accuracy"][-1]
    for epoch, accuracy in enumerate(row["validation_accuracy"], 1):
        if accuracy >= goal:
            return epoch, sum(row["search_seconds"][:epoch])
    return len(row["validation_accuracy"]) + 1, sum(row["search_seconds"])


def summary(rows: Sequence[Row], ranked: dict[tuple[str, int], list[str]]) -> list[Row]:
    """A row for each target and strategy, over the seeds that have scratch and the strategy."""
    cases = defaultdict(list)
    for row in rows:
        cases[row["target"], row["seed"]].append(row)
    measured = defaultdict(list)
    for (target, seed), fits in cases.items():
        if (target, seed) not in ranked:
            continue
        found = strategies(fits, ranked[target, seed])
        if "scratch" not in found:
            continue
        (scratch,) = found["scratch"]
        best = found["oracle"][0]["accuracy"] if "oracle" in found else np.nan
        for strategy, chosen in found.items():
            accuracy = np.mean([row["accuracy"] for row in chosen])
            spent = np.mean([reached(row, scratch) for row in chosen], axis=0)
            measured[target, strategy].append(
                (accuracy, scratch["accuracy"], best - accuracy, *spent)
            )
    table = []
    for target in dict.fromkeys(target for target, _ in measured):
        for strategy in STRATEGIES:
            if (target, strategy) not in measured:
                continue
            accuracies, base, gaps, epochs, seconds = np.array(measured[target, strategy]).T
            accuracy, base = accuracies.mean(), base.mean()
            table.append(
                {
                    "target": target,
                    "strategy": strategy,
                    "accuracies": accuracies.tolist(),
                    "relative_improvement": float((accuracy - base) / base) if base else None,
                    "errors_removed": float((accuracy - base) / (1 - base)) if base < 1 else None,
                    "to_oracle": None if np.isnan(gaps).any() else float(gaps.mean()),
                    "epochs": float(epochs.mean()),
                    "search_seconds": float(seconds.mean()),
                }
            )
    return table


def markdown(table: Sequence[Row]) -> str:
    """Table 1, and a line for each strategy."""
    lines = [
        "| target | strategy | accuracy | relative improvement | errors removed | to the oracle "
        "| epochs to scratch's end | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table:
        lines.append(
            f"| {row['target']} | {row['strategy']} | {mean_and_std(row['accuracies'])} | "
            f"{signed(row['relative_improvement'])} | {signed(row['errors_removed'])} | "
            f"{signed(row['to_oracle'])} | {row['epochs']:.1f} | {row['search_seconds']:.1f} |"
        )
    scratch = sum(row["epochs"] for row in table if row["strategy"] == "scratch")
    for strategy in STRATEGIES[1:]:
        own = [row for row in table if row["strategy"] == strategy]
        gains = [g for row in own if (g := row["relative_improvement"]) is not None]
        removed = [e for row in own if (e := row["errors_removed"]) is not None]
        if own:
            epochs = sum(row["epochs"] for row in own)
            lines.append(
                f"\n{strategy}: mean relative improvement {np.mean(gains):+.3f}, positive on "
                f"{sum(g > 0 for g in gains)} of {len(gains)} targets; "
                f"{np.mean(removed):+.3f} of the errors removed; {scratch / epochs:.1f} times "
                "fewer epochs to scratch's end"
            )
    return "\n".join(lines)


def signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"


# ------------------------------------------------------------------------------------ the figures


def draw(
    rows: Sequence[Row],
    ranked: dict[tuple[str, int], list[str]],
    table: Sequence[Row],
    folder: Path,
) -> None:
    """Figures 2, 3 and 4."""
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    targets = list(dict.fromkeys(row["target"] for row in table))
    first = [row for row in rows if row["seed"] == 0 and (row["target"], 0) in ranked]
    of = {(row["target"], row["start"]): row for row in first}

    figure, ax = plt.subplots(figsize=(max(5, 0.6 * len(targets)), 4), layout="constrained")
    for x, target in enumerate(targets):
        base = of[target, "scratch"]["accuracy"]
        for rank, source in enumerate(ranked[target, 0]):
            if base and (target, source) in of:
                gain = of[target, source]["accuracy"] / base - 1
                ax.plot(x, gain, "D" if rank == 0 else "o", color="C0" if rank == 0 else "0.6")
    ax.axhline(0, color="0.4", linewidth=1)
    ax.set_xticks(range(len(targets)), targets, rotation=90)
    ax.set_ylabel("relative improvement of each source\n(diamond: the nearest)")
    figure.savefig(folder / "figure2.png")

    n_columns = min(3, len(targets))
    figure, axes = plt.subplots(
        *(-(-len(targets) // n_columns), n_columns),
        figsize=(3.2 * n_columns, 2.6 * -(-len(targets) // n_columns)),
        layout="constrained",
        squeeze=False,
    )
    for ax, target in zip(axes.flat, targets, strict=False):
        chosen = strategies([r for r in first if r["target"] == target], ranked[target, 0])
        for name in ("scratch", "ot", "multi"):
            for row in chosen.get(name, []):
                epochs = range(1, len(row["train_accuracy"]) + 1)
                ax.plot(epochs, row["train_accuracy"], label=name)
        ax.set(title=target, xlabel="epoch", ylabel="training accuracy")
    axes[0, 0].legend()
    for ax in axes.flat[len(targets) :]:
        ax.remove()
    figure.savefig(folder / "figure3.png")

    figure, ax = plt.subplots(figsize=(max(5, 0.6 * len(targets)), 4), layout="constrained")
    for offset, strategy in ((-0.2, "ot"), (0.2, "multi")):
        gains = {r["target"]: r["relative_improvement"] for r in table if r["strategy"] == strategy}
        heights = [gains.get(target) or 0 for target in targets]
        ax.bar(np.arange(len(targets)) + offset, heights, 0.4, label=strategy)
    ax.set_xticks(range(len(targets)), targets, rotation=90)
    ax.set_ylabel("relative improvement\nof the final network")
    ax.legend()
    figure.savefig(folder / "figure4.png")
    plt.close("all")


if __name__ == "__main__":
    main()
