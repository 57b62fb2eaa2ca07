"""A row of a history: what one epoch of a stage was like.

Searches, derivations and retraining make rows, `fit` keeps them as ``history_``, a zoo keeps those
of a pretraining as CSV, and progress bars and curves show them. Rows are plain dictionaries, so
that JSON and pandas take them; a figure that was not measured is left out, or None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Required, TypedDict, cast, get_type_hints

from ..storage.files import FileError
from ..storage.formats import dump_csv, parse_csv, plain

__all__ = ["TRAINING", "HistoryRow", "dump_history", "figures", "parse_history"]

TRAINING = ("retrain", "teach")
"""Stages that train a network, in their order."""


class HistoryRow(TypedDict, total=False):
    """The columns that the package knows.

    Attributes
    ----------
    stage : str
        "pretrain", "search", "derive", "retrain" or "teach", which follows where what was retrained
        teaches the network; a pretraining that searches says "search".
    epoch : int
        Of the stage, from 1.
    train_loss, train_accuracy : float
        Over the augmented images of the epoch.
    validation_loss, validation_accuracy : float
    genotype_agreement : float
        Share of the genotype's edges that the genotypes of the last epochs had, too.
    changes : int
        Parts of the architecture, such as edges, that the one before the search lacked.
    skip_connections : int
        Of the genotype.
    alpha_entropy : float
        1 is undecided, 0 is discrete.
    eigenvalue : float
        The dominant one of the Hessian of the validation loss with respect to the alphas.
    candidates : int
        Architectures that a derivation, or a generation of an evolution, has compared.
    split : str
        Layer that the supernet was split at before this epoch, and its choices in their groups.
    seconds : float
    """

    stage: Required[str]
    epoch: Required[int]
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    genotype_agreement: float
    changes: int
    skip_connections: int
    alpha_entropy: float
    eigenvalue: float
    candidates: int
    split: str
    seconds: float


_COLUMNS: dict[str, type] = get_type_hints(HistoryRow)


def figures(row: Mapping[str, Any]) -> dict[str, str]:
    """Loss and accuracy of a row for people, as far as it has them.

    The loss is that of the training, the accuracy that of the validation images; each is the other
    where that was not measured.
    """
    result = {}
    for name, keys in (
        ("loss", ("train_loss", "validation_loss")),
        ("accuracy", ("validation_accuracy", "train_accuracy")),
    ):
        values = [row[key] for key in keys if row.get(key) is not None]
        if values:
            result[name] = f"{values[0]:.3f}"
    return result


def dump_history(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Write rows as CSV; they may have further columns, of numbers or text.

    Raises
    ------
    ValueError
        If a column of `HistoryRow` holds something else than it should.
    TypeError
        If a row holds other than plain values.
    """
    return dump_csv([_checked(plain(row)) for row in rows])


def parse_history(data: bytes, *, name: str) -> list[HistoryRow]:
    """Read what `dump_history` wrote.

    Parameters
    ----------
    data : bytes
    name : str
        What to call the data in errors.

    Raises
    ------
    FileError
        If the data are no table, or a column of `HistoryRow` holds something else than it should.
    """
    text = [column for column, kind in _COLUMNS.items() if kind is str]
    rows = parse_csv(data, name=name, text=text)
    try:
        return [cast(HistoryRow, _checked(row)) for row in rows]
    except ValueError as error:
        raise FileError(f"{name} is not a valid history: {error}") from error


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a row, with whole numbers as such: a table with gaps has made floats of them."""
    result = dict(row)
    for column, kind in _COLUMNS.items():
        value = result.get(column)
        if value is None:
            continue
        if kind is int and isinstance(value, float) and value.is_integer():
            result[column] = int(value)
        elif not isinstance(value, (int, float) if kind is float else kind):
            holds = {str: "text", int: "whole numbers", float: "numbers"}[kind]
            raise ValueError(f"The column {column!r} of a history holds {holds}; got {value!r}.")
    return result
