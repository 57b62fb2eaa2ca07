"""What the benchmarks share: baselines and output."""

from __future__ import annotations

import argparse
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from supernetnas.families.cells.genotype import Genotype
from supernetnas.families.cells.space import get_space
from supernetnas.fitting.retraining import RetrainSettings, retrain
from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.images.preprocessing import channel_statistics
from supernetnas.storage.files import dump_json, write_atomic
from supernetnas.training.batch_norm import recalibrate_batch_norm
from supernetnas.training.batches import LabelledImages
from supernetnas.training.steps import evaluate

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
    test_pixels: Tensor,
    test_labels: Sequence[int],
    *,
    seed: int,
    augmentation: Augmentation | None = None,
) -> float:
    """Train a network as the estimator retrains its own; returns the test accuracy."""
    network.to(memory_format=torch.channels_last)
    mean, std = channel_statistics(pixels)
    augmentation = augmentation or Augmentation()
    generator = torch.Generator().manual_seed(seed)
    train = LabelledImages(
        ImageTensors(pixels, mean, std, augmentation), torch.as_tensor(np.asarray(labels))
    )
    test = LabelledImages(
        ImageTensors(test_pixels, mean, std), torch.as_tensor(np.asarray(test_labels))
    )
    batch_size = min(max(len(train) // 16, 16), 64)
    retrain(network, train, RetrainSettings(batch_size=batch_size), generator)
    recalibrate_batch_norm(network, train.images, generator=generator)
    network.eval()
    return evaluate(network, test)[1]


def mean_and_std(values: Sequence[float]) -> str:
    """Mean and, for several values, standard deviation."""
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"


def mean_and_interval(values: Sequence[float]) -> str:
    """Mean and, for several values, half of the 95 % interval of it, by Student's t."""
    if len(values) == 1:
        return f"{values[0]:.4f}"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{np.mean(values):.4f} ± {half:.4f}"


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
