"""The zoo that ships in the wheel."""

import zlib

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from supernetnas import DatasetSignature, SupernetTransferClassifier, Zoo, get_embedder
from supernetnas.families.cells.config import SupernetConfig
from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.images.reading import as_image_set
from supernetnas.selection.ranking import rank_sources


@pytest.fixture(scope="module")
def zoo():
    return Zoo.open("builtin")


def test_no_file_is_missing_changed_or_foreign(zoo):
    assert zoo.verify() == []


def test_one_source_per_dataset_and_one_on_all(zoo):
    singles = zoo.singles()
    assert len(singles) == 18
    assert sum(source.n_images for source in singles) == 17_192
    assert set(zoo.multi().provenance["datasets"]) == {source.name for source in singles}
    for source in zoo.values():
        small = SupernetConfig("s1", 16, 5, (32, 32), 3, source.n_classes)
        assert source.config == small
        assert source.provenance["licence"]


def test_sources_have_learnt(zoo):
    for source in zoo.values():
        metrics = source.metrics
        assert metrics["validation_accuracy"] > 1.5 * metrics["chance_accuracy"], source.name


def test_supernets_load_and_differ(zoo):
    states = [source.state_dict() for source in zoo.values()]
    for source, state in zip(zoo.values(), states, strict=True):
        supernet = CellSupernet(source.config)
        missing, unexpected = supernet.load_state_dict(state, strict=False)
        assert set(missing) == {"classifier.weight", "classifier.bias"} and not unexpected
    stems = [state["stem.0.weight"].numpy().tobytes() for state in states]
    assert len(set(stems)) == len(stems)


def test_it_is_small(zoo):
    files = [path for path in zoo.folder.rglob("*") if path.is_file()]
    assert sum(len(zlib.compress(path.read_bytes())) for path in files) < 12e6


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
