"""Evaluation and report of a fitted classifier."""

from __future__ import annotations

from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ..evaluation.evaluation import Evaluation, image_names
from ..fitting.validation import read_known_labels, read_new_images

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
