"""What the benchmarks share: baselines and output."""

from __future__ import annotations

import argparse
import platform
import subprocess
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import Dataset

from supernetnas.families.cells.genotype import Genotype
from supernetnas.families.cells.space import get_space
from supernetnas.fitting.retraining import RetrainSettings, retrain
from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.images.preprocessing import channel_statistics
from supernetnas.storage.files import write_atomic
from supernetnas.storage.formats import dump_json
from supernetnas.training.batch_norm import recalibrate_batch_norm
from supernetnas.training.batches import LabelledImages

RESULTS = Path(__file__).resolve().parent / "results"


def random_genotype(space_name: str, rng: np.random.RandomState) -> Genotype:
    """Draw two edges per node and an operation per edge, uniformly."""
    space = get_space(space_name)
    cells = []
    for edges in (space.normal, space.reduce):
        nodes, first = [], 0
        for node in range(4):
            states = sorted(rng.choice(node + 2, 2, replace=False).tolist())
            offers = [[n for n in edges[first + s] if n != "none"] for s in states]
            nodes.append(
                tuple((str(rng.choice(o)), s) for o, s in zip(offers, states, strict=True))
            )
            first += node + 2
        cells.append(tuple(nodes))
    return Genotype(space_name, *cells)


def plain_cnn(channels: int, n_classes: int) -> nn.Module:
    """Three convolutions of 32, 64 and 128 channels with batch norm and pooling."""
    layers, width = [], channels
    for out in (32, 64, 128):
        layers += [nn.Conv2d(width, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if out < 128 else [nn.AdaptiveAvgPool2d(1)]
        width = out
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, n_classes))


