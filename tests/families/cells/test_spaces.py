"""Spaces against their published lists, operations against their formulas."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from supernetnas.families.cells.config import SupernetConfig
from supernetnas.families.cells.genotype import Genotype
from supernetnas.families.cells.operations import FactorizedReduce, make_operation
from supernetnas.families.cells.space import (
    EDGE_SOURCES,
    N_EDGES,
    OPERATIONS,
    CellKind,
    SearchSpace,
    available_spaces,
    edge_index,
    edges_into,
    get_space,
    register_space,
)
from supernetnas.families.cells.supernet import CellSupernet

# RobustDARTS (Zela et al., 2020), the spaces' published definition, in its order of the edges:
# those of the first node, of the second, and so on.
S1_NORMAL = [
    ["skip_connect", "dil_conv_3x3"],
    ["skip_connect", "dil_conv_5x5"],
    ["skip_connect", "dil_conv_5x5"],
    ["skip_connect", "sep_conv_3x3"],
    ["skip_connect", "dil_conv_3x3"],
    ["max_pool_3x3", "skip_connect"],
    ["skip_connect", "sep_conv_3x3"],
    ["skip_connect", "sep_conv_3x3"],
    ["skip_connect", "dil_conv_3x3"],
    ["skip_connect", "sep_conv_3x3"],
    ["max_pool_3x3", "skip_connect"],
    ["skip_connect", "dil_conv_3x3"],
    ["dil_conv_3x3", "dil_conv_5x5"],
    ["dil_conv_3x3", "dil_conv_5x5"],
]
S1_REDUCE = [
    ["max_pool_3x3", "avg_pool_3x3"],
    ["max_pool_3x3", "dil_conv_3x3"],
    ["max_pool_3x3", "avg_pool_3x3"],
    ["max_pool_3x3", "avg_pool_3x3"],
    ["skip_connect", "dil_conv_5x5"],
    ["max_pool_3x3", "avg_pool_3x3"],
    ["max_pool_3x3", "sep_conv_3x3"],
    ["skip_connect", "dil_conv_3x3"],
    ["skip_connect", "dil_conv_5x5"],
    ["max_pool_3x3", "avg_pool_3x3"],
    ["max_pool_3x3", "avg_pool_3x3"],
    ["skip_connect", "dil_conv_5x5"],
    ["skip_connect", "dil_conv_5x5"],
    ["skip_connect", "dil_conv_5x5"],
]
DARTS = [
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
]
UNIFORM = {
    "s2": ["skip_connect", "sep_conv_3x3"],
    "s3": ["none", "skip_connect", "sep_conv_3x3"],
    "s4": ["noise", "sep_conv_3x3"],
    "darts": DARTS,
    "darts_no_none": DARTS[1:],
}


def as_lists(edges):
    return [list(operations) for operations in edges]


def random_images(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def operation(name, channels=4, stride=1, affine=False):
    return make_operation(name, channels, stride, affine).double()


def normalised(x, eps=1e-5):
    """Batch norm by definition: mean 0 and (population) variance 1 per channel."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    return (x - mean) / (variance + eps).sqrt()


