"""The estimator from images to predictions, and all that can be wrong before it starts."""

import copy
import json
import logging
import os
import pathlib
import pickle
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections import deque

import joblib
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.utils.validation import has_fit_parameter
from tiny import EMBEDDER, coarse_pixels, patterns, tiny_classifier

from supernetnas import (
    Cells,
    DrNAS,
    Execution,
    ImageFiles,
    Retraining,
    SmoothDARTS,
    SupernetTransferClassifier,
    Zoo,
    ZooError,
    get_embedder,
    load_images,
)
from supernetnas.families.cells.network import Network
from supernetnas.families.cells.space import SearchSpace, register_space
from supernetnas.fitting.resolved import method_of

IMAGES, LABELS = patterns()
NEW, _ = patterns(seed=1)


def quick(zoo=None, strategy="scratch", **parameters):
    """A classifier that does a little of everything."""
    return tiny_classifier(zoo, strategy, **{"retraining__epochs": 2, **parameters})


@pytest.fixture
def spoiled_zoo(tiny_zoo, tmp_path):
    """A zoo whose weights and signatures cannot be read: whoever gets that far fails otherwise."""
    shutil.copytree(tiny_zoo.folder, tmp_path / "zoo")
    for path in (tmp_path / "zoo").rglob("*.safetensors"):
        path.unlink()
    return Zoo.open(tmp_path / "zoo")


@pytest.fixture
def files(tmp_path):
    """A folder of class folders with the images of `IMAGES`."""
    for position, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        folder = tmp_path / "bilder" / f"Größe {label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{position:02}_日本.png")
    return tmp_path / "bilder"


def assert_equal(one, other, X=NEW):
    assert one.genotype_ == other.genotype_
    assert one.source_ == other.source_
    assert one.predict_proba(X).tobytes() == other.predict_proba(X).tobytes()


# What a fit gives


def test_fitted_attributes(fitted):
    assert fitted.classes_.tolist() == [0, 1, 2, 3]
    assert fitted.n_features_in_ == 64
    assert fitted.image_shape_ == (8, 8, 1)
    assert fitted.image_size_ == (8, 8)
    assert fitted.source_ == "bars"
    assert list(fitted.distances_) == ["bars", "spots"]
    assert isinstance(fitted.network_, Network) and not fitted.network_.training
    assert fitted.genotype_ == fitted.network_.config.genotype
    assert 0.5 < fitted.inherited_ <= 1
    assert [row["stage"] for row in fitted.history_] == ["search"] + 8 * ["retrain"]
    assert fitted.n_parameters_ == sum(p.numel() for p in fitted.network_.parameters())
    assert fitted.n_macs_ > 0 and fitted.device_ == "cpu"
    assert fitted.supernet_config_.input_channels == 1
    assert "alphas_normal" in fitted.supernet_state_
    assert not any(name.startswith("classifier") for name in fitted.supernet_state_)


def test_it_learns(fitted):
    images, labels = patterns(seed=1)
    assert fitted.score(images, labels) > 0.9
    np.testing.assert_allclose(fitted.predict_proba(images).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("strategy", "sources"),
    [
        ("multi", {"both"}),
        ("random", {"bars", "spots"}),
        ("oracle", {"bars", "spots"}),
        ("spots", {"spots"}),
    ],
)
def test_strategies(tiny_zoo, strategy, sources):
    clf = quick(tiny_zoo, strategy).fit(IMAGES, LABELS)
    assert clf.source_ in sources and clf.distances_ is None
    assert_equal(clf, clone(clf).fit(IMAGES, LABELS))


def test_the_oracle_keeps_the_best_search(tiny_zoo):
    best = quick(tiny_zoo, "oracle", search__epochs=2).fit(IMAGES, LABELS)
    assert len([row for row in best.history_ if row["stage"] == "search"]) == 2


