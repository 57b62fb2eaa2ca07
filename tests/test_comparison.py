"""Candidates on the same splits, and what their differences are worth."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image
from scipy import stats
from tiny import patterns, tiny_classifier

from supernetnas import Comparison, ImageFiles, SupernetTransferClassifier, compare
from supernetnas.fitting.progress import about

IMAGES, LABELS = patterns(n_per_class=6)


def reached(*rows, n_train=80, n_test=20, names="abcdef"):
    accuracies = np.array(rows, dtype=float)
    return Comparison(tuple(names[: len(rows)]), accuracies, accuracies * 10, n_train, n_test)


def test_the_test_is_that_of_nadeau_and_bengio():
    one, other = np.array([0.8, 0.9, 0.85, 0.7]), np.array([0.7, 0.85, 0.8, 0.72])
    difference = one - other
    t = difference.mean() / math.sqrt((1 / 4 + 20 / 80) * difference.var(ddof=1))
    expected = 2 * (1 - stats.t.cdf(t, 3))
    found = reached(other, one).p_values
    assert list(found) == [("b", "a")]  # the better one first
    assert_allclose(found["b", "a"], expected)
    half = stats.t.ppf(0.975, 3) * math.sqrt((1 / 4 + 20 / 80) * one.var(ddof=1))
    low, high = reached(other, one).intervals[1]
    assert_allclose(low, one.mean() - half)
    assert high == min(1, one.mean() + half)


def test_of_several_pairs_the_chance_is_shared():
    a, b, c = [0.9, 0.91, 0.9, 0.92], [0.8, 0.82, 0.79, 0.8], [0.81, 0.79, 0.8, 0.82]
    alone = reached(a, b).p_values["a", "b"]
    found = reached(a, b, c).p_values
    raw = sorted([alone, reached(a, c).p_values["a", "b"], reached(b, c).p_values["b", "a"]])
    assert_allclose(sorted(found.values()), np.maximum.accumulate([3 * raw[0], 2 * raw[1], raw[2]]))


def test_noise_is_called_noise_and_a_difference_one():
    noise = reached([0.8, 0.9, 0.7, 0.85, 0.8], [0.82, 0.85, 0.75, 0.8, 0.85])
    assert noise.verdict == "No difference beyond noise on 5 splits."
    clear = reached([0.5, 0.52, 0.51, 0.5, 0.49], [0.9, 0.91, 0.92, 0.9, 0.9])
    assert clear.verdict == "b is better than a."
    lines = str(clear).splitlines()
    assert lines[1].split()[:2] == ["b", "0.906"] and lines[-1] == clear.verdict
    assert reached([0.5] * 3, [0.5] * 3).verdict.startswith("No difference")
    assert reached([0.5] * 3, [0.6] * 3).verdict == "b is better than a."


def test_fits_are_announced_and_done_on_the_same_splits(capsys):
    seen = []

    class Recording(SupernetTransferClassifier):
        def fit(self, X, y):
            seen.append((self.retraining.epochs, self.random_state, X.tobytes()))
            return super().fit(X, y)

    small = tiny_classifier(search="none", image_size=8)
    estimator = Recording(**small.get_params(deep=False))
    found = compare(
        *(IMAGES, LABELS, {"retraining__epochs": [1, 2]}),
        estimator=estimator,
        repeats=2,
        random_state=3,
    )
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("compare: 4 fits, 2 on each of 2 splits; about ")
    assert len(told) == 5 and told[1].startswith("compare: split 1, retraining__epochs=1: accuracy")
    fits = seen[2:]  # the first two find out how long they take
    assert [fit[:2] for fit in fits] == [(1, 3), (2, 3), (1, 4), (2, 4)]
    assert fits[0][2] == fits[1][2] != fits[2][2] == fits[3][2]
    assert found.accuracies.shape == found.seconds.shape == (2, 2)
    assert (found.n_train, found.n_test) == (18, 6)
    again = compare(
        *(IMAGES, LABELS, {"retraining__epochs": [1, 2]}),
        estimator=small,
        repeats=2,
        random_state=3,
        verbose=False,
    )
    assert np.array_equal(found.accuracies, again.accuracies)
    assert capsys.readouterr().err == ""


def test_strategies_on_files(tiny_zoo, tmp_path):
    paths = []
    for position, image in enumerate(IMAGES):
        paths.append(tmp_path / f"{position}.png")
        Image.fromarray(image).save(paths[-1])
    estimator = tiny_classifier(tiny_zoo, retraining__epochs=1, search="none")
    names = np.array(["a", "b", "c", "d"])[LABELS]
    found = compare(
        *(ImageFiles(paths), names, ["multi", "scratch"]),
        estimator=estimator,
        repeats=2,
        verbose=False,
    )
    assert found.names == ("strategy='multi'", "strategy='scratch'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"candidates": "multi"}, "candidates is one name"),
        ({"candidates": ["multi"]}, "at least two different candidates"),
        ({"candidates": ["multi", "multi"]}, "at least two different candidates"),
        ({"candidates": {"serach": ["a", "b"]}}, "serach"),
        ({"candidates": ["multi", "ot"], "repeats": 1}, "repeats must be an int of at least 2"),
    ],
)
def test_what_is_refused(arguments, words):
    with pytest.raises((ValueError, TypeError), match=words):
        compare(IMAGES, LABELS, **arguments)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.1 s"), (4.26, "4.3 s"), (45.3, "45 s"), (200, "3.3 min"), (720, "12 min"),
     (7200, "2 h"), (90000, "25 h")],
)  # fmt: skip
def test_times_in_words(seconds, text):
    assert about(seconds) == text
