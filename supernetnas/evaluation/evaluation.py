"""How well a classifier tells images apart, from what it predicts for images of known classes.

Figures are scikit-learn's, but for the calibration error, which it lacks: the expected calibration
error of C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3, with
their 15 bins of equal width. Intervals are those of Wilson, which hold for few images and for
shares near 0 and 1.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from ..storage.destinations import write_file
from ..storage.files import FileError
from ..storage.formats import dump_csv, parse_csv

__all__ = ["Evaluation", "image_names"]

_BINS = 15
_LEVEL = 0.95
_LEAST = 1e-7  # a probability in single precision cannot say less of what it rounds to 0
_COLUMNS = ("index", "image", "class", "predicted", "confidence", "true_probability")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions for images of known classes, and what they are worth.

    Attributes
    ----------
    classes : tuple
        The labels that the classifier knows, sorted.
    index : ndarray of shape (n,), int64
        Positions of the images in what was given.
    names : tuple of str
        Their files, or their positions where they are no files.
    labels, predicted : ndarray of shape (n,), int64
        Positions in ``classes`` of the true and of the predicted class.
    confidence, true_probability : ndarray of shape (n,), float64
        Probability of the predicted and of the true class.
    """

    classes: tuple[Any, ...]
    index: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    true_probability: np.ndarray

    def __post_init__(self) -> None:
        lengths = {f.name: len(getattr(self, f.name)) for f in fields(self)}
        n_classes, n = lengths.pop("classes"), lengths["index"]
        if n == 0 or set(lengths.values()) != {n}:
            raise ValueError(
                f"An evaluation needs one value of each kind per image; got {lengths}."
            )
        for name in ("labels", "predicted"):
            positions = getattr(self, name)
            if positions.min() < 0 or positions.max() >= n_classes:
                raise ValueError(f"{name} must be positions of {n_classes} classes.")
        for name in ("confidence", "true_probability"):
            values = getattr(self, name)
            if not ((values >= 0) & (values <= 1)).all():
                raise ValueError(f"{name} must be probabilities.")

    @classmethod
    def of(
        cls,
        classes: Sequence[Any],
        labels: np.ndarray,
        probabilities: np.ndarray,
        *,
        names: Sequence[str] | None = None,
        index: np.ndarray | None = None,
    ) -> Evaluation:
        """Judge the probabilities that a classifier gives to images.

        Parameters
        ----------
        classes : sequence
            The labels that the classifier knows.
        labels : ndarray of shape (n,)
            Positions in ``classes`` of the true ones.
        probabilities : ndarray of shape (n, n_classes)
        names : sequence of str, optional
            Of the images; by default their positions.
        index : ndarray of shape (n,), optional
            Positions of the images; by default they are counted.
        """
        labels = np.asarray(labels, dtype=np.int64)
        rows, predicted = np.arange(len(labels)), probabilities.argmax(axis=1)
        index = rows if index is None else np.asarray(index, dtype=np.int64)
        return cls(
            classes=tuple(classes),
            index=index,
            names=tuple(map(str, index)) if names is None else tuple(names),
            labels=labels,
            predicted=predicted.astype(np.int64),
            confidence=probabilities[rows, predicted].astype(np.float64).clip(0, 1),
            true_probability=probabilities[rows, labels].astype(np.float64).clip(0, 1),
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def correct(self) -> np.ndarray:
        """Which predictions are right, of shape (n,) and bool."""
        return self.labels == self.predicted

    @property
    def accuracy(self) -> float:
        """Share of the images whose class was predicted."""
        return float(self.correct.mean())

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy, for images like these."""
        return _interval(int(self.correct.sum()), len(self))

    @cached_property
    def per_class(self) -> list[dict[str, Any]]:
        """A row for each class: ``class``, ``images``, ``precision``, ``recall``, ``f1``.

        What cannot be said is None: the recall of a class without images, and the precision of
        one that was never predicted.
        """
        precision, recall, f1, images = precision_recall_fscore_support(
            *(self.labels, self.predicted),
            labels=np.arange(len(self.classes)),
            zero_division=np.nan,
        )
        return [
            {
                "class": label,
                "images": int(n),
                "precision": _known(p),
                "recall": _known(r),
                "f1": _known(f),
            }
            for label, n, p, r, f in zip(self.classes, images, precision, recall, f1, strict=True)
        ]

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that there are images of."""
        return float(np.mean([row["recall"] for row in self.per_class if row["images"]]))

    @property
    def log_loss(self) -> float:
        """Mean of minus the logarithm of the probability of the true class."""
        return float(-np.log(self.true_probability.clip(_LEAST)).mean())

    @property
    def calibration_error(self) -> float:
        """How far confidence and accuracy are apart: 0 where a confidence of 0.8 is right in 80 %.

        Mean over 15 bins of equal width, weighed by their images.
        """
        bins = np.minimum((self.confidence * _BINS).astype(int), _BINS - 1)
        gaps = np.bincount(bins, self.confidence - self.correct, _BINS)
        return float(np.abs(gaps).sum() / len(self))

    @cached_property
    def confusion(self) -> np.ndarray:
        """Number of images by true class (row) and predicted class (column)."""
        return confusion_matrix(
            self.labels, self.predicted, labels=np.arange(len(self.classes))
        ).astype(np.int64)

    @property
    def worst(self) -> np.ndarray:
        """Rows of the misclassified images, the most confident mistakes first."""
        wrong = np.flatnonzero(~self.correct)
        order = np.lexsort((wrong, self.true_probability[wrong], -self.confidence[wrong]))
        return wrong[order]

    def errors(self, n: int | None = None) -> list[dict[str, Any]]:
        """Return the misclassified images, the most confident mistakes first.

        Parameters
        ----------
        n : int, optional
            Most of them; by default all.

        Returns
        -------
        list of dict
            With ``index``, ``image``, ``class``, ``predicted``, ``confidence`` and
            ``true_probability``.
        """
        return [self._row(position) for position in self.worst[:n]]

    def confusions(self, n: int | None = None) -> list[dict[str, Any]]:
        """Return which classes are taken for which, the most frequent mistakes first.

        Parameters
        ----------
        n : int, optional
            Most of them; by default all.

        Returns
        -------
        list of dict
            With ``class``, ``predicted``, ``images`` and ``share`` of the class.
        """
        counts = self.confusion.copy()
        totals = counts.sum(axis=1)
        np.fill_diagonal(counts, 0)
        pairs = np.argwhere(counts)
        order = np.argsort(-counts[tuple(pairs.T)], kind="stable")[:n]
        return [
            {
                "class": self.classes[true],
                "predicted": self.classes[taken],
                "images": int(counts[true, taken]),
                "share": float(counts[true, taken] / totals[true]),
            }
            for true, taken in pairs[order]
        ]

    def summary(self) -> dict[str, Any]:
        """Return the figures for all classes together."""
        low, high = self.accuracy_interval
        return {
            "images": len(self),
            "accuracy": self.accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "balanced_accuracy": self.balanced_accuracy,
            "log_loss": self.log_loss,
            "calibration_error": self.calibration_error,
        }

    def described(self) -> dict[str, str]:
        """Return `summary` for people, with three digits."""
        figures = self.summary()
        low, high = figures.pop("accuracy_low"), figures.pop("accuracy_high")
        said = {"images": f"{figures.pop('images'):,}"}
        said |= {name.replace("_", " "): f"{value:.3f}" for name, value in figures.items()}
        said["accuracy"] += f" (95 % interval {low:.3f} to {high:.3f})"
        return said

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the right predictions as plain values, for JSON."""
        return {
            **self.summary(),
            "classes": list(self.classes),
            "per_class": self.per_class,
            "confusion": self.confusion.tolist(),
            "errors": self.errors(),
        }

    def to_json(self, path: str | os.PathLike | None = None) -> str | None:
        """Write `to_dict` as JSON; returns the text where no path is given."""
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"
        return _written(text, path)

    def to_csv(self, path: str | os.PathLike | None = None) -> str | None:
        """Write a row for each image as CSV; returns the text where no path is given."""
        rows = [self._row(position) for position in range(len(self))]
        return _written(dump_csv(rows).decode(), path)

    @classmethod
    def from_csv(cls, data: bytes, classes: Sequence[Any], *, name: str) -> Evaluation:
        """Read what `to_csv` wrote.

        Parameters
        ----------
        data : bytes
        classes : sequence
            The labels that the classifier knows.
        name : str
            What to call the data in errors.

        Raises
        ------
        FileError
            If the data are something else, or of other classes.
        """
        position = {str(label): place for place, label in enumerate(classes)}
        rows = parse_csv(data, name=name, text=("image", "class", "predicted"))
        try:
            columns: dict[str, list[Any]] = {
                column: [row[column] for row in rows] for column in _COLUMNS
            }
            numbers = [*columns["confidence"], *columns["true_probability"]]
            if not all(type(i) is int and i >= 0 for i in columns["index"]):
                raise ValueError("the column 'index' must have positions")
            if not all(isinstance(value, int | float) for value in numbers):
                raise ValueError("probabilities must be numbers")
            return cls(
                classes=tuple(classes),
                index=np.array(columns["index"], dtype=np.int64),
                names=tuple(name or "" for name in columns["image"]),
                labels=np.array([position[label or ""] for label in columns["class"]]),
                predicted=np.array([position[label or ""] for label in columns["predicted"]]),
                confidence=np.array(columns["confidence"], dtype=float),
                true_probability=np.array(columns["true_probability"], dtype=float),
            )
        except (KeyError, OverflowError, ValueError) as error:
            raise FileError(f"{name} does not list predictions: {error!r:.300}.") from error

    def __str__(self) -> str:
        low, high = self.accuracy_interval
        return (
            f"accuracy {self.accuracy:.3f} ({low:.3f} to {high:.3f}), balanced accuracy "
            f"{self.balanced_accuracy:.3f}, log loss {self.log_loss:.3f}, calibration error "
            f"{self.calibration_error:.3f} on {len(self)} images"
        )

    def _row(self, position: int) -> dict[str, Any]:
        return {
            "index": int(self.index[position]),
            "image": self.names[position],
            "class": self.classes[self.labels[position]],
            "predicted": self.classes[self.predicted[position]],
            "confidence": float(self.confidence[position]),
            "true_probability": float(self.true_probability[position]),
        }


def image_names(X: Any, index: np.ndarray | None = None) -> list[str] | None:
    """Return the names of images that are files, or None.

    Parameters
    ----------
    X : sequence
        What a classifier was given.
    index : ndarray, optional
        Of which images; by default of all.
    """
    if hasattr(X, "iloc"):  # a DataFrame of one column, or a Series
        X = X.to_numpy().ravel()
    if not hasattr(X, "__iter__"):
        return None
    items = list(X) if index is None else [X[i] for i in index.tolist()]
    found: list[Any] = [item.get("path") if isinstance(item, Mapping) else item for item in items]
    if not found or not all(isinstance(item, str | os.PathLike) for item in found):
        return None
    # Of names that are no Unicode, what cannot be written is escaped.
    return [os.fsencode(item).decode("utf-8", "backslashreplace") for item in found]


def _interval(hits: int, n: int) -> tuple[float, float]:
    interval = binomtest(hits, n).proportion_ci(_LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _written(text: str, path: str | os.PathLike | None) -> str | None:
    if path is None:
        return text
    write_file(Path(path).expanduser(), text.encode())
    return None
