"""The same seed gives the same network, whatever runs beside it."""

import joblib
import numpy as np
import pytest
import torch
from quick_classifier import IMAGES, LABELS, NEW, assert_equal, quick
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_predict
from tiny import EMBEDDER


def test_the_same_seed_gives_the_same_network(fitted):
    assert_equal(fitted, clone(fitted).fit(IMAGES, LABELS))
    other = clone(fitted).set_params(random_state=1).fit(IMAGES, LABELS)
    assert fitted.predict_proba(NEW).tobytes() != other.predict_proba(NEW).tobytes()


def test_a_generator_goes_on():
    clf = quick(random_state=np.random.RandomState(0))
    first = clf.fit(IMAGES, LABELS).predict_proba(NEW)
    assert clf.fit(IMAGES, LABELS).predict_proba(NEW).tobytes() != first.tobytes()


@pytest.mark.parametrize("random_state", [0, None])
def test_global_random_states_are_left_alone(tiny_zoo, random_state):
    torch_state = torch.random.get_rng_state()
    numpy_state = np.random.get_state()  # noqa: NPY002
    quick(tiny_zoo, "ot", random_state=random_state, retraining__dropout=0.1).fit(
        IMAGES, LABELS
    ).predict(NEW)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    numpy_state_after = np.random.get_state()  # noqa: NPY002
    for old, new in zip(numpy_state, numpy_state_after, strict=True):
        np.testing.assert_array_equal(new, old)


def test_threads_do_not_mix(tiny_zoo):
    clf = quick(tiny_zoo, "ot", retraining__dropout=0.2)
    alone = cross_val_predict(clf, IMAGES, LABELS, cv=2, method="predict_proba")
    with joblib.parallel_config(backend="threading"):
        beside = cross_val_predict(clf, IMAGES, LABELS, cv=2, method="predict_proba", n_jobs=2)
    assert alone.tobytes() == beside.tobytes()


@pytest.mark.slow
def test_grid_search_in_processes(tiny_zoo):
    grid = {"strategy": ["ot", "multi", "scratch"]}
    clf = quick(tiny_zoo, embedder=EMBEDDER)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as the workers have: see `random_state`
    try:
        one = GridSearchCV(clf, grid, cv=2, scoring="neg_log_loss").fit(IMAGES, LABELS)
    finally:
        torch.set_num_threads(threads)
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        two = GridSearchCV(clf, grid, cv=2, scoring="neg_log_loss", refit=False, n_jobs=2)
        two.fit(IMAGES, LABELS)
    for key in ("split0_test_score", "split1_test_score"):
        assert one.cv_results_[key].tolist() == two.cv_results_[key].tolist()
    assert one.best_params_ == two.best_params_