def test_without_search_the_architecture_is_the_sources(tiny_zoo):
    clf = quick(tiny_zoo, "multi", search__epochs=0).fit(IMAGES, LABELS)
    alphas = tiny_zoo["both"].state_dict()["alphas_normal"].numpy()
    np.testing.assert_array_equal(clf.supernet_state_["alphas_normal"], alphas)
    assert [row["stage"] for row in clf.history_] == 2 * ["retrain"]


def test_a_deeper_and_wider_network():
    clf = quick(family__network_cells=5, family__network_channels=4).fit(IMAGES, LABELS)
    assert (clf.network_.config.n_cells, clf.network_.config.init_channels) == (5, 4)
    assert clf.supernet_config_.n_cells == 3
    assert clf.inherited_ < 0.5


@pytest.mark.parametrize("perturbation", ["random", "adversarial"])
def test_perturbations(perturbation):
    clf = quick(search__perturbation=perturbation).fit(IMAGES, LABELS)
    assert_equal(clf, clone(clf).fit(IMAGES, LABELS))


def test_more_channels_than_a_source_has(tiny_zoo):
    images = np.random.default_rng(0).random((40, 8, 8, 5))
    clf = quick(tiny_zoo, "ot").fit(images, LABELS)
    assert clf.network_.config.input_channels == 5
    assert clf.predict_proba(images).shape == (40, 4)


def test_tiny_images():
    values = np.repeat([[0.0], [1.0]], 10, axis=0)
    clf = tiny_classifier().fit(values, values[:, 0] > 0)
    assert clf.image_shape_ == (1, 1, 1)
    assert clf.predict(values).dtype == bool


def test_class_weight():
    images, labels = patterns(n_classes=2, noise=90)
    names = np.array(["many", "few"])[labels]

    def share_of_few(class_weight):
        clf = tiny_classifier(class_weight=class_weight).fit(images, names)
        return clf.predict_proba(images)[:, 0].mean()

    assert share_of_few({"few": 50}) > share_of_few(None) + 0.1
    assert share_of_few({"many": 50.0, "few": 1}) < share_of_few(None) - 0.1
    assert share_of_few("balanced") == share_of_few(None)


@pytest.mark.parametrize("strategy", ["scratch", "oracle"])
def test_time_limit(tiny_zoo, strategy):
    clf = quick(tiny_zoo, strategy, time_limit=0.01, search__epochs=500, retraining__epochs=500)
    start = time.monotonic()
    clf.fit(IMAGES, LABELS)
    assert time.monotonic() - start < 30
    assert [row["stage"] for row in clf.history_] == ["search", "retrain"]


@pytest.mark.parametrize(
    ("shape", "parameters", "words"),
    [
        ((160, 160), {}, "of 160 x 160 pixels.*become 32 x 32.*smaller than 5 pixels are lost"),
        ((40, 100), {"image_size": 32}, "width changes 2.5 times; resize='crop' or 'pad' keeps"),
        ((40, 160), {}, "are lost.*changes 4 times"),
        ((128, 128), {}, None),
        ((160, 160), {"image_size": 32}, None),  # as was asked for
        ((38, 32), {"image_size": 32}, None),
        ((40, 100), {"image_size": 32, "resize": "crop"}, None),
        ((40, 100), {"image_size": 32, "resize": "pad"}, None),
        ((100, 40), {"image_size": (20, 8)}, None),
        ((1, 36), {}, None),  # a row of features
    ],
)
def test_detail_that_is_lost_is_told(shape, parameters, words):
    images = np.random.default_rng(0).integers(0, 255, (4, *shape), dtype=np.uint8)
    settings = {"image_size": "auto", "search": "none", "retraining__epochs": 1, **parameters}
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        tiny_classifier(**settings).fit(images, [0, 1] * 2)
    said = [str(warning.message) for warning in found]
    if words is None:
        assert said == []
    else:
        assert len(said) == 1 and found[0].filename == __file__
        assert re.search(words, said[0])


