"""Arrays, of equal sizes and of others, as one set of images."""

import collections
import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.sparse import csr_array

from supernetnas.images.image_files import ImageFiles
from supernetnas.images.reading import as_image_set, looks_like_rows


@pytest.fixture
def rng():
    return np.random.default_rng(0)


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
