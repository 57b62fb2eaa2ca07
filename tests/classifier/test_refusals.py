"""What a fit refuses, before any work."""

import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from quick_classifier import IMAGES, LABELS
from sklearn.utils.validation import has_fit_parameter
from tiny import coarse_pixels, patterns, tiny_classifier

from supernetnas import Cells, Zoo, ZooError, get_embedder, load_images


@pytest.fixture
def spoiled_zoo(tiny_zoo, tmp_path):
    """A zoo whose weights and signatures cannot be read: whoever gets that far fails otherwise."""
    shutil.copytree(tiny_zoo.folder, tmp_path / "zoo")
    for path in (tmp_path / "zoo").rglob("*.safetensors"):
        path.unlink()
    return Zoo.open(tmp_path / "zoo")


def refuse(error, text, X=IMAGES, y=LABELS, zoo=None, strategy="scratch", **parameters):
    clf = tiny_classifier(zoo, strategy, **parameters)
    with pytest.raises(error, match=text):
        clf.fit(X, y)
    assert not [name for name in vars(clf) if name.endswith("_")]


# Parameters


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        (
            {"search__perturbation": "rand"},
            r"'perturbation' parameter .* be \{.random.",
        ),
        ({"search__perturbation": None}, "'perturbation' parameter"),
        ({"family__space": "s9"}, "'space' parameter"),
        ({"augmentation": "mixup"}, "'augmentation' parameter .* or Augmentation"),
        ({"class_weight": "equal"}, "'class_weight' parameter .* dict, .*balanced.* or None"),
        ({"class_weight": {9: 1}}, r"classes that y does not hold: \[9\]"),
        ({"class_weight": {0: -1}}, r"class_weight\[0\] must be a positive number"),
        (
            {"search__alpha_learning_rate": 1e39},
            "'alpha_learning_rate' parameter of SmoothDARTS must be float > 0",
        ),
        ({"class_weight": {0: 1e38}}, r"class_weight\[0\] must be .* at most 1e30; got 1e\+38"),
        ({"retraining__epochs": 0}, "'epochs' parameter of Retraining must be int >= 1"),
        ({"search__epochs": -1}, "'epochs' parameter of SmoothDARTS must be int >= 0"),
        ({"family__n_cells": 0}, "'n_cells' parameter of Cells"),
        ({"family__n_cells": 101}, "'n_cells' parameter .* <= 100. Got 101"),
        ({"family__network_cells": 101}, "'network_cells' parameter .* <= 100 or None"),
        ({"family__network_channels": 4098}, "'network_channels' parameter .* <= 4096"),
        ({"family__init_channels": 3}, "'init_channels' parameter of Cells must be even int"),
        ({"search__patience": 0}, "'patience' parameter"),
        (
            {"retraining__learning_rate": float("nan")},
            "'learning_rate' parameter of Retraining must be float > 0",
        ),
        ({"time_limit": 0}, "'time_limit' parameter .* float > 0 or None"),
        ({"search__validation_fraction": 1.0}, "validation_fraction"),
        ({"retraining__label_smoothing": 1.0}, "label_smoothing"),
        ({"retraining__dropout": -0.1}, "dropout"),
        ({"batch_size": 1}, "batch_size"),
        ({"image_size": 4}, "image_size must be 'auto', or"),
        ({"image_size": (8, 8, 3)}, "image_size must be 'auto', or"),
        ({"image_size": "big"}, "image_size must be 'auto', or"),
        ({"search__perturbation_radius": 0.3}, "must be two floats >= 0"),
        ({"search__perturbation_radius": "wide"}, "must be two floats >= 0"),
        ({"image_shape": (4, 4)}, r"image_shape=\(4, 4"),
        ({"device": "tpu"}, "device must be 'auto'"),
        ({"random_state": "seed"}, "seed"),
        ({"strategy": "oracle", "search__epochs": 0}, "oracle.* at least 1"),
        ({"strategy": "best"}, "'strategy' parameter .*bars, both, spots"),
        ({"strategy": None}, "'strategy' parameter"),
    ],
)
def test_parameters_are_checked(spoiled_zoo, parameters, text):
    strategy = parameters.pop("strategy", "multi")
    refuse(ValueError, text, zoo=spoiled_zoo, strategy=strategy, **parameters)


@pytest.mark.parametrize(
    "parameter", ["family__n_cells", "retraining__epochs", "batch_size", "retraining__dropout"]
)
def test_types_are_checked(spoiled_zoo, parameter):
    refuse(
        TypeError, parameter.split("__")[-1], zoo=spoiled_zoo, strategy="multi", **{parameter: "1"}
    )


def test_a_family_that_nothing_can_be_read_by_is_refused_before_the_fit():
    class Own(Cells):
        name = "own"

    refuse(ValueError, "Unknown family 'own'", family=Own(n_cells=1))


def test_no_gpu():
    if torch.cuda.is_available():
        refuse(ValueError, "does not exist", device="cuda:77")
    else:
        refuse(ValueError, "no CUDA GPU", device="cuda")


# Images and labels