@pytest.mark.parametrize(
    ("strategy", "preset", "times"),
    [
        ("multi", "quick", 1 / 3),
        ("multi", "best", 3),
        ("scratch", "quick", 1 / 3),
    ],
)
def test_presets_are_for_what_is_left_open(tiny_zoo, strategy, preset, times):
    def epochs(**parameters):
        clf = tiny_classifier(tiny_zoo, strategy, **parameters).fit(IMAGES, LABELS)
        return [row["stage"] for row in clf.history_].count("retrain")

    left_open = {"retraining__epochs": "auto"}
    assert epochs(preset=preset, **left_open) == round(epochs(**left_open) * times)
    assert epochs(preset=preset, retraining__epochs=2) == 2


def test_the_time_is_estimated_before_the_first_epoch(tiny_zoo, capsys):
    start = time.monotonic()
    tiny_classifier(tiny_zoo, "multi", verbose=2, search__epochs=2, retraining__epochs=40).fit(
        IMAGES, LABELS
    )
    seconds = time.monotonic() - start
    lines = capsys.readouterr().err.splitlines()
    said, unit = re.fullmatch(r"fit: about ([\d.]+) (s|min) for 40 images", lines[0]).groups()
    assert seconds / 10 < float(said) * {"s": 1, "min": 60}[unit] < seconds * 10
    left = [float(found) for found in re.findall(r"about ([\d.]+) s left", "\n".join(lines))]
    assert len(left) >= 5 and left[-1] < left[0]
    clf = tiny_classifier(tiny_zoo, "multi", search="none", verbose=2).fit(IMAGES, LABELS)
    assert "fit: about" in capsys.readouterr().err  # of the retraining alone
    quiet = tiny_classifier(tiny_zoo, "multi", search="none").fit(IMAGES, LABELS)
    assert_equal(clf, quiet)  # nothing is drawn or changed to find out


def test_verbose(tiny_zoo, capsys):
    quick(tiny_zoo, "ot").fit(IMAGES, LABELS)
    assert capsys.readouterr() == ("", "")
    quick(tiny_zoo, "ot", verbose=1).fit(IMAGES, LABELS)
    shown = capsys.readouterr()
    assert shown.out == "" and "epoch 1 of" not in shown.err
    for stage in ("embedding", "search from bars", "retrain"):
        assert stage in shown.err
    quick(tiny_zoo, "scratch", verbose=2).fit(IMAGES, LABELS)
    lines = capsys.readouterr().err.splitlines()
    assert lines.pop(0).startswith("fit: about ")
    assert "of 16 edges differ" in lines.pop(1)
    assert [line.split(",")[0] for line in lines] == [
        "search from scratch: epoch 1 of at most 1",
        "retrain: epoch 1 of at most 2",
        "retrain: epoch 2 of at most 2",
    ]


def test_repr_names_what_differs_from_the_defaults(tiny_zoo):
    clf = tiny_classifier(strategy="ot", class_weight="balanced")
    text = " ".join(repr(clf).split())
    assert "SupernetTransferClassifier(" in text and "strategy='ot'" in text
    assert "<Embedder tiny.coarse_pixels @ 8x8 uint8>" in text


# Randomness


def test_the_same_seed_gives_the_same_network(fitted):
    assert_equal(fitted, clone(fitted).fit(IMAGES, LABELS))
    other = clone(fitted).set_params(random_state=1).fit(IMAGES, LABELS)
    assert fitted.predict_proba(NEW).tobytes() != other.predict_proba(NEW).tobytes()


def test_a_generator_goes_on():
    clf = quick(random_state=np.random.RandomState(0))
    first = clf.fit(IMAGES, LABELS).predict_proba(NEW)
    assert clf.fit(IMAGES, LABELS).predict_proba(NEW).tobytes() != first.tobytes()


