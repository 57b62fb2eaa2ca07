"""What earlier versions wrote into ``config.json``, brought into the form of today.

Version 1 had flat parameters and knew one family of supernets, the cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["from_version_1"]

_FAMILY = "cells"
_SIZES = {
    "space": "space",
    "init_channels": "init_channels",
    "n_cells": "n_cells",
    "retrain_channels": "network_channels",
    "retrain_cells": "network_cells",
}
_SEARCH = {
    "search_epochs": "epochs",
    "search_learning_rate": "learning_rate",
    "alpha_learning_rate": "alpha_learning_rate",
    "validation_fraction": "validation_fraction",
    "search_perturbation": "perturbation",
    "search_perturbation_radius": "perturbation_radius",
    "search_stopping": "stopping",
    "search_patience": "patience",
    "derivation": "derivation",
    "derivation_epochs": "derivation_epochs",
}
_RETRAINING = {
    "retrain_epochs": "epochs",
    "retrain_learning_rate": "learning_rate",
    "label_smoothing": "label_smoothing",
    "dropout": "dropout",
}
_EXECUTION = {
    "precision": "precision",
    "compile": "compile",
    "gradient_checkpointing": "checkpointing",
}
_ONLY_SMOOTH = {"perturbation", "perturbation_radius"}
_ONLY_ALPHAS = {"alpha_learning_rate", "derivation", "derivation_epochs"}


def from_version_1(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``config.json`` of version 2 that says the same as one of version 1.

    Raises
    ------
    AttributeError, KeyError, TypeError
        If it is none.
    """
    fitted = dict(config["fitted"])
    fitted |= {"family": _FAMILY, "architecture": fitted.pop("genotype")}
    old = dict(config["parameters"])
    parts = {
        kind: {new: old.pop(name) for name, new in names.items() if name in old}
        for kind, names in (
            ("family", _SIZES),
            ("search", _SEARCH),
            ("retraining", _RETRAINING),
            ("execution", _EXECUTION),
        )
    }
    method = old.pop("search_method", "sdarts")
    if method != "sdarts":
        parts["search"] = {k: v for k, v in parts["search"].items() if k not in _ONLY_SMOOTH}
    if method == "random":
        parts["search"] = {}
    elif method == "random_search":
        parts["search"] = {k: v for k, v in parts["search"].items() if k not in _ONLY_ALPHAS}
    elif method == "darts2":
        parts["search"]["order"] = 2
    parameters = {
        **old,
        "family": {"family": [_FAMILY, parts["family"]]},
        "search": {"search": [method, parts["search"]]},
        "retraining": {"retraining": parts["retraining"]},
        "precision": {"execution": parts["execution"]},
    }
    return {**config, "format_version": 2, "parameters": parameters, "fitted": fitted}
