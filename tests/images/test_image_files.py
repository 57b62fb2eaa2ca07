"""Files, contents of files and PIL images as one set of images."""

import collections
import io
import os
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import cross_val_score
from sklearn.utils import _safe_indexing

from supernetnas.images.image_files import ImageFiles, load_images
from supernetnas.images.reading import ImageSet, as_image_set, looks_like_rows


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
