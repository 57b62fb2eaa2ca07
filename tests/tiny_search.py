"""Supernets, images and searches that run in milliseconds."""

import torch

from supernetnas.families.cells.config import SupernetConfig
from supernetnas.families.cells.search.bilevel import BilevelSearch
from supernetnas.families.cells.search.weight_training import SearchSettings
from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.training.batches import LabelledImages
from supernetnas.training.seeds import seeded_modules


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def build(space="s1", cells=3, classes=3, seed=0):
    with seeded_modules(seed):
        return CellSupernet(SupernetConfig(space, 4, cells, (8, 8), 3, classes))


class Doubles(ImageTensors):
    def augmented(self, index, generator):
        return super().augmented(index, generator).double()

    def clean(self, index):
        return super().clean(index).double()


def labelled(n=12, kind=ImageTensors, seed=1, classes=3):
    pixels = torch.randn(n, 3, 8, 8, generator=seeded(seed))
    images = kind(pixels, torch.zeros(3), torch.ones(3), Augmentation(0.125))
    return LabelledImages(images, torch.arange(n) % classes)


def search(supernet=None, seed=0, class_weight=None, space="s1", stopping=None, **settings):
    settings = SearchSettings(**{"epochs": 2, "batch_size": 6, **settings})
    supernet = build(space) if supernet is None else supernet
    data = labelled(), labelled(seed=2)
    return BilevelSearch(supernet, *data, settings, seeded(seed), class_weight, None, stopping)


def assert_same_state(first, second):
    for name, value in first.supernet.state_dict().items():
        assert torch.equal(value, second.supernet.state_dict()[name]), name
    assert torch.equal(first.generator.get_state(), second.generator.get_state())
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in one.history]
        for one in (first, second)
    ]
    assert rows[0] == rows[1]
