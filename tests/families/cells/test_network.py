"""The discrete network: what it computes and what it inherits."""

import copy
import json
import pickle
from itertools import product

import pytest
import torch
from torch import nn

from supernetnas.families.cells.config import NetworkConfig, SupernetConfig
from supernetnas.families.cells.genotype import Genotype
from supernetnas.families.cells.network import Network, inherit_weights
from supernetnas.families.cells.space import CellKind, edge_index
from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.training.seeds import seeded_modules

POOLS = ("max_pool_3x3", "avg_pool_3x3")


def build(space="s2", cells=3, channels=4, seed=0, inputs=3, classes=3):
    with seeded_modules(seed):
        supernet = CellSupernet(SupernetConfig(space, channels, cells, (8, 8), inputs, classes))
        for alphas in supernet.alpha_parameters():
            alphas.data.normal_()
    return supernet


def derive(supernet, cells=None, channels=None, seed=9, classes=None):
    config = NetworkConfig(
        supernet.genotype(),
        channels or supernet.config.init_channels,
        cells or supernet.config.n_cells,
        supernet.config.input_channels,
        classes or supernet.config.n_classes,
    )
    with seeded_modules(seed):
        return Network(config)


def edges_of(cell):
    """Pairs of (edge of the supernet's cell, module) of a network's cell."""
    modules = iter(cell.edges)
    return [
        (edge_index(position, state), name, next(modules))
        for position, node in enumerate(cell.nodes)
        for name, state in node
    ]


def convolutions(module):
    return {n: p for n, p in module.named_parameters() if p.ndim == 4}


def assert_cell_inherited(cell, donor, space_edges):
    """Every convolution of a cell is that of the donor's same edge and operation."""
    pairs = [(cell.input0, donor.input0), (cell.input1, donor.input1)]
    for edge, name, module in edges_of(cell):
        pairs.append((module, donor.edges[edge][space_edges[edge].index(name)]))
    compared = 0
    for module, source in pairs:
        theirs = convolutions(source)
        for name, weight in convolutions(module).items():
            assert torch.equal(weight, theirs[name])
            compared += 1
    return compared


class TestInheritance:
    @pytest.mark.parametrize("space", ["s1", "s2", "s3", "darts"])
    def test_the_same_depth_inherits_everything(self, space):
        supernet = build(space, cells=5)
        network = derive(supernet)
        assert inherit_weights(network, supernet) == 1.0
        for index, cell in enumerate(network.cells):
            edges = supernet.space.edges(supernet.kinds[index])
            assert assert_cell_inherited(cell, supernet.cells[index], edges) >= 2
        for name in ("weight", "bias"):
            ours, theirs = getattr(network.classifier, name), getattr(supernet.classifier, name)
            assert torch.equal(ours, theirs)
        assert torch.equal(network.stem[0].weight, supernet.stem[0].weight)

    def test_weights_are_copied_not_shared(self):
        supernet = build()
        network = derive(supernet)
        inherit_weights(network, supernet)
        before = {k: v.clone() for k, v in supernet.state_dict().items()}
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(7.0)
        assert all(torch.equal(v, before[k]) for k, v in supernet.state_dict().items())

    @pytest.mark.parametrize(
        ("of_supernet", "of_network", "donors"),
        [
            # Reductions of 5 cells are 1 and 3, of 8 are 2 and 5, of 20 are 6 and 13. The normal
            # cells of a resolution take those of the supernet at it, the last again and again.
            (5, 8, [0, 0, 1, 2, 2, 3, 4, 4]),
            (8, 5, [0, 2, 3, 5, 6]),
            (5, 20, [0] * 6 + [1] + [2] * 6 + [3] + [4] * 6),
            (8, 8, list(range(8))),
            (8, 20, [0, 1, 1, 1, 1, 1, 2, 3, 4, 4, 4, 4, 4, 5, 6, 7, 7, 7, 7, 7]),
        ],
    )
    def test_other_depths_inherit_by_resolution(self, of_supernet, of_network, donors):
        supernet = build("s2", cells=of_supernet, channels=2)
        network = derive(supernet, cells=of_network)
        before = copy.deepcopy(network)
        kept = 0
        share = inherit_weights(network, supernet)
        for index, donor in enumerate(donors):
            cell, source = network.cells[index], supernet.cells[donor]
            offers = supernet.space.edges(supernet.kinds[donor])
            for edge, name, module in edges_of(cell):
                theirs = convolutions(source.edges[edge][offers[edge].index(name)])
                for key, weight in convolutions(module).items():
                    assert torch.equal(weight, theirs[key])
            # The inputs of a cell may come from other kinds of cells than its donor's.
            for side in ("input0", "input1"):
                theirs = convolutions(getattr(source, side))
                old = convolutions(getattr(before.cells[index], side))
                for key, weight in convolutions(getattr(cell, side)).items():
                    fits = key in theirs and theirs[key].shape == weight.shape
                    assert torch.equal(weight, theirs[key] if fits else old[key])
                    kept += 0 if fits else weight.numel()
        total = sum(
            p.numel()
            for module in network.modules()
            if isinstance(module, nn.Conv2d | nn.Linear)
            for p in module.parameters()
        )
        assert share == pytest.approx(1 - kept / total)
        assert share > 0.9

    def test_other_channels_keep_their_initial_values(self):
        supernet = build()
        network = derive(supernet, channels=8)
        before = copy.deepcopy(network.state_dict())
        share = inherit_weights(network, supernet)
        for name, value in network.state_dict().items():
            fits = name == "classifier.bias"
            assert torch.equal(value, before[name]) != fits, name
        assert 0 < share < 0.01

    def test_another_number_of_classes_keeps_its_head(self):
        supernet = build()
        network = derive(supernet, classes=7)
        before = network.classifier.weight.clone()
        assert 0.9 < inherit_weights(network, supernet) < 1
        assert torch.equal(network.classifier.weight, before)

    def test_batch_norms_of_cells_are_new(self):
        supernet = build()
        network = derive(supernet)
        inherit_weights(network, supernet)
        for module in network.cells.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.weight.tolist() == [1] * len(module.weight)
                assert module.bias.tolist() == [0] * len(module.bias)

    @pytest.mark.parametrize("cells", [1, 2])
    def test_from_a_supernet_of_few_cells(self, cells):
        supernet = build(cells=cells)
        assert inherit_weights(derive(supernet), supernet) == 1.0
        assert inherit_weights(derive(supernet, cells=5), supernet) > 0


