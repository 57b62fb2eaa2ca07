"""Sizes of networks against published figures and hand counts."""

import pytest
import torch
from torch import nn

from supernetnas.families.cells.genotype import Genotype
from supernetnas.families.cells.network import Network, NetworkConfig
from supernetnas.families.cells.supernet import CellSupernet, SupernetConfig
from supernetnas.search.costs import count_macs, count_parameters

SEP3, SEP5, DIL3, DIL5 = "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"
SKIP, MAX, AVG = "skip_connect", "max_pool_3x3", "avg_pool_3x3"

# Published cells (Liu et al., 2019, figures 4 and 5; Xu et al., 2020, figure 3; Chen et al., 2021),
# and the parameters of the CIFAR-10 network of 36 channels and 20 cells that the authors' code
# builds of them, without its auxiliary head.
PUBLISHED = {
    "darts_v2": (
        [(SEP3, 0), (SEP3, 1), (SEP3, 0), (SEP3, 1), (SEP3, 1), (SKIP, 0), (SKIP, 0), (DIL3, 2)],
        [(MAX, 0), (MAX, 1), (SKIP, 2), (MAX, 1), (MAX, 0), (SKIP, 2), (SKIP, 2), (MAX, 1)],
        3_349_342,
    ),
    "pc_darts": (
        [(SEP3, 1), (SKIP, 0), (SEP3, 0), (DIL3, 1), (SEP5, 0), (SEP3, 1), (AVG, 0), (DIL3, 1)],
        [(SEP5, 1), (MAX, 0), (SEP5, 1), (SEP5, 2), (SEP3, 0), (SEP3, 3), (SEP3, 1), (SEP3, 2)],
        3_634_678,
    ),
    "drnas": (
        [(SEP3, 0), (SEP5, 1), (SEP3, 1), (SEP3, 2), (SKIP, 0), (SEP3, 1), (SEP3, 2), (DIL5, 3)],
        [(MAX, 0), (SEP5, 1), (DIL5, 2), (SEP5, 1), (SEP5, 1), (DIL5, 3), (SKIP, 4), (SEP5, 1)],
        4_099_294,
    ),
}


def published_network(name):
    *cells, n_parameters = PUBLISHED[name]
    nodes = (tuple(tuple(cell[i : i + 2]) for i in range(0, 8, 2)) for cell in cells)
    genotype = Genotype("darts", *nodes)
    return Network(NetworkConfig(genotype, 36, 20, 3, 10)), n_parameters


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_of_published_networks(name):
    network, n_parameters = published_network(name)
    assert count_parameters(network) == n_parameters


def test_macs_of_the_published_darts_network():
    """528.4 M for an image of 32x32, counted by hooks on the authors' code."""
    network, _ = published_network("darts_v2")
    assert round(count_macs(network, (3, 32, 32)) / 1e6, 1) == 528.4


@pytest.mark.parametrize(
    ("space", "init_channels", "n_cells", "mega_weights", "n_tensors", "n_alphas", "mega_flops"),
    [
        ("s1", 8, 5, 0.071, 161, 56, 25.5),
        ("darts_no_none", 8, 5, 0.394, 889, 196, 123.3),
        ("s1", 16, 8, 0.405, 275, 56, 136.9),
        ("darts_no_none", 16, 8, 1.931, 1399, 196, 600.5),
    ],
)
def test_reference_supernets(
    space, init_channels, n_cells, mega_weights, n_tensors, n_alphas, mega_flops
):
    """Static counts of the SmoothDARTS code; the tensors include the classifier's two.

    Its S5 is DARTS without ``none``: 7 operations on 2 x 14 edges are 196 alphas. A FLOP is a
    multiplication or an addition there, so a MAC is two.
    """
    supernet = CellSupernet(SupernetConfig(space, init_channels, n_cells, (32, 32), 3, 10))
    weights = supernet.weight_parameters()
    assert round(sum(w.numel() for w in weights) / 1e6, 3) == mega_weights
    assert len(weights) == n_tensors
    assert sum(int(mask.sum()) for mask in supernet.operation_masks()) == n_alphas
    assert sum(alpha.numel() for alpha in supernet.alpha_parameters()) == n_alphas
    assert round(2 * count_macs(supernet, (3, 32, 32)) / 1e6, 1) == mega_flops


def test_none_costs_no_weights():
    sizes = [
        count_parameters(CellSupernet(SupernetConfig(space, 4, 3, (8, 8), 3, 10)))
        for space in ("darts", "darts_no_none")
    ]
    assert sizes[0] - sizes[1] == 28  # its alphas


def test_macs_by_hand():
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # 8 x 5 x 4 outputs of 27 products each
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 5, padding=2, groups=8),  # depthwise: 25 products
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 6),
    )
    assert count_macs(module, (3, 9, 8)) == 160 * 27 + 160 * 25 + 8 * 6


def test_counting_changes_nothing():
    supernet = CellSupernet(SupernetConfig("s4", 4, 3, (8, 8), 3, 10))
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    state = torch.get_rng_state()
    count_macs(supernet, (3, 8, 8))
    assert supernet.training
    assert supernet.fused
    assert not any(module._forward_hooks for module in supernet.modules())
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in supernet.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_counting_in_double_precision_and_after_an_error():
    module = nn.Sequential(nn.Conv2d(3, 4, 1)).double()
    assert count_macs(module, (3, 2, 2)) == 4 * 4 * 3
    with pytest.raises(RuntimeError):
        count_macs(module, (5, 2, 2))
    assert module.training
    assert not module[0]._forward_hooks
