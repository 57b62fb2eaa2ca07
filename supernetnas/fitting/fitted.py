"""What a fit leaves behind, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from torch import nn

from ..distance.signature import DatasetSignature
from ..evaluation.evaluation import Evaluation
from ..families.base import available_families, get_family
from ..images.preprocessing import Preprocessing
from ..saving.labels import decode_labels, encode_labels
from ..search.protocols import Architecture
from ..training.history import HistoryRow

__all__ = ["Fitted", "plain_state"]

_OPTIONAL = ("n_features_in", "feature_names_in")  # attributes that some classifiers lack


@dataclass(frozen=True, eq=False)
class Fitted:
    """The results of a fit, each under the name of the attribute less its underscore.

    ``n_features_in`` and ``feature_names_in`` are None where the classifier has no such attribute.
    All are documented in `supernetnas.SupernetTransferClassifier`.
    """

    classes: np.ndarray
    n_features_in: int | None
    feature_names_in: np.ndarray | None
    image_shape: tuple[int, int, int] | None
    preprocessing: Preprocessing
    family: str
    source: str
    source_record: dict[str, Any] | None
    distances: dict[str, float] | None
    scores: list[dict[str, Any]] | None
    signature: DatasetSignature | None
    architecture: Architecture
    outcome: str
    front: list[dict[str, Any]]
    network: nn.Module
    inherited: float
    supernet_config: Any
    supernet_state: dict[str, np.ndarray]
    history: list[HistoryRow]
    holdout: Evaluation | None
    n_parameters: int
    n_macs: int
    device: str

    @classmethod
    def of(cls, estimator: Any) -> Fitted:
        """Collect the attributes of a fitted classifier."""
        found: dict[str, Any] = {
            f.name: getattr(estimator, f"{f.name}_", None) for f in fields(cls)
        }
        return cls(**found)

    def assign(self, estimator: Any) -> None:
        """Give an estimator the attributes, and take those of an earlier fit from it."""
        attributes = {f"{f.name}_": getattr(self, f.name) for f in fields(self)}
        of_families = {get_family(name).architecture_name for name in available_families()}
        for name in of_families - {get_family(self.family).architecture_name}:
            vars(estimator).pop(f"{name}_", None)
        for name in _OPTIONAL:
            vars(estimator).pop(f"{name}_", None)
            if getattr(self, name) is None:
                del attributes[f"{name}_"]
        attributes["image_size_"] = self.preprocessing.image_size
        attributes[f"{get_family(self.family).architecture_name}_"] = self.architecture
        vars(estimator).update(attributes)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: all but tensors, signature, predictions and device."""
        names = self.feature_names_in
        return {
            "classes": encode_labels(self.classes),
            "n_features_in": self.n_features_in,
            "feature_names_in": None if names is None else names.tolist(),
            "image_shape": self.image_shape,
            "preprocessing": self.preprocessing.to_dict(),
            "family": self.family,
            "source": self.source,
            "source_record": self.source_record,
            "distances": self.distances,
            "scores": self.scores,
            "architecture": self.architecture.to_dict(),
            "outcome": self.outcome,
            "front": [
                {**row, "architecture": row["architecture"].to_dict()} for row in self.front or ()
            ],
            "network": self.network.config.to_dict(),  # type: ignore[operator, union-attr]
            "supernet": self.supernet_config.to_dict(),
            "history": self.history,
            "inherited": self.inherited,
            "n_parameters": self.n_parameters,
            "n_macs": self.n_macs,
        }

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        *,
        network: nn.Module,
        supernet_state: dict[str, np.ndarray],
        signature: DatasetSignature | None,
        holdout: Evaluation | None,
        device: str,
    ) -> Fitted:
        """Rebuild what `to_dict` returned, with what JSON cannot hold.

        Raises
        ------
        KeyError, TypeError, ValueError
            If the data are something else.
        """
        family, shape, names = get_family(data["family"]), data["image_shape"], data["distances"]
        features = data["feature_names_in"]
        return cls(
            classes=decode_labels(**data["classes"]),
            n_features_in=data["n_features_in"],
            feature_names_in=None if features is None else np.array(features, dtype=object),
            image_shape=None if shape is None else (shape[0], shape[1], shape[2]),
            preprocessing=Preprocessing.from_dict(data["preprocessing"]),
            family=family.name,
            source=data["source"],
            source_record=data.get("source_record"),
            distances=None if names is None else dict(names),
            scores=data.get("scores"),
            signature=signature,
            architecture=family.read_architecture(data["architecture"]),
            outcome=data.get("outcome") or "",
            front=[
                {**row, "architecture": family.read_architecture(row["architecture"])}
                for row in data.get("front", ())
            ],
            network=network,
            inherited=float(data["inherited"]),
            supernet_config=family.read_config(data["supernet"]),
            supernet_state=supernet_state,
            history=[dict(row) for row in data["history"]],  # type: ignore[misc]
            holdout=holdout,
            n_parameters=data["n_parameters"],
            n_macs=data["n_macs"],
            device=device,
        )


def plain_state(module: nn.Module, head: str) -> dict[str, np.ndarray]:
    """Copy a module's tensors, but for its head, as arrays."""
    return {
        name: value.detach().cpu().numpy().copy()
        for name, value in module.state_dict().items()
        if not name.startswith(head)
    }
