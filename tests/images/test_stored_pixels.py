"""Images in a file give what images in memory give, and leave the memory alone."""

import errno
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import patterns, tiny_classifier
from tiny_pretraining import TINY, make

from supernetnas.images import stored_pixels
from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.images.image_files import ImageFiles
from supernetnas.images.preprocessing import Preprocessing, channel_statistics
from supernetnas.images.reading import as_image_set
from supernetnas.images.stored_pixels import StoredImages, StoredPixels, decode
from supernetnas.pretraining.sources import pretrain_multi, pretrain_single


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=1500, dtype=np.uint8, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (n, 6, 5, 3))
    return as_image_set(values.astype(dtype))


@pytest.fixture
def folder(tmp_path):
    for number, size in enumerate([(9, 7), (12, 12), (5, 8), (8, 8), (30, 20)]):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return tmp_path


class TestStoredPixels:
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
    def test_what_is_read_is_what_a_tensor_holds(self, dtype):
        held, stored = (
            images(dtype=dtype).tensor(8, 8),
            StoredPixels(images(dtype=dtype), 8, 8, 3),
        )
        assert stored.shape == held.shape
        assert (stored.dtype, len(stored)) == (held.dtype, len(held))
        index = torch.tensor([1499, 0, 7, 7, 1024, 1023])
        assert torch.equal(stored.read(index), held[index])
        assert torch.equal(torch.cat(list(stored.split(400))), held)
        part = torch.arange(1, 1500, 3)
        assert torch.equal(stored[part].read(torch.tensor([3, 2])), held[part][[3, 2]])
        assert torch.equal(stored[part][10:20].read(torch.arange(10)), held[part][10:20])
        assert torch.equal(stored[:].read(index), held[index])

    def test_files_are_decoded_as_ever(self, folder):
        files = ImageFiles(sorted(map(str, folder.iterdir())))
        stored = StoredPixels(as_image_set(files), 8, 8, 3)
        assert torch.equal(stored.read(torch.arange(5)), as_image_set(files).tensor(8, 8, 3))

    def test_statistics_are_the_same(self):
        held, stored = images().tensor(8, 8), StoredPixels(images(), 8, 8, 3)
        for one, other in zip(channel_statistics(held), channel_statistics(stored), strict=True):
            assert torch.equal(one, other)
        assert Preprocessing.of(held) == Preprocessing.of(stored)
        assert Preprocessing.of(held).value_range == (float(held.min()), float(held.max()))

    def test_threads_do_not_disturb_each_other(self):
        held, stored = images().tensor(8, 8), StoredPixels(images(), 8, 8, 3)
        indices = [torch.randint(1500, (32,), generator=seeded(n)) for n in range(64)]
        with ThreadPoolExecutor(8) as pool:
            for index, pixels in zip(indices, pool.map(stored.read, indices), strict=True):
                assert torch.equal(pixels, held[index])

    def test_no_file_is_left(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        stored = StoredPixels(images(50), 8, 8, 3)
        part = stored[:10]
        del stored
        assert part.read(torch.tensor([9])).shape == (1, 3, 8, 8)
        del part
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device")
    def test_a_full_disk_is_named(self, monkeypatch):
        with open("/dev/full", "wb", buffering=0) as full:
            monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
            with pytest.raises(OSError, match="TMPDIR") as caught:
                StoredPixels(images(50), 8, 8, 3)
        assert caught.value.errno == errno.ENOSPC

    def test_unreadable_files_are_counted_in_all(self, folder, monkeypatch):
        monkeypatch.setattr(stored_pixels, "_BLOCK_IMAGES", 2)
        paths = [*sorted(map(str, folder.iterdir())), "missing.png"]
        with pytest.raises(OSError, match=r"2 of 7 images cannot be read. .* X\[0\]"):
            StoredPixels(as_image_set(["none.png", *paths]), 8, 8, 3)

    def test_files_of_16_bits_keep_their_numbers(self, tmp_path):
        arrays = np.random.default_rng(0).integers(0, 65536, (5, 8, 8)).astype(np.uint16)
        paths = [str(tmp_path / f"{number}.png") for number in range(5)]
        for path, array in zip(paths, arrays, strict=True):
            Image.fromarray(array).save(path)
        stored = StoredPixels(as_image_set(paths), 8, 8, 1)
        assert np.array_equal(stored.read(torch.arange(5))[:, 0], arrays)
        assert Preprocessing.of(stored) == Preprocessing.of(as_image_set(paths).tensor(8, 8))

    def test_only_large_sets_are_stored(self):
        one = images(10)
        assert isinstance(decode(one, 8, 8, memory=10 * 8 * 8 * 3), torch.Tensor)
        assert isinstance(decode(one, 8, 8, memory=10 * 8 * 8 * 3 - 1), StoredPixels)
        assert isinstance(decode(one, 8, 8), torch.Tensor)


@pytest.mark.parametrize("augmentation", [Augmentation.NONE, Augmentation(0.25, True, 0.25)])
def test_batches_are_the_same(augmentation):
    held, stored = images().tensor(8, 8), StoredPixels(images(), 8, 8, 3)
    arguments = *channel_statistics(held), augmentation
    one, other = ImageTensors(held, *arguments), StoredImages(stored, *arguments)
    assert (one.shape, len(one)) == (other.shape, len(other))
    index = torch.tensor([5, 1400, 3, 3])
    assert torch.equal(one.clean(index), other.clean(index))
    first, second = one.augmented(index, seeded(3)), other.augmented(index, seeded(3))
    assert torch.equal(first, second)
    assert second.is_contiguous(memory_format=torch.channels_last)


def test_fit_is_the_same(monkeypatch):
    X, y = patterns()
    whole = tiny_classifier().fit(X, y)
    monkeypatch.setattr(stored_pixels, "MEMORY", 0)
    stored = tiny_classifier().fit(X, y)
    assert [row["train_loss"] for row in whole.history_] == [
        row["train_loss"] for row in stored.history_
    ]
    np.testing.assert_array_equal(whole.predict_proba(X), stored.predict_proba(X))


@pytest.mark.parametrize("multi", [False, True])
def test_pretraining_is_the_same(multi, monkeypatch, tmp_path):
    datasets = [make("b", 1), make("a", 2, 2)]
    pretrain = pretrain_multi if multi else pretrain_single
    arguments = datasets if multi else datasets[0], TINY
    whole = pretrain(*arguments, tmp_path / "whole", device="cpu")
    monkeypatch.setattr(stored_pixels, "MEMORY", 0)
    monkeypatch.setattr("supernetnas.pretraining.data.MEMORY", 0)
    stored = pretrain(*arguments, tmp_path / "stored", device="cpu")
    parts = stored.train.images.parts if multi else [stored.train.images]
    assert {type(part) for part in parts} == {StoredImages}
    for name, value in whole.supernet.state_dict().items():
        assert torch.equal(value, stored.supernet.state_dict()[name]), name