@pytest.mark.parametrize("random_state", [0, None])
def test_global_random_states_are_left_alone(tiny_zoo, random_state):
    torch_state = torch.random.get_rng_state()
    numpy_state = np.random.get_state()  # noqa: NPY002
    quick(tiny_zoo, "ot", random_state=random_state, retraining__dropout=0.1).fit(
        IMAGES, LABELS
    ).predict(NEW)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    numpy_state_after = np.random.get_state()  # noqa: NPY002
    for old, new in zip(numpy_state, numpy_state_after, strict=True):
        np.testing.assert_array_equal(new, old)


def test_threads_do_not_mix(tiny_zoo):
    clf = quick(tiny_zoo, "ot", retraining__dropout=0.2)
    alone = cross_val_predict(clf, IMAGES, LABELS, cv=2, method="predict_proba")
    with joblib.parallel_config(backend="threading"):
        beside = cross_val_predict(clf, IMAGES, LABELS, cv=2, method="predict_proba", n_jobs=2)
    assert alone.tobytes() == beside.tobytes()


@pytest.mark.slow
def test_grid_search_in_processes(tiny_zoo):
    grid = {"strategy": ["ot", "multi", "scratch"]}
    clf = quick(tiny_zoo, embedder=EMBEDDER)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as the workers have: see `random_state`
    try:
        one = GridSearchCV(clf, grid, cv=2, scoring="neg_log_loss").fit(IMAGES, LABELS)
    finally:
        torch.set_num_threads(threads)
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        two = GridSearchCV(clf, grid, cv=2, scoring="neg_log_loss", refit=False, n_jobs=2)
        two.fit(IMAGES, LABELS)
    for key in ("split0_test_score", "split1_test_score"):
        assert one.cv_results_[key].tolist() == two.cv_results_[key].tolist()
    assert one.best_params_ == two.best_params_


# Copies


def test_clone_keeps_parameters_only(fitted):
    twin = clone(fitted)
    with pytest.raises(NotFittedError):
        twin.predict(NEW)
    parameters = fitted.get_params()
    assert {k: v for k, v in twin.get_params().items() if k != "embedder"} == {
        k: v for k, v in parameters.items() if k != "embedder"
    }


@pytest.mark.parametrize("mmap_mode", ["r", None])
def test_joblib(fitted, tmp_path, mmap_mode):
    joblib.dump(fitted, tmp_path / "clf.joblib")
    loaded = joblib.load(tmp_path / "clf.joblib", mmap_mode=mmap_mode)
    assert_equal(fitted, loaded)
    assert_equal(fitted, clone(loaded).fit(IMAGES, LABELS))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_pickle_and_deepcopy(fitted, duplicate):
    twin = duplicate(fitted)
    assert_equal(fitted, twin)
    assert twin.network_ is not fitted.network_
    assert isinstance(fitted.network_, Network)


def test_a_pickle_holds_no_module(fitted):
    assert b"torch" not in pickle.dumps(fitted.__getstate__() | {"embedder": None})


def test_a_pickle_from_a_gpu_predicts_on_the_cpu(fitted):
    state = fitted.__getstate__() | {"device_": "cuda:77"}
    twin = clone(fitted)
    with pytest.warns(UserWarning, match="fitted on 'cuda:77'"):
        twin.__setstate__(state)
    assert twin.device_ == "cpu"
    assert_equal(fitted, twin)


# Labels


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


# Images


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


def test_the_channels_of_the_fit_settle_where_they_are():
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 6, 3), dtype=np.uint8)
    clf = quick(image_shape=(6, 3, 3)).fit(images, LABELS)
    assert clf.image_shape_ == (6, 3, 3)
    last = np.moveaxis(images, 1, 3)
    assert clf.predict_proba(images).tobytes() == clf.predict_proba(last).tobytes()


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


def test_features_are_forgotten_with_their_fit(files):
    clf = quick().fit(IMAGES, LABELS)
    clf.fit(*load_images(files))
    assert not hasattr(clf, "n_features_in_")


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


