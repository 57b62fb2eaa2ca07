"""A dataset is read, decoded and signed once, for whoever pretrains on it."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_pretraining import TINY, blocks, make, pretrain

from supernetnas.embedding.embedder import get_embedder
from supernetnas.families.base import NetworkInput
from supernetnas.images.stored_pixels import StoredPixels
from supernetnas.pretraining import data as module
from supernetnas.pretraining.data import PretrainingData, decode_all, sign_all


def read(name, seed=0, **changes):
    return PretrainingData.read(make(name, seed, **changes))


def test_labels_are_read_and_images_are_not():
    dataset = make("a", 0)
    data = PretrainingData.read(dataset)
    assert data.classes == [0, 1, 2] and data.counts.tolist() == [6, 6, 6] and len(data) == 18
    np.testing.assert_array_equal(data.codes, dataset.labels)
    assert data.images is dataset.images and data.pixels is None and data.signature is None


def test_what_is_decoded_goes_to_other_processes_without_the_images():
    (data,) = decode_all([read("a")], TINY.seen)
    sent = pickle.loads(pickle.dumps(data))
    assert sent.images is None
    assert torch.equal(sent.pixels, data.pixels) and sent.augmentation == data.augmentation
    assert sent.decoded(TINY.seen) is sent


def test_what_is_in_a_file_is_decoded_again_by_other_processes(monkeypatch):
    monkeypatch.setattr(module, "MEMORY", 0)
    (data,) = decode_all([read("a")], TINY.seen)
    assert isinstance(data.pixels, StoredPixels)
    sent = pickle.loads(pickle.dumps(data))
    assert sent.pixels is None
    again = sent.decoded(TINY.seen).pixels
    assert torch.equal(again, data.pixels.read(torch.arange(len(data))))


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("scale", [1, 257, 1 / 255])
def test_a_mean_that_a_network_asks_for_is_of_the_range_of_the_values(monkeypatch, scale, stored):
    dataset = make("a", 0)
    pixels = dataset.images if scale == 1 else dataset.images.astype(np.float32) * scale
    if stored:
        monkeypatch.setattr(module, "MEMORY", 0)
    seen = NetworkInput((8, 8), 3, (0.5,) * 3, (0.5,) * 3)
    (data,) = decode_all([PretrainingData.read(replace(dataset, images=pixels))], seen)
    shown = data.whole(seen, torch.device("cpu")).clean(torch.arange(18))
    assert -1.01 <= shown.min() < -0.5 and 0.5 < shown.max() <= 1.01


def test_all_of_them_together_have_to_have_room_in_memory(monkeypatch):
    pair = [read("a"), read("b", 1)]
    size = 18 * 3 * 8 * 8
    monkeypatch.setattr(module, "MEMORY", 2 * size)
    assert all(isinstance(data.pixels, torch.Tensor) for data in decode_all(pair, TINY.seen))
    monkeypatch.setattr(module, "MEMORY", 2 * size - 1)
    assert all(isinstance(data.pixels, StoredPixels) for data in decode_all(pair, TINY.seen))


def test_signatures_of_a_sample_and_a_basis_for_compact_ones(monkeypatch):
    monkeypatch.setattr(module, "_MAX_EMBEDDED", 9)
    settings = {"seed": 0, "device": torch.device("cpu"), "verbose": 0}
    (full,), none = sign_all([read("a")], get_embedder(blocks), None, compact=False, **settings)
    assert none is None and full.signature.kept.tolist() == [3, 3, 3]
    assert full.signature.class_names == ("a 0", "a 1", "a 2")
    (first,), basis = sign_all([read("a")], get_embedder(blocks), None, compact=True, **settings)
    assert first.signature.basis.id == basis.id
    (second,), same = sign_all([read("b")], get_embedder(blocks), basis, compact=True, **settings)
    assert same is basis and second.signature.basis.id == basis.id


def test_images_are_decoded_once_for_all_sources(tmp_path, monkeypatch):
    decoded = []
    real = module.decode
    monkeypatch.setattr(module, "decode", lambda *a, **k: decoded.append(1) or real(*a, **k))
    zoo = pretrain(tmp_path / "zoo")
    assert len(decoded) == 2 and zoo.names == ["a", "b", "multi"]
    pretrain(tmp_path / "zoo")
    assert len(decoded) == 2  # nothing is missing


def test_as_many_images_as_labels(tmp_path):
    dataset = make("a", 0)
    short = PretrainingData.read(type(dataset)("a", dataset.images[:-1], dataset.labels))
    with pytest.raises(ValueError, match="'a' has 17 images and 18 labels"):
        short.decoded(TINY.seen)
    empty = type(dataset)("a", dataset.images[:0], dataset.labels[:0])
    with pytest.raises(ValueError, match="'a' has no images"):
        pretrain(tmp_path / "zoo", [empty])
