"""A fitted classifier as a source of a zoo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ..distance.signature import DatasetSignature
from ..distance.signing import sign
from ..embedding.embedder import get_embedder
from ..fitting.validation import read_known_labels, read_new_images
from ..storage.formats import plain
from ..training.history import TRAINING

__all__ = ["SourceMixin"]


class SourceMixin(BaseEstimator):
    """What a zoo takes of a fitted `SupernetTransferClassifier`."""

    def as_source(self, card: Mapping[str, Any] | None = None, X=None, y=None) -> dict[str, Any]:
        """Return what `Zoo.add` takes of the classifier; `Zoo.add_classifier` asks for it.

        Parameters
        ----------
        card : mapping, optional
            Provenance of the source, and ``metrics`` besides.
        X, y : images and labels, optional
            To be signed instead of those of the fit, which strategy "ot" has signed.

        Returns
        -------
        dict
            Arguments of `Zoo.add` by name.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        ValueError
            If there is no signature, or X and y are not of the classes of the fit.
        """
        check_is_fitted(self)
        card = card or {}
        signature = self._signature(X, y)
        search = [row for row in self.history_ if row.get("stage") == "search"]
        retraining = [row for row in self.history_ if row.get("stage") in TRAINING]
        metrics: dict[str, Any] = {"epochs": len(search)}
        for name, rows, key in (
            ("validation_accuracy", search, "validation_accuracy"),
            ("train_accuracy", search, "train_accuracy"),
            ("network_train_accuracy", retraining, "train_accuracy"),
        ):
            if rows and rows[-1].get(key) is not None:
                metrics[name] = rows[-1][key]
        counts = signature.counts
        metrics["chance_accuracy"] = float(counts.max() / counts.sum())
        metrics["seconds"] = round(sum(row.get("seconds", 0) for row in self.history_), 1)
        metrics |= plain(card.get("metrics", {}))
        provenance = {key: value for key, value in card.items() if key != "metrics"}
        if (record := getattr(self, "source_record_", None)) is not None:
            provenance["started_from_sha256"] = record["weights_sha256"]
            provenance.setdefault("warm_start_datasets", record["trained_on"])
        return {
            "config": replace(self.supernet_config_, n_classes=len(self.classes_)),
            "state_dict": self.supernet_state_,
            "signature": signature,
            "provenance": {
                **provenance,
                "started_from": self.source_,
                "n_images": int(counts.sum()),
                "n_classes": len(self.classes_),
            },
            "metrics": metrics,
            "history": self.history_,
            "classes": [str(label) for label in self.classes_],
        }

    def _signature(self, X, y) -> DatasetSignature:
        """Return the signature of the fit, or make that of images."""
        if (X is None) != (y is None):
            raise ValueError("Pass both X and y, or neither.")
        if X is None:
            signature = getattr(self, "signature_", None)
            if signature is None:
                raise ValueError(
                    f"A fit with strategy={self.strategy!r} makes no signature of the images, "
                    "which a source needs to be chosen by. Pass them: "
                    "zoo.add_classifier(clf, name, X=X, y=y)."
                )
            return signature
        images = read_new_images(self, X)
        labels = self.classes_[read_known_labels(self, y, len(images))]
        return sign(images, labels, get_embedder(self.embedder), device=self.device_)
