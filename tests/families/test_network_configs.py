"""Configurations of networks refuse what no network can be built of, whoever wrote them."""

from dataclasses import replace

import pytest

from supernetnas.families.cells.config import NetworkConfig
from supernetnas.families.cells.genotype import Genotype
from supernetnas.families.elastic.lite0 import LITE0, LITE0_SPACE
from supernetnas.families.elastic.network import NetworkConfig as ElasticNetworkConfig

NODES = ((("skip_connect", 0), ("sep_conv_3x3", 1)),) * 4


def test_a_node_without_an_edge():
    for cells in ((NODES, (*NODES[:3], ())), (((), *NODES[1:]), NODES)):
        with pytest.raises(ValueError, match="an edge at least"):
            NetworkConfig(Genotype("s2", *cells), 8, 3, 3, 10)


@pytest.mark.parametrize(
    "changes",
    [{"dropout": 5.0}, {"dropout": "x"}, {"n_classes": 2.0}, {"input_channels": True}],
    ids=str,
)
def test_numbers_of_an_elastic_network(changes):
    config = ElasticNetworkConfig(LITE0, LITE0_SPACE.largest.at(64), 3, 2)
    with pytest.raises(ValueError, match=next(iter(changes))):
        replace(config, **changes)
