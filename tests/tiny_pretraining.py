"""Datasets, settings and an embedder with which a zoo is pretrained in a second."""

import numpy as np
import torch

from supernetnas.families.cells.family import Cells
from supernetnas.pretraining.whole_zoo import Pretraining, SourceDataset, pretrain_zoo

FAMILY = Cells(init_channels=4, n_cells=3)
TINY = Pretraining(FAMILY, image_side=8, steps=2, min_epochs=2, multi_epochs=2)


def blocks(batch):
    """Embed images (b, 3, h, w) as 12 mean values."""
    pooled = torch.nn.functional.adaptive_avg_pool2d(batch.float(), 2)
    return pooled.flatten(1) + 1


def make(name, seed, n_classes=3, **changes):
    random = np.random.default_rng(seed)
    labels = np.arange(n_classes * 6) % n_classes
    pixels = random.integers(0, 255, (len(labels), 10, 10, 3), dtype=np.uint8)
    names = [f"{name} {number}" for number in range(n_classes)]
    fields = {"class_names": names, "provenance": {"dataset": name, "licence": "CC0"}, **changes}
    return SourceDataset(name, pixels, labels, **fields)


DATASETS = [make("b", 1), make("a", 2, n_classes=2)]


def pretrain(out, datasets=DATASETS, **changes):
    return pretrain_zoo(datasets, out, **{"pretraining": TINY, "embedder": blocks, **changes})


def assert_same_zoo(first, second):
    assert first.names == second.names
    for name in first:
        one, other = first[name], second[name]
        assert one.provenance == other.provenance
        assert one.config == other.config
        timeless = [{k: v for k, v in row.items() if k != "seconds"} for row in one.history()]
        assert timeless == [
            {k: v for k, v in row.items() if k != "seconds"} for row in other.history()
        ]
        state = other.state_dict()
        for key, value in one.state_dict().items():
            assert torch.equal(value, state[key]), key
        if one.kind == "single":
            tensors = other.signature().to_tensors()
            for key, array in one.signature().to_tensors().items():
                assert np.array_equal(array, tensors[key])
