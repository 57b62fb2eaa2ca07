"""What a fit leaves behind, as one value."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from torch import nn

from ..distance.signature import DatasetSignature
from ..families.base import get_family
from ..images.preprocessing import Preprocessing
from ..search.protocols import Architecture
from ..training.history import HistoryRow

__all__ = ["Fitted", "plain_state"]


@dataclass(frozen=True, eq=False)
class Fitted:
    """The results of a fit, each under the name of the attribute less its underscore.

    `n_features_in` and `feature_names_in` are None where the classifier has no such attribute. The
    others are those that `supernetnas.SupernetTransferClassifier` documents.
    """

    classes: np.ndarray
    n_features_in: int | None
    feature_names_in: np.ndarray | None
    image_shape: tuple[int, int, int] | None
    preprocessing: Preprocessing
    family: str
    source: str
    distances: dict[str, float] | None
    signature: DatasetSignature | None
    architecture: Architecture
    network: nn.Module
    inherited: float
    supernet_config: Any
    supernet_state: dict[str, np.ndarray]
    history: list[HistoryRow]
    n_parameters: int
    n_macs: int
    device: str

    def attributes(self) -> dict[str, Any]:
        """The attributes of a fitted classifier."""
        found = {f"{field.name}_": getattr(self, field.name) for field in fields(self)}
        for optional in ("n_features_in_", "feature_names_in_"):
            if found[optional] is None:
                del found[optional]
        found["image_size_"] = self.preprocessing.image_size
        found[f"{get_family(self.family).architecture_name}_"] = self.architecture
        return found

    def assign(self, estimator: Any) -> None:
        """Give an estimator the attributes, and take those of an earlier fit from it."""
        for name in ("n_features_in_", "feature_names_in_"):
            vars(estimator).pop(name, None)
        vars(estimator).update(self.attributes())


def plain_state(module: nn.Module, head: str) -> dict[str, np.ndarray]:
    """Copy a module's tensors, but for its head, as arrays."""
    return {
        name: value.detach().cpu().numpy().copy()
        for name, value in module.state_dict().items()
        if not name.startswith(head)
    }
