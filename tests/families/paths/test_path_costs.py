"""Costs of paths from tables: exactly those of the networks, and those that were published."""

from itertools import product

import pytest
import torch

from supernetnas.families.paths import (
    PathConfig,
    PathCosts,
    PathNetwork,
    PathNetworkConfig,
    PathSpace,
    PathSupernet,
)
from supernetnas.search.costs import count_macs, count_parameters
from supernetnas.search.limits import Limits

# Of the code of "Single Path One-Shot Neural Architecture Search with Uniform Sampling".
PUBLISHED = (2, 1, 0, 1, 2, 0, 2, 0, 2, 0, 2, 3, 0, 0, 0, 0, 3, 2, 3, 3)


def on_meta(kind, config):
    with torch.device("meta"):
        return kind(config)


def test_the_published_architecture_and_supernet():
    space = PathSpace()
    architecture = space.decode(PUBLISHED)
    costs = PathCosts(space, (224, 224), 3, 1000).of(architecture)
    assert costs == (322_918_720, 3_558_464)
    network = on_meta(PathNetwork, PathNetworkConfig(space, architecture, (224, 224), 3, 1000))
    assert count_macs(network, (3, 224, 224)) == costs.macs
    assert count_parameters(network) == costs.parameters
    supernet = on_meta(PathSupernet, PathConfig(space, (224, 224), 3, 1000))
    assert count_parameters(supernet) == 8_388_176
    assert supernet.costs(architecture) == costs


SPACES = [
    PathSpace(width=0.3, depths=(1, 3, 2, 1)),
    PathSpace("mobilenetv2", depths=(1, 2, 1, 1, 2, 1)),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("size", [(224, 224), (32, 32), (33, 61), (8, 8)])
def test_costs_are_those_of_the_network(space, size):
    generator = torch.Generator().manual_seed(0)
    n = len(space.choices)
    drawn = space.decode(torch.randint(n, (len(space.genes),), generator=generator).tolist())
    for architecture in (space.smallest, space.largest, drawn):
        network = on_meta(PathNetwork, PathNetworkConfig(space, architecture, size, 2, 5))
        costs = PathCosts(space, size, 2, 5).of(architecture)
        assert costs == (count_macs(network, (2, *size)), count_parameters(network))


SMALL = PathCosts(PathSpace(width=0.5, depths=(1, 1, 2, 1)), (64, 64), 3, 10)
ALL = {SMALL.of(a): a for a in map(SMALL.space.decode, product(range(4), repeat=5))}


def test_the_cheapest_of_all():
    assert SMALL.of(SMALL.cheapest(Limits())).macs == min(cost.macs for cost in ALL)
    assert SMALL.of(SMALL.cheapest(Limits(max_macs=10**30))).macs == min(c.macs for c in ALL)
    fewest = SMALL.cheapest(Limits(max_parameters=10**7))
    assert fewest == SMALL.space.smallest
    assert SMALL.of(fewest).parameters == min(cost.parameters for cost in ALL)


def test_the_cheapest_under_both_limits():
    """Where the fewest multiply-accumulates and the fewest parameters are not the same path."""
    least = min(cost.macs for cost in ALL), min(cost.parameters for cost in ALL)
    assert least not in ALL
    for share in (1.005, 1.01, 1.02):
        room = int(share * least[1])
        within = min(cost.macs for cost in ALL if cost.parameters <= room)
        found = SMALL.of(SMALL.cheapest(Limits(max_macs=within, max_parameters=room)))
        assert found.macs == within > least[0]
        with pytest.raises(ValueError, match="No path of the space keeps"):
            SMALL.cheapest(Limits(max_macs=within - 1, max_parameters=room))


def test_limits_that_cannot_be_met():
    macs, parameters = min(c.macs for c in ALL), min(c.parameters for c in ALL)
    for limits in (
        Limits(max_macs=macs - 1),
        Limits(max_parameters=parameters - 1),
        Limits(max_macs=macs, max_parameters=parameters),
    ):
        with pytest.raises(ValueError, match=f"{macs:,} multiply-acc.* {parameters:,} parameters"):
            SMALL.cheapest(limits)
    assert SMALL.of(SMALL.cheapest(Limits(max_macs=macs))).macs == macs