def train_network(
    network: nn.Module,
    pixels: Tensor,
    labels: Sequence[int],
    *,
    seed: int,
    augmentation: Augmentation | None = None,
) -> Callable[[Tensor], np.ndarray]:
    """Train a network as the estimator retrains its own; returns what predicts with it."""
    network.to(memory_format=torch.channels_last)
    mean, std = channel_statistics(pixels)
    augmentation = augmentation or Augmentation()
    generator = torch.Generator().manual_seed(seed)
    train = LabelledImages(
        ImageTensors(pixels, mean, std, augmentation), torch.as_tensor(np.asarray(labels))
    )
    batch_size = min(max(len(train) // 16, 16), 64)
    retrain(network, train, RetrainSettings(batch_size=batch_size), generator)
    recalibrate_batch_norm(network, train.images, generator=generator)
    return predictor(network, mean, std)


def train_by_skorch(
    network: nn.Module, images: ImageTensors, labels: np.ndarray, *, epochs: int, seed: int
) -> None:
    """Train a network as it is usual from random weights: AdamW, one cycle, smoothed labels."""
    NeuralNetClassifier, LRScheduler, _ = import_skorch()
    generator, batch_size = torch.Generator().manual_seed(seed), 32
    schedule = LRScheduler(
        torch.optim.lr_scheduler.OneCycleLR,
        max_lr=1e-3,
        total_steps=epochs * -(-len(labels) // batch_size) + 1,  # the last step asks for one more
        step_every="batch",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        NeuralNetClassifier(
            network.to(memory_format=torch.channels_last),
            criterion=nn.CrossEntropyLoss,
            criterion__label_smoothing=0.1,
            optimizer=torch.optim.AdamW,
            optimizer__weight_decay=0.05,
            max_epochs=epochs,
            batch_size=batch_size,
            train_split=None,
            iterator_train__shuffle=True,
            iterator_train__generator=generator,
            iterator_train__collate_fn=lambda batch: batch,
            callbacks=[schedule],
            verbose=0,
        ).fit(_Augmented(images, labels, generator), None)


def import_skorch() -> tuple[Any, Any, Any]:
    """skorch's classifier and scheduler, and torchvision's ResNet-18, or what to install."""
    try:
        from skorch import NeuralNetClassifier
        from skorch.callbacks import LRScheduler
        from torchvision.models import resnet18
    except ImportError as error:
        raise SystemExit(
            f"The peer 'skorch' needs skorch and torchvision ({error}): pip install "
            '"supernetnas[benchmarks]", or name other peers with --peers.'
        ) from error
    except (OSError, RuntimeError) as error:  # of a torchvision that was built for another torch
        raise SystemExit(
            "The peer 'skorch' needs a torchvision that was built for the installed torch "
            f"{torch.__version__} ({error}). Install both anew, together, or name other peers with "
            "--peers."
        ) from error
    return NeuralNetClassifier, LRScheduler, resnet18


class _Augmented(Dataset):
    """Images as a data set of whole augmented batches."""

    def __init__(
        self, images: ImageTensors, labels: np.ndarray, generator: torch.Generator
    ) -> None:
        self.images, self.labels, self.generator = images, torch.from_numpy(labels), generator

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, places: list[int]) -> tuple[Tensor, Tensor]:
        index = torch.tensor(places)
        return self.images.augmented(index, self.generator), self.labels[index]


def predictor(network: nn.Module, mean: Tensor, std: Tensor) -> Callable[[Tensor], np.ndarray]:
    """What gives a network's class of each image, for pixels that are not standardised yet."""

    def predict(pixels: Tensor) -> np.ndarray:
        images = ImageTensors(pixels, mean, std)
        network.eval()
        with torch.no_grad():
            batches = torch.arange(len(pixels)).split(64)
            return torch.cat([network(images.clean(b)).argmax(1) for b in batches]).numpy()

    return predict


def mean_and_std(values: Sequence[float]) -> str:
    """Mean and, for several values, standard deviation."""
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"


def mean_and_interval(values: Sequence[float]) -> str:
    """Mean and, for several values, half of its 95 % interval."""
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{np.mean(values):.4f} ± {half_interval(values):.4f}"


def half_interval(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean, by Student's t."""
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def table(rows: list[dict[str, Any]]) -> str:
    """Mean accuracies and costs as Markdown; a dash is what older rows do not know.

    Accuracies are given with their standard deviation over seeds, the mean over targets with half
    of its 95 % interval over the seeds of all of them.
    """
    targets = list(dict.fromkeys(row["target"] for row in rows))
    lines = [
        f"| peer | {' | '.join(targets)} | mean | M MACs | M parameters | images/s | s |",
        "|---" * (len(targets) + 6) + "|",
    ]
    for peer in dict.fromkeys(row["peer"] for row in rows):
        own = [row for row in rows if row["peer"] == peer]
        cells = [[r["accuracy"] for r in own if r["target"] == target] for target in targets]

        def mean(name: str, unit: float = 1, digits: int = 0, own: list[dict] = own) -> str:
            values = [row[name] / unit for row in own if row.get(name)]
            return f"{np.mean(values):.{digits}f}" if values else "-"

        lines.append(
            f"| {peer} | {' | '.join(mean_and_std(cell) if cell else '-' for cell in cells)} | "
            f"{_over_targets(own)} | {mean('macs', 1e6, 1)} | {mean('parameters', 1e6, 2)} | "
            f"{mean('images_per_second')} | {mean('seconds')} |"
        )
    return "\n".join(lines)


def _over_targets(rows: list[dict[str, Any]]) -> str:
    """Mean over a peer's targets, and half of its interval where seeds have all of them."""
    accuracies = _accuracies(rows)
    targets = {target for target, _ in accuracies}
    seeds = [s for s in {s for _, s in accuracies} if all((t, s) in accuracies for t in targets)]
    mean = np.mean([np.mean([r["accuracy"] for r in rows if r["target"] == t]) for t in targets])
    if len(seeds) < 2:
        return f"{mean:.4f}"
    of_seeds = [np.mean([accuracies[target, seed] for target in targets]) for seed in seeds]
    return f"{mean:.4f} ± {half_interval(of_seeds):.4f}"


def best_of_each(rows: list[dict[str, Any]], peers: Iterable[str]) -> str:
    """The default next to the best of these peers on each target, which is picked in hindsight."""
    default = _accuracies([row for row in rows if row["peer"] == "default"])
    means, differences, names = [], [], []
    for target in dict.fromkeys(target for target, _ in default):
        found = {}
        for name in peers:
            own = _accuracies([r for r in rows if r["peer"] == name and r["target"] == target])
            if common := sorted(own.keys() & default.keys()):
                found[name] = [(own[pair], default[pair]) for pair in common]
        if found:
            best = max(found, key=lambda name: np.mean([peer for peer, _ in found[name]]))
            names.append(f"{target}: {best}")
            means.append(np.mean([peer for peer, _ in found[best]]))
            differences += [ours - peer for peer, ours in found[best]]
    if not differences:
        return "No target has both the default and a peer to compare it with."
    error = f" ± {stats.sem(differences):.4f}" if len(differences) > 1 else ""
    return (
        f"Best peer of each set ({', '.join(names)}): {np.mean(means):.4f}. The default minus it: "
        f"{np.mean(differences):+.4f}{error} (standard error of {len(differences)} pairs)."
    )


def differences(rows: Sequence[dict[str, Any]], first: str, others: Sequence[str]) -> str:
    """By how many points other peers are better than one, on the same splits, as Markdown.

    Two rows are a pair if they are of the same target and seed, and were measured with the same
    images on the same kind of machine, in brackets how many of them by the same version. Means over
    all pairs have their standard error.
    """
    known = _by_split(rows, first)
    pairs = {
        other: [(row, known[split]) for split, row in own.items() if split in known]
        for other in others
        if other != first
        for own in [_by_split(rows, other)]
    }
    targets = sorted({row["target"] for found in pairs.values() for row, _ in found})
    head = [f"minus {first!r}", *targets, "mean", "pairs (of one version)", "times the seconds"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for other, found in pairs.items():
        points = [
            [100 * (a["accuracy"] - b["accuracy"]) for a, b in found if a["target"] == target]
            for target in targets
        ]
        cells = [f"{np.mean(of):+.1f}" if of else "-" for of in points]
        cells += [
            _mean_and_error([point for of in points for point in of]),
            f"{len(found)} ({sum(a.get('commit') == b.get('commit') for a, b in found)})",
            _ratio(found),
        ]
        lines.append(f"| {other} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_split(rows: Sequence[dict[str, Any]], peer: str) -> dict[tuple, dict[str, Any]]:
    """A fit's rows by what those of a pair have in common."""
    return {
        (
            *(row["target"], row["seed"], row.get("processor")),
            row.get("options", "").partition(" --peers")[0],
        ): row
        for row in rows
        if row["peer"] == peer
    }


def _mean_and_error(points: Sequence[float]) -> str:
    if len(points) < 2:
        return f"{points[0]:+.1f}" if points else "-"
    return f"{np.mean(points):+.1f} ± {stats.sem(points):.1f}"


def _ratio(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    timed = [(a["seconds"], b["seconds"]) for a, b in pairs if "seconds" in a and "seconds" in b]
    return f"{np.divide(*np.sum(timed, axis=0)):.2f}" if timed else "-"


def _accuracies(rows: list[dict[str, Any]]) -> dict[tuple[str, int], float]:
    return {(row["target"], row["seed"]): row["accuracy"] for row in rows}


def add_output(parser: argparse.ArgumentParser, script: str, note: str = "") -> None:
    """Add the option that says where a script writes its results."""
    default = RESULTS / f"{Path(script).stem}.json"
    parser.add_argument("--out", type=Path, default=default, help=note or None)


def write_results(path: Path, **measured: Any) -> None:
    """Write what was measured, and what it was measured with.

    Parameters
    ----------
    path : pathlib.Path
        Replaced; its folder is made if need be.
    **measured
        Plain values. They stand after the commit of the working tree, "+" where it has changes,
        the versions of torch and Python, processor, threads and date (UTC).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    conditions = {
        "commit": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    write_atomic(path, dump_json({**conditions, **measured}))


def commit() -> str | None:
    """Commit that the benchmarks' folder is at; None outside of a repository."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+"],
            cwd=RESULTS.parent,
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def processor() -> str:
    """Name of the processor, and of the GPU where there is one."""
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else name
    return f"{name}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else name
