"""Partial channel connections: the supernet, and PC-DARTS on it."""

import pytest
import torch
import torch.nn.functional as F
from tiny_search import build, labelled, seeded

from supernetnas.families.cells.config import SupernetConfig
from supernetnas.families.cells.operations import FactorizedReduce, make_operation
from supernetnas.families.cells.partial import (
    PartialSupernet,
    _widen,
    active_channels,
    channel_shuffle,
)
from supernetnas.families.cells.search.methods import PartialChannelSearch
from supernetnas.families.cells.search.weight_training import SearchSettings
from supernetnas.families.cells.space import CellKind
from supernetnas.families.cells.supernet import CellSupernet
from supernetnas.training.seeds import seeded_modules


def supernet(space="s1", channels=8, cells=3, seed=0):
    with seeded_modules(seed):
        return CellSupernet(SupernetConfig(space, channels, cells, (8, 8), 3, 3))


def betas(scale=1e-3):
    return tuple(scale * torch.randn(14, generator=seeded(seed)) for seed in (0, 1))


def images(n=4, dtype=torch.float64):
    return torch.randn(n, 3, 8, 8, generator=seeded(), dtype=dtype)


class TestSupernet:
    @pytest.mark.parametrize(("channels", "groups"), [(8, 4), (36, 6), (16, 1)])
    def test_the_shuffle_is_torchs(self, channels, groups):
        x = torch.arange(channels, dtype=torch.float32).view(1, -1, 1, 1)
        expected = F.channel_shuffle(x, groups) if groups > 1 else x
        assert torch.equal(x[:, channel_shuffle(channels, groups)], expected)

    def test_the_shuffle_of_an_incomplete_row(self):
        # Rows 0 1 2 3 | 4 5 6 7 | 8 9, read column by column.
        assert channel_shuffle(10, 3).tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 3, 7]

    @pytest.mark.parametrize(
        ("channels", "partial", "expected"),
        [(16, 4, 4), (36, 6, 6), (36, 4, 9), (16, 6, 3), (4, 4, 2), (2, 4, 2), (8, 1, 8)],
    )
    def test_active_channels(self, channels, partial, expected):
        assert active_channels(channels, partial) == expected

    def test_the_published_size(self):
        """299,578 parameters: the DARTS space, 16 channels, 8 cells, K = 4, 10 classes."""
        with seeded_modules(0):
            source = CellSupernet(SupernetConfig("darts", 16, 8, (32, 32), 3, 10))
        partial = PartialSupernet(source, 4, betas())
        assert sum(p.numel() for p in partial.weight_parameters()) == 299_578

    @pytest.mark.parametrize("size", [(8, 8), (7, 5)])
    def test_a_cell_by_its_definition(self, size):
        """Every edge: operations on a quarter, the rest beside, times the edge's beta.

        What the next nodes see is shuffled, what leaves the cell is not.
        """
        net = PartialSupernet(supernet().double(), 4, betas(1.0))
        cell = net.cells[1]
        assert cell.kind == CellKind.REDUCTION
        weights = net.operation_weights()[1]
        x, y = torch.randn(2, 2, 24, *size, dtype=torch.float64, generator=seeded())
        x, y = x[:, :24], torch.cat([y, y], dim=1)[:, :32]
        states, outputs, edge = [cell.input0(x), cell.input1(y)], [], 0
        for node in range(4):
            share = net.betas_reduce[edge : edge + node + 2].exp()
            share = share / share.sum()
            total = 0.0
            for state in range(node + 2):
                seen, rest = states[state][:, :4], states[state][:, 4:]
                mixed = sum(weights[edge, k] * cell.edges[edge][k](seen) for k in range(2))
                if state < 2:
                    rest = F.max_pool2d(rest, 2, 2, ceil_mode=True)
                total = total + share[state] * torch.cat([mixed, rest], dim=1)
                edge += 1
            outputs.append(total)
            states.append(F.channel_shuffle(total, 4))
        expected = torch.cat(outputs, dim=1)
        result = cell(x, y, weights, net.edge_weights()[1], [[0, 1]] * 14)
        torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)

    def test_all_channels_are_the_ordinary_supernet(self):
        source = supernet().double()
        partial = PartialSupernet(source, 1)
        torch.testing.assert_close(partial(images()), source(images()), rtol=1e-9, atol=1e-11)

    def test_what_leaves_a_cell_has_the_order_of_an_ordinary_one(self):
        """Of nodes that operate on the inputs alone, by skip connections, nothing differs."""
        source = supernet("s2").double().eval()
        partial = PartialSupernet(source, 4).eval()
        weights = torch.zeros(14, 2, dtype=torch.float64)
        for node, start in enumerate((0, 2, 5, 9)):
            weights[start + node % 2, 0] = 1.0
        x = torch.randn(2, source.cells[0].input0[1].in_channels, 8, 8, generator=seeded()).double()
        ordinary = source.cells[0](x, x, weights)
        torch.testing.assert_close(partial.cells[0](x, x, weights, None, [[0]] * 14), ordinary)

    def test_edge_weights_sum_to_one_at_each_node(self):
        net = PartialSupernet(supernet(), 4, betas(2.0))
        for weights in net.edge_weights():
            sums = [float(part.sum()) for part in weights.detach().split([2, 3, 4, 5])]
            assert sums == pytest.approx([1.0] * 4)

    def test_the_genotype_ranks_by_the_product(self):
        net = PartialSupernet(supernet("s2"), 4, betas())
        with torch.no_grad():
            net.alphas_normal.zero_()
            net.alphas_normal[:, 1] = 0.1  # the convolution everywhere
            net.alphas_normal[3, 0] = 0.3  # and a surer skip connection from state 1 to node 1,
            net.betas_normal.zero_()
            net.betas_normal[3] = -1.0  # whose edge weighs too little
        nodes = net.genotype().normal
        assert nodes[1] == (("sep_conv_3x3", 0), ("sep_conv_3x3", 2))
        with torch.no_grad():
            net.betas_normal[3] = 0.0
        assert net.genotype().normal[1] == (("sep_conv_3x3", 0), ("skip_connect", 1))

    def test_there_and_back_again(self):
        source = supernet()
        back = PartialSupernet(source, 4, betas()).full()
        assert type(back) is CellSupernet
        for name, value in source.state_dict().items():
            assert torch.equal(back.state_dict()[name], value), name

    def test_what_is_trained_replaces_leading_channels(self):
        source = supernet("s2")
        before = {k: v.clone() for k, v in source.state_dict().items()}
        net = PartialSupernet(source, 4, betas())
        with torch.no_grad():
            for weight in net.weight_parameters():
                weight.add_(1.0)
        after = net.full().state_dict()
        name = "cells.0.edges.0.1.2.weight"  # the pointwise convolution of the first edge
        changed = (after[name] != before[name])[:, :, 0, 0]
        assert changed[:2, :2].all()
        assert changed.sum() == 4
        assert (after["stem.0.weight"] == before["stem.0.weight"] + 1.0).all()
        for name, value in source.state_dict().items():
            assert torch.equal(value, before[name]), name

    def test_an_edge_without_weight_is_off(self):
        net = PartialSupernet(supernet().double(), 4, betas()).eval()
        weights = [w.detach().clone() for w in net.operation_weights()]
        for w in weights:
            w[1:] = 0.0  # of every node but the first, no edge is left
        cell, x = net.cells[0], torch.randn(2, 24, 8, 8, dtype=torch.float64)
        kept = [[0, 1]] * 14
        output = cell(x, x, weights[0], net.edge_weights()[0], kept)
        assert output[:, :8].abs().max() > 0
        assert output[:, 8:].abs().max() == 0

    def test_global_random_state_stays(self):
        source, before = supernet(), torch.get_rng_state()
        PartialSupernet(source, 4, betas()).widen(2, seeded())
        assert torch.equal(torch.get_rng_state(), before)


