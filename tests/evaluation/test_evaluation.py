"""The figures of an evaluation agree with references, and survive a file."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics

from supernetnas.evaluation.evaluation import Evaluation, image_names
from supernetnas.storage.files import FileError


@pytest.fixture
def evaluation():
    return random_evaluation()


def random_evaluation(n=200, n_classes=5, seed=0, present=None):
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(n_classes), n)
    labels = random.integers(0, present or n_classes, n)
    probabilities[np.arange(n), labels] += 0.3
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return Evaluation.of([f"class {i}" for i in range(n_classes)], labels, probabilities)


def test_figures_are_those_of_scikit_learn(evaluation):
    labels, predicted = evaluation.labels, evaluation.predicted
    assert evaluation.accuracy == metrics.accuracy_score(labels, predicted)
    assert evaluation.balanced_accuracy == pytest.approx(
        metrics.balanced_accuracy_score(labels, predicted)
    )
    assert evaluation.log_loss == pytest.approx(-np.log(evaluation.true_probability).mean())
    recall = metrics.recall_score(labels, predicted, average=None)
    assert [row["recall"] for row in evaluation.per_class] == pytest.approx(recall)
    np.testing.assert_array_equal(evaluation.confusion, metrics.confusion_matrix(labels, predicted))


def test_log_loss_is_that_of_the_probabilities():
    probabilities = np.array([[0.9, 0.1], [0.3, 0.7], [1.0, 0.0]])
    labels = np.array([0, 0, 0])
    found = Evaluation.of("ab", labels, probabilities)
    assert found.log_loss == pytest.approx(metrics.log_loss(labels, probabilities, labels=[0, 1]))
    never = Evaluation.of("ab", np.array([1]), np.array([[1.0, 0.0]]))
    assert 10 < never.log_loss < 20


def test_the_interval_is_that_of_wilson():
    right = np.tile([[1.0, 0.0]], (10, 1))
    found = Evaluation.of("ab", np.zeros(10, int), right)
    assert found.accuracy_interval == pytest.approx((0.7225, 1.0), abs=1e-4)
    half = Evaluation.of("ab", np.repeat([0, 1], 50), np.tile([[0.6, 0.4]], (100, 1)))
    assert half.accuracy_interval == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy():
    probabilities = np.tile([[0.8, 0.2]], (10, 1))
    honest = Evaluation.of("ab", np.array([0] * 8 + [1] * 2), probabilities)
    assert honest.calibration_error == pytest.approx(0, abs=1e-12)
    boasting = Evaluation.of("ab", np.array([0] * 5 + [1] * 5), probabilities)
    assert boasting.calibration_error == pytest.approx(0.3)
    two = np.concatenate([probabilities, np.tile([[0.4, 0.6]], (30, 1))])
    mixed = Evaluation.of("ab", np.array([0] * 5 + [1] * 5 + [1] * 30), two)
    assert mixed.calibration_error == pytest.approx(0.25 * 0.3 + 0.75 * 0.4)
    certain = Evaluation.of("ab", np.array([0]), np.array([[1.0, 0.0]]))
    assert certain.calibration_error == 0


def test_classes_without_images_or_predictions_are_unknown_and_do_not_count():
    found = random_evaluation(present=3)
    assert [row["recall"] for row in found.per_class[3:]] == [None, None]
    present = found.per_class[:3]
    assert found.balanced_accuracy == pytest.approx(np.mean([row["recall"] for row in present]))
    only = Evaluation.of("ab", np.array([0, 0]), np.tile([[0.9, 0.1]], (2, 1)))
    assert only.per_class[1]["precision"] is None


def test_the_most_confident_mistakes_come_first(evaluation):
    errors = evaluation.errors()
    assert len(errors) == int((~evaluation.correct).sum())
    assert all(row["class"] != row["predicted"] for row in errors)
    confidences = [row["confidence"] for row in errors]
    assert confidences == sorted(confidences, reverse=True)
    assert evaluation.errors(3) == errors[:3]


def test_confusions_are_counted(evaluation):
    rows = evaluation.confusions()
    assert sum(row["images"] for row in rows) == int((~evaluation.correct).sum())
    assert rows[0]["images"] == max(row["images"] for row in rows)
    true = evaluation.classes.index(rows[0]["class"])
    taken = evaluation.classes.index(rows[0]["predicted"])
    assert rows[0]["images"] == evaluation.confusion[true, taken]
    assert rows[0]["share"] == rows[0]["images"] / evaluation.confusion[true].sum()


def test_json_and_csv(evaluation, tmp_path):
    data = json.loads(evaluation.to_json())
    assert data["accuracy"] == evaluation.accuracy
    assert np.array(data["confusion"]).sum() == data["images"] == len(evaluation)
    assert evaluation.to_json(tmp_path / "a.json") is None
    assert json.loads((tmp_path / "a.json").read_text()) == data
    evaluation.to_csv(tmp_path / "a.csv")
    again = Evaluation.from_csv((tmp_path / "a.csv").read_bytes(), evaluation.classes, name="a.csv")
    assert again.to_dict() == evaluation.to_dict()
    assert again.names == evaluation.names


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"class 1", b"class 9"),
        (b"true_probability", b"something"),
        (b"\n0,0,", b"\nx,0,"),
        (b"\n0,0,", b"\n-1,0,"),
    ],
)
def test_tables_of_something_else_are_refused(evaluation, old, new):
    data = evaluation.to_csv().encode()
    assert old in data
    with pytest.raises(FileError, match=r"strange\.csv does not list predictions"):
        Evaluation.from_csv(data.replace(old, new), evaluation.classes, name="strange.csv")


def test_probabilities_beyond_one_are_refused(evaluation):
    lines = evaluation.to_csv().splitlines()
    lines[1] = ",".join([*lines[1].split(",")[:4], "1.5", "0.5"])
    with pytest.raises(FileError, match="probabilities"):
        Evaluation.from_csv("\n".join(lines).encode(), evaluation.classes, name="a.csv")


def test_names_are_those_of_files():
    assert image_names(["a.png", Path("b") / "c.png"]) == ["a.png", os.path.join("b", "c.png")]
    assert image_names([{"path": "a.png", "bytes": b""}]) == ["a.png"]
    assert image_names(["a", "b", "c"], np.array([2, 0])) == ["c", "a"]
    assert image_names(np.zeros((2, 4, 4))) is None
    assert image_names([b"png"]) is None
    assert image_names([os.fsdecode(b"\xff.png")]) == ["\\xff.png"]


def test_it_says_what_it_found(evaluation):
    assert f"accuracy {evaluation.accuracy:.3f} (" in str(evaluation)
    assert "on 200 images" in str(evaluation)
