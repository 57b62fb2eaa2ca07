"""The classifier with evolution of cells: from random weights, from a zoo, and on."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
from tiny import patterns, tiny_classifier

from supernetnas import Cells, Evolution, Shifting, Split, SupernetTransferClassifier
from supernetnas.families.base import get_family
from supernetnas.search.costs import count_macs

IMAGES, LABELS = patterns(8)
NEW, NEW_LABELS = patterns(8, seed=5)
SEARCH = Evolution(
    2, population=4, parents=2, mutations=2, crossovers=1, epochs=1, n_recalibration=32
)
TINY = Cells(init_channels=2, n_cells=3)


def evolved(zoo=None, strategy="scratch", **parameters):
    return tiny_classifier(
        zoo, strategy, **{"family": TINY, "search": SEARCH, "batch_size": 16, **parameters}
    )


@pytest.fixture(scope="session")
def found():
    """From random weights; not to be changed."""
    return evolved().fit(IMAGES, LABELS)


def rows(clf):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in clf.history_]


def assert_same_fit(one, other):
    assert one.genotype_ == other.genotype_
    assert rows(one) == rows(other)
    for name, value in one.supernet_state_.items():
        assert value.tobytes() == other.supernet_state_[name].tobytes(), name
    assert one.predict_proba(NEW).tobytes() == other.predict_proba(NEW).tobytes()


def test_a_fit(found):
    assert found.family_ == "cells"
    assert all(len(node) == 2 for node in found.genotype_.normal + found.genotype_.reduce)
    assert [row["stage"] for row in found.history_] == ["search"] * 3 + ["retrain"] * 8
    assert [row.get("candidates") for row in found.history_[:3]] == [None, 4, 4]
    assert found.n_macs_ == count_macs(found.network_, (1, 8, 8))
    assert found.inherited_ == 1
    assert found.score(NEW, NEW_LABELS) > 0.5
    assert set(found.supernet_state_) >= {"alphas_normal", "stem.0.weight"}


def test_the_same_seed_gives_the_same_fit(found):
    before = torch.random.get_rng_state(), np.random.mtrand._rand.get_state()[1].copy()
    assert_same_fit(evolved().fit(IMAGES, LABELS), found)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.mtrand._rand.get_state()[1], before[1])


@pytest.mark.parametrize(
    "search",
    [
        Shifting(1, population=3, parents=2, mutations=1, crossovers=1, epochs=1, n_images=16),
        Evolution(1, population=3, mutations=0, crossovers=0, epochs=0, score="probe"),
        clone(SEARCH).set_params(objectives=("accuracy", "macs")),
    ],
    ids=["shifting", "random-by-probes", "objectives"],
)
def test_from_a_zoo(tiny_zoo, search):
    clf = evolved(tiny_zoo, "both", family="cells", search=search).fit(IMAGES, LABELS)
    assert clf.source_ == "both"
    assert clf.score(NEW, NEW_LABELS) > 0.5


def test_a_split_of_cells():
    search = clone(SEARCH).set_params(split=Split(epochs=2, n_batches=1))
    clf = evolved(search=search, retraining__epochs=1).fit(IMAGES, LABELS)
    assert clf.history_[1]["split"].startswith("layer ")
    assert clf.predict(NEW).shape == NEW_LABELS.shape


def test_limits_hold_for_a_network_of_other_sizes(found):
    larger = Cells(init_channels=2, n_cells=3, network_channels=4, network_cells=4)
    free = evolved(family=larger, retraining__epochs=1).fit(IMAGES, LABELS)
    clf = clone(free).set_params(max_macs=free.n_macs_).fit(IMAGES, LABELS)
    assert found.n_macs_ < clf.n_macs_ == count_macs(clf.network_, (1, 8, 8)) <= free.n_macs_


def test_saved_and_loaded(found, tmp_path):
    found.save_pretrained(tmp_path / "model")
    loaded = SupernetTransferClassifier.from_pretrained(tmp_path / "model")
    assert_array_equal(loaded.predict_proba(NEW), found.predict_proba(NEW))
    assert loaded.genotype_ == found.genotype_
    assert loaded.get_params(deep=False)["search"] == SEARCH


def test_grid_search():
    grid = {"search__population": [4, 5]}
    split = StratifiedShuffleSplit(1, test_size=0.5, random_state=0)
    clf = evolved(retraining__epochs=1)
    best = GridSearchCV(clf, grid, cv=split, error_score="raise").fit(IMAGES, LABELS)
    assert best.best_params_["search__population"] in (4, 5)


class Killed(Exception):
    pass


@pytest.mark.parametrize(("stage", "epoch"), [("search", 1), ("search", 2), ("retrain", 1)])
def test_a_fit_that_was_interrupted_goes_on(tmp_path, monkeypatch, stage, epoch, found):
    from supernetnas.fitting import checkpoints as module

    original = module.StageCheckpoint.save

    def save(self, tensors, state):
        original(self, tensors, state)
        last = (state.get("history") or [{}])[-1]
        if (last.get("stage"), last.get("epoch")) == (stage, epoch):
            raise Killed

    monkeypatch.setattr(module.StageCheckpoint, "save", save)
    clf = evolved(checkpoint_dir=tmp_path)
    with pytest.raises(Killed):
        clone(clf).fit(IMAGES, LABELS)
    monkeypatch.undo()
    assert_same_fit(clone(clf).fit(IMAGES, LABELS), found)


@pytest.mark.parametrize(("search", "whole"), [(SEARCH, 0), ("random_search", 0), ("darts", 1)])
def test_an_epoch_is_expected_to_take_as_long_as_what_it_runs(monkeypatch, search, whole):
    from supernetnas.fitting import estimates

    timed, original = [], estimates.epoch_seconds

    def spied(module, *args):
        timed.append(type(module).__name__)
        return original(module, *args)

    monkeypatch.setattr(estimates, "epoch_seconds", spied)
    evolved(search=search, verbose=2, retraining__epochs=1).fit(IMAGES, LABELS)
    assert timed.count("CellSupernet") == whole
    assert timed.count("Network") >= 1


def test_names_of_searches():
    family = get_family("cells")
    for name, kind in (("evolution", Evolution), ("shifting", Shifting)):
        assert type(family.method(name)) is kind
        assert family.method(name) == get_family("paths").method(name)
