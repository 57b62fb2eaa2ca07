"""The supernet: its macro-architecture, its alphas, the genotype rule."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from tiny_cells import MAX, MIXED, SEP3, SEP5, SKIP, SPACES, build
from torch import nn

from supernetnas.families.cells.config import SupernetConfig
from supernetnas.families.cells.modules import cell_layout
from supernetnas.families.cells.operations import FactorizedReduce, Noise
from supernetnas.families.cells.space import CellKind


def set_weights(supernet, edge, weights, kind=CellKind.NORMAL):
    """Set the alphas of an edge so that its operation weights are the given ones."""
    alphas = supernet.alphas(kind).data
    alphas[edge, : len(weights)] = torch.tensor(weights, dtype=alphas.dtype).log()


class TestLayout:
    @pytest.mark.parametrize(
        ("n_cells", "reductions"),
        [(1, [0]), (2, [0, 1]), (3, [1, 2]), (5, [1, 3]), (8, [2, 5]), (14, [4, 9]), (20, [6, 13])],
    )
    def test_reductions_at_one_and_two_thirds(self, n_cells, reductions):
        layout = list(cell_layout(16, n_cells))
        kinds = [CellKind.REDUCTION if i in reductions else CellKind.NORMAL for i in range(n_cells)]
        assert [row[3] for row in layout] == kinds
        assert [row[4] for row in layout] == [CellKind.NORMAL, *kinds[:-1]]
        channels = [16 * 2 ** sum(r <= i for r in reductions) for i in range(n_cells)]
        assert [row[2] for row in layout] == channels
        outputs = [48, 48, *(4 * c for c in channels)]
        assert [row[0] for row in layout] == outputs[:n_cells]
        assert [row[1] for row in layout] == outputs[1 : n_cells + 1]

    def test_first_input_is_reduced_after_a_reduction_cell_only(self):
        supernet = build(cells=8)
        reduced = [isinstance(cell.input0, FactorizedReduce) for cell in supernet.cells]
        assert reduced == [False, False, False, True, False, False, True, False]
        assert not any(isinstance(cell.input1, FactorizedReduce) for cell in supernet.cells)

    def test_stride_two_on_the_edges_of_the_cells_inputs_only(self):
        cell = build("s2", cells=3).cells[1]
        strides = [edge[1][1].stride[0] for edge in cell.edges]
        assert strides == [2, 2, 2, 2, 1, 2, 2, 1, 1, 2, 2, 1, 1, 1]

    def test_stem_is_convolution_and_batch_norm_without_relu(self):
        supernet = build()
        conv, norm = supernet.stem
        assert (conv.in_channels, conv.out_channels, conv.kernel_size) == (3, 12, (3, 3))
        assert conv.bias is None
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.affine

    @pytest.mark.parametrize("size", [(8, 8), (9, 9), (15, 10), (28, 28), (33, 33)])
    @pytest.mark.parametrize("inputs", [1, 3, 4])
    def test_any_size_and_channels(self, size, inputs):
        supernet = build(inputs=inputs)
        assert supernet(torch.randn(2, inputs, *size)).shape == (2, 3)

    @pytest.mark.parametrize("n_cells", [1, 2])
    def test_fewer_cells_than_reductions(self, n_cells):
        assert build(cells=n_cells)(torch.randn(2, 3, 8, 8)).shape == (2, 3)


class TestForward:
    def test_a_cell_by_its_definition(self):
        """Node j is the sum over its inputs i of sum_o w[edge, o] * o(state i)."""
        supernet = build("s1").double()
        cell, weights = supernet.cells[0], torch.rand(14, 2, dtype=torch.float64)
        x, y = torch.randn(2, 2, 12, 8, 8, dtype=torch.float64)
        states = [cell.input0(x), cell.input1(y)]
        for first_edge in (0, 2, 5, 9):
            states.append(
                sum(
                    weights[first_edge + i, o] * cell.edges[first_edge + i][o](state)
                    for i, state in enumerate(states)
                    for o in range(2)
                )
            )
        expected = torch.cat(states[2:], dim=1)
        torch.testing.assert_close(cell(x, y, weights), expected, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("fused", [False, True])
    def test_scores_by_their_definition(self, fused):
        supernet = build("s1", cells=3).double()
        supernet.fused = fused
        x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
        normal, reduce = (alphas.softmax(1) for alphas in supernet.alpha_parameters())
        stem = supernet.stem(x)
        first = supernet.cells[0](stem, stem, normal)
        second = supernet.cells[1](stem, first, reduce)
        third = supernet.cells[2](first, second, reduce)
        assert third.shape == (4, 64, 2, 2)
        pooled = third.mean((2, 3))
        expected = pooled @ supernet.classifier.weight.T + supernet.classifier.bias
        torch.testing.assert_close(supernet(x), expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(supernet.features(x), pooled, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("fused", [False, True])
    def test_given_weights_replace_the_softmax(self, fused):
        supernet = build("s1").double()
        supernet.fused = fused
        x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
        given = tuple(torch.rand(14, 2, dtype=torch.float64).softmax(1) for _ in range(2))
        with torch.no_grad():
            scores = supernet(x, given)
            for alphas, weights in zip(supernet.alpha_parameters(), given, strict=True):
                alphas.copy_(weights.log())
        torch.testing.assert_close(scores, supernet(x), rtol=1e-10, atol=1e-12)

    def test_evaluation_does_not_depend_on_the_company(self):
        supernet = build("s4").eval()
        x = torch.randn(5, 3, 8, 8)
        alone = torch.cat([supernet(row) for row in x.split(1)])
        torch.testing.assert_close(supernet(x), alone, rtol=1e-4, atol=1e-6)


class TestOperationWeights:
    def test_softmax_by_definition(self):
        supernet = build("s3")
        for alphas in supernet.alpha_parameters():
            alphas.data.normal_()
        for alphas, weights in zip(
            supernet.alpha_parameters(), supernet.operation_weights(), strict=True
        ):
            exponentials = alphas.detach().exp()
            expected = exponentials / exponentials.sum(1, keepdim=True)
            torch.testing.assert_close(weights.detach(), expected)

    def test_unused_entries_weigh_nothing_and_get_no_gradient(self):
        supernet = build(MIXED.name)
        counts = [len(edge) for edge in MIXED.normal]
        supernet.alphas_normal.data.fill_(100.0)
        weights = supernet.operation_weights()[0]
        expected = [[1 / n] * n + [0.0] * (4 - n) for n in counts]
        torch.testing.assert_close(weights.detach(), torch.tensor(expected))
        supernet(torch.randn(4, 3, 8, 8)).square().sum().backward()
        mask = supernet.operation_masks()[0]
        assert mask.sum(1).tolist() == counts
        assert supernet.alphas_normal.grad[~mask].abs().max() == 0
        assert supernet.alphas_normal.grad.isfinite().all()

    def test_alphas_start_near_zero(self):
        alphas = torch.cat([a.detach().flatten() for a in build("darts").alpha_parameters()])
        # 224 draws of N(0, 0.001^2): four standard errors of the standard deviation.
        assert abs(alphas.std() / 1e-3 - 1) < 4 / math.sqrt(2 * 224)
        assert abs(alphas.mean()) < 4e-3 / math.sqrt(224)

    def test_entropy_of_known_weights(self):
        supernet = build("darts")
        for alphas in supernet.alpha_parameters():
            alphas.data.zero_()
        assert supernet.alpha_entropy() == pytest.approx(1.0)
        supernet.alphas_normal.data[:, 3] = 200.0
        assert supernet.alpha_entropy() == pytest.approx(0.5)  # of 28 edges, 14 are decided
        supernet.alphas_reduce.data[:, 0] = 200.0
        assert supernet.alpha_entropy() == pytest.approx(0.0)

    def test_entropy_leaves_out_edges_without_a_choice(self):
        supernet = build(MIXED.name)
        for alphas in supernet.alpha_parameters():
            alphas.data.zero_()
        assert supernet.alpha_entropy() == pytest.approx(1.0)


class TestParameters:
    def test_alphas_are_saved_and_loaded(self):
        supernet, other = build(seed=0), build(seed=1)
        state = supernet.state_dict()
        assert {"alphas_normal", "alphas_reduce"} <= set(state)
        supernet.alphas_normal.data.normal_()
        other.load_state_dict(supernet.state_dict())
        assert torch.equal(other.alphas_normal, supernet.alphas_normal)
        x = torch.randn(4, 3, 8, 8)
        assert torch.equal(other(x), supernet(x))

    @pytest.mark.parametrize("space", SPACES)
    def test_parameters_are_weights_or_alphas(self, space):
        supernet = build(space)
        weights = {id(w) for w in supernet.weight_parameters()}
        alphas = {id(a) for a in supernet.alpha_parameters()}
        assert not weights & alphas
        assert weights | alphas == {id(p) for p in supernet.parameters()}

    def test_the_weight_optimiser_leaves_the_alphas(self):
        """Neither its gradient, nor weight decay, nor clipping reaches them."""
        supernet = build()
        optimizer = torch.optim.SGD(supernet.weight_parameters(), lr=0.5, weight_decay=0.1)
        before = [alpha.clone() for alpha in supernet.alpha_parameters()]
        F.cross_entropy(supernet(torch.randn(4, 3, 8, 8)), torch.tensor([0, 1, 2, 0])).backward()
        gradients = [alpha.grad.clone() for alpha in supernet.alpha_parameters()]
        torch.nn.utils.clip_grad_norm_(supernet.weight_parameters(), 1e-6)
        optimizer.step()
        for alpha, old, gradient in zip(
            supernet.alpha_parameters(), before, gradients, strict=True
        ):
            assert torch.equal(alpha, old)
            assert torch.equal(alpha.grad, gradient)

    def test_state_dict_has_no_masks(self):
        assert not [name for name in build(MIXED.name).state_dict() if "mask" in name]

    def test_noise_draws_from_its_generator(self):
        supernet, x = build("s4"), torch.randn(4, 3, 8, 8)
        state = torch.get_rng_state()
        scores = []
        for seed in (1, 1, 2):
            supernet.seed_noise(torch.Generator().manual_seed(seed))
            scores.append(supernet(x))
        assert torch.equal(scores[0], scores[1])
        assert not torch.equal(scores[0], scores[2])
        assert torch.equal(torch.get_rng_state(), state)
        supernet.seed_noise(None)
        assert all(m.generator is None for m in supernet.modules() if isinstance(m, Noise))


class TestConfig:
    def test_json_round_trip(self):
        config = SupernetConfig("s2", 8, 3, (28, 20), 1, 7)
        assert SupernetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"n_cells": 0}, "n_cells must be an integer from 1 to 100; got 0"),
            ({"n_cells": 101}, "n_cells must be an integer from 1 to 100; got 101"),
            ({"n_cells": True}, "n_cells must be an integer"),
            ({"init_channels": 2.0}, "init_channels must be an integer"),
            ({"n_classes": -1}, "n_classes must be an integer"),
            ({"image_size": (32,)}, "image_size must be height and width"),
            ({"image_size": (32, 10**9)}, "image_size must be an integer"),
            ({"input_channels": 0}, "input_channels must be an integer"),
        ],
    )
    def test_bad_sizes(self, values, message):
        with pytest.raises(ValueError, match=message):
            SupernetConfig(**values)

    def test_odd_channels(self):
        with pytest.raises(ValueError, match="init_channels must be even; got 5"):
            SupernetConfig(init_channels=5)

    def test_unknown_space(self):
        with pytest.raises(ValueError, match="Unknown search space"):
            SupernetConfig("x")


class TestGenotypeRule:
    def test_two_strongest_edges_with_their_strongest_operations(self):
        supernet = build("s2")
        for edge in range(14):
            set_weights(supernet, edge, [0.51, 0.49])
            set_weights(supernet, edge, [0.49, 0.51], CellKind.REDUCTION)
        # Node 1 (edges 2 to 4): states 0 and 2. Node 2 (5 to 8): states 1 and 3.
        # Node 3 (9 to 13): states 2 and 4.
        for edge, weights in {
            0: [0.2, 0.8],
            1: [0.6, 0.4],
            2: [0.3, 0.7],
            4: [0.9, 0.1],
            6: [0.15, 0.85],
            8: [0.8, 0.2],
            11: [0.95, 0.05],
            13: [0.1, 0.9],
        }.items():
            set_weights(supernet, edge, weights)
        genotype = supernet.genotype()
        assert genotype.space == "s2"
        assert genotype.normal == (
            ((SEP3, 0), (SKIP, 1)),
            ((SEP3, 0), (SKIP, 2)),
            ((SEP3, 1), (SKIP, 3)),
            ((SKIP, 2), (SEP3, 4)),
        )
        # All edges of the reduction cell tie: the lower states stay.
        assert genotype.reduce == (((SEP3, 0), (SEP3, 1)),) * 4

    def test_tied_operations_take_the_first(self):
        supernet = build("darts")
        for alphas in supernet.alpha_parameters():
            alphas.data.zero_()
        assert supernet.genotype().normal == (((MAX, 0), (MAX, 1)),) * 4

    def test_none_counts_in_the_softmax(self):
        """Without `none` in the softmax the first edge would be the surest of all."""
        supernet = build("s3")
        for edge in range(14):
            set_weights(supernet, edge, [0.2, 0.5, 0.3])  # without none: 0.625
        set_weights(supernet, 2, [0.9, 0.09, 0.01])  # without none: 0.9
        set_weights(supernet, 4, [0.05, 0.4, 0.55])  # without none: 0.58, the least
        assert supernet.genotype().normal[1] == ((SKIP, 1), (SEP3, 2))

    def test_none_never_stays(self):
        supernet = build("s3")
        for alphas in supernet.alpha_parameters():
            alphas.data[:, 0] = 10.0
        genotype = supernet.genotype()
        assert genotype.count("none") == 0
        assert sum(len(node) for node in genotype.normal + genotype.reduce) == 16

    def test_edges_of_different_operations(self):
        """The reference code looks `none` up at the wrong edge here."""
        supernet = build(MIXED.name)
        for edge, operations in enumerate(MIXED.normal):
            set_weights(supernet, edge, [1 / len(operations)] * len(operations))
        set_weights(supernet, 1, [0.2, 0.8])  # sep 0.2 | none
        set_weights(supernet, 2, [0.1, 0.6, 0.3])  # max | none | skip 0.3
        set_weights(supernet, 3, [0.2, 0.2, 0.35, 0.25])  # sep5 0.35
        set_weights(supernet, 4, [0.75, 0.25])  # none | sep 0.25
        set_weights(supernet, 7, [0.1, 0.9])  # sep5
        set_weights(supernet, 8, [0.0, 0.05, 0.95])  # none | skip | sep3
        set_weights(supernet, 13, [0.4, 0.6])  # sep5
        assert supernet.genotype().normal == (
            ((SKIP, 0), (SEP3, 1)),
            ((SKIP, 0), (SEP5, 1)),
            ((SEP5, 1), (SEP3, 3)),  # of 0.5, 1.0, 0.9, 0.95
            ((SKIP, 3), (SEP5, 4)),  # of 0.5, 0.5, 0.5, 1.0, 0.6
        )

    def test_the_same_in_every_order_of_building(self):
        """Deriving one supernet's genotype does not depend on another's space."""
        first = build("s1", seed=3)
        expected = first.genotype()
        build("darts")
        build(MIXED.name)
        assert first.genotype() == expected
