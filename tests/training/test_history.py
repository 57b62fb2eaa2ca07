"""Rows of a history, on their way through zoos, progress bars and curves."""

import numpy as np
import pytest
from tiny import patterns, tiny_classifier

from supernetnas import Evolution, Split
from supernetnas.fitting.progress import Progress
from supernetnas.storage.files import FileError
from supernetnas.training.history import HistoryRow, dump_history, figures, parse_history

IMAGES, LABELS = patterns(n_per_class=6)


def test_a_fit_makes_the_columns_that_are_known():
    settings = {"search__epochs": 2, "retraining__epochs": 1, "search__derivation": "perturbation"}
    settings |= {"search__derivation_epochs": 0, "search__stopping": "eigenvalue"}
    rows = tiny_classifier(**settings).fit(IMAGES, LABELS).history_
    settings = {"search": "random_search", "search__epochs": 1, "retraining__epochs": 1}
    rows += tiny_classifier(**settings).fit(IMAGES, LABELS).history_
    split = Evolution(1, population=2, mutations=1, crossovers=1, epochs=1, n_recalibration=8)
    split.set_params(split=Split(epochs=1, n_batches=1))
    rows += tiny_classifier(search=split, retraining__epochs=1).fit(IMAGES, LABELS).history_
    assert {row["stage"] for row in rows} == {"search", "derive", "retrain"}
    assert set().union(*rows) == set(HistoryRow.__annotations__)
    assert all(HistoryRow.__required_keys__ <= row.keys() for row in rows)
    filled = [dict.fromkeys(set().union(*rows)) | row for row in rows]
    assert parse_history(dump_history(rows), name="x") == filled


def test_round_trip():
    rows = [
        {"stage": "007", "epoch": np.int64(1), "skip_connections": 3.0, "note": "nan", "f1": 0.5},
        {"stage": "nan", "epoch": 2, "train_loss": 1, "eigenvalue": np.nan},
    ]
    assert parse_history(dump_history(rows), name="x") == [
        {
            **{"stage": "007", "epoch": 1, "skip_connections": 3, "note": "nan", "f1": 0.5},
            **{"train_loss": None, "eigenvalue": None},
        },
        {
            **{"stage": "nan", "epoch": 2, "skip_connections": None, "note": None, "f1": None},
            **{"train_loss": 1, "eigenvalue": None},
        },
    ]


@pytest.mark.parametrize(
    ("column", "value", "holds"),
    [
        ("train_loss", "low", "numbers"),
        ("seconds", "nan", "numbers"),
        ("epoch", 1.5, "whole numbers"),
        ("epoch", "007", "whole numbers"),
    ],
)
def test_a_column_of_another_type_is_refused(column, value, holds):
    row = {"stage": "search", "epoch": 1, column: value}
    expected = f"column '{column}' of a history holds {holds}; got '?{value}"
    with pytest.raises(ValueError, match=expected):
        dump_history([row])
    data = ",".join(row) + "\n" + ",".join(map(str, row.values())) + "\n"
    with pytest.raises(FileError, match=rf"x\.csv is not a valid history: .*{expected}"):
        parse_history(data.encode(), name="x.csv")


def test_figures():
    row = {"train_loss": 1.0, "train_accuracy": 0.25, "validation_accuracy": 0.5}
    assert figures(row) == {"loss": "1.000", "accuracy": "0.500"}
    assert figures({"train_accuracy": 0.25, "validation_accuracy": None}) == {"accuracy": "0.250"}
    assert figures({"validation_loss": 2.0}) == {"loss": "2.000"}
    assert figures({"stage": "derive"}) == {}


@pytest.mark.parametrize("verbose", [1, 2])
def test_progress_shows_what_a_row_has(capsys, verbose):
    with Progress(verbose).stage("derive", 3) as advance:
        advance({"stage": "derive", "epoch": 1, "validation_accuracy": 0.5, "seconds": 2.0})
        advance({"stage": "derive", "epoch": 2})
    shown = capsys.readouterr().err
    if verbose == 1:
        assert "2/2" in shown  # a stage that has stopped by itself
    else:
        assert shown.splitlines() == [
            "derive: epoch 1 of at most 3, accuracy 0.500, 2.0 s",
            "derive: epoch 2 of at most 3, 0.0 s",
        ]
