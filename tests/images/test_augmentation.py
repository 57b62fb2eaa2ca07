import json

import numpy as np
import pytest
import torch

from supernetnas.images.augmentation import Augmentation, ImageTensors
from supernetnas.images.preprocessing import channel_statistics


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_pixels(n=20, channels=3, height=16, width=16, dtype=torch.uint8):
    pixels = torch.randint(0, 256, (n, channels, height, width), generator=seeded(1))
    if dtype == torch.uint8:
        return pixels.to(torch.uint8)
    return pixels.float() / 7 - 3


def neutral(pixels, augmentation):
    """Tensors whose standardisation is the identity up to a factor: value 0 stays 0."""
    channels = pixels.shape[1]
    return ImageTensors(pixels, torch.zeros(channels), torch.ones(channels), augmentation)


EVERYTHING = Augmentation(shift=0.25, flip=True, cutout=0.5)


class TestAugmentation:
    def test_dict_round_trip_through_json(self):
        restored = Augmentation.from_dict(json.loads(json.dumps(EVERYTHING.to_dict())))
        assert restored == EVERYTHING

    def test_none_changes_nothing(self):
        assert Augmentation(shift=0, flip=False, cutout=0) == Augmentation.NONE

    @pytest.mark.parametrize(
        "parameters", [{"shift": -0.1}, {"shift": 1.0}, {"cutout": 1.5}, {"shift": float("nan")}]
    )
    def test_rejects_fractions_out_of_range(self, parameters):
        with pytest.raises(ValueError, match=next(iter(parameters))):
            Augmentation(**parameters)

    @pytest.mark.parametrize("shape", [(1, 100), (7, 64), (4, 4)])
    def test_choose_leaves_flat_and_tiny_images_alone(self, shape):
        assert Augmentation.choose(*shape, colour=True) == Augmentation.NONE

    @pytest.mark.parametrize(
        "shape, colour", [((8, 8), False), ((32, 32), True), ((99, 99), False)]
    )
    def test_choose_keeps_orientation_of_small_or_grey_images(self, shape, colour):
        chosen = Augmentation.choose(*shape, colour=colour)
        assert chosen == Augmentation(shift=0.125, flip=False, cutout=0.0)

    def test_choose_flips_photographs(self):
        chosen = Augmentation.choose(33, 64, colour=True)
        assert chosen.flip
        assert chosen.shift == 0.125
        assert chosen.cutout > 0


