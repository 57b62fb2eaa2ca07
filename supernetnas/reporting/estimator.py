"""Evaluation and report of a fitted classifier."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ..evaluation.evaluation import Evaluation, image_names
from ..fitting.validation import read_known_labels, read_new_images
from ..storage.destinations import check_file, user_path, write_file

__all__ = ["ReportingMixin"]


class ReportingMixin(BaseEstimator):
    """Evaluation and report, for `SupernetTransferClassifier`."""

    def evaluate(self, X, y) -> Evaluation:
        """Judge what the network predicts for images of known classes.

        Parameters
        ----------
        X : array-like or sequence of images
            As in `predict_proba`; images that the fit has not seen, or the figures flatter. Where
            they are paths, mistakes are named by them.
        y : array-like of shape (n,)
            Their labels; not every class of the fit need be among them.

        Returns
        -------
        Evaluation
            With ``accuracy`` and its interval, ``balanced_accuracy``, ``log_loss``,
            ``calibration_error``, ``per_class``, ``confusion`` and ``errors()``; see there.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        ValueError
            If y has other classes or another length; and whatever `predict_proba` raises.
        """
        check_is_fitted(self)
        images = read_new_images(self, X)
        labels = read_known_labels(self, y, len(images))
        probabilities = self.predict_proba(X)
        return Evaluation.of(self.classes_.tolist(), labels, probabilities, names=image_names(X))

    def report(
        self, path: str | os.PathLike, X: Any = None, y: Any = None, *, title: str | None = None
    ) -> Path:
        """Write what there is to say of the fit as one page of HTML.

        It holds source, architecture, curves, cost, accuracy, mistakes, settings, provenance and
        licences. It needs no network and no other file, and suits phones and dark screens. It
        shows images and names of files: mind whom you give it to.

        Parameters
        ----------
        path : path
            Of the file; replaced if it is there.
        X : array-like or sequence of images, optional
            With `y`, images that the fit has not seen, which the network is judged by. Alone, what
            was given to ``fit``, to show the images of ``holdout_``. Without it no images are
            shown.
        y : array-like of shape (n,), optional
            Their labels.
        title : str, optional
            Of the page.

        Returns
        -------
        pathlib.Path
            The file.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        ImportError
            If matplotlib is missing.
        ValueError
            If y is given without X, X is not that of ``fit``, or whatever `evaluate` raises.
        OSError
            If the file cannot be written.
        """
        from ..plotting._common import import_pyplot
        from .page import page
        from .sections import sections

        check_is_fitted(self)
        import_pyplot()
        path = user_path(path)
        check_file(path, "path")
        evaluation, images = getattr(self, "holdout_", None), None
        if X is None and y is not None:
            raise ValueError("Pass both X and y, X alone, or neither.")
        if y is not None:
            evaluation = self.evaluate(X, y)
        if X is not None:
            images = read_new_images(self, X)
            if evaluation is None:
                raise ValueError(
                    "The fit has held no images out, so the report needs the labels of X, too: "
                    "images that the fit has not seen. Or fit with holdout_fraction=0.2."
                )
            if (last := int(evaluation.index.max())) >= len(images):
                raise ValueError(
                    f"X has {len(images)} images, but holdout_ names number {last} of those given "
                    "to fit. Pass these, or other images with their labels."
                )
        title = title or f"Image classifier of {len(self.classes_)} classes"
        write_file(path, page(title, sections(self, evaluation, images)).encode())
        return path
