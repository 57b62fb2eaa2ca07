"""The family of search methods, as the estimator offers it."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
from tiny import patterns, tiny_classifier
from tiny_search import assert_same_state, build, labelled, seeded

from supernetnas import SupernetTransferClassifier
from supernetnas.families.cells.search.diagnostics import SearchCollapseWarning
from supernetnas.families.cells.search.methods import SEARCHES, make_search
from supernetnas.families.cells.search.weight_training import SearchSettings
from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.fitting.resolved import method_of
from supernetnas.search.method import SearchTask

IMAGES, LABELS = patterns(n_per_class=6)
PLACES = {"zoo": None, "checkpoint_dir": None}  # do not travel


def quick(zoo=None, strategy="scratch", **parameters):
    """A classifier that does a little of everything."""
    settings = {"retraining__epochs": 1, "search__epochs": 2, "batch_size": 12}
    if strategy == "scratch":
        settings["family__n_cells"] = 1
    return tiny_classifier(zoo, strategy, settings, **parameters)


@pytest.mark.parametrize("method", SEARCHES)
def test_each_method_warm_starts_and_is_saved(method, tiny_zoo, tmp_path):
    clf = quick(tiny_zoo, "bars", search=method).fit(IMAGES, LABELS)
    assert clf.source_ == "bars"
    stages = [row["stage"] for row in clf.history_]
    searched = {"none": 0, "random": 0, "evolution": 2 + 5, "shifting": 2 + 5}.get(method, 2)
    derived = int(method in ("random_search", "shifting"))
    assert stages == ["search"] * searched + ["derive"] * derived + ["retrain"]
    assert clf.inherited_ == 1.0  # partial channels are put back into the source's
    loaded = SupernetTransferClassifier.from_pretrained(
        clf.save_pretrained(tmp_path / "model"), device="cpu"
    )
    assert method_of(loaded).name == method
    assert loaded.get_params() | PLACES == clf.get_params() | PLACES
    np.testing.assert_array_equal(loaded.predict_proba(IMAGES), clf.predict_proba(IMAGES))
    # What is saved is an ordinary supernet.
    supernet = CellSupernet(clf.supernet_config_)
    state = {k: torch.from_numpy(v) for k, v in loaded.supernet_state_.items()}
    assert not supernet.load_state_dict(state, strict=False).unexpected_keys
    if method not in ("pc_darts", "random", "random_search", "evolution", "shifting"):
        assert supernet.genotype() == clf.genotype_


def test_methods_differ_and_repeat(tiny_zoo):
    def fitted(method, **parameters):
        clf = quick(tiny_zoo, "bars", search=method, **parameters)
        return clf.fit(IMAGES, LABELS).predict_proba(IMAGES)

    results = {method: fitted(method) for method in ("darts", "drnas", "gdas", "random")}
    assert np.array_equal(results["gdas"], fitted("gdas"))
    values = [result.tobytes() for result in results.values()]
    assert len(set(values)) == len(values)
    sdarts = [fitted("sdarts", search__perturbation=p).tobytes() for p in ("none", "random")]
    assert sdarts[0] == values[0]  # DARTS
    assert sdarts[1] != values[0]


@pytest.mark.parametrize("method", sorted(SEARCHES.keys() - {"sdarts"}))
def test_other_methods_have_no_perturbation(method):
    with pytest.raises(ValueError, match="Invalid parameter 'perturbation'"):
        quick(search=method, search__perturbation="none")


def test_grid_search_over_methods_and_derivations():
    grid = GridSearchCV(
        quick(search__epochs=1, search__derivation_epochs=0),
        [
            {"search": list(SEARCHES)},
            {"search__derivation": ["perturbation"], "search__stopping": ["settled", "eigenvalue"]},
        ],
        cv=StratifiedShuffleSplit(1, test_size=0.5, random_state=0),
        error_score="raise",
    ).fit(IMAGES, LABELS)
    assert len(grid.cv_results_["mean_test_score"]) == len(SEARCHES) + 2
    assert grid.best_estimator_.predict(IMAGES).shape == LABELS.shape


def test_derivation_by_perturbation():
    clf = quick(
        search__derivation="perturbation", search__derivation_epochs=1, search__epochs=1
    ).fit(IMAGES, LABELS)
    stages = [row["stage"] for row in clf.history_]
    assert stages == ["search"] + ["derive"] * 17 + ["retrain"]


def test_a_time_limit_cuts_the_derivation_short():
    clf = quick(search__derivation="perturbation", time_limit=1e-3).fit(IMAGES, LABELS)
    assert len(clf.history_) == 1 + 17 + 1
    assert sum(row["seconds"] for row in clf.history_ if row["stage"] == "derive") < 10


def test_without_epochs_partial_methods_derive_too(tiny_zoo):
    for method in ("pc_darts", "drnas"):
        clf = quick(tiny_zoo, "bars", search=method, search__epochs=0).fit(IMAGES, LABELS)
        assert [row["stage"] for row in clf.history_] == ["retrain"]


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"search": "enas"}, "'search' parameter must be one of 'auto', 'sdarts'"),
        ({"search": None}, "'search' parameter"),
        ({"search__stopping": "early"}, r"'stopping' parameter .* \{\"plateau\", \"settled\""),
        (
            {"search__stopping": "eigenvalue", "search": "random_search"},
            r"'stopping' parameter of RandomSearch must be \{\"plateau\", \"settled\"\}",
        ),
        ({"search__derivation": "max"}, r"'derivation' parameter .* \{.argmax., .perturbation.\}"),
        ({"search__derivation_epochs": -1}, "'derivation_epochs' parameter .* int >= 0"),
        ({"strategy": "oracle", "search": "random"}, "search must not be 'random'"),
    ],
)
def test_parameters_are_checked(parameters, text):
    with pytest.raises(ValueError, match=text):
        quick(**parameters).fit(IMAGES, LABELS)


def test_a_collapsed_search_warns(tiny_zoo, monkeypatch):
    def collapse(search, **kwargs):
        with torch.no_grad():
            for alphas in search.supernet.alpha_parameters():
                alphas.zero_()
            for edge, names in enumerate(search.supernet.space.normal):
                if "skip_connect" in names:
                    search.supernet.alphas_normal[edge, names.index("skip_connect")] = 2.0
        return search.history

    monkeypatch.setattr("supernetnas.families.cells.search.bilevel.BilevelSearch.run", collapse)
    with pytest.warns(SearchCollapseWarning, match="of the 8 edges"):
        quick(tiny_zoo, "bars").fit(IMAGES, LABELS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick(tiny_zoo, "bars", search="random").fit(IMAGES, LABELS)


@pytest.mark.parametrize("method", ["darts2", "pc_darts", "gdas", "random_search"])
def test_resumed(method):
    def start(seed):
        return make_search(
            method,
            build(cells=1, seed=seed),
            labelled(),
            labelled(seed=2),
            settings=SearchSettings(epochs=2, batch_size=6),
            generator=seeded(seed),
        )

    whole, first, second = start(0), start(0), start(7)
    whole.run()
    first.run(on_epoch=lambda one: one.epoch == 1)
    second.load_state(*first.state())
    second.run()
    assert_same_state(whole, second)


@pytest.mark.parametrize("method", ["sdarts", "darts", "pc_darts", "drnas", "gdas"])
def test_alphas_are_softened_before_the_first_epoch(method):
    """A search that has epochs begins with the source's alphas times the scale."""
    for epochs, scale, factor in ((2, 0.25, 0.25), (2, 1.0, 1.0), (0, 0.25, 1.0)):
        supernet = build()
        before = [alphas.detach().clone() for alphas in supernet.alpha_parameters()]
        task = SearchTask(labelled(), labelled(), 4, seeded(0), None, None)
        SEARCHES[method]().set_params(epochs=epochs, alpha_scale=scale).start(supernet, task)
        for old, new in zip(before, supernet.alpha_parameters(), strict=True):
            torch.testing.assert_close(new.detach(), factor * old)
