"""Fits that are cut short: by Ctrl-C, by the time limit, by a loss that is not finite."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from quick_classifier import IMAGES, LABELS, NEW, quick
from tiny import patterns, tiny_classifier

from supernetnas import SupernetTransferClassifier

# Interruptions


class Interrupting(logging.Handler):
    """Ctrl-C in the first epoch of a stage."""

    def __init__(self, stage):
        super().__init__()
        self.stage = stage

    def emit(self, record):
        if record.getMessage().startswith(f"{self.stage} epoch 1"):
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal: a shell lets what it runs in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("stage", ["search", "retrain"])
def test_an_interrupted_fit_leaves_the_last_one(stage):
    clf = quick().fit(IMAGES, LABELS)
    before = dict(vars(clf))
    expected = clf.predict_proba(NEW)
    logger, handler = logging.getLogger("supernetnas"), Interrupting(stage)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with pytest.raises(KeyboardInterrupt):
            clf.fit(np.zeros((40, 6, 7, 3)) + LABELS[:, None, None, None], LABELS > 1)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert vars(clf).keys() == before.keys()
    assert all(vars(clf)[name] is value for name, value in before.items())
    assert clf.predict_proba(NEW).tobytes() == expected.tobytes()


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_process_leaves_no_half_written_file(tmp_path):
    """A fit and a save in a loop, interrupted from outside."""
    script = """
        from tiny import patterns, tiny_classifier
        X, y = patterns(n_per_class=3)
        clf = tiny_classifier(retraining__epochs=1).fit(X, y)
        while True:
            clf.save_pretrained("model")
            print("saved", flush=True)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for _ in range(5):
            assert process.stdout.readline() == "saved\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    clf = SupernetTransferClassifier.from_pretrained(tmp_path / "model")
    assert clf.predict(IMAGES).shape == (40,)


# The time limit


@pytest.mark.parametrize("strategy", ["scratch", "oracle"])
def test_time_limit(tiny_zoo, strategy):
    clf = quick(tiny_zoo, strategy, time_limit=0.01, search__epochs=500, retraining__epochs=500)
    start = time.monotonic()
    clf.fit(IMAGES, LABELS)
    assert time.monotonic() - start < 30
    assert [row["stage"] for row in clf.history_] == ["search", "retrain"]


def test_what_the_time_limit_cuts_is_said(caplog):
    tiny_classifier(time_limit=1e-3, search__epochs=3, retraining__epochs=3).fit(IMAGES, LABELS)
    assert "search ended after 1 of 3 epochs" in caplog.text
    assert "retrain ended after 1 of 3 epochs" in caplog.text


def test_a_search_that_stops_by_itself_is_not_blamed_on_the_time_limit(caplog):
    settings = {"search__epochs": 6, "search__patience": 1, "search__learning_rate": 1e-9}
    clf = tiny_classifier(time_limit=1000.0, **settings).fit(IMAGES, LABELS)
    assert sum(row["stage"] == "search" for row in clf.history_) < 6
    assert "ended after" not in caplog.text


# Divergence


@pytest.mark.parametrize(
    ("parameters", "stage"),
    [
        ({"search__learning_rate": 1e30}, "search diverged in epoch 1"),
        ({"search__alpha_learning_rate": 1e30}, "search diverged in epoch 1"),
        ({"retraining__learning_rate": 1e30}, "retraining diverged in epoch 1"),
        (
            {
                "search__learning_rate": 1e30,
                "search__epochs": 0,
                "search__derivation": "perturbation",
            },
            "tuning of the derivation diverged",
        ),
        (
            {
                "search__alpha_learning_rate": 1e30,
                "search__epochs": 0,
                "search__derivation": "perturbation",
            },
            "tuning of the derivation diverged",
        ),
    ],
)
def test_a_divergence_names_the_learning_rate_to_lower(parameters, stage):
    part, name = next(iter(parameters)).split("__")
    message = rf"The {stage}: its loss is not finite\. Lower the {part}'s {name} \(1e\+30\)\."
    with pytest.raises(FloatingPointError, match=message):
        tiny_classifier(batch_size=8, **parameters).fit(*patterns())


@pytest.mark.parametrize("method", ["drnas", "gdas"])
def test_what_is_not_finite_is_found_though_the_loss_is(method):
    clf = tiny_classifier(search=method, search__epochs=2, batch_size=8)
    clf.set_params(search__alpha_learning_rate=1e30)
    with pytest.raises(FloatingPointError, match="search diverged"):
        clf.fit(*patterns())