class TestSpaces:
    def test_s1_is_the_published_one(self):
        assert as_lists(get_space("s1").normal) == S1_NORMAL
        assert as_lists(get_space("s1").reduce) == S1_REDUCE

    @pytest.mark.parametrize("name", UNIFORM)
    def test_the_same_operations_on_every_edge(self, name):
        assert as_lists(get_space(name).normal) == [UNIFORM[name]] * 14
        assert as_lists(get_space(name).reduce) == [UNIFORM[name]] * 14

    def test_edges_of_a_kind(self):
        space = get_space("s1")
        assert space.edges(CellKind.REDUCTION) is space.reduce
        assert space.edges(CellKind.NORMAL) is space.normal
        with pytest.raises(ValueError, match="'reduce' is not a valid CellKind"):
            space.edges("reduce")

    def test_kinds_are_positions_and_keys(self):
        assert list(CellKind) == [0, 1]
        assert [kind.key for kind in CellKind] == ["normal", "reduce"]

    def test_edges_are_listed_node_by_node_and_by_rising_state(self):
        pairs = [(node, state) for node in range(4) for state in range(node + 2)]
        assert [edge_index(*pair) for pair in pairs] == list(range(N_EDGES)) == list(range(14))
        assert tuple(state for _, state in pairs) == EDGE_SOURCES
        for node in range(4):
            assert list(edges_into(node)) == [i for i, (of, _) in enumerate(pairs) if of == node]

    def test_width(self):
        assert get_space("s1").width == 2
        assert get_space("darts").width == 8
        only_reduce = SearchSpace("w", normal=(("noise",),) * 14, reduce=(("noise", "none"),) * 14)
        assert only_reduce.width == 2

    def test_available(self):
        assert {"s1", *UNIFORM} <= set(available_spaces())

    def test_unknown_name(self):
        with pytest.raises(ValueError, match=r"Unknown search space 's9'; known are .*'s1'"):
            get_space("s9")

    def test_a_name_is_given_once(self):
        assert register_space(get_space("s2")) is get_space("s2")
        with pytest.raises(ValueError, match="Another search space is registered as 's2'"):
            register_space(dataclasses.replace(get_space("s3"), name="s2"))
        assert as_lists(get_space("s2").normal) == [UNIFORM["s2"]] * 14

    @pytest.mark.parametrize(
        ("edge", "message"),
        [
            (("skip_connect", "skip_connect"), "must list different known operations"),
            (("conv_7x7",), "must list different known operations"),
            ((), "must list different known operations"),
            (("none",), "nothing but 'none'"),
        ],
    )
    def test_bad_edges(self, edge, message):
        edges = (("skip_connect",),) * 13
        with pytest.raises(ValueError, match=message):
            SearchSpace("bad", normal=(*edges, edge), reduce=(*edges, ("noise",)))

    def test_wrong_number_of_edges(self):
        edges = (("skip_connect",),) * 13
        with pytest.raises(ValueError, match="14 edges; normal of space 'bad' has 13"):
            SearchSpace("bad", normal=edges, reduce=edges)

    def test_two_spaces_in_one_process_do_not_mix(self):
        """The reference code keeps the space in a class attribute of torch's Module."""
        nets = {
            name: CellSupernet(SupernetConfig(name, 2, 3, (8, 8), 1, 2))
            for name in ("s1", "darts", "s2")
        }
        for name, net in nets.items():
            for kind in CellKind:
                for position, node in enumerate(net.genotype().nodes(kind)):
                    for op, state in node:
                        assert op in get_space(name).edges(kind)[edge_index(position, state)]
        assert nets["s1"].alphas_normal.shape == (14, 2)
        assert nets["darts"].alphas_normal.shape == (14, 8)
        assert not hasattr(nn.Module, "PRIMITIVES")


