"""Later images are on the scale of the fit, or are refused, in both directions."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import EMBEDDER, patterns, tiny_classifier

from supernetnas import cli
from supernetnas.images.preprocessing import Preprocessing
from supernetnas.images.reading import as_image_set
from supernetnas.images.scales import usual_scale

IMAGES, LABELS = patterns()
NEW, NEW_LABELS = patterns(seed=9)
MASKS, NEW_MASKS = ((images > 128).astype(np.uint8) for images in (IMAGES, NEW))
NUMBERS = IMAGES.astype(float)
TOMOGRAPHY = IMAGES.astype(np.int32) * 4 - 1000

PICTURES = {
    "8 bits in 32": lambda images: images.astype(np.int32),
    "12 bits in 16": lambda images: images.astype(np.uint16) * 16,
    "8 bits in 16": lambda images: images.astype(np.uint16),
    "tomography": lambda images: images.astype(np.int32) * 4 - 1000,
    "tomography as floats": lambda images: images.astype(np.float32) * 4 - 1000,
    "fractions": lambda images: images.astype(np.float32) / 255,
}


def write(folder, arrays, ending):
    paths = [str(folder / f"{i}.{ending}") for i in range(len(arrays))]
    for path, array in zip(paths, arrays, strict=True):
        Image.fromarray(array).save(path)
    return paths


def fitted(images):
    """What a fit on images learns of their scale."""
    images = as_image_set(images)
    return Preprocessing.of(images.tensor(8, 8, 1))


def read(preprocessing, images):
    return torch.cat(list(preprocessing.pixels(as_image_set(images))))


class TestPictures:
    @pytest.mark.parametrize("kind", PICTURES)
    def test_pictures_and_arrays_give_the_same(self, kind, tmp_path):
        arrays, new = PICTURES[kind](IMAGES), PICTURES[kind](NEW)
        on_arrays = tiny_classifier().fit(arrays, LABELS)
        expected = on_arrays.predict_proba(new).tobytes()
        ending = "png" if arrays.dtype == np.uint16 else "tif"
        (tmp_path / "new").mkdir()
        for pictures, new_pictures in (
            (write(tmp_path, arrays, ending), write(tmp_path / "new", new, ending)),
            ([Image.fromarray(array) for array in arrays], [Image.fromarray(n) for n in new]),
        ):
            on_pictures = tiny_classifier().fit(pictures, LABELS)
            assert on_pictures.score(new_pictures, NEW_LABELS) > 0.9
            assert on_arrays.predict_proba(new_pictures).tobytes() == expected
            assert on_pictures.predict_proba(new).tobytes() == expected

    @pytest.mark.parametrize("kind", PICTURES)
    def test_the_embedder_sees_the_same(self, kind):
        arrays = PICTURES[kind](IMAGES)
        pictures = as_image_set([Image.fromarray(array) for array in arrays])
        expected = EMBEDDER.embed(as_image_set(arrays))
        assert np.array_equal(EMBEDDER.embed(pictures), expected)
        assert np.array_equal(EMBEDDER.embed(pictures.take([5])), expected[5:6])
        assert expected.std(axis=0).max() > 0.05

    def test_numbers_of_a_fit_on_8_bits(self):
        clf = tiny_classifier().fit(IMAGES, LABELS)
        pictures = [Image.fromarray(image.astype(np.int32)) for image in NEW]
        assert clf.predict_proba(pictures).tobytes() == clf.predict_proba(NEW).tobytes()
        with pytest.raises(ValueError, match="fitted on 8-bit images"):
            clf.predict([Image.fromarray(image.astype(np.uint16) * 257) for image in NEW])

    def test_the_command_line_reads_the_same(self, tmp_path, capsys):
        for label in range(4):
            (tmp_path / "data" / f"c{label}").mkdir(parents=True)
        for i, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
            path = tmp_path / "data" / f"c{label}" / f"{i}.png"
            Image.fromarray(image.astype(np.uint16) * 16).save(path)
        clf = tiny_classifier().fit(
            [str(path) for path in sorted((tmp_path / "data").rglob("*.png"))],
            np.repeat([f"c{label}" for label in range(4)], 10),
        )
        clf.save_pretrained(tmp_path / "model")
        assert cli.main(["predict", str(tmp_path / "model"), str(tmp_path / "data"), "--json"]) == 0
        printed = capsys.readouterr().out
        right = sum(printed.count(f"c{label}") for label in range(4))
        assert right == 80
        for label in range(4):
            assert printed.count(f'"class": "c{label}"') == 10


class TestWarnings:
    @pytest.mark.parametrize("value", [0, 7.5])
    def test_equal_pixels(self, value):
        with pytest.warns(UserWarning, match=f"All pixels of X are {value:g}, so"):
            tiny_classifier(retraining__epochs=1).fit(np.full((8, 8, 8), value), [0, 1] * 4)

    def test_few_images_may_be_exceptions(self):
        preprocessing = fitted(NUMBERS / 127.5 - 1)
        with pytest.warns(UserWarning, match="X holds values from .* only, but nearly every image"):
            read(preprocessing, NEW[:9] / 255.0)
        with pytest.raises(ValueError, match="only, but nearly every image"):
            read(preprocessing, NEW[:10] / 255.0)


ROTTEN = {
    "fit on 255, given fractions": (NUMBERS, NEW / 255),
    "fit on fractions to 230, given fractions to 1": (NUMBERS * 0.9 + 0.05, NEW / 255),
    "one image": (NUMBERS, NEW[:1] / 255),
    "fit on 16 bits, given 8": (IMAGES.astype(np.uint16) * 257, NEW),
    "fit on 16 bits, given 8 in 16": (IMAGES.astype(np.uint16) * 257, NEW.astype(np.uint16)),
    "fit on 8 bits, given 16": (IMAGES, NEW.astype(np.uint16) * 257),
    "fit on -1 to 1, given 0 to 1": (NUMBERS / 127.5 - 1, NEW / 255),
    "fit on 0 to 1, given -1 to 1": (NUMBERS / 255, NEW / 127.5 - 1),
    "fit on -1 to 1, given bool": (NUMBERS / 127.5 - 1, NEW_MASKS > 0),
    "fit on standardised, given 0 to 1": ((NUMBERS - 90) / 60, NEW / 255),
    "fit on 0 to 1, given standardised": (NUMBERS / 255, (NEW - 90.0) / 60),
    "fit on masks of 0 and 1, given 0 and 255": (MASKS, NEW_MASKS * 255),
    "fit on masks of 0 and 1, given numbers to 255": (MASKS, NEW_MASKS * 255.0),
    "fit on masks of 0 and 255, given 0 and 1": (MASKS * 255, NEW_MASKS),
    "fit on masks of 0 and 255, given bool": (MASKS * 255, NEW_MASKS > 0),
    "fit on bool, given 0 and 255": (MASKS > 0, NEW_MASKS * 255),
    "fit on digits to 16, given 0 to 1": (NUMBERS // 16, NEW / 255),
    "fit on 8 bits, given digits to 16": (IMAGES, NEW // 16),
    "fit on 16 bits, given 12": (IMAGES.astype(np.uint16) * 257, NEW.astype(np.uint16) * 16),
    "fit on digits to 16, given 8 bits": (NUMBERS // 16, NEW),
    "fit on -128 to 127, given 8 bits": (NUMBERS - 128, NEW),
    "fit on -128 to 127, given numbers": (NUMBERS - 128, NEW.astype(float)),
    "fit on tomography, given 8 bits": (TOMOGRAPHY, NEW),
    "fit on tomography, given it without offset": (TOMOGRAPHY, NEW.astype(np.int32) * 4),
    "fit on tomography without offset": (TOMOGRAPHY + 1000, NEW.astype(np.int32) * 4 - 1000),
}

SOUND = {
    "8 bits": (IMAGES, NEW),
    "black": (IMAGES, np.zeros_like(NEW)),
    "white": (IMAGES, np.full_like(NEW, 255)),
    "dark": (IMAGES, NEW // 8),
    "a few very dark ones among others": (
        IMAGES,
        NEW // np.array([20, 1])[np.arange(40) // 30, None, None],
    ),
    "numbers": (IMAGES, NEW.astype(np.int64)),
    "one black image as floats": (NUMBERS, NEW[:1] * 0.0),
    "float numbers for 8 bits": (NUMBERS, NEW),
    "masks": (MASKS, NEW_MASKS),
    "bool for masks of 0 and 1": (MASKS, NEW_MASKS > 0),
    "masks of 0 and 1 for bool": (MASKS > 0, NEW_MASKS),
    "standardised": ((NUMBERS - 90) / 60, (NEW - 90.0) / 60),
    "far values": ((NUMBERS - 90) / 60, (NEW - 90.0) / 20),
    "overshoot of a sharpening": (NUMBERS / 255, (NEW - 30.0) / 200),
    "bright images of -1 to 1": (NUMBERS / 127.5 - 1, NEW[:1] / 255 - 0.3),
    "16 bits": (IMAGES.astype(np.uint16) * 257, NEW.astype(np.uint16) * 257),
    "16 bits as numbers": (IMAGES.astype(np.uint16) * 257, NEW * 257.0),
}


@pytest.mark.parametrize("kind", ROTTEN)
def test_another_scale_is_refused(kind):
    fit_images, images = ROTTEN[kind]
    with pytest.raises(ValueError, match=r"X holds .*fitted on .*Pass (images on|values of 0)"):
        read(fitted(fit_images), images)


@pytest.mark.parametrize("kind", SOUND)
def test_the_scale_of_the_fit_is_read(kind):
    fit_images, images = SOUND[kind]
    assert len(read(fitted(fit_images), images)) == len(images)


def test_a_fit_that_held_such_images_takes_them():
    """A hot pixel makes a range wide, and what nearly every image reaches remains."""
    hot = np.where(np.arange(40)[:, None, None] == 3, 1e6, NUMBERS / 255)
    assert len(read(fitted(hot), NEW / 255)) == 40


def test_unequal_arrays_have_the_limits_of_their_type():
    sixteen_bits = fitted(IMAGES.astype(np.uint16) * 257)
    unequal = [NEW[0], np.kron(NEW[1], np.ones((2, 2), np.uint8))]
    with pytest.raises(ValueError, match="8-bit images with values from"):
        read(sixteen_bits, unequal)
    mixed = [NEW[0] * 257.0, unequal[1]]
    assert len(read(sixteen_bits, mixed)) == 2


def test_blocks_are_judged_together(monkeypatch):
    """Ten images are many, also if they come one after the other."""
    monkeypatch.setattr("supernetnas.images.preprocessing._BLOCK_IMAGES", 4)
    preprocessing = fitted(MASKS * 255)
    dark_first = np.concatenate([NEW_MASKS[:4], NEW_MASKS[4:] * 255])
    with pytest.warns(UserWarning, match="nearly every image"):
        read(preprocessing, dark_first)
    with (
        pytest.warns(UserWarning, match="nearly every image"),
        pytest.raises(ValueError, match="nearly every image"),
    ):
        read(preprocessing, NEW_MASKS)


def test_what_was_saved_before_is_read():
    preprocessing = fitted(NUMBERS / 127.5 - 1)
    saved = preprocessing.to_dict()
    assert Preprocessing.from_dict(saved) == preprocessing
    del saved["usual_range"]
    assert len(read(Preprocessing.from_dict(saved), NEW[:20] / 255)) == 20
    with pytest.raises(ValueError, match="values up to"):
        read(Preprocessing.from_dict(saved), NEW)


@pytest.mark.parametrize(
    "on_another_scale",
    [
        lambda images: images / 255,
        lambda images: (images / 255).astype(np.float32),
        lambda images: images.astype(np.float32),
        lambda images: images.astype(np.int32),
        lambda images: images / 127.5 - 1,
    ],
    ids=["0 to 1", "0 to 1 in float32", "0 to 255", "in 32 bits", "-1 to 1"],
)
def test_a_dim_picture_is_embedded_the_same_on_any_scale(on_another_scale):
    images = (20 + 0.4 * IMAGES).astype(np.uint8)
    (expected,) = as_image_set(images).batches(8, 8, len(images))
    (found,) = as_image_set(on_another_scale(images)).batches(8, 8, len(images))
    assert torch.equal(found, expected)
    assert expected.max() < 128


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.1, 0.7, (0, 1)),
        (0.0, 0.2, (0.0, 0.2)),  # a quarter is not reached
        (0, 16, (0, 16)),
        (30, 100, (0, 255)),
        (7, 7, (7, 7)),
        (-0.9, 0.2, (-1, 1)),
        (-0.2, 0.9, (-0.2, 0.9)),  # nothing is dark
        (-2.1, 2.6, (-2.1, 2.6)),
        (0, 4095, (0, 4095)),
        (-1000, 3000, (-1000, 3000)),
    ],
)
def test_usual_scales(low, high, expected):
    assert usual_scale(low, high) == expected