class TestPruning:
    def test_the_smallest_alphas_go(self):
        net = PartialSupernet(supernet("darts", cells=1), 4)
        with torch.no_grad():
            net.alphas_reduce.copy_(torch.randn(14, 8, generator=seeded()))
        before = net.alphas_reduce.detach().clone()
        net.prune(4)
        for edge in range(14):
            kept = set(before[edge].topk(4).indices.tolist())
            assert {i for i in range(8) if net.mask_reduce[edge, i]} == kept
            assert all(net.alphas_reduce[edge, i] == 0 for i in range(8) if i not in kept)
        weights = net.operation_weights()[1]
        assert (weights[~net.mask_reduce] == 0).all()
        assert net.full().genotype() == net.genotype()
        torch.testing.assert_close(net.full().operation_weights()[1], weights)

    def test_what_is_pruned_does_not_run(self):
        net = PartialSupernet(supernet("s2", cells=1), 4)
        net.prune(1)
        calls = []
        for edge in net.cells[0].edges:
            for index, operation in enumerate(edge):
                operation.register_forward_hook(lambda *_, index=index: calls.append(index))
        net(images(dtype=torch.float32))
        assert len(calls) == 14

    def test_none_is_never_left_alone(self):
        net = PartialSupernet(supernet("s3", cells=1), 4)
        with torch.no_grad():
            net.alphas_normal[:, 0] = 5.0
        net.prune(1)
        assert not net.mask_normal[:, 0].any()
        assert (net.mask_normal.sum(1) == 1).all()


