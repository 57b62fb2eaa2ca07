"""Architectures drawn from a space."""

import itertools
from collections import Counter

import pytest
from tiny_cells import MIXED
from tiny_search import build, seeded

from supernetnas.families.cells.genotype import random_genotype
from supernetnas.families.cells.paths import choices_of
from supernetnas.families.cells.space import get_space


def test_uniform_edges_and_operations():
    n, generator = 3000, seeded()
    drawn = [random_genotype(get_space("s2"), generator) for _ in range(n)]
    for node in range(4):
        pairs = Counter(tuple(s for _, s in g.reduce[node]) for g in drawn)
        every = list(itertools.combinations(range(node + 2), 2))
        assert set(pairs) == set(every)
        share = 1 / len(every)
        for count in pairs.values():
            assert abs(count / n - share) < 5 * (share * (1 - share) / n) ** 0.5 + 1e-12
        skips = sum(op == "skip_connect" for g in drawn for op, _ in g.normal[node])
        assert abs(skips / (2 * n) - 0.5) < 5 * (0.25 / (2 * n)) ** 0.5


@pytest.mark.parametrize("space", ["s3", "darts", MIXED.name])
def test_it_is_one_of_the_space_and_has_no_none(space):
    generator, net = seeded(), build(space, cells=1)
    for _ in range(50):
        genotype = random_genotype(get_space(space), generator)
        assert genotype.count("none") == 0
        choices_of(genotype, net)  # raises for an operation that its edge does not offer
        assert all(len(node) == 2 for node in genotype.normal + genotype.reduce)
