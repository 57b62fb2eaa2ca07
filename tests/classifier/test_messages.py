"""What a fit says: warnings, its progress, and how a classifier is shown."""

import copy
import re
import time
import warnings

import numpy as np
import pytest
from quick_classifier import IMAGES, LABELS, assert_equal, quick
from sklearn import config_context
from tiny import tiny_classifier

# Warnings


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


def test_a_space_that_the_source_does_not_have_warns(tiny_zoo):
    clf = tiny_classifier(tiny_zoo, "multi", family__space="s2", family__init_channels=16)
    with pytest.warns(
        UserWarning, match=r"space='s2' is not used: its supernet has 's1'\. .* 'both'"
    ):
        clf.fit(IMAGES, LABELS)


@pytest.mark.parametrize(
    ("parameters", "strategy", "text"),
    [({"family__space": "s2"}, "multi", "is not used"), ({}, "scratch", "All pixels")],
)
def test_warnings_point_to_the_caller(tiny_zoo, parameters, strategy, text):
    X = IMAGES if strategy == "multi" else np.zeros_like(IMAGES)
    with pytest.warns(UserWarning, match=text) as caught:
        tiny_classifier(tiny_zoo, strategy, **parameters).fit(X, LABELS)
    assert {w.filename for w in caught if text in str(w.message)} == {__file__}


# Progress


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


# The classifier itself


def test_repr_names_what_differs_from_the_defaults(tiny_zoo):
    clf = tiny_classifier(strategy="ot", class_weight="balanced")
    text = " ".join(repr(clf).split())
    assert "SupernetTransferClassifier(" in text and "strategy='ot'" in text
    assert "<Embedder tiny.coarse_pixels @ 8x8 uint8>" in text


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