class TestClean:
    @pytest.mark.parametrize("channels", [1, 3, 5])
    @pytest.mark.parametrize("size", [(8, 8), (16, 9), (1, 7)])
    @pytest.mark.parametrize("augmentation", [Augmentation.NONE, EVERYTHING])
    def test_uint8_equals_formula(self, channels, size, augmentation):
        pixels = random_pixels(6, channels, *size)
        mean, std = torch.rand(channels) * 0.5, torch.rand(channels) + 0.1
        index = torch.tensor([4, 0, 0])
        batch = ImageTensors(pixels, mean, std, augmentation).clean(index)
        expected = (pixels[index] / 255 - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
        assert batch.dtype == torch.float32
        torch.testing.assert_close(batch, expected, rtol=0, atol=1e-5)

    def test_float_is_not_divided_by_255(self):
        pixels = random_pixels(dtype=torch.float32)
        mean, std = channel_statistics(pixels)
        batch = ImageTensors(pixels, mean, std).clean(torch.arange(len(pixels)))
        expected = (pixels - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
        torch.testing.assert_close(batch, expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("method", ["clean", "augmented"])
    def test_batches_are_channels_last(self, method):
        images = neutral(random_pixels(), EVERYTHING)
        arguments = (seeded(),) if method == "augmented" else ()
        batch = getattr(images, method)(torch.arange(5), *arguments)
        assert batch.is_contiguous(memory_format=torch.channels_last)

    def test_constant_channel_is_zero_not_nan(self):
        pixels = torch.full((4, 2, 8, 8), 51, dtype=torch.uint8)
        batch = ImageTensors(pixels, *channel_statistics(pixels)).clean(torch.arange(4))
        torch.testing.assert_close(batch, torch.zeros(4, 2, 8, 8), rtol=0, atol=1e-6)

    def test_later_writes_to_the_source_do_not_show(self):
        pixels = random_pixels(4)
        images = neutral(pixels, Augmentation.NONE)
        before = images.clean(torch.arange(4))
        pixels.zero_()
        assert torch.equal(images.clean(torch.arange(4)), before)


class TestAugmented:
    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
    def test_same_seed_same_batch_other_seed_other_batch(self, dtype):
        images = neutral(random_pixels(dtype=dtype), EVERYTHING)
        index = torch.arange(len(images))
        first = images.augmented(index, seeded(3))
        assert torch.equal(first, images.augmented(index, seeded(3)))
        assert not torch.equal(first, images.augmented(index, seeded(4)))

    def test_generator_advances(self):
        images = neutral(random_pixels(), EVERYTHING)
        generator, index = seeded(), torch.arange(len(images))
        first = images.augmented(index, generator)
        assert not torch.equal(first, images.augmented(index, generator))

    def test_global_random_states_are_untouched(self):
        images = neutral(random_pixels(), EVERYTHING)
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        images.augmented(torch.arange(5), seeded())
        assert torch.equal(torch.get_rng_state(), torch_state)
        assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002

    def test_none_is_clean(self):
        images = neutral(random_pixels(), Augmentation.NONE)
        index = torch.arange(5)
        assert torch.equal(images.augmented(index, seeded()), images.clean(index))

    @pytest.mark.parametrize("size", [(16, 24), (8, 8)])
    def test_shifts_are_uniform_and_centred(self, size):
        height, width = size
        pixels = torch.zeros(1, 1, height, width, dtype=torch.uint8)
        pixels[:, :, height // 2, width // 2] = 255
        images = neutral(pixels, Augmentation(shift=0.125))
        n = 6000
        batch = images.augmented(torch.zeros(n, dtype=torch.int64), seeded())
        assert torch.equal(batch.sum((1, 2, 3)), torch.ones(n))
        position = batch.flatten(1).argmax(1)
        down, right = position // width - height // 2, position % width - width // 2
        reach_down, reach_right = height // 8, width // 8
        shifts, counts = torch.stack([down, right]).unique(dim=1, return_counts=True)
        expected = torch.cartesian_prod(
            torch.arange(-reach_down, reach_down + 1), torch.arange(-reach_right, reach_right + 1)
        )
        assert torch.equal(shifts.T, expected)
        mean = n / len(expected)  # five standard deviations of a count
        assert (counts - mean).abs().max() < 5 * mean**0.5

    def test_shifts_of_images_are_independent(self):
        pixels = torch.zeros(2, 1, 16, 16, dtype=torch.uint8)
        pixels[:, :, 8, 8] = 255
        batch = neutral(pixels, Augmentation(shift=0.25)).augmented(
            torch.tensor([0, 1] * 50), seeded()
        )
        assert len(batch[::2].flatten(1).argmax(1).unique()) > 20
        assert not torch.equal(batch[::2], batch[1::2])

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
    def test_what_shifts_in_is_the_mean(self, dtype):
        pixels = random_pixels(30, 3, 8, 8, dtype)
        pixels[:, 1] //= 4  # channels with means of their own
        mean, std = channel_statistics(pixels)
        images = ImageTensors(pixels, mean, std, Augmentation(shift=0.5))
        batch = images.augmented(torch.arange(30), seeded(2))
        clean = images.clean(torch.arange(30))
        # Rows and columns that hold nothing of the image are level in every channel.
        outside = (batch.std(3) < 1e-6).all(1)
        assert outside.sum() > 20
        tolerance = 1.01 * (0.5 / 255 / std.min() if dtype == torch.uint8 else 1e-5)
        levels = batch.permute(0, 2, 1, 3)[outside]
        assert levels.abs().max() <= tolerance
        assert clean.abs().max() > 1

    @pytest.mark.parametrize("channels, dtype", [(1, torch.uint8), (5, torch.float32)])
    def test_flip_mirrors_half_of_the_images(self, channels, dtype):
        pixels = random_pixels(400, channels, 9, 12, dtype)
        images = neutral(pixels, Augmentation(shift=0, flip=True))
        index = torch.arange(400)
        batch, clean = images.augmented(index, seeded()), images.clean(index)
        kept = (batch == clean).flatten(1).all(1)
        mirrored = (batch == clean.flip(3)).flatten(1).all(1)
        assert torch.equal(kept, ~mirrored)
        assert 150 < mirrored.sum() < 250

    @pytest.mark.parametrize("size", [(16, 16), (12, 20), (9, 7)])
    def test_cutout_erases_one_rectangle_of_the_size(self, size):
        height, width = size
        pixels = torch.full((1, 2, *size), 255, dtype=torch.uint8)
        images = neutral(pixels, Augmentation(shift=0, cutout=0.5))
        batch = images.augmented(torch.zeros(2000, dtype=torch.int64), seeded())
        erased = batch == 0
        assert torch.equal(erased[:, 0], erased[:, 1])
        rows, columns = erased[:, 0].any(2), erased[:, 0].any(1)
        assert torch.equal(erased[:, 0], rows[:, :, None] & columns[:, None, :])
        for covered, side in ((rows, height), (columns, width)):
            hole = round(side / 2)
            lengths = covered.sum(1)
            assert lengths.max() == hole
            assert lengths.min() == hole - hole // 2  # centred on the first pixel
            starts_and_ends = (covered[:, 1:] != covered[:, :-1]).sum(1)
            assert starts_and_ends.max() <= 2  # one piece
            interior = ~covered[:, 0] & ~covered[:, -1]
            assert interior.any()
            assert (lengths[interior] == hole).all()
            # every pixel is the centre as often: the holes' left-most starts are uniform
            assert covered.any(0).all()
        torch.testing.assert_close(batch[~erased], torch.ones_like(batch[~erased]))

    def test_cutout_is_the_mean(self):
        pixels = random_pixels(10)
        images = ImageTensors(
            pixels, *channel_statistics(pixels), Augmentation(shift=0, cutout=1.0)
        )
        batch = images.augmented(torch.arange(10), seeded())
        assert (batch == 0).float().mean() > 0.3

    @pytest.mark.parametrize("channels", [1, 3, 5])
    @pytest.mark.parametrize("size", [(8, 8), (16, 9), (1, 10), (32, 32)])
    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
    def test_any_shape_and_a_last_batch_of_one(self, channels, size, dtype):
        pixels = random_pixels(3, channels, *size, dtype)
        images = neutral(pixels, EVERYTHING)
        assert len(images) == 3
        assert images.shape == (channels, *size)
        batch = images.augmented(torch.tensor([2]), seeded())
        assert batch.shape == (1, channels, *size)
        assert batch.dtype == torch.float32
        assert batch.isfinite().all()

    def test_memory_is_one_padded_copy(self):
        images = neutral(random_pixels(10, 3, 32, 32), Augmentation(shift=0.125))
        assert images._windows.untyped_storage().nbytes() == 10 * 40 * 40 * 3


def test_rejects_other_dtypes():
    with pytest.raises(TypeError, match="float64"):
        ImageTensors(torch.zeros(2, 1, 4, 4, dtype=torch.float64), [0.0], [1.0])


def test_rejects_statistics_of_other_channels():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        ImageTensors(random_pixels(), [0.0], [1.0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_channel_statistics_equal_numpy(dtype):
    pixels = random_pixels(2500, 2, 4, 4, dtype)
    if dtype == torch.float32:
        pixels += 10_000  # where sums of squares in float32 would fail
    values = pixels.double().numpy() / (255 if dtype == torch.uint8 else 1)
    mean, std = channel_statistics(pixels)
    np.testing.assert_allclose(mean, values.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std, values.std((0, 2, 3)), rtol=1e-5)
