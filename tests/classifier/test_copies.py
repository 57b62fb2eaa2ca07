"""Copies of a classifier: by scikit-learn's `clone`, joblib, pickle and deepcopy."""

import copy
import pickle

import joblib
import pytest
from quick_classifier import IMAGES, LABELS, NEW, assert_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from supernetnas.families.cells.network import Network


def test_clone_keeps_parameters_only(fitted):
    twin = clone(fitted)
    with pytest.raises(NotFittedError):
        twin.predict(NEW)
    parameters = fitted.get_params()
    assert {k: v for k, v in twin.get_params().items() if k != "embedder"} == {
        k: v for k, v in parameters.items() if k != "embedder"
    }


@pytest.mark.parametrize("mmap_mode", ["r", None])
def test_joblib(fitted, tmp_path, mmap_mode):
    joblib.dump(fitted, tmp_path / "clf.joblib")
    loaded = joblib.load(tmp_path / "clf.joblib", mmap_mode=mmap_mode)
    assert_equal(fitted, loaded)
    assert_equal(fitted, clone(loaded).fit(IMAGES, LABELS))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_pickle_and_deepcopy(fitted, duplicate):
    twin = duplicate(fitted)
    assert_equal(fitted, twin)
    assert twin.network_ is not fitted.network_
    assert isinstance(fitted.network_, Network)


def test_a_pickle_holds_no_module(fitted):
    assert b"torch" not in pickle.dumps(fitted.__getstate__() | {"embedder": None})


def test_a_pickle_from_a_gpu_predicts_on_the_cpu(fitted):
    state = fitted.__getstate__() | {"device_": "cuda:77"}
    twin = clone(fitted)
    with pytest.warns(UserWarning, match="fitted on 'cuda:77'"):
        twin.__setstate__(state)
    assert twin.device_ == "cpu"
    assert_equal(fitted, twin)
