"""What a fit gives: attributes, networks, strategies."""

import json

import numpy as np
import pytest
import torch
from quick_classifier import IMAGES, LABELS, assert_equal, quick
from sklearn.base import clone
from tiny import patterns, tiny_classifier

from supernetnas import Execution, Retraining, SmoothDARTS, SupernetTransferClassifier
from supernetnas.families.cells.network import Network
from supernetnas.families.cells.space import SearchSpace, register_space


def test_fitted_attributes(fitted):
    assert fitted.classes_.tolist() == [0, 1, 2, 3]
    assert fitted.n_features_in_ == 64
    assert fitted.image_shape_ == (8, 8, 1)
    assert fitted.image_size_ == (8, 8)
    assert fitted.source_ == "bars"
    assert list(fitted.distances_) == ["bars", "spots"]
    assert isinstance(fitted.network_, Network) and not fitted.network_.training
    assert fitted.genotype_ == fitted.network_.config.genotype
    assert 0.5 < fitted.inherited_ <= 1
    assert [row["stage"] for row in fitted.history_] == ["search"] + 8 * ["retrain"]
    assert fitted.n_parameters_ == sum(p.numel() for p in fitted.network_.parameters())
    assert fitted.n_macs_ > 0 and fitted.device_ == "cpu"
    assert fitted.supernet_config_.input_channels == 1
    assert "alphas_normal" in fitted.supernet_state_
    assert not any(name.startswith("classifier") for name in fitted.supernet_state_)


def test_it_learns(fitted):
    images, labels = patterns(seed=1)
    assert fitted.score(images, labels) > 0.9
    np.testing.assert_allclose(fitted.predict_proba(images).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("strategy", "sources"),
    [
        ("multi", {"both"}),
        ("random", {"bars", "spots"}),
        ("oracle", {"bars", "spots"}),
        ("spots", {"spots"}),
    ],
)
def test_strategies(tiny_zoo, strategy, sources):
    clf = quick(tiny_zoo, strategy).fit(IMAGES, LABELS)
    assert clf.source_ in sources and clf.distances_ is None
    assert_equal(clf, clone(clf).fit(IMAGES, LABELS))


def test_the_oracle_keeps_the_best_search(tiny_zoo):
    best = quick(tiny_zoo, "oracle", search__epochs=2).fit(IMAGES, LABELS)
    assert len([row for row in best.history_ if row["stage"] == "search"]) == 2


def test_without_search_the_architecture_is_the_sources(tiny_zoo):
    clf = quick(tiny_zoo, "multi", search__epochs=0).fit(IMAGES, LABELS)
    alphas = tiny_zoo["both"].state_dict()["alphas_normal"].numpy()
    np.testing.assert_array_equal(clf.supernet_state_["alphas_normal"], alphas)
    assert [row["stage"] for row in clf.history_] == 2 * ["retrain"]


def test_a_deeper_and_wider_network():
    clf = quick(family__network_cells=5, family__network_channels=4).fit(IMAGES, LABELS)
    assert (clf.network_.config.n_cells, clf.network_.config.init_channels) == (5, 4)
    assert clf.supernet_config_.n_cells == 3
    assert clf.inherited_ < 0.5


@pytest.mark.parametrize("perturbation", ["random", "adversarial"])
def test_perturbations(perturbation):
    clf = quick(search__perturbation=perturbation).fit(IMAGES, LABELS)
    assert_equal(clf, clone(clf).fit(IMAGES, LABELS))


def test_more_channels_than_a_source_has(tiny_zoo):
    images = np.random.default_rng(0).random((40, 8, 8, 5))
    clf = quick(tiny_zoo, "ot").fit(images, LABELS)
    assert clf.network_.config.input_channels == 5
    assert clf.predict_proba(images).shape == (40, 4)


def test_tiny_images():
    values = np.repeat([[0.0], [1.0]], 10, axis=0)
    clf = tiny_classifier().fit(values, values[:, 0] > 0)
    assert clf.image_shape_ == (1, 1, 1)
    assert clf.predict(values).dtype == bool


def test_class_weight():
    images, labels = patterns(n_classes=2, noise=90)
    names = np.array(["many", "few"])[labels]

    def share_of_few(class_weight):
        clf = tiny_classifier(class_weight=class_weight).fit(images, names)
        return clf.predict_proba(images)[:, 0].mean()

    assert share_of_few({"few": 50}) > share_of_few(None) + 0.1
    assert share_of_few({"many": 50.0, "few": 1}) < share_of_few(None) - 0.1
    assert share_of_few("balanced") == share_of_few(None)


def test_a_space_that_is_registered_later_can_be_searched():
    edges = (("skip_connect", "sep_conv_3x3"),) * 14
    register_space(SearchSpace("registered_late", edges, edges))
    clf = tiny_classifier(family__space="registered_late", family__n_cells=1)
    assert clf.fit(IMAGES, LABELS).genotype_.space == "registered_late"


def test_a_source_of_an_unknown_family_keeps_no_other_from_use(tiny_zoo, tmp_path):
    zoo = tiny_zoo.save(tmp_path / "zoo")
    path = zoo.folder / "index.json"
    index = json.loads(path.read_text())
    index["format_version"] = 3
    for entry in index["sources"].values():
        entry |= {"family": "cells"}
    index["sources"]["spots"]["family"] = "later"
    path.write_text(json.dumps(index))
    clf = SupernetTransferClassifier(
        "random", zoo=zoo.folder, search=SmoothDARTS(epochs=0), retraining=Retraining(epochs=1)
    )
    clf.set_params(image_size=8, max_parameters=10**9, random_state=0)
    assert clf.fit(IMAGES, LABELS).source_ == "bars"


@pytest.mark.filterwarnings("ignore:")  # of torch's compiler about itself
@pytest.mark.slow  # half a minute of a C++ compiler
def test_the_retraining_is_compiled_after_its_first_step():
    counters = torch._dynamo.utils.counters
    torch._dynamo.reset()
    counters.clear()
    execution = Execution("float32", compile=True)
    tiny_classifier(search="random", retraining__epochs=2, precision=execution).fit(IMAGES, LABELS)
    assert counters["frames"]["ok"] >= 1
    assert counters["stats"]["calls_captured"] > 10
