"""What the benchmarks share: baselines and output."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from supernetnas.families.cells.genotype import Genotype
from supernetnas.families.cells.space import get_space
from supernetnas.fitting.retraining import RetrainSettings, retrain
from supernetnas.images.augmentation import Augmentation, ImageTensors, channel_statistics
from supernetnas.training.batches import LabelledImages, evaluate, recalibrate_batch_norm


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


def write_results(path: str, rows: list[dict]) -> None:
    """Write rows and the versions that made them."""
    result = {"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows}
    with open(path, "w") as file:
        json.dump(result, file, indent=1)
