"""Samplers that look at the supernet first."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from supernetnas.families.paths import PathConfig, PathSpace, PathSupernet
from supernetnas.search.samplers import Uniform
from supernetnas.search.scored_samplers import Attentive, Greedy, NegativeLoss
from supernetnas.training.seeds import seeded_modules

SPACE = PathSpace(width=0.125, depths=(2, 1, 1, 1))


def value(architecture):
    """The more kernels of 7 the better, which nothing but the genes say."""
    return sum(gene == 2 for gene in SPACE.encode(architecture))


class Recorded:
    """Scores by `value`, and keeps what was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, architectures):
        self.asked.append(list(architectures))
        return [float(value(a)) for a in architectures]


def greedy(score, **changes):
    return Greedy(SPACE, Uniform(SPACE, 6), score, **{"n": 2, "rise": (5, 25), **changes})


def test_greedy_trains_the_best_of_those_that_it_draws():
    score = Recorded()
    sampler = greedy(score)
    for step in range(40):
        kept = sampler(step)
        values = sorted(map(value, score.asked[-1]), reverse=True)
        assert [value(a) for a in kept] == values[:2]
        assert len(set(kept)) == 2


def test_greedy_draws_from_its_pool_more_and_more():
    sampler = greedy(Recorded(), share=0.8, pool_size=20)
    assert [sampler.probability(step) for step in (0, 5, 15, 25, 99)] == [0, 0, 0.4, 0.8, 0.8]
    score = sampler.score
    for step in range(300):
        known = set(sampler.pool)
        sampler(step)
        if step < 5:
            assert set(score.asked[-1]) == set(Uniform(SPACE, 6)(step))
        if step == 299:
            assert len(known & set(score.asked[-1])) > 0
    early, late = (
        sum(value(a) for asked in part for a in asked) / sum(map(len, part))
        for part in (score.asked[:5], score.asked[-100:])
    )
    assert late > early + 0.3


def test_greedy_keeps_a_pool_of_the_best():
    sampler = greedy(Recorded(), pool_size=10)
    seen = {}
    for step in range(60):
        sampler(step)
        seen.update({a: value(a) for a in sampler.score.asked[-1]})
        assert len(sampler.pool) <= 10
    best = sorted(seen.values(), reverse=True)[:10]
    assert sorted(sampler.pool.values(), reverse=True) == best


def test_greedy_goes_on_from_its_state():
    first = greedy(Recorded())
    for step in range(30):
        first(step)
    other = greedy(Recorded())
    other.load_state(first.state())
    assert other.pool == first.pool
    assert [other(step) for step in range(30, 60)] == [first(step) for step in range(30, 60)]


@pytest.mark.parametrize("best", [True, False])
def test_attentive_takes_the_best_or_the_worst_of_alike_costs(best):
    with torch.device("meta"):
        supernet = PathSupernet(PathConfig(SPACE, (16, 16)))

    def cost(architecture):
        return supernet.costs(architecture).macs

    score = Recorded()
    sampler = Attentive(SPACE, cost, score, best, n=2, n_candidates=4, tolerance=0.1)
    drawn = [a for step in range(40) for a in sampler(step)]
    assert len(score.asked) == len(drawn) == 80
    for architecture, asked in zip(drawn, score.asked, strict=True):
        costs = [cost(a) for a in asked]
        assert max(abs(c - costs[0]) for c in costs) <= 0.1 * costs[0]
        assert len(set(asked)) == len(asked) <= 4
        assert value(architecture) == (max if best else min)(map(value, asked))
    assert sum(len(asked) == 4 for asked in score.asked) > 40
    score.asked.clear()
    assert [a for step in range(40) for a in sampler(step)] == drawn


@pytest.mark.parametrize("training", [True, False])
def test_negative_losses_leave_the_supernet_as_it_is(training):
    with seeded_modules(0):
        supernet = PathSupernet(PathConfig(SPACE, (16, 16), 3, 4)).train(training)
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(8, 3, 16, 16, generator=generator), torch.arange(8) % 4
    before = copy.deepcopy(supernet.state_dict())
    paths = [SPACE.smallest, SPACE.largest]
    scores = NegativeLoss(supernet, images, labels)(paths)
    assert supernet.training is training
    assert_close(supernet.state_dict(), before, rtol=0, atol=0)
    supernet.train()
    for path, score in zip(paths, scores, strict=True):
        loss = F.cross_entropy(supernet(images, path), labels).detach()
        assert score == pytest.approx(-float(loss), rel=1e-5)
