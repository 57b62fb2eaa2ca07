"""Latency of cells: measured parts, and the budget that keeps a limit on it."""

import math

import numpy as np
import pytest
import torch
from tiny import patterns, tiny_classifier
from torch import nn

from supernetnas.families.base import NetworkInput
from supernetnas.families.cells.costs import network_cost
from supernetnas.families.cells.family import Cells
from supernetnas.families.cells.genotype import random_genotype
from supernetnas.families.cells.latency import LatencyTable
from supernetnas.families.cells.search.budget import Budget
from supernetnas.families.cells.space import get_space
from supernetnas.search import latency as latency_module
from supernetnas.search.limits import Latency, Limits

SIZES = ("s2", 4, 3, (3, 8, 8), 5)
SLOWER = 1.25  # whole networks than their parts


def slowness(network, shape):
    """Milliseconds for the values of all kernels, and those that whole networks add."""
    kernels = sum(math.prod(m.kernel_size) for m in network.modules() if isinstance(m, nn.Conv2d))
    return max(kernels, 0.5) / 1000 * (SLOWER if hasattr(network, "cells") else 1)


def latency(seconds=None):
    return Latency(seconds, measure=slowness)


def drawn(n):
    generator = torch.Generator().manual_seed(1)
    return [random_genotype(get_space(SIZES[0]), generator) for _ in range(n)]


@pytest.fixture(scope="module")
def table():
    return LatencyTable(*SIZES, latency(), torch.device("cpu"))


def weights(seed):
    rows = torch.rand(
        2, 14, get_space(SIZES[0]).width, generator=torch.Generator().manual_seed(seed)
    )
    return tuple(rows.softmax(2).double())


def test_parts_add_up_to_networks(table):
    counted = network_cost(*SIZES)
    for genotype in drawn(5):
        *counts, nanoseconds = table.cost.of(genotype)
        assert tuple(counts) == counted.of(genotype)
        assert nanoseconds / 1e9 == pytest.approx(table.seconds(genotype), rel=0.05)


def test_parts_are_measured_in_turn(monkeypatch):
    asked = []

    def timed(calls, repeats):
        asked.append((len(calls), repeats, {len(call.args[0]) for call in calls}))
        return [slowness(call.func, None) for call in calls]

    monkeypatch.setattr(latency_module, "time_in_turn", timed)
    table = LatencyTable(*SIZES, Latency(batch_size=2, repeats=7), torch.device("cpu"))
    assert asked[0][0] > 10 and asked[0][1:] == (7, {2})  # all parts at once
    (genotype,) = drawn(1)
    assert table.cost.of(genotype)[2] / 1e9 == pytest.approx(table.seconds(genotype), rel=0.05)


@pytest.mark.parametrize("other", [{}, {"max_parameters": 9000}])
def test_the_genotype_keeps_the_limit_when_it_is_built(table, other):
    for seed in range(3):
        free = Budget(table.cost, max_latency=9.0, **other).derive(weights(seed))
        most = 0.8 * table.seconds(free)
        budget = Budget(table.cost, max_latency=most, measured=table.seconds, **other)
        assert table.seconds(budget.derive(weights(seed))) <= most


def test_a_network_that_is_slower_than_its_parts_is_corrected(table):
    for seed in range(3):
        free = Budget(table.cost, max_latency=9.0).derive(weights(seed))
        most, asked = 1.1 * table.seconds(free), []

        def slower(genotype, asked=asked):
            asked.append(genotype)
            return 1.4 * table.seconds(genotype)

        found = Budget(table.cost, max_latency=most, measured=slower).derive(weights(seed))
        assert asked[0] == free
        assert len(asked) > 1
        assert slower(found) <= most


def test_where_no_network_is_fast_enough_there_is_a_warning(table):
    budget = Budget(table.cost, max_latency=1.0, measured=lambda genotype: 2.0)
    with pytest.warns(UserWarning, match="more than max_latency=1"):
        budget.derive(weights(0))


def test_limits_that_cannot_be_met(table):
    with pytest.raises(
        ValueError, match=r"max_latency=0.0001 cannot be met: .* has 0\.\d+ seconds"
    ):
        Budget(table.cost, max_latency=0.0001)
    with pytest.raises(ValueError, match="two limits at most"):
        Budget(table.cost, 10**9, 10**9, max_latency=1.0)
    family, seen = Cells("s2", 4, 3), NetworkInput((8, 8), 3)
    config = family.config(seen, 5)
    with pytest.raises(ValueError, match=r"max_latency=50 is no limit: it is in seconds"):
        family.budget(config, seen, 5, Limits(max_latency=latency(50.0)))


def test_latency_pushes_the_expectation(table):
    generator = torch.Generator().manual_seed(0)
    alphas = torch.randn(2, 14, get_space("s2").width, generator=generator).requires_grad_()
    expected = Budget(table.cost, max_latency=9.0).expected_cost(tuple(alphas.softmax(2)))
    assert expected.shape == (3,)
    seconds = float(expected[2].detach()) / 1e9
    budget = Budget(table.cost, max_latency=0.9 * seconds)
    budget.penalty(tuple(alphas.softmax(2))).backward()
    assert alphas.grad.abs().sum() > 0
    assert float(budget.penalty(tuple(alphas.detach().softmax(2)))) == pytest.approx(
        1 / 9, rel=1e-3
    )


def test_a_fit_keeps_the_limit():
    images, labels = patterns(6, 2, seed=1)
    free = tiny_classifier(settings={"retraining__epochs": 1}).fit(images, labels)
    most = 0.9 * slowness(free.network_, None)
    clf = tiny_classifier(settings={"retraining__epochs": 1}, max_latency=latency(most))
    clf.fit(images, labels)
    assert slowness(clf.network_, None) <= most
    assert np.isfinite(clf.predict_proba(images)).all()