@pytest.mark.parametrize("size", [(8, 8), (9, 11)])
@pytest.mark.parametrize("space", ["s2", "s3", "darts"])
def test_it_computes_what_the_supernet_does_with_one_operation_an_edge(space, size):
    """With weight 1 on the genotype's operations, 0 on all others, and the same statistics.

    Of a space with pools, a genotype without: a network's pools have no batch norm.
    """
    supernet = build(space, cells=5).double()
    if space == "darts":
        names = supernet.space.normal[0]
        for alphas in supernet.alpha_parameters():
            alphas.data[:, [names.index(pool) for pool in POOLS]] = -10.0
    network = derive(supernet).double()
    assert not any(network.config.genotype.count(pool) for pool in POOLS)
    assert inherit_weights(network, supernet) == 1.0

    one_hot = [torch.zeros_like(alphas) for alphas in supernet.alpha_parameters()]
    for kind, weights in zip(CellKind, one_hot, strict=True):
        offers = supernet.space.edges(kind)
        for position, node in enumerate(network.config.genotype.nodes(kind)):
            for name, state in node:
                edge = edge_index(position, state)
                weights[edge, offers[edge].index(name)] = 1.0
    supernet(torch.randn(8, 3, *size, dtype=torch.float64))  # statistics that are not trivial
    network.stem.load_state_dict(supernet.stem.state_dict())
    for index, cell in enumerate(network.cells):
        source = supernet.cells[index]
        offers = supernet.space.edges(supernet.kinds[index])
        pairs = [(cell.input0, source.input0), (cell.input1, source.input1)]
        for edge, name, module in edges_of(cell):
            pairs.append((module, source.edges[edge][offers[edge].index(name)]))
        for module, origin in pairs:
            module.load_state_dict(origin.state_dict(), strict=False)
    x = torch.randn(4, 3, *size, dtype=torch.float64)
    for training, fused in product((False, True), repeat=2):
        network.train(training)
        supernet.train(training).fused = fused
        expected = copy.deepcopy(supernet)(x, tuple(one_hot))
        torch.testing.assert_close(copy.deepcopy(network)(x), expected, rtol=1e-9, atol=1e-10)


class TestNetwork:
    def test_pools_have_no_batch_norm_and_others_are_affine(self):
        node = (("max_pool_3x3", 0), ("sep_conv_3x3", 1))
        genotype = Genotype("darts", (node,) * 4, (node,) * 4)
        network = Network(NetworkConfig(genotype, 4, 3, 3, 3))
        for cell in network.cells:
            for _, name, module in edges_of(cell):
                norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
                assert len(norms) == (0 if name in POOLS else 2)
                assert all(norm.affine for norm in norms)

    def test_scores_are_those_of_the_pooled_features(self):
        network = derive(build()).eval()
        x = torch.randn(3, 3, 8, 8)
        features = network.features(x)
        assert features.shape == (3, 64)
        expected = features @ network.classifier.weight.T + network.classifier.bias
        torch.testing.assert_close(network(x), expected)

    def test_config_round_trip_through_json(self):
        config = NetworkConfig(build().genotype(), 4, 8, 1, 7, 0.25)
        restored = NetworkConfig.from_dict(json.loads(json.dumps(config.to_dict())))
        assert restored == config
        state = Network(config).state_dict()
        rebuilt = Network(restored)
        rebuilt.load_state_dict(state)

    @pytest.mark.parametrize("size", [(8, 8), (9, 13), (33, 33)])
    def test_any_size(self, size):
        assert derive(build("s1"))(torch.randn(2, 3, *size)).shape == (2, 3)

    def test_dropout(self):
        genotype = build().genotype()
        network = Network(NetworkConfig(genotype, 4, 3, 3, 3, dropout=0.25))
        network.dropout.generator = torch.Generator().manual_seed(0)
        ones = torch.ones(100, 400)
        dropped = network.dropout(ones)
        values, counts = dropped.unique(return_counts=True)
        torch.testing.assert_close(values, torch.tensor([0.0, 4 / 3]))
        # Five standard errors of a share of 40000.
        assert abs(counts[0] / 40000 - 0.25) < 5 * (0.25 * 0.75 / 40000) ** 0.5
        assert torch.equal(network.eval().dropout(ones), ones)
        assert pickle.loads(pickle.dumps(network)).dropout.generator is None
        assert copy.deepcopy(network).dropout.share == 0.25
