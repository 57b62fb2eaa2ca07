"""Pretraining on one dataset and on several at once."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from supernetnas.families.cells.config import SupernetConfig
from supernetnas.families.cells.family import Cells
from supernetnas.families.cells.search.bilevel import BilevelSearch
from supernetnas.families.cells.search.weight_training import SearchSettings
from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.images.datasets import SourceDataset
from supernetnas.pretraining.multi_dataset import MixedImages
from supernetnas.pretraining.settings import Pretraining
from supernetnas.pretraining.sources import pretrain_multi, pretrain_single
from supernetnas.training.batches import LabelledImages
from supernetnas.training.seeds import seeded_modules


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def part(n, seed, augmentation=Augmentation.NONE):
    pixels = torch.randn(n, 3, 8, 8, generator=seeded(seed))
    return ImageTensors(
        pixels, torch.full((3,), float(seed)), torch.full((3,), 1.0 + seed), augmentation
    )


def dataset(name, n=24, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, size=(n, 8, 8, 3), dtype=np.uint8)
    return SourceDataset(name, images, np.arange(n) % n_classes)


TINY = Pretraining(
    Cells(init_channels=4, n_cells=3),
    image_side=8,
    steps=4,
    min_epochs=3,
    multi_epochs=3,
    settings=SearchSettings(batch_size=8, learning_rate=0.1, alpha_learning_rate=0.01),
)


class TestMixedImages:
    def test_each_image_as_its_part_gives_it(self):
        parts = [part(4, 0), part(1, 1), part(6, 2)]
        mixed = MixedImages(parts)
        assert len(mixed) == 11
        assert mixed.shape == (3, 8, 8)
        alone = torch.cat([p.clean(torch.arange(len(p))) for p in parts])
        for index in (torch.arange(11), torch.tensor([10, 0, 4, 4, 5, 3]), torch.tensor([7])):
            assert torch.equal(mixed.clean(index), alone[index])

    def test_each_part_with_its_own_augmentation(self):
        """A part without augmentation stays as it is; of the other, each image is a shift."""
        parts = [part(3, 0), part(3, 1, Augmentation(0.25))]
        index = torch.tensor([5, 0, 3, 2, 4, 1])
        augmented = MixedImages(parts).augmented(index, seeded(4))
        still = index < 3
        assert torch.equal(augmented[still], parts[0].clean(index[still]))
        # One part draws here, so its draws are those it would make alone.
        expected = parts[1].augmented(index[~still] - 3, seeded(4))
        assert torch.equal(augmented[~still], expected)
        assert not torch.equal(expected, parts[1].clean(index[~still] - 3))

    def test_layout(self):
        batch = MixedImages([part(4, 0), part(4, 1)]).clean(torch.tensor([6, 1, 2]))
        assert batch.is_contiguous(memory_format=torch.channels_last)


def multi_search(space="s2", **settings):
    """Two datasets of 2 and 3 classes in one search."""
    with seeded_modules(0):
        supernet = CellSupernet(SupernetConfig(space, 4, 3, (8, 8), 3, 5))
    labels = torch.tensor([0, 1, 0, 1, 2, 3, 4, 2, 3, 4])
    data = LabelledImages(MixedImages([part(4, 0), part(6, 1)]), labels)
    settings = SearchSettings(**{"epochs": 1, "batch_size": 5, **settings})
    owners = torch.tensor([0, 0, 1, 1, 1])
    return BilevelSearch(supernet, data, data, settings, seeded(), dataset_of_class=owners)


class TestSearchOnSeveralDatasets:
    def test_foreign_classes_do_not_count(self):
        scores = torch.arange(10.0).view(2, 5)
        own = multi_search().own_scores(scores, torch.tensor([1, 3]))
        inf = float("inf")
        assert own.tolist() == [[0, 1, -inf, -inf, -inf], [-inf, -inf, 7, 8, 9]]

    def test_loss_is_the_mean_over_images_of_their_own_heads(self):
        search = multi_search()
        scores = torch.randn(6, 5, generator=seeded(1), requires_grad=True)
        labels = torch.tensor([0, 1, 2, 3, 4, 4])
        loss = search._loss(scores, labels)
        first = F.cross_entropy(scores[:2, :2], labels[:2], reduction="sum")
        second = F.cross_entropy(scores[2:, 2:], labels[2:] - 2, reduction="sum")
        torch.testing.assert_close(loss, (first + second) / 6)
        (gradient,) = torch.autograd.grad(loss, scores)
        assert gradient.isfinite().all()
        assert gradient[:2, 2:].abs().max() == 0
        assert gradient[2:, :2].abs().max() == 0

    def test_accuracy_counts_own_classes_only(self):
        """A head that prefers foreign classes is still judged among its own."""
        search = multi_search(learning_rate=1e-9, final_learning_rate=1e-9)
        with torch.no_grad():
            search.supernet.classifier.weight.zero_()
            search.supernet.classifier.bias.copy_(torch.tensor([0.0, 5.0, 9.0, 8.0, 7.0]))
        row = search.run_epoch()
        # Of the labels, half of the first dataset and a third of the second.
        assert row["validation_accuracy"] == pytest.approx((2 + 2) / 10)
        assert row["train_accuracy"] == pytest.approx((2 + 2) / 10)

    def test_label_smoothing_is_refused(self):
        with pytest.raises(ValueError, match="label_smoothing=0"):
            multi_search(label_smoothing=0.1)

    @pytest.mark.parametrize("perturbation", ["random", "adversarial"])
    def test_it_runs(self, perturbation):
        row = multi_search(perturbation=perturbation).run_epoch()
        assert np.isfinite(row["train_loss"])


def assert_same(first, second):
    for name, value in first.supernet.state_dict().items():
        assert torch.equal(value, second.supernet.state_dict()[name]), name
    assert [row["validation_loss"] for row in first.history] == [
        row["validation_loss"] for row in second.history
    ]


class TestPretraining:
    @pytest.mark.parametrize(("space", "multi"), [("s1", False), ("s4", True)])
    def test_resumed_equals_uninterrupted(self, space, multi, tmp_path):
        family = Cells(space, init_channels=4, n_cells=3)
        pretraining = dataclasses.replace(TINY, family=family)
        if multi:
            function, data = pretrain_multi, [dataset("a"), dataset("b", 12, 2, seed=1)]
        else:
            function, data = pretrain_single, dataset("a")
        whole = function(data, pretraining, tmp_path / "whole")
        assert whole.epoch == 3

        class Interrupted(Exception):
            pass

        def interrupt(search):
            if search.epoch == 2:
                raise Interrupted

        with pytest.raises(Interrupted):
            function(data, pretraining, tmp_path / "cut", on_epoch=interrupt)
        resumed = function(data, pretraining, tmp_path / "cut")
        assert_same(whole, resumed)
        # A third start finds nothing left to do.
        assert_same(whole, function(data, pretraining, tmp_path / "cut"))

    def test_steps_decide_the_epochs(self, tmp_path):
        """Two thirds of 36 images are 3 batches of 8 an epoch: 10 steps need 4 epochs."""
        pretraining = dataclasses.replace(TINY, steps=10, min_epochs=1)
        search = pretrain_single(dataset("a", 36), pretraining, tmp_path / "c")
        assert (len(search.train), len(search.validation)) == (24, 12)
        assert search.epoch == 4

    def test_labels_of_datasets_are_joined_in_order(self, tmp_path):
        data = [dataset("a", 24, 3), dataset("b", 12, 2, seed=1)]
        strings = SourceDataset("b", data[1].images, np.array(["x", "y"])[data[1].labels])
        search = pretrain_multi([data[0], strings], TINY, tmp_path / "c")
        assert search.dataset_of_class.tolist() == [0, 0, 0, 1, 1]
        assert search.supernet.config.n_classes == 5
        for part in (search.train, search.validation):
            assert torch.bincount(part.labels[part.labels < 3]).unique().numel() == 1
            n_first = len(part.images.parts[0])
            assert part.labels[:n_first].max() == 2
            assert part.labels[n_first:].min() == 3

    def test_global_random_state_stays(self, tmp_path):
        state = torch.get_rng_state()
        pretrain_single(dataset("a"), TINY, tmp_path / "c")
        assert torch.equal(torch.get_rng_state(), state)