class TestWidening:
    @pytest.mark.parametrize("name", ["sep_conv_3x3", "dil_conv_5x5", "max_pool_3x3"])
    def test_repeated_channels_give_repeated_channels(self, name):
        with seeded_modules(0):
            old = make_operation(name, 3, 1, affine=False).double()
            new = make_operation(name, 5, 1, affine=False).double()
        origin = torch.tensor([0, 1, 2, 1, 1])
        x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
        old(x + 1)  # statistics of its own
        _widen(new, old, origin, 3)
        old.eval(), new.eval()
        torch.testing.assert_close(new(x[:, origin]), old(x)[:, origin], rtol=1e-9, atol=1e-11)

    def test_a_factorized_reduction_repeats_within_its_halves(self):
        with seeded_modules(0):
            old, new = (
                FactorizedReduce(3, 3, False).double(),
                FactorizedReduce(5, 5, False).double(),
            )
        origin = torch.tensor([0, 1, 2, 1, 1])
        x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
        old(x + 1)
        _widen(new, old, origin, 3)
        old.eval(), new.eval()
        result, plain = new(x[:, origin]), old(x)
        torch.testing.assert_close(result[:, 0], plain[:, 0], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(result[:, 1], plain[:, 0], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(result[:, 2:4], plain[:, 1:3], rtol=1e-9, atol=1e-11)

    def test_of_a_supernet(self):
        net = PartialSupernet(supernet(channels=16, cells=2), 8)
        shared = {id(p) for p in net.cells[0].input0.parameters()}
        old = net.cells[0].edges[1][1].pointwise.weight.detach().clone()
        net.widen(4, seeded())
        wide = net.cells[0].edges[1][1].pointwise.weight
        assert (old.shape[0], wide.shape[0]) == (4, 8)
        # Input channels share out what they repeat: the sums over them are the old ones.
        torch.testing.assert_close(wide[:4].sum(1), old.sum(1))
        assert {id(p) for p in net.cells[0].input0.parameters()} == shared
        assert net(images(dtype=torch.float32)).shape == (4, 3)


class TestSearch:
    def search(self, **settings):
        settings = SearchSettings(**{"epochs": 3, "batch_size": 6, **settings})
        return PartialChannelSearch(build(), labelled(), labelled(seed=2), settings, seeded())

    def test_alphas_and_betas_rest_first_and_then_move_together(self):
        one = self.search()
        before = [a.clone() for a in one.supernet.alpha_parameters()]
        assert len(before) == 4
        one.run_epoch()  # one of three epochs, 30 %
        for old, new in zip(before, one.supernet.alpha_parameters(), strict=True):
            assert torch.equal(old, new)
        one.run_epoch()
        for old, new in zip(before, one.supernet.alpha_parameters(), strict=True):
            assert not torch.equal(old, new)

    def test_fifteen_of_fifty_epochs(self):
        one = self.search(epochs=50)
        frozen = []
        for one.epoch in range(50):
            frozen.append(one.alphas_frozen())
        assert frozen == [True] * 15 + [False] * 35

    def test_betas_start_as_noise_of_the_generator(self):
        one = self.search()
        generator = seeded()
        for beta in (one.supernet.betas_normal, one.supernet.betas_reduce):
            torch.testing.assert_close(beta.detach(), 1e-3 * torch.randn(14, generator=generator))

    def test_the_weight_optimizer_has_neither(self):
        one = self.search()
        (group,) = one.weight_optimizer.param_groups
        architecture = {id(a) for a in one.supernet.alpha_parameters()}
        assert not architecture & {id(p) for p in group["params"]}
        assert len(group["params"]) + 4 == len(list(one.supernet.parameters()))


def test_statistics_after_both_halves_of_a_reduction():
    """Of a factorized reduction the leading channels of the even and of the odd half are used."""
    with seeded_modules(0):
        origin = CellSupernet(SupernetConfig("darts", 8, 2, (8, 8), 3, 3))
    wide = reduction(origin).bn.running_mean
    wide.copy_(torch.arange(16))
    net = PartialSupernet(origin, 4)
    narrow = reduction(net).bn.running_mean
    assert narrow.tolist() == [0, 1, 8, 9]
    narrow.add_(100)
    changed = reduction(net.full()).bn.running_mean - wide
    assert changed.nonzero().flatten().tolist() == [0, 1, 8, 9]


def reduction(net):
    operations = (op for edge in net.cells[0].edges for op in edge)
    return next(op for op in operations if isinstance(op, FactorizedReduce))