class TestShapes:
    @pytest.mark.parametrize("size", [(8, 8), (9, 9), (32, 32), (33, 33), (9, 32)])
    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("name", OPERATIONS)
    def test_channels_stay_and_sides_are_divided_and_rounded_up(self, name, stride, size):
        x = torch.randn(2, 4, *size)
        for affine in (False, True):
            module = make_operation(name, 4, stride, affine)
            expected = (2, 4, *(-(-side // stride) for side in size))
            assert module(x).shape == expected
            assert module.eval()(x).shape == expected

    @pytest.mark.parametrize("name", OPERATIONS)
    def test_affine(self, name):
        """A supernet's batch norms have no scale; a network's have, and its pools have none."""
        for stride in (1, 2):
            norms = {
                affine: [
                    module
                    for module in make_operation(name, 4, stride, affine).modules()
                    if isinstance(module, nn.BatchNorm2d)
                ]
                for affine in (False, True)
            }
            assert all(norm.weight is None and norm.bias is None for norm in norms[False])
            assert all(norm.weight is not None for norm in norms[True])
            assert len(norms[True]) == (0 if "pool" in name else len(norms[False]))

    def test_unknown_operation(self):
        with pytest.raises(ValueError, match=r"Unknown operation 'conv'; known are none, noise"):
            make_operation("conv", 4, 1, False)


class TestOperations:
    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("kernel", [3, 5])
    @pytest.mark.parametrize("size", [8, 9])
    def test_dilated_conv(self, size, kernel, stride):
        """ReLU, depthwise convolution of dilation 2, pointwise convolution, batch norm."""
        module = operation(f"dil_conv_{kernel}x{kernel}", stride=stride)
        plain = nn.Conv2d(
            4, 4, kernel, stride, padding=kernel - 1, dilation=2, groups=4, bias=False
        ).double()
        plain.weight.data.copy_(module.depthwise.weight.data)
        x = random_images(3, 4, size, size)
        hidden = plain(x.clamp(min=0))
        mixed = torch.einsum("oi,nihw->nohw", module.pointwise.weight[:, :, 0, 0], hidden)
        torch.testing.assert_close(module(x), normalised(mixed), rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("kernel", [3, 5])
    @pytest.mark.parametrize("size", [8, 9])
    def test_separable_conv(self, size, kernel, stride):
        """Twice ReLU, depthwise, pointwise, batch norm; the stride is in the first half."""
        module = operation(f"sep_conv_{kernel}x{kernel}", stride=stride)
        weights = list(module.parameters())
        assert [tuple(w.shape) for w in weights] == [(4, 1, kernel, kernel), (4, 4, 1, 1)] * 2
        x = random_images(3, 4, size, size)
        result = x
        for depthwise, pointwise, step in ((*weights[:2], stride), (*weights[2:], 1)):
            padded = F.pad(result.clamp(min=0), [kernel // 2] * 4)
            windows = padded.unfold(2, kernel, step).unfold(3, kernel, step)
            hidden = torch.einsum("nchwij,cij->nchw", windows, depthwise[:, 0])
            result = normalised(torch.einsum("oi,nihw->nohw", pointwise[:, :, 0, 0], hidden))
        torch.testing.assert_close(module(x), result, rtol=1e-10, atol=1e-12)

    def test_factorized_reduce_of_even_sides(self):
        """Half the channels from the even pixels, the other half from the odd ones (2i+1, 2j+1)."""
        module = operation("skip_connect", stride=2)
        x = random_images(3, 4, 8, 6)
        relu = x.clamp(min=0)
        even, odd = relu[:, :, 0::2, 0::2], relu[:, :, 1::2, 1::2]
        parts = [
            torch.einsum("oi,nihw->nohw", conv.weight[:, :, 0, 0], pixels)
            for conv, pixels in ((module.conv_even, even), (module.conv_odd, odd))
        ]
        expected = normalised(torch.cat(parts, dim=1))
        torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("size", [(9, 9), (9, 8), (8, 9)])
    def test_factorized_reduce_of_odd_sides_sees_zeros_beyond_the_border(self, size):
        module = operation("skip_connect", stride=2)
        x = random_images(3, 4, *size)
        grown = F.pad(x, (0, size[1] % 2, 0, size[0] % 2))
        torch.testing.assert_close(module(x), module(grown), rtol=1e-10, atol=1e-12)

    def test_factorized_reduce_of_odd_channels(self):
        module = FactorizedReduce(4, 7, affine=True)
        assert module(torch.randn(2, 4, 8, 8)).shape == (2, 7, 4, 4)

    def test_skip_is_the_identity(self):
        x = random_images(2, 4, 8, 8)
        assert torch.equal(operation("skip_connect")(x), x)

    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("size", [5, 6])
    def test_pools(self, size, stride):
        """Windows of 3x3; pixels beyond the border neither win nor count in the average."""
        x = random_images(2, 4, size, size) - 3
        positions = range(0, size, stride)
        for name, reduce in (("max_pool_3x3", torch.amax), ("avg_pool_3x3", torch.mean)):
            expected = torch.stack(
                [
                    torch.stack(
                        [
                            reduce(x[:, :, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2], (2, 3))
                            for j in positions
                        ],
                        dim=-1,
                    )
                    for i in positions
                ],
                dim=-2,
            )
            final = operation(name, stride=stride, affine=True)
            torch.testing.assert_close(final(x), expected, rtol=1e-12, atol=1e-12)
            searched = operation(name, stride=stride)
            torch.testing.assert_close(searched(x), normalised(expected), rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("stride", [1, 2])
    def test_none_is_zero_and_lets_no_gradient_through(self, stride):
        x = random_images(2, 4, 8, 8).requires_grad_()
        result = operation("none", stride=stride)(x)
        assert result.count_nonzero() == 0
        assert not result.requires_grad

    def test_none_is_zero_even_where_the_input_is_not_finite(self):
        assert operation("none")(torch.full((1, 4, 2, 2), torch.inf)).count_nonzero() == 0

    def test_noise_is_standard_normal_in_training_and_zero_in_evaluation(self):
        module = operation("noise", stride=2)
        module.generator = torch.Generator().manual_seed(0)
        x = torch.full((64, 4, 32, 32), 7.0, dtype=torch.float64)
        noise = module(x)
        assert noise.shape == (64, 4, 16, 16)
        n = noise.numel()
        # Five standard errors of the mean and of the variance of n standard normal values.
        assert abs(noise.mean()) < 5 / n**0.5
        assert abs(noise.var() - 1) < 5 * (2 / n) ** 0.5
        assert not torch.equal(noise, module(x))
        assert module.eval()(x).count_nonzero() == 0

    def test_noise_leaves_the_global_random_state_when_it_has_its_own(self):
        module = operation("noise")
        x = torch.zeros(1, 4, 2, 2)
        before = torch.get_rng_state()
        draws = [
            setattr(module, "generator", torch.Generator().manual_seed(3)) or module(x)
            for _ in range(2)
        ]
        assert torch.equal(*draws)
        assert torch.equal(torch.get_rng_state(), before)


class TestGenotype:
    NODES = ((("skip_connect", 0), ("sep_conv_3x3", 1)),) * 4

    def test_json_round_trip(self):
        genotype = Genotype("s2", self.NODES, self.NODES[::-1])
        assert Genotype.from_dict(json.loads(json.dumps(genotype.to_dict()))) == genotype

    def test_count(self):
        assert Genotype("s2", self.NODES, self.NODES).count("skip_connect") == 8
        assert Genotype("s2", self.NODES, self.NODES).count("noise") == 0

    def test_nodes_of_a_kind(self):
        other = ((("sep_conv_3x3", 0), ("sep_conv_3x3", 1)),) * 4
        genotype = Genotype("s2", self.NODES, other)
        assert genotype.nodes(CellKind.NORMAL) == self.NODES
        assert genotype.nodes(CellKind.REDUCTION) == other

    def test_str(self):
        text = str(Genotype("s2", ((), *self.NODES[1:]), self.NODES))
        assert text.startswith("s2 [normal: empty | skip_connect(0) + sep_conv_3x3(1) | ")

    @pytest.mark.parametrize("edge", [("skip_connect", 2), ("skip_connect", -1), ("conv", 0)])
    def test_impossible_edges(self, edge):
        with pytest.raises(ValueError, match="Node 0 of reduce cannot have the edge"):
            Genotype("s2", self.NODES, ((edge,), *self.NODES[1:]))

    def test_wrong_number_of_nodes(self):
        with pytest.raises(ValueError, match="A cell has 4 nodes; normal has 3"):
            Genotype("s2", self.NODES[1:], self.NODES)

    def test_foreign_space(self):
        data = Genotype("s2", self.NODES, self.NODES).to_dict()
        with pytest.raises(ValueError, match="Unknown search space 'x'"):
            Genotype.from_dict({**data, "space": "x"})