@pytest.mark.parametrize(
    ("X", "y", "text"),
    [
        (IMAGES, np.zeros(40), "one class only"),
        (IMAGES, np.arange(40) // 39, "1 class has 1: 1. Add images, or leave"),
        (IMAGES, LABELS[:-1], "^X has 40 images and y 39 labels; each image needs one.$"),
        (IMAGES.reshape(40, -1), LABELS[:-1], "inconsistent numbers of samples"),
        (np.zeros((8, 8, 3)), LABELS, r"8 images .* 40 labels.* X is one image .* it is X\[None\]"),
        ([], [], "0 images"),
        (IMAGES, None, "requires y to be passed"),
        (IMAGES, np.where(LABELS == 0, np.nan, LABELS), "NaN"),
        (IMAGES, LABELS + 0.5, "Unknown label type"),
        (IMAGES, np.stack([LABELS, LABELS], axis=1), "shape"),
        (IMAGES[:0], LABELS[:0], "0|empty|minimum"),
        (np.where(IMAGES > 200, np.nan, IMAGES), LABELS, "NaN"),
        (np.where(IMAGES > 200, np.inf, IMAGES), LABELS, "infinity"),
        (IMAGES[..., None, None], LABELS, "dim 5"),
        ([[1, 2], [3]], [0, 1], "nested list of unequal lengths"),
        ([None, "a.png"], [0, 1], r"1 of 2 images are missing .*X\[0\]"),
        ([("a.png", "cat"), ("b.png", "dog")], [0, 1], "the labels as y"),
        (np.array([["a.png", "cat"], ["b.png", "dog"]]), [0, 1], "the labels as y"),
        ([[[1, 2]], [[3]]], [0, 1], "unequal lengths"),
        ([np.ones((4, 4)), np.full((5, 5), np.nan)], [0, 1], "NaN"),
        ([np.ones((4, 4)), np.ones(3)], [0, 1], "is not an image"),
    ],
)
def test_data_are_checked(spoiled_zoo, X, y, text):
    refuse(ValueError, text, X, y, zoo=spoiled_zoo, strategy="multi")


@pytest.mark.parametrize(
    ("strange", "message"),
    [(1, r"one kind; got int, str.*strings"), (None, r"first of them y\[3\]")],
)
def test_labels_of_several_kinds(strange, message):
    images, labels = patterns()
    labels = np.array([f"class {label}" for label in labels], dtype=object)
    labels[3] = strange
    with pytest.raises(ValueError, match=message):
        tiny_classifier().fit(images, labels)


def test_labels_of_files_are_checked_as_those_of_arrays(files, spoiled_zoo):
    X, y = load_images(files)
    for labels, text in [
        (None, "requires y"),
        (y[:-1], "40 images and y 39 labels"),
        (np.where(LABELS == 0, np.nan, LABELS), "NaN"),
        (LABELS + 0.5, "Unknown label type"),
        (np.zeros(40), "one class only"),
    ]:
        refuse(ValueError, text, X, labels, zoo=spoiled_zoo, strategy="multi")


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_an_unreadable_file_is_named(files, spoiled_zoo, content):
    X, y = load_images(files)
    with open(X[7], "wb") as file:
        file.write(content)
    text = r"1 of 40 images cannot be read. The first is X\[7\] = .*日本"
    refuse(OSError, text, X, y, zoo=spoiled_zoo, strategy="multi")


def test_a_truncated_file_is_named(files, spoiled_zoo):
    X, y = load_images(files)
    picture = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(picture).save(X[7])
    with open(X[7], "r+b") as file:
        file.truncate(1000)
    refuse(OSError, r"X\[7\] = .*日本", X, y, zoo=spoiled_zoo, strategy="multi")


def test_one_path_is_not_images(files, spoiled_zoo):
    refuse(TypeError, "load_images", str(files), LABELS, zoo=spoiled_zoo, strategy="multi")


def test_a_table_of_paths_and_labels_is_not_images(files, spoiled_zoo, fitted):
    pandas = pytest.importorskip("pandas")
    X, y = load_images(files)
    for label in (y, LABELS):
        frame = pandas.DataFrame({"path": list(X), "label": label})
        text = r"one column of a DataFrame, X\['path'\], and the labels as y"
        refuse(ValueError, text, frame, y, zoo=spoiled_zoo, strategy="multi")
        with pytest.raises(ValueError, match=text):
            fitted.predict(frame)


def test_open_files_are_not_images(files, spoiled_zoo):
    X, y = load_images(files)
    with open(X[0], "rb") as one, open(X[1], "rb") as other:
        text = r"X\[0\] is a BufferedReader, which is not read. Pass the paths of files"
        refuse(TypeError, text, [one, other], y[:2], zoo=spoiled_zoo, strategy="multi")


def test_weights_of_images_are_refused(spoiled_zoo):
    clf = tiny_classifier(spoiled_zoo, "multi")
    with pytest.raises(TypeError, match=r"no sample_weight: .*class_weight"):
        clf.fit(IMAGES, LABELS, sample_weight=np.ones(40))
    with pytest.raises(TypeError, match="X and y alone; got 'eval_set', too"):
        clf.fit(IMAGES, LABELS, eval_set=None)
    assert not has_fit_parameter(clf, "sample_weight")


# The zoo


def test_no_zoo():
    refuse(ZooError, "no zoo", strategy="multi")


@pytest.mark.parametrize("strategy", ["ot", "multi", "oracle", "random", "bars"])
def test_a_damaged_zoo(spoiled_zoo, strategy):
    refuse(ZooError, "missing", zoo=spoiled_zoo, strategy=strategy)


def test_one_damaged_source_stops_the_oracle_before_it_searches(tiny_zoo, tmp_path, caplog):
    shutil.copytree(tiny_zoo.folder, tmp_path / "zoo")
    (tmp_path / "zoo" / "spots" / "supernet.safetensors").write_bytes(b"changed")
    with caplog.at_level(logging.INFO, logger="supernetnas"):
        refuse(ZooError, "spots", zoo=Zoo.open(tmp_path / "zoo"), strategy="oracle")
    assert not caplog.records


def test_another_embedder_than_the_zoos(spoiled_zoo):
    embedder = get_embedder(coarse_pixels, input_size=16)
    refuse(ValueError, "embedded with", zoo=spoiled_zoo, strategy="ot", embedder=embedder)
