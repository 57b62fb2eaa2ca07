"""Which members a step trains."""

from collections import Counter

import pytest
from tiny_elastic import MEMBERS, SPACE

from supernetnas.search.samplers import InTurn, Sandwich, Uniform

MANY = tuple(SPACE.smallest.at(size) for size in range(8, 15))


@pytest.mark.parametrize(
    "sampler", [Uniform(SPACE, 2), Sandwich(SPACE), InTurn(MANY, 3)], ids=lambda s: type(s).__name__
)
def test_draws_follow_from_step_and_seed(sampler):
    drawn = [sampler(step) for step in range(30)]
    assert [sampler(step) for step in range(30)] == drawn
    assert len(set(drawn)) > 10
    fields = {**vars(sampler), "seed": 1}
    other = type(sampler)(**fields)
    assert [other(step) for step in range(30)] != drawn


def test_uniform_draws_every_choice():
    drawn = [SPACE.encode(a) for step in range(300) for a in Uniform(SPACE, 2)(step)]
    sizes = Counter(genes[0] for genes in drawn)
    assert set(sizes) == {0, 1, 2}
    assert min(sizes.values()) > 150
    assert len(set(drawn)) > 400


def test_sandwich():
    for step in range(3):
        largest, *between, smallest = Sandwich(SPACE, n=2)(step)
        assert (largest, smallest) == (SPACE.largest, SPACE.smallest)
        assert tuple(between) == Uniform(SPACE, 2)(step)


@pytest.mark.parametrize("n", [1, 3, 7])
def test_in_turn_trains_each_as_often(n):
    sampler = InTurn(MANY, n)
    drawn = [a for step in range(7) for a in sampler(step)]
    rounds = [drawn[i : i + 7] for i in range(0, len(drawn), 7)]
    assert all(set(one) == set(MANY) for one in rounds)
    assert len(set(map(tuple, rounds))) == len(rounds)
    with pytest.raises(ValueError, match="from 1 to the number of members, 3; got 4"):
        InTurn(MEMBERS, 4)
