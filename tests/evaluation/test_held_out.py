"""What a fit holds out is measured, named, kept, and otherwise not used."""

import numpy as np
import pytest
from PIL import Image
from tiny import patterns, tiny_classifier

from supernetnas import Evaluation, ImageFiles, SupernetTransferClassifier
from supernetnas.storage.files import FileError


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Images of `tiny.patterns` as files, and their labels as words."""
    folder, (images, labels) = tmp_path_factory.mktemp("files"), patterns(12)
    paths = [folder / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return ImageFiles(paths), np.array(["one", "two", "three", "four"])[labels]


@pytest.fixture(scope="module")
def held(files):
    """A classifier that has held a quarter of the files out; not to be changed."""
    return tiny_classifier(holdout_fraction=0.25).fit(*files)


def test_a_share_of_each_class_is_held_out_and_measured(held, files):
    X, y = files
    found = held.holdout_
    assert isinstance(found, Evaluation)
    assert len(found) == 12
    assert np.bincount(found.labels).tolist() == [3] * 4
    assert list(found.names) == [X[i] for i in found.index]
    np.testing.assert_array_equal(held.classes_[found.labels], y[found.index])
    np.testing.assert_array_equal(held.classes_[found.predicted], held.predict(X[found.index]))
    assert found.accuracy == held.score(X[found.index], y[found.index])
    assert held.evaluate(X[found.index], y[found.index]).to_dict()["errors"] == [
        {**row, "index": found.names.index(row["image"])} for row in found.errors()
    ]


def test_the_history_measures_every_epoch_and_ends_with_the_network_itself(held):
    rows = [row for row in held.history_ if row["stage"] == "retrain"]
    assert all(0 <= row["validation_accuracy"] <= 1 for row in rows)
    assert all(row["validation_loss"] > 0 for row in rows)
    assert rows[-1]["validation_accuracy"] == held.holdout_.accuracy
    assert rows[-1]["validation_loss"] == pytest.approx(held.holdout_.log_loss, rel=1e-4)


def test_what_is_held_out_is_not_trained_on(held, files):
    """The same network comes of the other images alone, in whatever the held ones are."""
    X, y = files
    pixels = X.to_array(8)
    first = tiny_classifier(holdout_fraction=0.25).fit(pixels, y)
    pixels[first.holdout_.index] = 255 - pixels[first.holdout_.index]
    second = tiny_classifier(holdout_fraction=0.25).fit(pixels, y)
    for one, other in zip(
        first.network_.state_dict().values(), second.network_.state_dict().values(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert first.holdout_.names == tuple(map(str, first.holdout_.index))
    assert first.holdout_.log_loss != second.holdout_.log_loss


def test_measuring_changes_nothing(files):
    X, y = files
    held = tiny_classifier(holdout_fraction=0.25).fit(X, y)
    kept = np.setdiff1d(np.arange(len(X)), held.holdout_.index)
    plain = tiny_classifier().fit(X[kept], y[kept])
    assert plain.holdout_ is None
    assert not any("validation_loss" in row for row in plain.history_ if row["stage"] == "retrain")
    np.testing.assert_array_equal(plain.predict_proba(X), held.predict_proba(X))


def test_a_saved_classifier_keeps_the_list(held, tmp_path):
    held.save_pretrained(tmp_path)
    lines = (tmp_path / "held_out.csv").read_text().splitlines()
    assert lines[0].startswith("index,image,class,predicted")
    assert len(lines) == 13
    again = SupernetTransferClassifier.from_pretrained(tmp_path)
    assert again.holdout_.to_dict() == held.holdout_.to_dict()
    card = (tmp_path / "README.md").read_text()
    assert "| network, on 12 images held out |" in card
    assert "| network, on 12 images held out (95 % interval " in card
    assert f'"type": "accuracy", "name": "accuracy", "value": {held.holdout_.accuracy}' in card


def test_a_changed_list_is_refused(held, tmp_path):
    held.save_pretrained(tmp_path)
    (tmp_path / "held_out.csv").write_text("index,image\n")
    with pytest.raises(FileError, match=r"held_out\.csv"):
        SupernetTransferClassifier.from_pretrained(tmp_path)


def test_a_fit_that_holds_nothing_out_replaces_one_that_did(held, tmp_path):
    held.save_pretrained(tmp_path)
    tiny_classifier(retraining__epochs=1).fit(*patterns()).save_pretrained(tmp_path)
    assert not (tmp_path / "held_out.csv").exists()
    assert SupernetTransferClassifier.from_pretrained(tmp_path).holdout_ is None


@pytest.mark.parametrize("fraction", [0.2, 0.9])
def test_classes_that_would_have_too_few_left_are_named(fraction):
    X, y = patterns(12)
    few = np.r_[np.flatnonzero(y == 3)[:2], np.flatnonzero(y != 3)]
    with pytest.raises(ValueError, match=r"class 3, which has 2 images.*holdout_fraction=0"):
        tiny_classifier(holdout_fraction=fraction).fit(X[few], y[few])


def test_evaluate_refuses_unknown_classes_and_lengths(fitted):
    X, y = patterns()
    with pytest.raises(ValueError, match="y has 1 class that the fit has not seen: 7"):
        fitted.evaluate(X, np.where(y == 0, 7, y))
    with pytest.raises(ValueError, match="one label for each of the 40 images"):
        fitted.evaluate(X, y[:3])


def test_evaluate_agrees_with_the_predictions(fitted):
    X, y = patterns(seed=5)
    found = fitted.evaluate(X, y)
    assert found.accuracy == fitted.score(X, y)
    probabilities = fitted.predict_proba(X)
    np.testing.assert_allclose(found.true_probability, probabilities[np.arange(len(y)), y])
    some = fitted.evaluate(X[y < 2], y[y < 2])
    assert some.per_class[3]["recall"] is None
