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
from supernetnas.zoo import ZooError

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
        ({"candidates": []}, "at least two different candidates"),
        ({"candidates": [1, 2]}, r"names of strategies, such as .*Got \[1, 2\]"),
        ({"candidates": None}, "names of strategies, such as .*Got None"),
        ({"candidates": ["multi", {"search": ["none"]}]}, "names of strategies, such as"),
        ({"candidates": [tiny_classifier(), tiny_classifier()]}, "names of strategies, such as"),
        ({"candidates": {"search": "none"}}, r"candidates\['search'\] must be .* it is \['none'\]"),
        ({"candidates": {"search": []}}, r"candidates\['search'\] has no values"),
        ({"candidates": {"serach": ["a", "b"]}}, "has no 'serach'. It has augmentation, .*search"),
        ({"candidates": {"serach__epochs": [1, 2]}}, "has no 'serach'"),
        ({"candidates": {1: ["a", "b"]}}, "has no 1"),
        ({"candidates": {"random_state": [0, 1]}}, "cannot differ in random_state.*repeats="),
        ({"candidates": {"search": ["none", "dart"]}}, "The candidate search='dart': The 'search'"),
        ({"candidates": {"retraining__steps": [1, 2]}}, "The candidate retraining__steps=1: Inval"),
        (
            {"candidates": {"preset": ["quick", "slow"]}},
            "The candidate preset='slow': The 'preset'",
        ),
        ({"candidates": ["scratch", "nowhere"]}, "There is no zoo in"),
        ({"candidates": {"max_macs": [None, 10]}}, "max_macs=10 cannot be met"),
        (
            {"candidates": ["scratch", "multi"], "repeats": 1},
            "'repeats' .* must be int >= 2. Got 1",
        ),
        ({"candidates": ["scratch", "multi"], "test_size": 2}, "'test_size' .* must be float > 0"),
        (
            {"candidates": ["scratch", "multi"], "random_state": "x"},
            "'random_state' .* must be int",
        ),
        ({"candidates": ["scratch", "multi"], "estimator": 3}, "'estimator' .* must be Supernet"),
        (
            {"candidates": {"search": ["none", "random"]}, "test_size": 0.8},
            "leaves fewer than 2 im",
        ),
    ],
)
def test_what_is_refused_before_any_fit(monkeypatch, arguments, words):
    def untouched(*args):
        raise AssertionError("something was fitted")

    monkeypatch.setattr(SupernetTransferClassifier, "fit", untouched)
    arguments = {"estimator": tiny_classifier(search="none"), **arguments}
    with pytest.raises((ValueError, TypeError, ZooError), match=words):
        compare(IMAGES, LABELS, verbose=False, **arguments)


def test_images_that_no_candidate_can_be_fitted_on():
    with pytest.raises(ValueError, match=r"^Each class needs at least 2 images"):
        compare(IMAGES, [0] * 23 + [1], {"search": ["none", "random"]}, estimator=tiny_classifier())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.1 s"), (4.26, "4.3 s"), (45.3, "45 s"), (200, "3.3 min"), (720, "12 min"),
     (7200, "2 h"), (90000, "25 h")],
)  # fmt: skip
def test_times_in_words(seconds, text):
    assert about(seconds) == text
