"""The zoo that ships in the wheel."""

import zlib

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from supernetnas import DatasetSignature, SupernetTransferClassifier, Zoo, get_embedder
from supernetnas.families.base import NetworkInput, get_family
from supernetnas.families.cells.config import SupernetConfig
from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.families.elastic.lite0 import LITE0_MEMBERS, LITE0_SPACE, published_largest
from supernetnas.families.elastic.supernet import ElasticConfig
from supernetnas.families.warm_start import starting_supernet
from supernetnas.images.reading import as_image_set
from supernetnas.selection.ranking import rank_sources


@pytest.fixture(scope="module")
def zoo():
    return Zoo.open("builtin")


@pytest.fixture(scope="module")
def cells(zoo):
    return [source for source in zoo.values() if source.family == "cells"]


def test_no_file_is_missing_changed_or_foreign(zoo):
    assert zoo.verify() == []


def test_one_source_per_dataset_and_one_on_many(zoo, cells):
    singles = zoo.singles()
    assert len(cells) == len(singles) + 1
    assert len(singles) == 18
    assert sum(source.n_images for source in singles) == 17_192
    for source in cells:
        small = SupernetConfig("s1", 16, 5, (32, 32), 3, source.n_classes)
        assert source.config == small
        assert source.provenance["licence"]


def test_sources_name_all_datasets_that_their_supernet_has_seen(zoo):
    (seen,) = {tuple(source.provenance["warm_start_datasets"]) for source in zoo.singles()}
    names = {source.name for source in zoo.singles()}
    assert set(seen) == set(zoo["multi"].provenance["datasets"]) and len(seen) == 11
    assert len(zoo.multis()) == 3
    for multi in zoo.multis():  # the eight on which all of them can be tested
        assert names - set(multi.provenance["datasets"]) == {
            "aid_aerial",
            "bccd_cells",
            "chars74k_font",
            "flowers5",
            "gtsrb_signs",
            "magnetic_tile",
            "plantvillage11",
            "sports",
        }


def test_sources_have_learnt(cells):
    for source in cells:
        metrics = source.metrics
        assert metrics["validation_accuracy"] > 1.5 * metrics["chance_accuracy"], source.name


def test_supernets_load_and_differ(cells):
    states = [source.state_dict() for source in cells]
    for source, state in zip(cells, states, strict=True):
        supernet = CellSupernet(source.config)
        missing, unexpected = supernet.load_state_dict(state, strict=False)
        assert set(missing) == {"classifier.weight", "classifier.bias"} and not unexpected
    stems = [state["stem.0.weight"].numpy().tobytes() for state in states]
    assert len(set(stems)) == len(stems)


def test_elastic_members_are_beside_efficientnet_lite0(zoo):
    """What they share, and statistics of each, as the family lists them; no more is stored."""
    source = zoo.multi("elastic")
    assert source.config == ElasticConfig(LITE0_SPACE, 3, 1, LITE0_MEMBERS, published=True)
    assert source.provenance["n_images"] == 40_772
    assert {"weights", "weights_licence", "licence", "datasets"} <= source.provenance.keys()
    supernet = starting_supernet(
        get_family("elastic"), NetworkInput((64, 64), 3), 5, 0, (source.config, source.state_dict())
    )
    for name, tensor in published_largest().items():
        torch.testing.assert_close(supernet.largest.state_dict()[name], tensor, rtol=0, atol=0)
    for statistics in supernet.statistics:  # none is as a new one
        assert (statistics.variance != 1).all() and (statistics.batches == 20).all()


def test_single_paths_have_learnt(zoo):
    source = zoo.multi("paths")
    assert source.config.image_size == (32, 32)
    metrics = source.metrics  # of random paths, whose weights are shared
    assert metrics["validation_accuracy"] > 5 * metrics["chance_accuracy"]
    seen = NetworkInput((32, 32), 3)
    starting_supernet(get_family("paths"), seen, 5, 0, (source.config, source.state_dict()))


def test_it_is_small(zoo):
    for family, most in (("cells", 12e6), ("elastic", 9e6), ("paths", 4e6)):
        sources = {source.entry.folder for source in zoo.values() if source.family == family}
        files = [path for name in sources for path in (zoo.folder / name).iterdir()]
        assert 1e6 < sum(len(zlib.compress(path.read_bytes())) for path in files) < most


def test_digits_are_nearest_to_digits(zoo):
    X, y = load_digits(return_X_y=True)
    embedder = get_embedder()
    assert embedder.identity == zoo.embedder_id
    features = embedder.embed(as_image_set(X[:200]))
    target = DatasetSignature.from_features(features, y[:200], embedder_id=embedder.identity)
    ranking = rank_sources(target, zoo)
    glyphs = {"mnist5k", "omniglot", "chars74k_font"}
    assert set(list(ranking)[:3]) & glyphs, ranking


@pytest.mark.slow
def test_the_example_of_the_readme():
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
    clf = SupernetTransferClassifier(random_state=0).fit(X_train, y_train)
    assert clf.source_ == "multi"
    assert clf.score(X_test, y_test) > 0.97
    assert np.allclose(clf.predict_proba(X_test).sum(axis=1), 1, atol=1e-5)
