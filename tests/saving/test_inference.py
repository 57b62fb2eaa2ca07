"""Folded networks predict what the trained ones do."""

import pytest
import torch
from torch import nn

from supernetnas.families.cells.config import NetworkConfig
from supernetnas.families.cells.genotype import Genotype
from supernetnas.families.cells.network import Network
from supernetnas.saving.folding import folded
from supernetnas.search.costs import count_macs
from supernetnas.training.batches import seeded_modules

_OPERATIONS = ("sep_conv_3x3", "dil_conv_5x5", "skip_connect", "max_pool_3x3", "avg_pool_3x3")


def trained():
    """A network with every kind of operation at both strides, and statistics of its own."""
    nodes = tuple(
        ((_OPERATIONS[k], 0), (_OPERATIONS[(k + 2) % 5], 1 if k % 2 else k % (k + 2)))
        for k in range(4)
    )
    nodes = tuple((a, (b[0], 1)) for a, b in nodes)
    with seeded_modules(0):
        network = Network(NetworkConfig(Genotype("darts", nodes, nodes), 4, 5, 3, 3)).double()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.uniform_(0.5, 2)
                module.bias.data.normal_()
        for _ in range(3):
            network(torch.randn(8, 3, 12, 10, dtype=torch.float64))
    return network.eval()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(12, 10), (9, 7)])
def test_scores(size, layout):
    network = trained().to(memory_format=layout)
    x = torch.randn(4, 3, *size, dtype=torch.float64).contiguous(memory_format=layout)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    inference = folded(network)
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(inference(x), expected, rtol=1e-10, atol=1e-12)
        inference.fused = False
        torch.testing.assert_close(inference(x), expected, rtol=1e-10, atol=1e-12)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in inference.modules())
    assert not any(p.requires_grad for p in inference.parameters())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert count_macs(inference, (3, *size)) == count_macs(network, (3, *size))


def test_a_network_in_training_is_refused():
    with pytest.raises(ValueError, match=r"call eval\(\) first"):
        folded(trained().train())
