"""What the parameters of a classifier stand for, where they are names, numbers or "auto"."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from ..families.base import Family, available_families, get_family
from ..search.limits import Latency, Limits
from ..search.method import SearchMethod
from ..selection.strategies import find_strategy
from ..training.devices import resolve_device
from ..training.execution import Execution
from ..zoo.source import Source
from .retraining import Retraining, RetrainSettings

__all__ = [
    "PRESETS",
    "batch_size_of",
    "draw_seed",
    "execution_of",
    "family_of",
    "limits_of",
    "method_of",
    "only_family_of",
    "retraining_of",
    "searching_method_of",
    "settings_of",
]

PRESETS = {"quick": 1 / 3, "default": 1.0, "best": 3.0}
"""Epochs of the retraining, as a share of what they are by default."""


def family_of(clf: Any, source: Source | None = None) -> Family:
    """The family that was asked for, or that of a source; else the first with the search."""
    if isinstance(clf.family, Family) or clf.family != "auto":
        return get_family(clf.family)
    if source is not None:
        return get_family(source.family)
    families = [get_family(name) for name in available_families()]
    return next((f for f in families if f.has_search(clf.search)), families[0])


def only_family_of(clf: Any) -> str | None:
    """The family that the strategy chooses within; None for all of them.

    A source is named whatever its family. Strategies that compare families do so where all have
    the search; else they choose within the first that has it.
    """
    strategy = find_strategy(clf.strategy)
    if clf.family == "auto":
        searched_in_all = all(get_family(f).has_search(clf.search) for f in available_families())
        if strategy is None or (strategy.probes and searched_in_all):
            return None
    return family_of(clf).name


def method_of(clf: Any, family: Family | None = None) -> SearchMethod:
    """How the supernet is searched."""
    strategy = find_strategy(clf.strategy)
    searching = clf.strategy == "scratch" or (strategy is not None and strategy.compares)
    return (family or family_of(clf)).method(clf.search, searching=searching)


def searching_method_of(clf: Any) -> SearchMethod:
    """What a fit searches with whose search has parameters of its own."""
    return family_of(clf).method(clf.search, searching=True)


def retraining_of(clf: Any) -> Retraining:
    """How the network is trained to the end."""
    return Retraining() if clf.retraining is None else clf.retraining


def settings_of(
    clf: Any, family: Family, pretrained: bool, n_images: int, times_epochs: float = 1.0
) -> RetrainSettings:
    """Numbers of the retraining, ``times_epochs`` as many epochs if they are left open."""
    defaults = family.retraining(pretrained)
    if clf.batch_size != "auto":
        defaults.pop("batch_size", None)
    defaults["epochs"] = max(1, round(defaults["epochs"] * PRESETS[clf.preset] * times_epochs))
    return retraining_of(clf).settings(defaults, batch_size_of(clf, n_images))


def batch_size_of(clf: Any, n_images: int) -> int:
    """Images of a step."""
    if clf.batch_size != "auto":
        return int(clf.batch_size)
    return min(max(n_images // 16, 16), 64)


def execution_of(clf: Any) -> Execution:
    """How networks are run in training."""
    return clf.precision if isinstance(clf.precision, Execution) else Execution(clf.precision)


def limits_of(clf: Any, device: str | None = None) -> Limits:
    """Limits on the network, and the device that latency is measured on, by default the fit's."""
    latency = clf.max_latency
    if latency is None:
        return Limits(clf.max_macs, clf.max_parameters)
    if not isinstance(latency, Latency):
        latency = Latency(float(latency))
    device = device or str(resolve_device(clf.device))
    return Limits(clf.max_macs, clf.max_parameters, latency, device)


def draw_seed(clf: Any) -> int:
    """Draw the one seed that everything random follows from."""
    if clf.random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0] >> 1)
    return int(check_random_state(clf.random_state).randint(2**31 - 1))