# What is refused, before any work


def refuse(error, text, X=IMAGES, y=LABELS, zoo=None, strategy="scratch", **parameters):
    clf = tiny_classifier(zoo, strategy, **parameters)
    with pytest.raises(error, match=text):
        clf.fit(X, y)
    assert not [name for name in vars(clf) if name.endswith("_")]


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


def test_no_gpu():
    if torch.cuda.is_available():
        refuse(ValueError, "does not exist", device="cuda:77")
    else:
        refuse(ValueError, "no CUDA GPU", device="cuda")


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


def test_channels_of_the_fit_are_found_without_a_warning(recwarn):
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 12, 8), dtype=np.uint8)
    first = quick(image_shape=(12, 8, 4), image_size=(12, 8)).fit(images, LABELS)
    assert first.image_shape_ == (12, 8, 4)
    expected = first.predict_proba(np.moveaxis(images, 1, 3)).tobytes()
    assert first.predict_proba(images).tobytes() == expected
    assert not recwarn


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


# Interruptions


class Interrupting(logging.Handler):
    """Ctrl-C in the first epoch of a stage."""

    def __init__(self, stage):
        super().__init__()
        self.stage = stage

    def emit(self, record):
        if record.getMessage().startswith(f"{self.stage} epoch 1"):
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal: a shell lets what it runs in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("stage", ["search", "retrain"])
def test_an_interrupted_fit_leaves_the_last_one(stage):
    clf = quick().fit(IMAGES, LABELS)
    before = dict(vars(clf))
    expected = clf.predict_proba(NEW)
    logger, handler = logging.getLogger("supernetnas"), Interrupting(stage)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with pytest.raises(KeyboardInterrupt):
            clf.fit(np.zeros((40, 6, 7, 3)) + LABELS[:, None, None, None], LABELS > 1)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert vars(clf).keys() == before.keys()
    assert all(vars(clf)[name] is value for name, value in before.items())
    assert clf.predict_proba(NEW).tobytes() == expected.tobytes()


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_process_leaves_no_half_written_file(tmp_path):
    """A fit and a save in a loop, interrupted from outside."""
    script = """
        from tiny import patterns, tiny_classifier
        X, y = patterns(n_per_class=3)
        clf = tiny_classifier(retraining__epochs=1).fit(X, y)
        while True:
            clf.save_pretrained("model")
            print("saved", flush=True)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for _ in range(5):
            assert process.stdout.readline() == "saved\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    clf = SupernetTransferClassifier.from_pretrained(tmp_path / "model")
    assert clf.predict(IMAGES).shape == (40,)


def test_floats_on_another_scale_are_refused():
    clf = tiny_classifier().fit(IMAGES / 255.0, LABELS)
    with pytest.raises(ValueError, match=r"X holds values up to .* fitted on values from 0"):
        clf.predict(IMAGES.astype(float))
    clf.predict(IMAGES / 200.0)


def test_a_space_that_the_source_does_not_have_warns(tiny_zoo):
    clf = tiny_classifier(tiny_zoo, "multi", family__space="s2", family__init_channels=16)
    with pytest.warns(
        UserWarning, match=r"space='s2' is not used: its supernet has 's1'\. .* 'both'"
    ):
        clf.fit(IMAGES, LABELS)


def test_what_the_time_limit_cuts_is_said(caplog):
    tiny_classifier(time_limit=1e-3, search__epochs=3, retraining__epochs=3).fit(IMAGES, LABELS)
    assert "search ended after 1 of 3 epochs" in caplog.text
    assert "retrain ended after 1 of 3 epochs" in caplog.text


def test_a_search_that_stops_by_itself_is_not_blamed_on_the_time_limit(caplog):
    settings = {"search__epochs": 6, "search__patience": 1, "search__learning_rate": 1e-9}
    clf = tiny_classifier(time_limit=1000.0, **settings).fit(IMAGES, LABELS)
    assert sum(row["stage"] == "search" for row in clf.history_) < 6
    assert "ended after" not in caplog.text


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


@pytest.mark.parametrize(
    ("parameters", "stage"),
    [
        ({"search__learning_rate": 1e30}, "search diverged in epoch 1"),
        ({"search__alpha_learning_rate": 1e30}, "search diverged in epoch 1"),
        ({"retraining__learning_rate": 1e30}, "retraining diverged in epoch 1"),
        (
            {
                "search__learning_rate": 1e30,
                "search__epochs": 0,
                "search__derivation": "perturbation",
            },
            "tuning of the derivation diverged",
        ),
        (
            {
                "search__alpha_learning_rate": 1e30,
                "search__epochs": 0,
                "search__derivation": "perturbation",
            },
            "tuning of the derivation diverged",
        ),
    ],
)
def test_a_divergence_names_the_learning_rate_to_lower(parameters, stage):
    part, name = next(iter(parameters)).split("__")
    message = rf"The {stage}: its loss is not finite\. Lower the {part}'s {name} \(1e\+30\)\."
    with pytest.raises(FloatingPointError, match=message):
        tiny_classifier(batch_size=8, **parameters).fit(*patterns())


def test_notebooks_show_what_was_found(fitted):
    html = fitted._repr_html_()
    assert fitted._repr_mimebundle_()["text/html"] == html
    assert len(html) < 4000
    for text in (fitted.source_, str(fitted.genotype_), f"{fitted.n_macs_:,} MACs", " s on cpu"):
        assert text in html
    assert "<script" not in html
    hostile = copy.copy(fitted)
    hostile.source_ = "<img src=x onerror=alert(1)>"
    assert "<img" not in hostile._repr_html_()
    assert "MACs" not in tiny_classifier()._repr_html_()
    with config_context(display="text"):
        assert "text/html" not in fitted._repr_mimebundle_()


class TestSetParams:
    def test_names_become_objects(self):
        clf = SupernetTransferClassifier().set_params(search="drnas", search__epochs=2)
        assert clf.search == DrNAS(epochs=2)
        clf.set_params(retraining__epochs=3, family__n_cells=4)
        assert (clf.retraining, clf.family) == (Retraining(epochs=3), Cells(n_cells=4))
        assert clone(clf).get_params()["search__epochs"] == 2

    @pytest.mark.parametrize(
        "parameters",
        [
            {"search__nope": 1},
            {"search": "gdas", "nope": 1},
            {"search": "enas", "search__epochs": 2},
            {"batch_size": 8, "precision__compile": True},
            {"retraining__epochs": 2, "augmentation__flip": False},
        ],
        ids=str,
    )
    def test_all_or_nothing(self, parameters):
        clf = SupernetTransferClassifier()
        before = clf.get_params(deep=False)
        with pytest.raises(ValueError):
            clf.set_params(**parameters)
        assert clf.get_params(deep=False) == before

    def test_what_has_no_parts_says_what_to_pass(self):
        with pytest.raises(ValueError, match="pass augmentation as a whole"):
            SupernetTransferClassifier().set_params(augmentation__flip=False)

    def test_fit_changes_no_parameter(self, tiny_zoo):
        search, retraining = SmoothDARTS(epochs=1), Retraining(epochs=1)
        clf = tiny_classifier(tiny_zoo, "bars", search=search).set_params(retraining=retraining)
        before = {name: repr(value) for name, value in clf.get_params().items()}
        clf.fit(IMAGES, LABELS)
        assert clf.search is search
        assert {name: repr(value) for name, value in clf.get_params().items()} == before


def test_a_family_that_nothing_can_be_read_by_is_refused_before_the_fit():
    class Own(Cells):
        name = "own"

    refuse(ValueError, "Unknown family 'own'", family=Own(n_cells=1))


def test_a_space_that_is_registered_later_can_be_searched():
    edges = (("skip_connect", "sep_conv_3x3"),) * 14
    register_space(SearchSpace("registered_late", edges, edges))
    clf = tiny_classifier(family__space="registered_late", family__n_cells=1)
    assert clf.fit(IMAGES, LABELS).genotype_.space == "registered_late"


def test_a_source_of_an_unknown_family_keeps_no_other_from_use(tiny_zoo, tmp_path):
    zoo = tiny_zoo.save(tmp_path / "zoo")
    path = zoo.folder / "index.json"
    index = json.loads(path.read_text())
    index["format_version"] = 3
    for entry in index["sources"].values():
        entry |= {"family": "cells"}
    index["sources"]["spots"]["family"] = "later"
    path.write_text(json.dumps(index))
    clf = SupernetTransferClassifier(
        "random", zoo=zoo.folder, search=SmoothDARTS(epochs=0), retraining=Retraining(epochs=1)
    )
    clf.set_params(image_size=8, max_parameters=10**9, random_state=0)
    assert clf.fit(IMAGES, LABELS).source_ == "bars"


@pytest.mark.parametrize(
    ("parameters", "strategy", "text"),
    [({"family__space": "s2"}, "multi", "is not used"), ({}, "scratch", "All pixels")],
)
def test_warnings_point_to_the_caller(tiny_zoo, parameters, strategy, text):
    X = IMAGES if strategy == "multi" else np.zeros_like(IMAGES)
    with pytest.warns(UserWarning, match=text) as caught:
        tiny_classifier(tiny_zoo, strategy, **parameters).fit(X, LABELS)
    assert {w.filename for w in caught if text in str(w.message)} == {__file__}


@pytest.mark.parametrize("method", ["drnas", "gdas"])
def test_what_is_not_finite_is_found_though_the_loss_is(method):
    clf = tiny_classifier(search=method, search__epochs=2, batch_size=8)
    clf.set_params(search__alpha_learning_rate=1e30)
    with pytest.raises(FloatingPointError, match="search diverged"):
        clf.fit(*patterns())


@pytest.mark.filterwarnings("ignore:")  # of torch's compiler about itself
@pytest.mark.slow  # half a minute of a C++ compiler
def test_the_retraining_is_compiled_after_its_first_step():
    counters = torch._dynamo.utils.counters
    torch._dynamo.reset()
    counters.clear()
    execution = Execution("float32", compile=True)
    tiny_classifier(search="random", retraining__epochs=2, precision=execution).fit(IMAGES, LABELS)
    assert counters["frames"]["ok"] >= 1
    assert counters["stats"]["calls_captured"] > 10


class TestDefaultSearch:
    """A search has to earn its time; there is one only where a fit cannot do without."""

    @pytest.mark.parametrize(
        ("strategy", "name"),
        [
            *((strategy, "none") for strategy in ("auto", "multi", "ot", "random", "a source")),
            *((strategy, "sdarts") for strategy in ("scratch", "oracle")),
        ],
    )
    def test_auto(self, strategy, name):
        assert method_of(SupernetTransferClassifier(strategy, family="cells")).name == name
        for search in ("gdas", "none"):
            clf = SupernetTransferClassifier(strategy, family="cells", search=search)
            assert method_of(clf).name == search

    def test_its_parameters_are_of_a_search(self):
        clf = SupernetTransferClassifier().set_params(search__epochs=3)
        assert repr(clf.search) == "SmoothDARTS(epochs=3)"
        with pytest.raises(ValueError, match="Invalid parameter 'epochs'"):
            SupernetTransferClassifier(search="none").set_params(search__epochs=3)

    def test_fits_are_not_searched(self, tiny_zoo):
        X, y = patterns()
        clf = tiny_classifier(tiny_zoo, "both", search="auto").fit(X, y)
        assert [row["stage"] for row in clf.history_] == ["retrain"] * 8
