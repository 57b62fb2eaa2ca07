"""The rewritten operations against their definitions, in double precision."""

import pytest
import torch
from kept import saved_bytes
from tiny_cells import LAYOUTS, assert_near, images, pair
from torch import nn

from supernetnas.families.cells.kernels import (
    State,
    _batch_norm,
    depthwise_conv,
    diagonal_phases,
    pooling,
    weighted,
)
from supernetnas.families.cells.operations import Pool, make_operation


class TestDepthwise:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize(
        "size",
        [
            (8, 8),
            (7, 9),
            (8, 5),
            (2, 2),
            (1, 1),
            (4, 4),
            (3, 1),
            (2, 5),
            (16, 16),
            (17, 16),
            (20, 18),
        ],
    )
    @pytest.mark.parametrize("channels", [3, 16])
    @pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (5, 1), (3, 2), (5, 2)])
    def test_against_the_plain_convolution(self, kernel, dilation, channels, size, layout):
        conv = nn.Conv2d(
            *(channels, channels, kernel, 1, dilation * (kernel // 2), dilation),
            groups=channels,
            bias=False,
        ).double()
        x = images(2, channels, *size).contiguous(memory_format=layout).requires_grad_()
        upstream = images(2, channels, *size, seed=1)
        expected = conv(x)
        result = depthwise_conv(conv, x)
        assert_near(result, expected)
        both = [torch.autograd.grad(y, (x, conv.weight), upstream) for y in (result, expected)]
        for actual, wanted in zip(*both, strict=True):
            assert_near(actual, wanted)

    @pytest.mark.parametrize(
        ("kernel", "dilation", "channels", "side"), [(3, 2, 2, 4), (5, 2, 2, 5), (5, 1, 16, 16)]
    )
    def test_against_finite_differences(self, kernel, dilation, channels, side):
        conv = nn.Conv2d(
            *(channels, channels, kernel, 1, dilation * (kernel // 2), dilation),
            groups=channels,
            bias=False,
        ).double()
        x = images(1, channels, side, side).requires_grad_()
        assert torch.autograd.gradcheck(
            lambda x, _: depthwise_conv(conv, x), (x, conv.weight), fast_mode=True
        )

    def test_one_gradient_alone(self):
        conv = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False).double()
        x = images(1, 4, 8, 8)
        (of_kernel,) = torch.autograd.grad(depthwise_conv(conv, x).sum(), conv.weight)
        (expected,) = torch.autograd.grad(conv(x).sum(), conv.weight)
        assert_near(of_kernel, expected)


class TestRewrites:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("size", [(8, 8), (9, 9), (6, 7)])
    def test_weighted_reduction(self, size, layout):
        operations = nn.ModuleList([make_operation("skip_connect", 4, 2, False)]).double()
        weights = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
        x = images(3, 4, *size).contiguous(memory_format=layout).requires_grad_()
        results = weighted(operations[0], State(x), weights[0]), 0.3 * operations[0](x)
        upstream = images(*results[1].shape, seed=1)
        assert_near(*results)
        parameters = (x, *operations.parameters())
        both = [torch.autograd.grad(y, parameters, upstream) for y in results]
        for actual, wanted in zip(*both, strict=True):
            assert_near(actual, wanted)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("size", [(8, 8), (7, 9)])
    def test_the_parts_of_a_reduction_are_dense(self, size, layout):
        """Strided slices, and their gradients, would lose the memory format without a word."""
        x = images(2, 4, *size).contiguous(memory_format=layout).requires_grad_()
        parts = diagonal_phases(x)
        (gradient,) = torch.autograd.grad(sum(part.square().sum() for part in parts), x)
        for tensor in (*parts, gradient):
            assert tensor.is_contiguous(memory_format=layout)
        expected = torch.zeros_like(gradient)
        expected[:, :, ::2, ::2] = 2 * x.detach()[:, :, ::2, ::2]
        expected[:, :, 1::2, 1::2] = 2 * x.detach()[:, :, 1::2, 1::2]
        assert_near(gradient, expected)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_weight_as_the_scale_of_a_batch_norm(self, dtype, layout):
        """Torch returns garbage for an expanded scale and channels-last input on CPUs.

        The gradients are those of the formula, worked out by autograd without batch norm.
        """
        bn = nn.BatchNorm2d(16, affine=False).to(dtype)
        weight = torch.tensor(0.3, dtype=dtype, requires_grad=True)
        x = images(4, 16, 8, 8).to(dtype).contiguous(memory_format=layout).requires_grad_()
        upstream = images(4, 16, 8, 8, seed=1).to(dtype).contiguous(memory_format=layout)
        deviation = x - x.mean((0, 2, 3), keepdim=True)
        variance = deviation.square().mean((0, 2, 3), keepdim=True)
        expected = weight * deviation / (variance + bn.eps).sqrt()
        result = _batch_norm(bn, x, weight)
        tolerance = 1e-10 if dtype == torch.float64 else 1e-4
        assert_near(result, expected, tolerance)
        both = [torch.autograd.grad(y, (x, weight), upstream) for y in (result, expected)]
        for actual, wanted in zip(*both, strict=True):
            assert_near(actual, wanted, tolerance)

    def test_gradients_of_a_cells_output_are_dense(self):
        """Batch norm is an order of magnitude slower on a strided gradient."""
        _, fused = pair("s2")
        fused.to(memory_format=torch.channels_last)
        seen = []
        original = State.__init__

        def watching(self, value):
            original(self, value)
            if value.requires_grad:
                value.register_hook(
                    lambda g: seen.append(g.is_contiguous(memory_format=torch.channels_last))
                )

        State.__init__ = watching
        try:
            x = images(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
            fused(x).square().sum().backward()
        finally:
            State.__init__ = original
        # The stem's output, and of each cell two inputs, four nodes and the output.
        assert len(seen) == 1 + 3 * 7
        assert seen[0] is False  # of the last output: an expanded mean, which nothing reads densely
        assert all(seen[1:])


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pools_keep_no_input_and_short_positions(kind, stride, layout):
    pool = Pool(kind, 4, stride, normalize=False).pool
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 7, 6, dtype=torch.float64, generator=generator)
    x = x.contiguous(memory_format=layout).requires_grad_()
    size = pool(x).numel()
    assert saved_bytes(lambda: pooling(pool, x)) == (2 * size if kind == "max" else 0)
    weights = torch.randn(pool(x).shape, dtype=torch.float64, generator=generator)
    found, expected = (
        torch.autograd.grad((run(x) * weights).sum(), x)[0]
        for run in (lambda x: pooling(pool, x), pool)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert torch.autograd.gradgradcheck(lambda x: pooling(pool, x), x)
