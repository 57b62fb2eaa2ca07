"""New images are read as those of the fit were, or refused."""

import pathlib

import numpy as np
import pytest
import torch
from PIL import Image
from quick_classifier import IMAGES, LABELS, quick
from tiny import patterns, tiny_classifier

from supernetnas import load_images

# Shape


@pytest.mark.parametrize(
    ("X", "text"),
    [
        (np.zeros((2, 8, 9)), r"shape \(8, 9, 1\), but .* fitted on \(8, 8, 1\)"),
        (np.zeros((2, 8, 8, 3)), r"shape \(8, 8, 3\)"),
        (np.zeros((2, 63)), "63 features"),
        ([np.zeros((8, 8)), np.zeros((9, 9))], "different sizes"),
        (np.full((2, 8, 8), np.nan), "NaN"),
        (np.zeros((0, 8, 8)), "at least one image"),
    ],
)
def test_new_images_are_checked(fitted, X, text):
    with pytest.raises(ValueError, match=text):
        fitted.predict(X)


def test_rows_are_no_images_of_any_size(files, recwarn):
    clf = quick().fit(*load_images(files))
    with pytest.raises(ValueError, match=r"rows of numbers.* X\[None\]"):
        clf.predict(IMAGES.reshape(40, 64)[:, :60])
    assert not recwarn


@pytest.mark.parametrize("colour", [False, True])
def test_one_image_is_no_stack_of_rows(colour):
    images, labels = patterns(colour=colour)
    one = images[0]
    on_pictures = quick().fit([Image.fromarray(image) for image in images], labels)
    on_unequal = quick().fit([np.kron(one, np.ones((2, 2, 1)[: one.ndim])), *images[1:]], labels)
    for clf in (on_pictures, on_unequal, quick().fit(images, labels)):
        given = [one, torch.from_numpy(one), list(one), one[..., None]]
        if colour:
            given = [one, torch.from_numpy(one), list(one), np.moveaxis(one, -1, 0)]
        elif clf.image_shape_ is None:
            given = given[3:]  # the others are rows
        for X in given:
            with pytest.raises(ValueError, match=r"X is one image.* Pass X\[None\]"):
                clf.predict(X)
        assert clf.predict(one[None]) == clf.predict(images[:1])
    # What the message says of grey images of any size.
    assert on_pictures.predict(np.zeros((5, 9, 3, 1))).shape == (5,)
    assert on_pictures.predict(np.zeros((5, 9, 8))).shape == (5,)
    if colour:
        with pytest.raises(ValueError, match=r"channels first, .* or 3 grey images"):
            on_pictures.predict(np.zeros((3, 9, 8)))


def test_features_are_forgotten_with_their_fit(files):
    clf = quick().fit(IMAGES, LABELS)
    clf.fit(*load_images(files))
    assert not hasattr(clf, "n_features_in_")


# Channels


def test_the_channels_of_the_fit_settle_where_they_are():
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 6, 3), dtype=np.uint8)
    clf = quick(image_shape=(6, 3, 3)).fit(images, LABELS)
    assert clf.image_shape_ == (6, 3, 3)
    last = np.moveaxis(images, 1, 3)
    assert clf.predict_proba(images).tobytes() == clf.predict_proba(last).tobytes()


def test_channels_of_the_fit_are_found_without_a_warning(recwarn):
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 12, 8), dtype=np.uint8)
    first = quick(image_shape=(12, 8, 4), image_size=(12, 8)).fit(images, LABELS)
    assert first.image_shape_ == (12, 8, 4)
    expected = first.predict_proba(np.moveaxis(images, 1, 3)).tobytes()
    assert first.predict_proba(images).tobytes() == expected
    assert not recwarn


# Scale


def test_the_scale_is_that_of_the_fit():
    eight_bit = quick().fit(IMAGES, LABELS)
    for X in (IMAGES / 255, IMAGES - 128.0, IMAGES.astype(int) * 4):
        with pytest.raises(ValueError, match=r"fitted on 8-bit images. Pass values of 0 to 255"):
            eight_bit.predict(X)
    assert eight_bit.predict(np.zeros((2, 8, 8))).shape == (2,)
    scaled = quick().fit(IMAGES / 255, LABELS)
    with pytest.raises(ValueError, match=r"8-bit images with values up to 2.., but .* from 0"):
        scaled.predict(IMAGES)
    numbers = quick().fit(IMAGES.astype(int), LABELS)
    np.testing.assert_array_equal(
        numbers.predict_proba(IMAGES), numbers.predict_proba(IMAGES.astype(float))
    )


def test_floats_on_another_scale_are_refused():
    clf = tiny_classifier().fit(IMAGES / 255.0, LABELS)
    with pytest.raises(ValueError, match=r"X holds values up to .* fitted on values from 0"):
        clf.predict(IMAGES.astype(float))
    clf.predict(IMAGES / 200.0)


# Files


def test_unreadable_files_are_counted_in_all(files, tmp_path, monkeypatch):
    X, y = load_images(files)
    clf = quick().fit(X, y)
    monkeypatch.setattr("supernetnas.images.preprocessing._BLOCK_IMAGES", 16)
    paths = list(X)
    for position in (3, 20, 39):
        path = tmp_path / f"{position}.png"
        path.write_bytes(pathlib.Path(X[position]).read_bytes()[:60])  # its header is whole
        paths[position] = str(path)
    with pytest.raises(OSError, match=r"3 of 40 images cannot be read. The first is X\[3\] = "):
        clf.predict(paths)
