import collections
import io
import os
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import cross_val_score
from sklearn.utils import _safe_indexing

from supernetnas.images.reading import (
    ImageFiles,
    ImageSet,
    as_image_set,
    load_images,
    looks_like_rows,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def smooth(height, width, channels=3):
    """A uint8 picture without fine detail, so that every good resampling agrees on it."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    planes = [255 * y, 255 * x, 127 * (x + y)][:channels]
    return np.stack(planes, axis=-1).astype(np.uint8)


@pytest.fixture
def files(tmp_path):
    """Three colour PNG files of different sizes; files[i] is reddest for the last."""
    paths = []
    for i, (height, width) in enumerate([(20, 30), (16, 16), (9, 40)]):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(smooth(height, width)).save(paths[-1])
    return paths


class TestArrays:
    @pytest.mark.parametrize(
        "shape, native",
        [
            ((5, 64), (8, 8, 1)),
            ((5, 1), (1, 1, 1)),
            ((5, 10), (1, 10, 1)),
            ((5, 8, 6), (8, 6, 1)),
            ((5, 8, 6, 3), (8, 6, 3)),
            ((5, 3, 8, 6), (8, 6, 3)),
            ((5, 1, 8, 6), (8, 6, 1)),
            ((5, 3, 8, 3), (3, 8, 3)),
            ((5, 8, 6, 5), (8, 6, 5)),
            ((5, 2, 8, 8), (8, 8, 2)),
            ((5, 4, 32, 32), (32, 32, 4)),
            ((5, 13, 32, 32), (32, 32, 13)),
            ((5, 32, 32, 13), (32, 32, 13)),
            ((5, 9, 9, 200), (9, 9, 200)),
            ((5, 17, 32, 32), (17, 32, 32)),
            ((5, 2, 32, 4), (2, 32, 4)),
        ],
    )
    def test_native_shape(self, rng, shape, native):
        images = as_image_set(rng.random(shape))
        assert images.native_shape == native
        assert images.is_array
        assert len(images) == 5
        assert images.typical_size == native[:2]
        assert images.channels == native[2]

    @pytest.mark.parametrize(
        "shape, image_shape, native",
        [
            ((2, 48), (6, 8), (6, 8, 1)),
            ((2, 48), (4, 4, 3), (4, 4, 3)),
            ((2, 64), (4, 16), (4, 16, 1)),
            ((2, 6, 8), (6, 8), (6, 8, 1)),
            ((2, 3, 8, 3), (8, 3, 3), (8, 3, 3)),  # overrules the rule for the order of axes
            ((2, 4, 6, 8), (6, 8, 4), (6, 8, 4)),
        ],
    )
    def test_image_shape(self, rng, shape, image_shape, native):
        assert as_image_set(rng.random(shape), image_shape=image_shape).native_shape == native

    def test_channels_first_and_last_hold_the_same_pixels(self, rng):
        last = rng.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
        a = as_image_set(last)
        b = as_image_set(last.transpose(0, 3, 1, 2))
        assert np.array_equal(a.rows(), last.reshape(4, -1))
        assert np.array_equal(a.rows(), b.rows())
        assert torch.equal(a.tensor(6, 5), torch.from_numpy(last).permute(0, 3, 1, 2))
        assert torch.equal(a.tensor(6, 5), b.tensor(6, 5))

    def test_rows_of_2d_are_the_source(self, rng):
        X = rng.random((4, 64))
        assert np.shares_memory(as_image_set(X).rows(), X)
        assert np.array_equal(as_image_set(X).rows(), X)

    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64", "bool", "float32", "float64"])
    def test_dtype_and_copy(self, rng, dtype):
        X = rng.integers(0, 2, (3, 4, 4)).astype(dtype)
        X.flags.writeable = False  # torch would warn about it
        pixels = as_image_set(X).tensor(4, 4)
        assert pixels.dtype == (torch.uint8 if dtype == "uint8" else torch.float32)
        assert np.array_equal(pixels[:, 0], X)
        assert not np.shares_memory(pixels.numpy(), X)

    @pytest.mark.parametrize("convert", [list, torch.from_numpy, lambda X: list(map(list, X))])
    def test_other_containers(self, rng, convert):
        X = rng.random((3, 4, 6))
        images = as_image_set(convert(X))
        assert images.native_shape == (4, 6, 1)
        assert np.array_equal(images.rows(), X.reshape(3, -1))

    def test_tensors_that_numpy_cannot_view(self):
        X = torch.rand(2, 16)
        for tensor in (X.clone().requires_grad_(), X.bfloat16(), X.to(torch.float8_e5m2)):
            for container in (tensor, list(tensor), tuple(tensor.view(2, 4, 4))):
                assert not looks_like_rows(container)
                images = as_image_set(container)
                assert images.native_shape == (4, 4, 1)
                assert np.array_equal(images.rows(), tensor.detach().float())

    def test_numeric_frame_is_rows(self, rng):
        frame = pd.DataFrame(rng.integers(0, 9, (3, 16)))
        assert looks_like_rows(frame)
        assert as_image_set(frame).native_shape == (4, 4, 1)

    def test_take_of_slice_mask_and_integers(self, rng):
        X = rng.random((5, 4, 4))
        images = as_image_set(X)
        mask = np.array([True, False, False, True, False])
        for index in (slice(1, 3), mask, np.array([4, 0]), [2, 2]):
            assert np.array_equal(images.take(index).rows(), X[index].reshape(-1, 16))

    def test_image_set_passes_through(self, rng):
        images = as_image_set(rng.random((2, 4, 4)))
        assert as_image_set(images) is images

    def test_colour(self):
        grey = np.full((300, 8, 8, 3), 7, np.uint8)
        assert not as_image_set(grey).colour
        assert not as_image_set(grey[..., :1]).colour
        grey[299, 7, 7, 2] = 8
        assert as_image_set(grey).colour
        assert as_image_set(grey.transpose(0, 3, 1, 2)).colour


class TestArrayErrors:
    @pytest.mark.parametrize("shape", [(4, 3072), (4, 48)])
    def test_rows_that_are_not_square_warn(self, shape):
        side = {3072: 32, 48: 4}[shape[1]]
        with pytest.warns(UserWarning, match=rf"Pass image_shape=\({side}, {side}, 3\) if"):
            images = as_image_set(np.zeros(shape))
        assert images.native_shape == (1, shape[1], 1)

    def test_warning_without_a_guess(self):
        with pytest.warns(UserWarning, match=r"image_shape=\(height, width\) or"):
            as_image_set(np.zeros((2, 50)))

    @pytest.mark.parametrize("p", [2, 10, 47])
    def test_few_features_do_not_warn(self, p, recwarn):
        as_image_set(np.zeros((2, p)))
        assert not recwarn

    def test_channels_that_may_come_first_warn(self, recwarn):
        text = r"4 x 32 pixels with 48 channels.*image_shape=\(32, 48, 4\); .*\(4, 32, 48\)"
        with pytest.warns(UserWarning, match=text):
            assert as_image_set(np.zeros((5, 4, 32, 48))).native_shape == (4, 32, 48)
        for shape in ((32, 48, 4), (4, 32, 48)):
            images = as_image_set(np.zeros((5, 4, 32, 48)), image_shape=shape)
            assert images.native_shape == shape
        assert not recwarn

    def test_image_shape_of_another_size(self):
        message = r"image_shape=\(28, 28\) holds 784 values per image, but X has 785 features"
        with pytest.raises(ValueError, match=message):
            as_image_set(np.zeros((2, 785)), image_shape=(28, 28))
        with pytest.raises(ValueError, match=r"shape \(8, 8, 1\), not image_shape=\(4, 4, 1\)"):
            as_image_set(np.zeros((2, 8, 8)), image_shape=(4, 4))

    @pytest.mark.parametrize("image_shape", [(8,), (8, 0), (8, 8.5), 8, "88", (2, 2, 2, 8)])
    def test_image_shape_that_is_none(self, image_shape):
        with pytest.raises(ValueError, match="image_shape must be"):
            as_image_set(np.zeros((2, 64)), image_shape=image_shape)

    def test_five_dimensions(self):
        with pytest.raises(ValueError, match="Found array with dim 5, while dim <= 4 is required"):
            as_image_set(np.zeros((2, 3, 3, 3, 3)))

    @pytest.mark.parametrize("X", [np.zeros(5), [1.0, 2.0], np.float64(3)])
    def test_too_few_dimensions(self, X):
        with pytest.raises(ValueError, match="Reshape your data"):
            as_image_set(X)

    @pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 8, 3), (4, 64)])
    @pytest.mark.parametrize(
        "value, text",
        [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity"), (1e300, "inf")],
    )
    def test_not_finite(self, shape, value, text):
        X = np.zeros(shape)
        X[2].flat[5] = value
        with pytest.raises(ValueError, match=f"images contains {text}"):
            as_image_set(X, name="images")

    @pytest.mark.parametrize("X", [[], np.zeros((0, 8, 8)), np.zeros((3, 0)), np.zeros((3, 8, 0))])
    def test_empty(self, X):
        with pytest.raises(ValueError, match=r"required"):
            as_image_set(X)

    @pytest.mark.parametrize("X", [[[1, 2], [3]], [[[1, 2], [3, 4]], [[1, 2], [3]]]])
    def test_ragged_lists(self, X):
        with pytest.raises(ValueError, match="nested list of unequal lengths"):
            as_image_set(X)

    def test_ragged_rows(self):
        with pytest.raises(ValueError, match=r"X\[0\] of shape \(3,\) is not an image"):
            as_image_set([np.zeros(3), np.zeros(4)])

    def test_complex(self):
        with pytest.raises(ValueError, match="Complex data not supported"):
            as_image_set(np.zeros((2, 4, 4), complex))

    def test_objects(self):
        with pytest.raises(ValueError, match="not numbers"):
            as_image_set(np.full((2, 4, 4), {"a": 1}, dtype=object))

    def test_table_with_labels(self):
        frame = pd.DataFrame({"path": ["a.png", "b.png"], "label": ["cat", "dog"]})
        with pytest.raises(ValueError, match="such as one column of a DataFrame"):
            as_image_set(frame.to_numpy(dtype=str))

    @pytest.mark.parametrize(
        "X, text",
        [
            ("folder", r"X is one path, 'folder'.*load_images\(folder\)"),
            ({"a": 1}, "X is a dict"),
            (
                torch.utils.data.TensorDataset(torch.zeros(2, 1)),
                r"X is a torch Dataset.*zip\(\*dataset\)",
            ),
            (torch.utils.data.DataLoader([1, 2]), r"torch DataLoader.*zip\(\*loader.dataset\)"),
            (csr_array(np.eye(4)), r"Sparse data was passed for X.*toarray\(\)"),
            (torch.eye(4).to_sparse(), "Sparse data was passed for X"),
            (Image.new("L", (4, 4)), "X is one PIL image"),
            ((i for i in range(3)), "X is a generator"),
            (None, "X is a NoneType"),
            (b"\x89PNG", r"X is a bytes, the content of one image file. Pass a list: \[X\]"),
            (
                np.array([b"\x89PNG"]),
                "X is an array of bytes .* as a list of bytes, and paths as str",
            ),
            (io.BytesIO(b"\x89PNG"), r"X is a BytesIO, the content of one image file"),
            ([io.StringIO("text")], r"X\[0\] is a StringIO.*Pass the paths of files, or what read"),
            ([{"a": 1}], r"X\[0\] is a dict, which is not read"),
            (["a.png", np.zeros((3, 3))], r"X\[0\] is a path, X\[1\] an array"),
            ([(np.zeros((3, 3)), 1)] * 4, r"X\[0\] is a pair of an image.*X, y = zip\(\*X\)"),
            ([(Image.new("L", (3, 3)), "cat")] * 4, r"X\[0\] is a pair of an image"),
            ([("a.png", torch.tensor(2))] * 4, r"X\[0\] is a pair of an image"),
            (np.ma.array(np.zeros((2, 3, 3))), r"masked array.*Pass X.filled\(0\)"),
        ],
    )
    def test_kinds_that_are_not_read(self, X, text):
        with pytest.raises(TypeError, match=text):
            as_image_set(X)


class TestTensor:
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    @pytest.mark.parametrize("channels", [1, 3, 5])
    def test_resizing_equals_interpolate(self, rng, dtype, channels):
        X = rng.integers(0, 256, (7, 12, 10, channels)).astype(dtype)
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(X).permute(0, 3, 1, 2).float(), (5, 8), mode="bilinear", antialias=True
        )
        pixels = as_image_set(X).tensor(5, 8)
        if dtype == np.uint8:
            assert pixels.dtype == torch.uint8
            assert (pixels.float() - expected).abs().max() <= 1  # rounded, not cut off:
            assert (pixels.float() - expected).mean().abs() < 0.1
        else:
            torch.testing.assert_close(pixels, expected)

    def test_blocks_do_not_show(self, rng, monkeypatch):
        X = rng.random((7, 12, 10, 3))
        whole = as_image_set(X).tensor(5, 8)
        monkeypatch.setattr("supernetnas.images.sets._BLOCK_VALUES", 3 * 12 * 10 * 3)
        torch.testing.assert_close(as_image_set(X).tensor(5, 8), whole)

    def test_grey_is_pillows_luma(self, rng):
        X = rng.integers(0, 256, (3, 6, 6, 3), dtype=np.uint8)
        pixels = as_image_set(X).tensor(6, 6, channels=1)
        luma = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in X])
        assert pixels.shape == (3, 1, 6, 6)
        assert np.abs(pixels[:, 0].numpy().astype(int) - luma).max() <= 1
        exact = X @ np.array([0.299, 0.587, 0.114])
        assert np.abs(pixels[:, 0].numpy() - exact).max() < 0.501

    def test_grey_repeats(self, rng):
        pixels = as_image_set(rng.random((3, 6, 6))).tensor(4, 4, channels=3)
        assert pixels.shape == (3, 3, 4, 4)
        assert torch.equal(pixels[:, 0], pixels[:, 1])
        assert torch.equal(pixels[:, 0], pixels[:, 2])

    def test_fourth_channel_is_left_out(self, rng):
        X = rng.integers(0, 256, (3, 6, 6, 4), dtype=np.uint8)
        expected = as_image_set(X[..., :3])
        assert torch.equal(as_image_set(X).tensor(6, 6, 3), expected.tensor(6, 6))
        assert torch.equal(as_image_set(X).tensor(6, 6, 1), expected.tensor(6, 6, 1))

    @pytest.mark.parametrize("count", [2, 5])
    def test_other_channels_become_their_mean(self, rng, count):
        X = rng.random((3, 6, 6, count))
        pixels = as_image_set(X).tensor(6, 6, channels=3)
        for plane in range(3):
            np.testing.assert_allclose(pixels[:, plane], X.mean(-1), rtol=1e-5)

    @pytest.mark.parametrize("count", [1, 3, 4])
    def test_channels_that_cannot_be_made(self, count):
        with pytest.raises(ValueError, match=f"{count} channels cannot be read as 5"):
            as_image_set(np.zeros((2, 6, 6, count))).tensor(6, 6, channels=5)


class TestBatches:
    def test_sizes_and_order(self, rng):
        X = rng.integers(0, 256, (7, 6, 6, 3), dtype=np.uint8)
        images = as_image_set(X)
        batches = list(images.batches(6, 6, 3))
        assert [len(batch) for batch in batches] == [3, 3, 1]
        assert torch.equal(torch.cat(batches), images.tensor(6, 6))

    def test_floats_span_the_scale_of_the_whole_set(self):
        X = np.linspace(-2, 3, 6).reshape(6, 1, 1) * np.ones((6, 4, 4))
        images = as_image_set(X)
        assert images.value_range == (-2, 3)
        batches = torch.cat(list(images.batches(4, 4, 2)))
        assert batches.dtype == torch.uint8
        assert batches.shape == (6, 3, 4, 4)
        assert batches[:, 0, 0, 0].tolist() == [0, 51, 102, 153, 204, 255]
        # a subset stays on the scale of its set
        assert torch.equal(next(images.take([2]).batches(4, 4, 1)), batches[2:3])

    def test_range_of_fitted_images_clips_later_ones(self):
        images = as_image_set(np.array([-5.0, 0.5, 9.0]).reshape(3, 1, 1) * np.ones((3, 4, 4)))
        images.value_range = (0.0, 1.0)
        batch = next(images.batches(4, 4, 3))
        assert batch[:, 0, 0, 0].tolist() == [0, 128, 255]

    def test_unmapped_floats(self, rng):
        images = as_image_set(rng.random((3, 4, 4)))
        batch = next(images.batches(4, 4, 3, channels=1, as_uint8=False))
        assert torch.equal(batch, images.tensor(4, 4))

    @pytest.mark.parametrize("top, expected", [(255, 255), (64, 64), (16, 255), (1, 255), (0, 0)])
    def test_dim_8_bit_data_has_a_scale_of_its_own(self, top, expected):
        X = np.zeros((2, 4, 4), np.uint8)
        X[1] = top
        batch = next(as_image_set(X).batches(4, 4, 2))
        assert batch[1].unique().tolist() == [expected]
        assert as_image_set(X).tensor(4, 4).max() == top

    def test_constant_floats(self):
        batch = next(as_image_set(np.full((2, 4, 4), 3.5)).batches(4, 4, 2))
        assert batch.unique().tolist() == [0]

    def test_bool(self):
        X = np.eye(4, dtype=bool)[None]
        assert next(as_image_set(X).batches(4, 4, 1))[0, 0].tolist() == (X[0] * 255).tolist()


class TestUnequalArrays:
    def test_each_is_resized_by_itself(self, rng):
        arrays = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in [(9, 7, 3), (5, 8, 3)]]
        images = as_image_set(arrays)
        assert not images.is_array
        assert images.native_shape is None
        assert images.typical_size == (7, 8)
        assert images.colour
        pixels = images.tensor(6, 6)
        assert pixels.dtype == torch.uint8
        for i, array in enumerate(arrays):
            assert torch.equal(pixels[i : i + 1], as_image_set(array[None]).tensor(6, 6))
        with pytest.raises(TypeError, match="one array"):
            images.rows()

    def test_object_array_and_channels_first(self, rng):
        arrays = np.empty(2, dtype=object)
        arrays[0], arrays[1] = rng.random((3, 9, 7)), rng.random((5, 8, 3))
        assert not looks_like_rows(arrays)
        assert as_image_set(arrays).tensor(6, 6).shape == (2, 3, 6, 6)

    @pytest.mark.parametrize(
        "shapes, channels",
        [
            ([(13, 40, 60), (13, 50, 50)], 13),
            ([(4, 40, 60), (4, 32, 32), (4, 90, 48)], 4),
            ([(40, 60, 13), (50, 50, 13)], 13),
            ([(3, 9, 7), (3, 5, 3)], 3),
            ([(2, 12, 10), (2, 13, 11)], 2),
            ([(5, 12, 10), (5, 12, 11)], 5),
            ([(12, 30, 3), (12, 25, 1)], 3),
        ],
    )
    def test_the_axis_that_all_share_is_that_of_the_channels(self, rng, shapes, channels):
        arrays = [rng.random(shape) for shape in shapes]
        images = as_image_set(arrays)
        assert images.channels == channels
        last = [a if a.shape[2] in (1, channels) else a.transpose(1, 2, 0) for a in arrays]
        expected = as_image_set(last).tensor(8, 8, channels)
        assert torch.equal(images.tensor(8, 8), expected)

    def test_grey_among_colour(self, rng):
        images = as_image_set([rng.random((9, 7)), rng.random((5, 8, 3)), rng.random((5, 5))])
        assert images.channels == 3
        assert images.take([0]).channels == 3
        assert images.take([0]).tensor(4, 4).shape == (1, 3, 4, 4)

    def test_mixed_dtypes_share_one_scale(self):
        images = as_image_set([np.full((3, 3), 200, np.uint8), np.full((4, 4), -0.5)])
        assert images.tensor(2, 2).dtype == torch.float32
        assert images.value_range == (-0.5, 200)

    def test_nan(self):
        with pytest.raises(ValueError, match="NaN"):
            as_image_set([np.zeros((3, 3)), np.full((4, 4), np.nan)])

    def test_incompatible_channels(self):
        with pytest.raises(ValueError, match="have 3 or 5 channels"):
            as_image_set([np.zeros((4, 4, 3)), np.zeros((6, 6, 5))])
        with pytest.raises(
            ValueError, match=r"channels come first, pass \[image.transpose\(1, 2, 0"
        ):
            as_image_set([np.zeros((13, 9, 10)), np.zeros((13, 9, 12))])

    def test_batches_and_what_is_two_arguments(self):
        with pytest.raises(
            ValueError, match=r"Of batches, pass \[image for batch in X for image in"
        ):
            as_image_set([np.zeros((4, 6, 6, 3)), np.zeros((2, 6, 6, 3))])
        with pytest.raises(ValueError, match="Images and labels are two arguments, X and y"):
            as_image_set((np.zeros((4, 6, 6, 3)), np.zeros(4)))


class TestFiles:
    @pytest.mark.parametrize(
        "container",
        [
            list,
            tuple,
            np.array,
            pd.Series,
            ImageFiles,
            lambda paths: np.array(paths, dtype=object),
            lambda paths: pd.DataFrame({"path": paths}),
            lambda paths: [os.fspath(path) for path in paths],
        ],
    )
    def test_containers(self, files, container):
        X = container(files)
        assert not looks_like_rows(X)
        images = as_image_set(X)
        assert isinstance(images, ImageSet)
        assert len(images) == 3
        assert not images.is_array
        assert images.native_shape is None
        pixels = images.tensor(8, 12)
        assert pixels.shape == (3, 3, 8, 12)
        assert pixels.dtype == torch.uint8
        assert pixels.is_contiguous()

    def test_pixels_agree_with_arrays(self, files):
        arrays = [np.asarray(Image.open(path)) for path in files]
        read, expected = as_image_set(files).tensor(8, 12), as_image_set(arrays).tensor(8, 12)
        assert (read.int() - expected.int()).abs().max() <= 2

    def test_properties(self, files):
        images = as_image_set(files)
        assert images.channels == 3
        assert images.colour
        assert images.typical_size == (16, 30)
        assert images.value_range == (0, 255)
        images.check()

    def test_take_and_batches(self, files):
        images = as_image_set(files)
        whole = images.tensor(8, 8)
        assert torch.equal(images.take([2, 0]).tensor(8, 8), whole[[2, 0]])
        assert torch.equal(images.take(np.array([False, True, True])).tensor(8, 8), whole[1:])
        assert torch.equal(torch.cat(list(images.batches(8, 8, 2))), whole)

    def test_grey_files_have_one_channel(self, tmp_path, files):
        grey = str(tmp_path / "grey.png")
        Image.fromarray(smooth(8, 8, 1)[..., 0]).save(grey)
        assert as_image_set([grey]).tensor(8, 8).shape == (1, 1, 8, 8)
        assert not as_image_set([grey]).colour
        assert as_image_set([grey, *files]).channels == 3
        # what was fitted decides: a subset, or channels= at predict
        assert as_image_set([grey, *files]).take([0]).tensor(8, 8).shape == (1, 3, 8, 8)
        assert as_image_set([grey]).tensor(8, 8, channels=3).shape == (1, 3, 8, 8)
        assert as_image_set(files).tensor(8, 8, channels=1).shape == (3, 1, 8, 8)

    def test_rgb_files_of_grey_pictures_are_not_colour(self, tmp_path):
        path = tmp_path / "grey.jpg"
        Image.fromarray(smooth(16, 16, 1)[..., 0]).convert("RGB").save(path)
        images = as_image_set([path])
        assert images.channels == 3
        assert not images.colour

    def test_unreadable_files_are_counted_and_the_first_is_named(self, tmp_path, files):
        truncated = tmp_path / "truncated.png"
        with open(files[0], "rb") as source:
            truncated.write_bytes(source.read()[:100])
        text = tmp_path / "text.png"
        text.write_text("not an image")
        X = [*files, str(truncated), str(text), str(tmp_path / "missing.png")]
        message = r"3 of 6 images cannot be read. The first is images\[3\] = .*truncated.png"
        with pytest.raises(OSError, match=message):
            as_image_set(X, name="images").tensor(8, 8, channels=3)
        with pytest.raises(OSError, match=r"2 of 6 .* images\[4\] = .*text.png"):
            as_image_set(X, name="images").check()  # opens, does not decode
        with pytest.raises(OSError, match=r"1 of 2 .* X\[3\] = "):
            as_image_set(X[:4]).take([0, 3]).tensor(8, 8)

    def test_unreadable_files_of_a_part_are_counted_in_the_whole(self, tmp_path, files):
        X = (files * 4)[:11]
        for position in (4, 7, 10):
            X[position] = str(tmp_path / f"missing{position}.png")
        images = as_image_set(X)
        with pytest.raises(OSError, match=r"3 of 11 images cannot be read. .* X\[4\] = "):
            list(images.batches(8, 8, 3))
        truncated = tmp_path / "truncated.png"
        with open(files[0], "rb") as source:
            truncated.write_bytes(source.read()[:100])
        X = [*files, str(truncated), *files, str(truncated)]
        with pytest.raises(OSError, match=r"2 of 8 .* X\[3\] = "):
            list(as_image_set(X).batches(8, 8, 4))

    def test_exif_orientation(self, tmp_path):
        path = tmp_path / "turned.jpg"
        exif = Image.Exif()
        exif[0x0112] = 6  # shown turned by 90 degrees clockwise
        picture = smooth(40, 20)
        Image.fromarray(picture).save(path, exif=exif, quality=95)
        images = as_image_set([path])
        assert images.typical_size == (20, 40)
        expected = as_image_set(np.rot90(picture, -1)[None]).tensor(20, 40)
        assert (images.tensor(20, 40).int() - expected.int()).abs().float().mean() < 4

    def test_large_jpegs_are_decoded_small(self, tmp_path, monkeypatch):
        path = tmp_path / "large.jpg"
        picture = smooth(512, 768)
        Image.fromarray(picture).save(path, quality=95)
        decoded = []
        resize = Image.Image.resize
        monkeypatch.setattr(
            Image.Image,
            "resize",
            lambda self, *a, **k: decoded.append(self.size) or resize(self, *a, **k),
        )
        pixels = as_image_set([path]).tensor(32, 48)
        assert decoded[0] == (192, 128)  # a quarter; an eighth would be less than twice 48
        expected = as_image_set(picture[None]).tensor(32, 48)
        assert (pixels.int() - expected.int()).abs().max() <= 4

    def test_channels_other_than_one_or_three(self, files):
        with pytest.raises(ValueError, match="1 or 3 channels, not 4"):
            as_image_set(files).tensor(8, 8, channels=4)


class TestEncodedImages:
    @pytest.mark.parametrize(
        "encode",
        [
            lambda path, content: content,
            lambda path, content: bytearray(content),
            lambda path, content: memoryview(content),
            lambda path, content: io.BytesIO(content),
            lambda path, content: {"bytes": content, "path": None},
            lambda path, content: {"bytes": content, "path": "inside/an/archive.png"},
            lambda path, content: {"bytes": None, "path": path},
            lambda path, content: {"path": path},
        ],
    )
    @pytest.mark.parametrize("container", [list, tuple, collections.deque, pd.Series])
    def test_containers(self, files, encode, container):
        X = []
        for path in files:
            with open(path, "rb") as file:
                X.append(encode(path, file.read()))
        X = container(X)
        assert not looks_like_rows(X)
        images, expected = as_image_set(X), as_image_set(files)
        assert images.typical_size == expected.typical_size
        assert torch.equal(images.tensor(8, 8), expected.tensor(8, 8))
        assert torch.equal(images.take([2]).tensor(8, 8), expected.take([2]).tensor(8, 8))

    def test_a_buffer_is_read_from_its_start_and_stays_where_it_is(self):
        buffer = io.BytesIO()
        Image.fromarray(smooth(8, 8)).save(buffer, "PNG")
        position = buffer.tell()
        assert position > 0
        assert as_image_set([buffer]).tensor(8, 8).shape == (1, 3, 8, 8)
        assert buffer.tell() == position

    def test_paths_and_contents_may_be_mixed(self, files):
        with open(files[0], "rb") as file:
            X = [file.read(), *files[1:]]
        assert torch.equal(as_image_set(X).tensor(8, 8), as_image_set(files).tensor(8, 8))

    def test_content_that_is_no_image_is_counted_and_not_printed(self, files):
        with pytest.raises(
            OSError, match=r"1 of 2 .* X\[1\]: Unidentified.* paths are passed as str"
        ):
            as_image_set([files[0], b"bytes of a secret"]).check()


class TestMissingImages:
    @pytest.mark.parametrize(
        "X",
        [
            [None, "a.png", None],
            [None, np.zeros((4, 4)), np.nan],
            [{"bytes": None, "path": None}, "a.png", None],
            np.array([None, "a.png", np.nan], dtype=object),
            pd.Series([None, "a.png", None]),
            pd.Series([pd.NA, "a.png", pd.NA], dtype="string"),
            pd.DataFrame({"path": [None, "a.png", None]}),
        ],
    )
    def test_they_are_counted(self, X):
        with pytest.raises(ValueError, match=r"2 of 3 images are missing .* the first .* X\[0\]"):
            as_image_set(X)

    def test_not_among_paths(self):
        with pytest.raises(TypeError, match=r"paths\[1\] is a NoneType, not a path"):
            ImageFiles(["a.png", None])


class TestPILImages:
    def test_sizes_and_modes(self):
        images = [Image.new(mode, (5 + i, 7)) for i, mode in enumerate(["RGB", "P", "L", "CMYK"])]
        assert not looks_like_rows(images)
        pixels = as_image_set(images).tensor(8, 8)
        assert pixels.shape == (4, 3, 8, 8)

    @pytest.mark.parametrize(
        "mode, dtype, values",
        [
            ("I;16", np.uint16, (0, 4095, 65535)),
            ("I", np.int32, (-1000, 99, 70000)),
            ("F", np.float32, (-0.5, 0.25, 1e6)),
        ],
    )
    def test_more_than_8_bits_are_numbers_as_in_an_array(self, mode, dtype, values):
        array = np.array([values], dtype)
        image = Image.fromarray(array)
        assert image.mode == mode
        images, expected = as_image_set([image]), as_image_set(array[None])
        assert images.channels == 1
        assert images.tensor(1, 3).dtype == torch.float32
        assert images.tensor(1, 3).flatten().tolist() == list(values)
        assert images.tensor(1, 3, channels=3)[0, 2].flatten().tolist() == list(values)
        assert images.value_range == expected.value_range == (values[0], values[2])
        batch, other = (next(each.batches(1, 3, 1)) for each in (images, expected))
        assert torch.equal(batch, other)

    def test_more_than_8_bits_are_resized_as_an_array_is(self):
        array = smooth(40, 30, 1)[..., 0].astype(np.int32) * 20 - 1000
        pixels = as_image_set([Image.fromarray(array)]).tensor(8, 6)
        assert (pixels - as_image_set(array[None]).tensor(8, 6)).abs().max() < 5100 / 255

    @pytest.mark.parametrize("ending", ["png", "tif"])
    def test_16_bit_files_are_read_as_their_numbers(self, rng, tmp_path, ending):
        arrays = rng.integers(0, 4096, (5, 6, 7)).astype(np.uint16)
        paths = [str(tmp_path / f"{i}.{ending}") for i in range(5)]
        for path, array in zip(paths, arrays, strict=True):
            Image.fromarray(array).save(path)
        images = as_image_set(paths)
        assert np.array_equal(images.tensor(6, 7)[:, 0], arrays)
        assert images.value_range == (arrays.min(), arrays.max())
        # a subset stays on the scale of its set
        assert images.take([3]).value_range == images.value_range
        whole = torch.cat(list(as_image_set(arrays).batches(6, 7, 2)))
        assert torch.equal(next(images.take([3]).batches(6, 7, 1)), whole[3:4])

    def test_8_bit_masks_have_the_scale_that_they_have_in_an_array(self):
        masks = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4) % 3
        images = as_image_set([Image.fromarray(mask) for mask in masks])
        assert images.value_range == as_image_set(masks).value_range == (0, 2)
        bright = Image.new("L", (4, 4), 64)
        assert as_image_set([Image.fromarray(masks[0]), bright]).value_range == (0, 255)

    @pytest.mark.parametrize("transparent", [False, True])
    def test_transparent_parts_of_16_bits_are_white(self, tmp_path, transparent):
        path = tmp_path / "grey.png"
        array = np.array([[500, 700], [700, 900]], np.uint16)
        Image.fromarray(array).save(path, **({"transparency": 700} if transparent else {}))
        expected = [500, 65535, 65535, 900] if transparent else [500, 700, 700, 900]
        assert as_image_set([path]).tensor(2, 2).flatten().tolist() == expected

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
    def test_transparent_parts_are_white(self, mode):
        image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
        image.paste((200, 200, 200, 255), (0, 0, 2, 4))
        if mode == "P":
            image = image.convert("RGB").quantize(2)
            image.info["transparency"] = image.getpixel((3, 3))
        else:
            image = image.convert(mode)
        pixels = as_image_set([image]).tensor(4, 4)
        assert len(pixels[0]) == (1 if mode == "LA" else 3)
        assert pixels[0, :, 0, 0].unique().tolist() == [200]
        assert pixels[0, :, 0, 3].unique().tolist() == [255]

    def test_black_and_white(self):
        image = Image.fromarray(np.eye(4, dtype=bool))
        assert image.mode == "1"
        expected = np.eye(4) * 255
        assert np.array_equal(as_image_set([image]).tensor(4, 4)[0, 0], expected)

    def test_pixels_that_are_not_finite(self):
        image = Image.fromarray(np.full((4, 4), np.nan, np.float32))
        fine = Image.fromarray(np.zeros((4, 4), np.float32))
        with pytest.raises(OSError, match=r"1 of 2 .* X\[1\]: ValueError: it contains NaN"):
            as_image_set([fine, image]).tensor(4, 4)

    @pytest.mark.parametrize(
        "dtypes, text",
        [
            ((np.uint8, np.int32), r"X\[0\] holds 8 bits a value, X\[2\] integers of 16 or 32"),
            ((np.uint16, np.float32), r"X\[0\] holds integers of 16 or 32 bits, X\[2\] floats"),
            ((np.float32, np.uint8), r"X\[0\] holds floats, X\[2\] 8 bits a value"),
        ],
    )
    def test_scales_that_may_differ_are_refused(self, dtypes, text):
        first, second = (Image.fromarray(np.zeros((4, 4), dtype)) for dtype in dtypes)
        images = as_image_set([first, first, second])
        for read in (images.check, lambda: images.tensor(4, 4)):
            with pytest.raises(ValueError, match=text):
                read()

    def test_16_and_32_bits_mix(self):
        images = [Image.fromarray(np.full((4, 4), 7, dtype)) for dtype in (np.uint16, np.int32)]
        assert as_image_set(images).value_range == (7, 7)

    def test_the_users_image_is_left_alone(self, tmp_path):
        path = tmp_path / "large.jpg"
        Image.fromarray(smooth(256, 256)).save(path)
        with Image.open(path) as image:
            as_image_set([image, image]).tensor(8, 8)
            assert image.size == (256, 256)


class TestImageFiles:
    paths = tuple(f"/data/{i}.png" for i in range(6))

    @pytest.mark.parametrize(
        "index",
        [
            slice(1, 4),
            [0, 5],
            np.array([3, -1]),
            [True, False, True, False, False, False],
            np.arange(6) > 3,
            (np.array([1, 2]), Ellipsis),
            np.array([], dtype=int),
        ],
    )
    def test_indexing_stays_lazy(self, index):
        part = ImageFiles(self.paths)[index]
        assert isinstance(part, ImageFiles)
        plain = index[0] if isinstance(index, tuple) else index
        assert part.paths == np.array(self.paths)[plain].tolist()
        assert part.shape == (len(part),)

    def test_an_integer_gives_a_path(self):
        files = ImageFiles(self.paths)
        assert files[2] == files[np.int64(2)] == self.paths[2]
        assert list(files) == list(self.paths)

    def test_out_of_range(self):
        files = ImageFiles(self.paths)
        with pytest.raises(IndexError):
            files[6]
        with pytest.raises(IndexError, match="one axis"):
            files[0, 1]

    def test_safe_indexing(self):
        files = ImageFiles(self.paths)
        assert _safe_indexing(files, np.array([4, 1])).paths == [self.paths[4], self.paths[1]]
        assert _safe_indexing(files, 3) == self.paths[3]

    def test_cross_validation_never_reads(self):
        seen = []

        class Classifier(ClassifierMixin, BaseEstimator):
            def fit(self, X, y):
                seen.append(X)
                self.classes_ = np.unique(y)
                return self

            def predict(self, X):
                seen.append(X)
                return np.repeat(self.classes_[0], len(X))

        scores = cross_val_score(Classifier(), ImageFiles(self.paths), [0, 1] * 3, cv=3)
        assert len(scores) == 3
        assert [type(X) for X in seen] == [ImageFiles] * 6
        assert [len(X) for X in seen] == [4, 2] * 3

    def test_pickle_holds_paths_only(self):
        files = ImageFiles(self.paths)
        dump = pickle.dumps(files)
        assert pickle.loads(dump).paths == list(self.paths)
        assert len(dump) < 300

    def test_as_numpy_array_is_of_paths(self):
        files = ImageFiles(self.paths)
        assert np.asarray(files).tolist() == list(self.paths)
        with pytest.raises(TypeError, match=r"to_array\(size\)"):
            np.asarray(files, dtype=float)

    def test_one_path_is_refused(self):
        with pytest.raises(TypeError, match="paths is one path"):
            ImageFiles("/data")

    def test_repr(self):
        assert repr(ImageFiles(self.paths)) == ("<ImageFiles: 6 files, the first is '/data/0.png'>")
        assert repr(ImageFiles([])) == "<ImageFiles: 0 files>"

    def test_to_array(self, files):
        array = ImageFiles(files).to_array((6, 9))
        assert array.shape == (3, 6, 9, 3)
        assert array.dtype == np.uint8
        expected = as_image_set(files).tensor(6, 9).permute(0, 2, 3, 1)
        assert np.array_equal(array, expected)
        assert ImageFiles(files).to_array(4, channels=1).shape == (3, 4, 4, 1)


class TestLoadImages:
    @pytest.fixture
    def folder(self, tmp_path):
        for name in (
            "dog/2.PNG",
            "dog/10.png",
            "cat/a.png",
            "cat/deep/b.png",
            "cat/.hidden.png",
            "cat/.old/c.png",
        ):
            path = tmp_path / "animals" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(path)
        (tmp_path / "animals/cat/notes.txt").write_text("no image")
        (tmp_path / "animals/.cache").mkdir()
        (tmp_path / "animals/readme.md").write_text("no class")
        return tmp_path / "animals"

    def test_sorted_images_and_labels(self, folder):
        images, labels = load_images(folder)
        assert isinstance(images, ImageFiles)
        names = [os.path.relpath(path, folder).replace(os.sep, "/") for path in images]
        assert names == ["cat/a.png", "cat/deep/b.png", "dog/10.png", "dog/2.PNG"]
        assert labels.tolist() == ["cat", "cat", "dog", "dog"]
        assert labels.dtype.kind == "U"
        assert as_image_set(images).tensor(4, 4).shape == (4, 3, 4, 4)

    def test_accepts_str(self, folder):
        assert load_images(str(folder))[0].paths == load_images(folder)[0].paths

    def test_symbolic_links(self, folder, tmp_path):
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        Image.new("RGB", (4, 4)).save(elsewhere / "bird.png")
        (folder / "bird").symlink_to(elsewhere, target_is_directory=True)
        (folder / "dog/more").symlink_to(elsewhere, target_is_directory=True)
        (folder / "cat/loop").symlink_to(folder / "cat", target_is_directory=True)
        _, labels = load_images(folder)
        assert labels.tolist() == ["bird", "cat", "cat", "dog", "dog", "dog"]

    def test_no_folder(self, tmp_path):
        with pytest.raises(NotADirectoryError, match="nowhere"):
            load_images(tmp_path / "nowhere")

    def test_no_class_folders(self, folder):
        with pytest.raises(ValueError, match=r"dog' has no class folders. .*cat/1.jpg"):
            load_images(folder / "dog")

    def test_empty_class_folder(self, folder):
        (folder / "eel").mkdir()
        with pytest.raises(ValueError, match="eel' has no images"):
            load_images(folder)

    def test_splits_are_not_classes(self, folder):
        (folder / "dog").rename(folder / "Train")
        (folder / "cat").rename(folder / "test")
        with pytest.raises(ValueError, match="splits of a dataset, not classes"):
            load_images(folder)


class NotAnArray:
    """Array-like by ``__array__`` alone, as scikit-learn's checks have it."""

    def __init__(self, data):
        self.data = data

    def __array__(self, dtype=None, copy=None):
        return np.array(self.data, dtype=dtype)


@pytest.mark.parametrize(
    "X",
    [
        np.zeros((3, 4)),
        np.zeros((3, 1)),
        np.zeros(3),
        np.float64(3),
        np.zeros((0, 4)),
        np.zeros((3, 4), complex),
        np.array([[{"a": 1}, 2.0]], dtype=object),
        np.array([[1.0], [None]], dtype=object),
        np.array([["1", "2"]]),
        np.array([[np.nan], [1.0]], dtype=object),
        [[1, 2], [3, 4]],
        [["1", "2"]],
        [1, 2],
        [np.nan, 2],
        range(3),
        collections.deque([[1, 2], [3, 4]]),
        [np.zeros(3), np.zeros(3)],
        csr_array(np.eye(3)),
        torch.zeros(3, 4),
        NotAnArray([[1, 2]]),
        pd.DataFrame({"a": [1, 2], "b": [3, 4]}),
        pd.DataFrame({"a": [1, 2]}),
        None,
        3,
    ],
)
def test_looks_like_rows(X):
    assert looks_like_rows(X)


@pytest.mark.parametrize(
    "X",
    [
        np.zeros((3, 4, 4)),
        torch.zeros(3, 1, 4, 4),
        NotAnArray(np.zeros((2, 4, 4))),
        [np.zeros((4, 4))],
        [[[1, 2], [3, 4]]],
        ["a.png"],
        np.array([["a.png"], ["b.png"]]),
        [b"bytes"],
        [io.BytesIO(b"bytes")],
        [{"bytes": b"bytes", "path": None}],
        b"bytes",
        np.array([b"bytes"]),
        collections.deque(["a.png"]),
        np.array([["a", "b"]]),
        [],
        [(np.zeros((2, 2)), 1)],
        [("a.png", "cat")],
        pd.DataFrame({"path": ["a.png"], "label": [3]}),
        pd.DataFrame({"path": [None, "a.png"], "label": [3, 4]}),
        [[1, 2], [3]],
        [np.zeros(3), np.zeros(4)],
        [torch.zeros(3), torch.zeros(3)],
        pd.Series([np.zeros(3), np.zeros(3)]),
        [None, "a.png"],
        [None, None],
        pd.Series([None, "a.png"]),
        np.array([[None], ["a.png"]], dtype=object),
        [io.StringIO("text")],
        np.array([object()]),
        "folder",
        {"a": 1},
        (i for i in range(3)),
        torch.utils.data.TensorDataset(torch.zeros(2, 1)),
        ImageFiles(["a.png"]),
        Image.new("L", (4, 4)),
    ],
)
def test_does_not_look_like_rows(X):
    assert not looks_like_rows(X)
