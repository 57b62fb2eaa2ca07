"""The same labels and images in any format give the same: arrays, tensors, pictures, files."""

from collections import deque

import numpy as np
import pytest
import torch
from PIL import Image
from quick_classifier import IMAGES, LABELS, NEW, assert_equal, quick
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from tiny import patterns, tiny_classifier

from supernetnas import ImageFiles, load_images


@pytest.mark.parametrize(
    "classes",
    [
        np.array(["z", "a", "mm", "ü"]),
        np.array(["z", "a", "mm", "ü"], dtype=object),
        np.array([40, -3, 7, 12]),
        np.array([0.0, 3.0, 2.0, 9.0]),
    ],
)
def test_labels(classes):
    clf = tiny_classifier().fit(IMAGES, classes[LABELS])
    np.testing.assert_array_equal(clf.classes_, np.unique(classes))
    assert clf.classes_.dtype == classes.dtype and clf.predict(IMAGES).dtype == classes.dtype
    assert (clf.predict(IMAGES) == classes[LABELS]).mean() > 0.8


def test_arrays_of_any_shape_give_the_same():
    clf = quick().fit(IMAGES, LABELS)
    for X in (
        IMAGES.reshape(40, 64),
        IMAGES[..., None],
        IMAGES[:, None],
        torch.from_numpy(IMAGES),
        list(IMAGES),
        IMAGES.astype(np.int64),
        IMAGES.astype(np.float32),
        np.asfortranarray(IMAGES),
    ):
        assert clf.predict_proba(X).tobytes() == clf.predict_proba(IMAGES).tobytes()
    for X in (IMAGES.reshape(40, 64), torch.from_numpy(IMAGES)[:, None], list(IMAGES)):
        assert_equal(clf, clone(clf).fit(X, LABELS))


def test_channels_first_and_last():
    images, labels = patterns(colour=True)
    first = np.moveaxis(images, -1, 1)
    clf = quick().fit(images, labels)
    assert clf.image_shape_ == (8, 8, 3)
    assert_equal(clf, clone(clf).fit(first, labels), first)
    assert_equal(
        clf,
        clone(clf).set_params(image_shape=(8, 8, 3)).fit(images.reshape(40, -1), labels),
        images,
    )
    rows = images.reshape(40, -1)
    assert clf.predict_proba(rows).tobytes() == clf.predict_proba(first).tobytes()


def test_files_pictures_and_arrays_agree(files):
    X, y = load_images(files)
    pictures = [Image.open(path) for path in X]
    arrays = np.stack([np.asarray(picture) for picture in pictures])
    clf = quick().fit(X, y)
    assert not hasattr(clf, "n_features_in_")
    assert clf.image_shape_ is None and clf.classes_[0] == "Größe 0"
    expected = clf.predict_proba(X)
    for other in (list(X), np.array(X), pictures, arrays, list(arrays), arrays[..., None]):
        assert clf.predict_proba(other).tobytes() == expected.tobytes()
    assert_equal(clf, clone(clf).fit(pictures, y), X)
    assert clf.predict_proba([np.kron(a, np.ones((2, 2), np.uint8)) for a in arrays]).shape == (
        40,
        4,
    )
    on_arrays = clone(clf).fit(arrays, y)
    assert on_arrays.predict_proba(X).tobytes() == expected.tobytes()


def test_frames_and_series_of_paths(files):
    pandas = pytest.importorskip("pandas")
    X, y = load_images(files)
    clf = quick().fit(pandas.Series(list(X)), pandas.Series(y))
    frame = pandas.DataFrame({"path": list(X)})
    assert clf.predict_proba(frame).tobytes() == clf.predict_proba(X).tobytes()


def test_files_in_cross_validation(files):
    X, y = load_images(files)
    assert isinstance(X, ImageFiles)
    scores = cross_val_score(quick(), X, y, cv=2)
    arrays = np.stack([np.asarray(Image.open(path)) for path in X])
    np.testing.assert_array_equal(scores, cross_val_score(quick(), arrays, y, cv=2))


def test_encoded_images_and_rows_of_datasets(files):
    X, y = load_images(files)
    contents = []
    for path in X:
        with open(path, "rb") as file:
            contents.append(file.read())
    rows = deque({"bytes": content, "path": None} for content in contents)
    clf = quick().fit(rows, deque(y))
    expected = quick().fit(X, y).predict_proba(X).tobytes()
    for images in (rows, contents, deque(X), X):
        assert clf.predict_proba(images).tobytes() == expected
    scores = cross_val_score(quick(), rows, y, cv=2)
    np.testing.assert_array_equal(scores, cross_val_score(quick(), X, y, cv=2))


@pytest.mark.parametrize("shape", [(40, 64), (40, 8, 8)])
def test_sequences_of_tensors_are_as_their_array(shape):
    X = torch.from_numpy(IMAGES).reshape(shape).float()
    clf = quick().fit(list(X.bfloat16()), LABELS)
    assert clf.n_features_in_ == 64
    expected = quick().fit(X.bfloat16().float().numpy(), LABELS).predict_proba(NEW)
    assert clf.predict_proba(NEW).tobytes() == expected.tobytes()
