"""Measures of how well a supernet keeps the order of its architectures."""

import copy
import math

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr
from tiny_paths import drawn, tiny_paths
from tiny_search import assert_same_state, labelled, seeded

from supernetnas.evaluation.ranking import (
    Trajectory,
    order_preserving,
    relative_improvement,
)
from supernetnas.search.method import SearchTask
from supernetnas.search.shifting import Shifting


def test_a_supernet_that_knows_everything():
    accuracies = np.random.default_rng(0).permutation(30) / 100
    found = order_preserving(3 * accuracies - 7, accuracies)
    values = (found.global_hits, found.local_tau, found.tau, found.rho)
    assert values == pytest.approx((10, 1, 1, 1))
    found = order_preserving(-accuracies, accuracies)
    values = (found.global_hits, found.local_tau, found.tau, found.rho)
    assert values == pytest.approx((0, -1, -1, -1))


def test_good_ones_are_told_from_others_but_not_ranked():
    accuracies = np.concatenate([0.9 + np.arange(10) / 1000, np.arange(20) / 100])
    scores = np.concatenate([1.0 - np.arange(10) / 1000, np.arange(20) / 100])
    found = order_preserving(scores, accuracies)
    assert (found.global_hits, found.local_tau) == pytest.approx((10, -1))
    assert found.tau == pytest.approx(kendalltau(scores, accuracies).statistic)
    assert found.rho == pytest.approx(spearmanr(scores, accuracies).statistic)


def test_equal_scores_count_by_chance():
    accuracies = np.arange(6.0)
    assert order_preserving(np.ones(6), accuracies, 2).global_hits == pytest.approx(2 / 3)
    # The best is certain, and one of three shares the second place; one of them is good.
    assert order_preserving([0, 0, 1, 1, 1, 2], accuracies, 2).global_hits == pytest.approx(4 / 3)
    assert math.isnan(order_preserving(np.ones(6), accuracies, 2).local_tau)
    tied = order_preserving([0, 0, 0, 1, 1, 2], accuracies, 3)
    assert tied.local_tau == pytest.approx(kendalltau([1, 1, 2], [3, 4, 5]).statistic)


@pytest.mark.parametrize(
    ("scores", "accuracies", "n_good", "words"),
    [
        ([1, 2, 3], [1, 2], 2, "same architectures"),
        ([1, 2, 3], [1, 2, 3], 3, "less than the number"),
        ([1, 2, 3], [1, 2, 3], 1, "at least 2"),
        ([1, 2, math.nan], [1, 2, 3], 2, "finite"),
    ],
)
def test_what_cannot_be_compared(scores, accuracies, n_good, words):
    with pytest.raises(ValueError, match=words):
        order_preserving(scores, accuracies, n_good)


def test_relative_improvement():
    assert relative_improvement(0.6, 0.5) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="positive"):
        relative_improvement(0.6, 0.0)


def started():
    method = Shifting(*(2,), population=3, mutations=1, crossovers=1, n_images=10, shift_rate=0.1)
    task = SearchTask(labelled(30), labelled(24, seed=2), 10, seeded())
    return method.start(tiny_paths(), task)


def test_a_trajectory_watches_and_changes_nothing():
    plain, search = started(), started()
    plain.run()
    trajectory = Trajectory(drawn(search.supernet.space, 5))
    trajectory(search)
    before = copy.deepcopy(search.scorer(trajectory.architectures))
    search.run(on_epoch=trajectory)
    assert_same_state(plain, search)
    assert trajectory.epochs == [0, 1, 2]
    assert trajectory.scores[0] == before
    assert trajectory.scores[-1] == search.scorer(trajectory.architectures) != before
    errors = trajectory.errors()
    assert errors.shape == (3, 5)
    assert errors[0, 0] == 1 - before[0].accuracy
    measures = trajectory.measures([0.1, 0.5, 0.2, 0.9, 0.3], n_good=2)
    assert len(measures) == 3
    accuracies = [score.accuracy for score in before]
    expected = order_preserving(accuracies, [0.1, 0.5, 0.2, 0.9, 0.3], 2)
    assert measures[0].global_hits == expected.global_hits
