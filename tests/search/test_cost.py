"""Sizes of networks against published figures and hand counts."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from supernetnas.families.cells.config import NetworkConfig, SupernetConfig
from supernetnas.families.cells.genotype import Genotype
from supernetnas.families.cells.network import Network
from supernetnas.families.cells.supernet import CellSupernet
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


class Sliced(nn.Module):
    """Four of the input channels and eight of the output channels of a larger convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        return F.conv2d(x, self.conv.weight[:8, :4], self.conv.bias[:8], padding=1)


class Attention(nn.Module):
    """A block of 64 channels and four heads over the pixels of an image."""

    def __init__(self):
        super().__init__()
        self.inputs, self.output = nn.Linear(64, 3 * 64), nn.Linear(64, 64)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.inputs(tokens).unflatten(2, (3, 4, 16)).permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(q, k, v)
        return self.output(heads.transpose(1, 2).flatten(2))


class Encoder(nn.TransformerEncoderLayer):
    """Torch runs it as one closed kernel where it may."""

    def __init__(self):
        super().__init__(64, 4, 128, batch_first=True)

    def forward(self, x):
        return super().forward(x.flatten(2).transpose(1, 2))


def branches():
    """Positions of a linear layer, several dimensions, a transposed and a repeated convolution."""
    twice = nn.Conv2d(3, 3, 3, padding=1)
    return nn.Sequential(
        *(twice, nn.ReLU(), twice, nn.ConvTranspose2d(3, 6, 2, stride=2, groups=3)),
        *(nn.Linear(10, 7), nn.Flatten(2), nn.Conv1d(6, 5, 3), nn.Linear(68, 9)),
    )


@pytest.mark.parametrize(
    ("make", "shape", "expected"),
    [
        (Sliced, (4, 10, 10), 28_800),
        (Attention, (64, 14, 14), 196 * 64 * 64 * 4 + 2 * 64 * 196**2),
        (Encoder, (64, 14, 14), 196 * 64 * (64 * 4 + 128 * 2) + 2 * 64 * 196**2),
        (
            branches,
            (3, 5, 5),
            2 * 25 * 3 * 27 + 100 * 6 + 60 * 10 * 7 + 68 * 5 * 18 + 5 * 68 * 9,
        ),
    ],
)
def test_what_runs_is_counted(make, shape, expected):
    module = make()
    assert count_macs(module, shape) == expected
    module.train()  # in evaluation mode closed kernels hide their products from torch's counter
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as referee:
        module(torch.zeros(1, *shape))
    assert 2 * expected == referee.get_total_flops()


def test_supernets_against_torch():
    """The three ways of computing a supernet's cell, and a network's two."""
    supernet = CellSupernet(SupernetConfig("darts", 4, 3, (8, 8), 3, 10)).eval()
    network = Network(NetworkConfig(supernet.genotype(), 4, 3, 3, 10)).eval()
    for module in (supernet, network):
        macs = set()
        for module.fused in (True, False):
            macs.add(count_macs(module, (3, 9, 8)))
        with FlopCounterMode(display=False) as referee:
            module(torch.zeros(1, 3, 9, 8))
        assert macs == {referee.get_total_flops() // 2}


def test_counting_changes_nothing():
    supernet = CellSupernet(SupernetConfig("s4", 4, 3, (8, 8), 3, 10))
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    state = torch.get_rng_state()
    count_macs(supernet, (3, 8, 8))
    assert supernet.training
    assert supernet.fused
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in supernet.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_counting_in_double_precision_and_after_an_error():
    module = nn.Sequential(nn.Conv2d(3, 4, 1)).double()
    assert count_macs(module, (3, 2, 2)) == 4 * 4 * 3
    with pytest.raises(RuntimeError):
        count_macs(module, (5, 2, 2))
    assert module.training


def test_each_part_keeps_its_mode():
    """A network in training whose first batch norm is frozen."""
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    module[0].eval()
    assert count_macs(module, (3, 2, 2)) == 48
    assert [part.training for part in module] == [False, True, True]


def test_other_threads_are_not_counted_and_not_hooked():
    """A module that waits in the middle of its forward pass for another that runs."""
    other, hooks = nn.Conv2d(3, 8, 3), torch.nn.modules.module._global_forward_pre_hooks

    class Waiting(nn.Module):
        def forward(self, x):
            found.append(len(hooks))
            thread = threading.Thread(target=other, args=(torch.zeros(1, 3, 9, 9),))
            thread.start()
            thread.join()
            return x

    found = []
    assert count_macs(nn.Sequential(nn.Conv2d(3, 4, 1), Waiting()), (3, 2, 2)) == 48
    assert found == [0]
