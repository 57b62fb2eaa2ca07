"""Drawing, changing and crossing architectures within limits."""

import pytest
import torch
from tiny_paths import PathSpace, tiny_paths

from supernetnas.search.bounds import Bounds, one_of
from supernetnas.search.limits import Limits


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_random_architecture_is_uniform_among_those_within_the_limits():
    supernet = tiny_paths(space=PathSpace(layers=2))
    costs = {
        genes: supernet.costs(supernet.space.decode(genes))
        for genes in torch.cartesian_prod(*map(torch.arange, supernet.space.genes)).tolist()
        for genes in [tuple(genes)]
    }
    limit = sorted(cost.parameters for cost in costs.values())[5]
    within = {genes for genes, cost in costs.items() if cost.parameters <= limit}
    assert 1 < len(within) < 9
    bounds, generator = Bounds(supernet, Limits(max_parameters=limit), (3, 8, 8)), seeded()
    drawn = [bounds.space.encode(bounds.random(generator)) for _ in range(600)]
    assert set(drawn) == within
    expected = 600 / len(within)
    assert all(abs(drawn.count(genes) - expected) < 0.4 * expected for genes in within)


def test_limits_that_hardly_any_architecture_keeps_are_kept():
    supernet = tiny_paths(space=PathSpace(layers=12))
    least = supernet.costs(supernet.space.smallest).parameters
    one_more = supernet.costs(supernet.space.decode([1] + [0] * 11)).parameters
    bounds = Bounds(supernet, Limits(max_parameters=one_more), (3, 8, 8))
    generator = seeded()
    found = {bounds.random(generator) for _ in range(20)}
    assert {supernet.costs(a).parameters for a in found} == {least, one_more}
    assert len(found) > 3


def test_limits_that_none_keeps_are_refused():
    with pytest.raises(ValueError, match="smallest"):
        Bounds(tiny_paths(), Limits(max_macs=1), (3, 8, 8))


def test_a_mutation_draws_genes_anew():
    supernet = tiny_paths(space=PathSpace(layers=400))
    bounds, start = Bounds(supernet, Limits(), (3, 8, 8)), supernet.space.smallest
    changed = sum(bounds.mutated(start, 0.3, seeded()).choices[i] > 0 for i in range(400))
    assert changed == pytest.approx(400 * 0.3 * 2 / 3, abs=30)
    assert bounds.mutated(start, 1e-9, seeded()) == start


def test_a_cross_has_each_gene_from_one_of_two():
    supernet = tiny_paths(space=PathSpace(layers=400))
    bounds, space = Bounds(supernet, Limits(), (3, 8, 8)), supernet.space
    crossed = bounds.crossed(space.smallest, space.largest, seeded())
    assert set(crossed.choices) == {0, 2}
    assert sum(crossed.choices) / 2 == pytest.approx(200, abs=40)
    assert bounds.crossed(crossed, crossed, seeded()) == crossed


def test_one_of_some():
    generator = seeded()
    assert {one_of("abc", generator) for _ in range(50)} == set("abc")
