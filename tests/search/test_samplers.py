"""Which members a step trains."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from tiny_elastic import MEMBERS, SPACE

from supernetnas.families.paths import PathConfig, PathSpace, PathSupernet
from supernetnas.search.bounds import Bounds
from supernetnas.search.limits import Limits
from supernetnas.search.samplers import (
    Bounded,
    InTurn,
    OneChanged,
    Sandwich,
    StrictlyFair,
    Uniform,
)

PATHS = PathSpace(width=0.125, depths=(2, 1, 1, 1))
MANY = tuple(SPACE.smallest.at(size) for size in range(8, 15))


@pytest.mark.parametrize(
    "sampler",
    [
        Uniform(SPACE, 2),
        Sandwich(SPACE),
        InTurn(MANY, 3),
        StrictlyFair(PATHS),
        OneChanged(PATHS),
        OneChanged(SPACE, 2),
    ],
    ids=lambda s: type(s).__name__,
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


def test_strictly_fair_takes_every_choice_once():
    for step in range(20):
        drawn = [PATHS.encode(a) for a in StrictlyFair(PATHS)(step)]
        assert len(drawn) == 4
        assert all(sorted(choices) == [0, 1, 2, 3] for choices in zip(*drawn, strict=True))
    with pytest.raises(ValueError, match="only where all layers have equally many"):
        StrictlyFair(SPACE)


class Genes:
    """A space of genes of different numbers of choices."""

    genes = (2, 3, 1, 5)

    def decode(self, genes):
        return tuple(genes)


@pytest.mark.parametrize("n", [1, 3])
def test_one_changed_changes_one_gene_and_takes_choices_in_turn(n):
    sampler = OneChanged(Genes(), n, seed=3)
    drawn = [genes for step in range(270 // n) for genes in sampler(step)]
    assert all(sum(a != b for a, b in zip(*p, strict=True)) == 1 for p in pairwise(drawn))
    for n_choices, choices in zip(Genes.genes, zip(*drawn, strict=True), strict=True):
        taken = [choices[0], *(b for a, b in pairwise(choices) if a != b)]
        counts = Counter(taken)
        assert len(counts) == n_choices
        assert max(counts.values()) - min(counts.values()) <= 1
        for turn in range(0, len(taken) - n_choices + 1, n_choices):
            assert len(set(taken[turn : turn + n_choices])) == n_choices


def test_one_changed_needs_a_choice():
    class Empty(Genes):
        genes = (1, 1)

    with pytest.raises(ValueError, match="nothing can be chosen"):
        OneChanged(Empty())


def bounds(share):
    """Of paths: limits between the fewest and the most multiply-accumulates."""
    with torch.device("meta"):
        supernet = PathSupernet(PathConfig(PATHS, (16, 16)))
    least, most = (supernet.costs(a).macs for a in (PATHS.smallest, PATHS.largest))
    limits = Limits(max_macs=round(least + share * (most - least)))
    return Bounds(supernet, limits, (3, 16, 16))


@pytest.mark.parametrize(
    "sampler",
    [Uniform(PATHS, 3), StrictlyFair(PATHS), OneChanged(PATHS), Sandwich(PATHS)],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.parametrize("share", [0.0, 0.4, 2.0])
def test_bounded_keeps_the_limits(sampler, share):
    within = bounds(share)
    bounded = Bounded(sampler, within)
    drawn = [bounded(step) for step in range(12)]
    assert drawn == [bounded(step) for step in range(12)]
    for step, architectures in enumerate(drawn):
        assert len(architectures) == len(sampler(step))
        for architecture, given in zip(architectures, sampler(step), strict=True):
            assert within.keep(architecture)
            assert architecture == given or not within.keep(given)
    if share:
        assert len(set(drawn)) > 3


def test_bounded_spares_the_teacher():
    for step in range(5):
        largest, *others = Bounded(Sandwich(PATHS), bounds(0.5), first=1)(step)
        assert largest == PATHS.largest
        assert all(map(bounds(0.5).keep, others))
