"""The fused cells against their plain definition, in double precision."""

import pytest
import torch
from tiny_cells import LAYOUTS, SPACES, assert_near, gradients, images, pair
from torch import nn

from supernetnas.families.cells.kernels import State, weighted
from supernetnas.families.cells.search.bilevel import BilevelSearch
from supernetnas.families.cells.search.weight_training import SearchSettings
from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.training.batch_norm import frozen_batch_norm
from supernetnas.training.batches import LabelledImages

# The space with all operations meets every size in every layout, the others meet each once.
CASES = [
    pytest.param(
        *(space, size, layout),
        marks=[pytest.mark.slow] * (space == "darts_no_none" or (space != "darts" and mixed)),
    )
    for space in SPACES
    for size, layout, mixed in (
        ((8, 8), LAYOUTS[0], False),
        ((8, 8), LAYOUTS[1], True),
        ((9, 11), LAYOUTS[0], True),
        ((9, 11), LAYOUTS[1], False),
    )
]


class TestSupernet:
    @pytest.mark.parametrize(("space", "size", "layout"), CASES)
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
