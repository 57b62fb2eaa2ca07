"""Costs of networks as sums of their parts' costs."""

import pytest
import torch
from tiny_cells import SPACES

from supernetnas.families.cells.config import NetworkConfig
from supernetnas.families.cells.costs import network_cost
from supernetnas.families.cells.genotype import random_genotype
from supernetnas.families.cells.network import Network
from supernetnas.families.cells.space import get_space
from supernetnas.search.costs import count_macs, count_parameters


@pytest.mark.parametrize("space", [*SPACES[:-1], pytest.param(SPACES[-1], marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("cells", "shape"), [(5, (3, 12, 10)), (3, (1, 9, 7)), (1, (3, 8, 8)), (2, (3, 8, 8))]
)
def test_the_sum_of_the_parts_is_the_networks(space, cells, shape):
    cost = network_cost(space, 4, cells, shape, 7)
    for seed in range(2):
        genotype = random_genotype(get_space(space), torch.Generator().manual_seed(seed))
        network = Network(NetworkConfig(genotype, 4, cells, shape[0], 7))
        assert cost.of(genotype) == (count_macs(network, shape), count_parameters(network))


def test_nothing_is_drawn():
    state = torch.get_rng_state()
    network_cost("s2", 6, 3, (3, 8, 8), 5)
    assert torch.equal(torch.get_rng_state(), state)
