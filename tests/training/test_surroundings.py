"""What the program around has set for torch neither changes results nor is changed itself."""

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import EMBEDDER, patterns, tiny_classifier
from tiny_pretraining import assert_same_zoo, make, pretrain

from supernetnas import SupernetTransferClassifier, Zoo, get_embedder
from supernetnas.distance.label_distances import cross_traces_on_device
from supernetnas.images.reading import as_image_set
from supernetnas.training.surroundings import own_surroundings

ROOT = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


SURROUNDINGS = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    # No tensor on it can be read, so whatever lands there shows.
    "default device": lambda: default_device("meta"),
    "with device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


def settings():
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_num_threads(),
    )


@pytest.fixture(params=SURROUNDINGS.values(), ids=SURROUNDINGS.keys())
def surrounded(request):
    """Return a function that calls another in the surroundings, and checks that they stay."""

    def call(function):
        with request.param():
            before = settings()
            result = function()
            assert settings() == before
        return result

    return call


def test_a_fit(surrounded, fitted, tiny_zoo):
    X, y = patterns()
    clf = surrounded(lambda: tiny_classifier(tiny_zoo, "ot").fit(X, y))
    assert clf.distances_ == fitted.distances_ and clf.n_macs_ == fitted.n_macs_
    np.testing.assert_array_equal(clf.predict_proba(X), fitted.predict_proba(X))
    for value in clf.network_.parameters():
        assert value.dtype == torch.float32 and value.requires_grad and not value.is_inference()


def test_predictions(surrounded, fitted):
    X, y = patterns(seed=1)
    expected = fitted.predict_proba(X)
    np.testing.assert_array_equal(surrounded(lambda: fitted.predict_proba(X)), expected)
    assert surrounded(lambda: fitted.score(X, y)) == fitted.score(X, y)


@pytest.mark.filterwarnings("ignore:The parameter embedder")
def test_saving_and_loading(surrounded, fitted, tmp_path):
    X, _ = patterns(seed=1)
    expected = fitted.predict_proba(X)
    fitted.save_pretrained(tmp_path / "before")
    surrounded(lambda: fitted.save_pretrained(tmp_path / "within"))
    load = SupernetTransferClassifier.from_pretrained
    for clf in (
        surrounded(lambda: load(tmp_path / "before")),
        surrounded(lambda: load(tmp_path / "within")),
        surrounded(lambda: pickle.loads(pickle.dumps(fitted))),
    ):
        np.testing.assert_array_equal(clf.predict_proba(X), expected)
        assert not any(value.is_inference() for value in clf.network_.parameters())


def test_embedding(surrounded):
    images = as_image_set(patterns(colour=True)[0][:3])
    expected = get_embedder().embed(images)
    np.testing.assert_array_equal(surrounded(lambda: get_embedder().embed(images)), expected)
    assert surrounded(lambda: get_embedder().dimension) == expected.shape[1]


def test_growing_a_zoo(surrounded, fitted, tiny_zoo, tmp_path):
    X, y = patterns()
    zoo = tiny_zoo.save(tmp_path / "zoo")
    clf = tiny_classifier(zoo, embedder=EMBEDDER).fit(X, y)  # has no signature
    source = surrounded(lambda: zoo.add_classifier(clf, "new", X=X, y=y))
    assert zoo.verify() == surrounded(Zoo.open(zoo.folder).verify) == []
    for key, value in source.state_dict().items():
        if value.is_floating_point():
            np.testing.assert_array_equal(value, clf.supernet_state_[key])


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return pretrain(tmp_path_factory.mktemp("pretrained") / "zoo", DATASET)


DATASET = [make("a", 2, n_classes=2)]


def test_pretraining(surrounded, pretrained, tmp_path):
    zoo = surrounded(lambda: pretrain(tmp_path / "zoo", DATASET))
    assert_same_zoo(zoo, pretrained)


def test_label_distances_by_torch(surrounded):
    random = np.random.default_rng(0)
    factors = list(random.normal(size=(3, 5, 20)).astype(np.float32))
    expected = cross_traces_on_device(factors, factors, "cpu")
    found = surrounded(lambda: cross_traces_on_device(factors, factors, "cpu"))
    np.testing.assert_array_equal(found, expected)


def test_an_error_leaves_the_surroundings_as_they_were(surrounded):
    def fail():
        with own_surroundings():
            raise KeyError

    with pytest.raises(KeyError):
        surrounded(fail)


def test_threads_share_the_default_dtype():
    """The last thread that leaves restores it, whichever came first."""
    inside, leave = threading.Barrier(2), threading.Event()

    def other():
        with own_surroundings():
            inside.wait()
            leave.wait()
            assert torch.get_default_dtype() == torch.float32

    with default_dtype(torch.float64):
        with own_surroundings():
            thread = threading.Thread(target=other)
            thread.start()
            inside.wait()
        assert torch.get_default_dtype() == torch.float32
        leave.set()
        thread.join()
        assert torch.get_default_dtype() == torch.float64


FORK = """
import os, signal, sys
import numpy as np, torch
from tiny import patterns, tiny_classifier
X, y = patterns(60)
clf = tiny_classifier(image_size=32, family__init_channels=8, search__epochs=0)
expected = clf.fit(X, y).predict_proba(X)
child = os.fork()
if not child:
    signal.alarm(60)  # ends a child that waits
    same = np.allclose(clf.predict_proba(X), expected, atol=1e-5)
    os._exit(0 if same and torch.get_num_threads() == 2 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_predicts():
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": path}
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
