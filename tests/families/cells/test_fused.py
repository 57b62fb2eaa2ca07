"""The fused cells against their plain definition, in double precision."""

import pytest
import torch
from tiny_cells import LAYOUTS, SPACES, assert_near, gradients, images, pair
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
from supernetnas.families.cells.search.bilevel import BilevelSearch, SearchSettings
from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.training.batches import LabelledImages, frozen_batch_norm
from supernetnas.training.memory import saved_bytes


class TestSupernet:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("size", [(8, 8), (9, 11)])
    @pytest.mark.parametrize(
        "space", [*SPACES[:-1], pytest.param("darts_no_none", marks=pytest.mark.slow)]
    )
    def test_scores_gradients_and_statistics(self, space, size, layout):
        x, labels = images(4, 3, *size), torch.tensor([0, 1, 2, 1])
        plain, fused = (
            net.to(memory_format=layout) for net in pair(space, cells=5 if space == "s1" else 3)
        )
        x = x.contiguous(memory_format=layout)
        expected, plain_gradients = gradients(plain, x, labels)
        scores, fused_gradients = gradients(fused, x, labels)
        assert_near(scores, expected)
        assert plain_gradients.keys() == fused_gradients.keys()
        # Per tensor, but against the net's largest: some gradients are rounding errors, such as
        # those of a convolution of one operation that the next batch norm undoes.
        largest = max(float(g.abs().max()) for g in plain_gradients.values())
        for name, gradient in plain_gradients.items():
            scale = max(float(gradient.abs().max()), 1e-4 * largest)
            error = float((fused_gradients[name] - gradient).abs().max())
            assert error <= 1e-10 * scale, name
        for name, buffer in plain.named_buffers():
            assert_near(fused.get_buffer(name).double(), buffer.double())
        assert_near(fused.eval()(x), plain.eval()(x))

    def test_the_gradients_differ_from_zero(self):
        """What the comparison above would not notice."""
        for space in SPACES:
            _, fused = pair(space)
            _, found = gradients(fused, images(4, 3, 8, 8), torch.tensor([0, 1, 2, 1]))
            assert found["alphas_normal"].abs().max() > 1e-5
            assert found["stem.0.weight"].abs().max() > 1e-5

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_sixteen_channels_at_sixteen_pixels(self, layout):
        """Where the gradient of a 5x5 kernel is put together from 3x3 ones."""
        x, labels = images(2, 3, 16, 16), torch.tensor([0, 1])
        plain, fused = (net.to(memory_format=layout) for net in pair("s1", 16, 3))
        x = x.contiguous(memory_format=layout)
        expected, plain_gradients = gradients(plain, x, labels)
        scores, fused_gradients = gradients(fused, x, labels)
        assert_near(scores, expected)
        for name in ("input", "stem.0.weight", "alphas_normal", "alphas_reduce"):
            assert_near(fused_gradients[name], plain_gradients[name])
        for name in plain_gradients:
            if "depthwise" in name:
                assert_near(fused_gradients[name], plain_gradients[name], 1e-9)

    def test_statistics_of_twin_pools_over_several_steps(self):
        """One pooling serves several edges; each keeps the statistics that it would have had."""
        plain, fused = pair("darts")
        for step in range(3):
            x = images(4, 3, 8, 8, seed=step)
            with torch.no_grad():
                plain(x), fused(x)
        compared = 0
        for name, buffer in plain.named_buffers():
            if name.endswith("num_batches_tracked"):
                assert int(fused.get_buffer(name)) == int(buffer) == 3
                compared += 1
            assert_near(fused.get_buffer(name).double(), buffer.double())
        assert compared == len([m for m in plain.modules() if isinstance(m, nn.BatchNorm2d)])

    def test_twin_pools_that_have_seen_different_images(self):
        """As after a search along single paths, which visits a pool now and then."""
        plain, fused = pair("darts")
        generator = torch.Generator().manual_seed(0)
        for name, buffer in fused.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand(buffer.shape, generator=generator))
                plain.get_buffer(name).copy_(buffer)
        x = images(4, 3, 8, 8)
        for training in (False, True):
            assert_near(fused.train(training)(x), plain.train(training)(x))
        for name, buffer in plain.named_buffers():
            assert_near(fused.get_buffer(name).double(), buffer.double())

    def test_frozen_statistics_stay(self):
        _, fused = pair("darts")
        fused(images(4, 3, 8, 8))
        before = {name: buffer.clone() for name, buffer in fused.named_buffers()}
        with frozen_batch_norm(fused):
            fused(images(4, 3, 8, 8, seed=1))
        for name, buffer in fused.named_buffers():
            assert torch.equal(buffer, before[name]), name

    @pytest.mark.parametrize("space", ["s1", "s4"])
    def test_sum_of_one_edge(self, space):
        _, fused = pair(space)
        fused.eval()
        cell = fused.cells[1]
        x, weights = images(2, 8, 6, 6), torch.tensor([0.3, 0.7], dtype=torch.float64)
        for operations in cell.edges:
            expected = sum(w * op(x) for w, op in zip(weights, operations, strict=True))
            state = State(x)
            terms = [weighted(op, state, w) for w, op in zip(weights, operations, strict=True)]
            assert_near(sum(terms), expected)

    def test_float32_scores(self):
        plain, fused = (net.float() for net in pair("s1"))
        x = images(4, 3, 8, 8).float()
        torch.testing.assert_close(fused(x), plain(x), rtol=1e-4, atol=1e-5)


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


class TestTrajectories:
    """Whole steps of a search stay together."""

    @pytest.mark.parametrize(
        ("space", "perturbation", "n_images"),
        [
            ("s1", "random", 12),
            ("s1", "adversarial", 8),
            ("s3", "random", 12),
            ("s4", "none", 12),
            pytest.param("darts_no_none", "random", 12, marks=pytest.mark.slow),
            pytest.param("darts_no_none", "adversarial", 8, marks=pytest.mark.slow),
        ],
    )
    def test_search(self, space, perturbation, n_images):
        generator = torch.Generator().manual_seed(0)
        pixels = torch.rand(n_images, 3, 8, 8, generator=generator)
        labels = torch.arange(n_images) % 3

        class Doubles(ImageTensors):
            def augmented(self, index, generator):
                return super().augmented(index, generator).double()

            def clean(self, index):
                return super().clean(index).double()

        data = LabelledImages(
            Doubles(pixels, torch.full((3,), 0.5), torch.full((3,), 0.3), Augmentation(0.125)),
            labels,
        )
        settings = SearchSettings(
            epochs=1,
            batch_size=4,
            learning_rate=0.1,
            alpha_learning_rate=0.01,
            perturbation=perturbation,
        )
        searches = [
            BilevelSearch(net, data, data, settings, torch.Generator().manual_seed(1))
            for net in pair(space)
        ]
        start = [alpha.clone() for alpha in searches[0].supernet.alpha_parameters()]
        search_rows = [search.run_epoch() for search in searches]
        plain, fused = (search.supernet for search in searches)
        for old, alpha in zip(start, plain.alpha_parameters(), strict=True):
            assert (alpha - old).abs().max() > 1e-3
        for name, value in plain.state_dict().items():
            assert_near(fused.state_dict()[name].double(), value.double(), 1e-8)
        assert search_rows[0]["train_loss"] == pytest.approx(search_rows[1]["train_loss"], rel=1e-9)


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
