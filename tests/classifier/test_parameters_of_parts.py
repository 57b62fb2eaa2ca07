"""Parameters of a fit's parts: how they are set, and what they are where left open."""

import pytest
from quick_classifier import IMAGES, LABELS
from sklearn.base import clone
from tiny import patterns, tiny_classifier

from supernetnas import (
    Cells,
    DrNAS,
    Evolution,
    Retraining,
    SmoothDARTS,
    Split,
    SupernetTransferClassifier,
)
from supernetnas.fitting.resolved import method_of


class TestSetParams:
    def test_names_become_objects(self):
        clf = SupernetTransferClassifier().set_params(search="drnas", search__epochs=2)
        assert clf.search == DrNAS(epochs=2)
        clf.set_params(retraining__epochs=3, family__n_cells=4)
        assert (clf.retraining, clf.family) == (Retraining(epochs=3), Cells(n_cells=4))
        assert clone(clf).get_params()["search__epochs"] == 2

    @pytest.mark.parametrize(
        "parameters",
        [
            {"search__nope": 1},
            {"search": "gdas", "nope": 1},
            {"search": "enas", "search__epochs": 2},
            {"batch_size": 8, "precision__compile": True},
            {"retraining__epochs": 2, "augmentation__flip": False},
        ],
        ids=str,
    )
    def test_all_or_nothing(self, parameters):
        clf = SupernetTransferClassifier()
        before = clf.get_params(deep=False)
        with pytest.raises(ValueError):
            clf.set_params(**parameters)
        assert clf.get_params(deep=False) == before

    def test_all_or_nothing_of_a_part(self):
        retraining = Retraining(epochs=2)
        clf = SupernetTransferClassifier(retraining=retraining)
        with pytest.raises(ValueError):
            clf.set_params(retraining__epochs=9, retraining__nope=1)
        assert clf.retraining is retraining and retraining == Retraining(epochs=2)
        split = Split(epochs=2)
        clf = SupernetTransferClassifier(family="paths", search=Evolution(split=split))
        with pytest.raises(ValueError):
            clf.set_params(search__split__epochs=9, search__nope=1)
        assert split == Split(epochs=2)

    def test_what_has_no_parts_says_what_to_pass(self):
        with pytest.raises(ValueError, match="pass augmentation as a whole"):
            SupernetTransferClassifier().set_params(augmentation__flip=False)

    def test_fit_changes_no_parameter(self, tiny_zoo):
        search, retraining = SmoothDARTS(epochs=1), Retraining(epochs=1)
        clf = tiny_classifier(tiny_zoo, "bars", search=search).set_params(retraining=retraining)
        before = {name: repr(value) for name, value in clf.get_params().items()}
        clf.fit(IMAGES, LABELS)
        assert clf.search is search
        assert {name: repr(value) for name, value in clf.get_params().items()} == before


class TestDefaultSearch:
    """A search has to earn its time; there is one only where a fit cannot do without."""

    @pytest.mark.parametrize(
        ("strategy", "name"),
        [
            *((strategy, "none") for strategy in ("auto", "multi", "ot", "random", "a source")),
            *((strategy, "sdarts") for strategy in ("scratch", "oracle")),
        ],
    )
    def test_auto(self, strategy, name):
        assert method_of(SupernetTransferClassifier(strategy, family="cells")).name == name
        for search in ("gdas", "none"):
            clf = SupernetTransferClassifier(strategy, family="cells", search=search)
            assert method_of(clf).name == search

    def test_its_parameters_are_of_a_search(self):
        clf = SupernetTransferClassifier().set_params(search__epochs=3)
        assert repr(clf.search) == "SmoothDARTS(epochs=3)"
        with pytest.raises(ValueError, match="Invalid parameter 'epochs'"):
            SupernetTransferClassifier(search="none").set_params(search__epochs=3)

    def test_fits_are_not_searched(self, tiny_zoo):
        X, y = patterns()
        clf = tiny_classifier(tiny_zoo, "both", search="auto").fit(X, y)
        assert [row["stage"] for row in clf.history_] == ["retrain"] * 8


@pytest.mark.parametrize(
    ("strategy", "preset", "times"),
    [
        ("multi", "quick", 1 / 3),
        ("multi", "best", 3),
        ("scratch", "quick", 1 / 3),
    ],
)
def test_presets_are_for_what_is_left_open(tiny_zoo, strategy, preset, times):
    def epochs(**parameters):
        clf = tiny_classifier(tiny_zoo, strategy, **parameters).fit(IMAGES, LABELS)
        return [row["stage"] for row in clf.history_].count("retrain")

    left_open = {"retraining__epochs": "auto"}
    assert epochs(preset=preset, **left_open) == round(epochs(**left_open) * times)
    assert epochs(preset=preset, retraining__epochs=2) == 2
