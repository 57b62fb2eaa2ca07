"""What ``config.json`` says about a fitted classifier, checked before anything is made of it.

The file may come from a stranger. Every value must be one that a fit can have left, and those that
describe one thing must agree: the genotype with the network's, its channels with those of the
preprocessing, the number of its classes with their names, and so on.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from .network import NetworkConfig
from .spaces.cells import N_NODES, get_space
from .spaces.genotype import Genotype
from .supernets.cell import MAX_SIZES, SupernetConfig
from .validation import SIDES
from .zoo.index import check_name

__all__ = ["check_fitted", "decode_labels"]

_MAX_LABELS = 64 * 2**20  # bytes that all labels together may take
_MOST = 2**53


def check_fitted(
    fitted: Mapping[str, Any], network: NetworkConfig, supernet: SupernetConfig
) -> None:
    """Refuse fitted attributes that no fit leaves, or that contradict each other.

    Parameters
    ----------
    fitted : mapping
        As JSON has them, apart from the classes, which `decode_labels` checks.
    network, supernet : NetworkConfig and SupernetConfig
        Of the same file.

    Raises
    ------
    KeyError, TypeError, ValueError
        Naming what is wrong.
    """
    n_classes = len(fitted["classes"]["values"])
    _check_preprocessing(fitted["preprocessing"])
    preprocessing = fitted["preprocessing"]
    for what, value, expected in (
        ("genotype", Genotype.from_dict(fitted["genotype"]), network.genotype),
        ("search space of the supernet", supernet.space, network.genotype.space),
        ("number of classes of the network", network.n_classes, n_classes),
        ("number of classes of the supernet", supernet.n_classes, n_classes),
        ("number of channels of the network", network.input_channels, preprocessing["channels"]),
        ("number of channels of the supernet", supernet.input_channels, network.input_channels),
        ("image size of the supernet", list(supernet.image_size), preprocessing["image_size"]),
    ):
        if value != expected:
            raise ValueError(f"the {what} is {value!s:.200}, elsewhere {expected!s:.200}")
    _check_offered(network.genotype, supernet)
    _check_input(fitted)
    source = fitted["source"]
    if source != "scratch":
        check_name(source)
    if fitted["distances"] is not None:
        for name, distance in _mapping("distances", fitted["distances"]).items():
            check_name(name)
            _number("distances", distance)
    if not isinstance(fitted["history"], list):
        raise TypeError("history must be a list")
    for row in fitted["history"]:
        _check_row(row)
    _number("inherited", fitted["inherited"], 0, 1)
    _integer("n_parameters", fitted["n_parameters"], 1, _MOST)
    _integer("n_macs", fitted["n_macs"], 1, _MOST)


def decode_labels(dtype: str, values: list) -> np.ndarray:
    """Rebuild the sorted labels of a fit.

    Parameters
    ----------
    dtype : str
        As ``numpy.dtype.str``.
    values : list

    Raises
    ------
    TypeError, ValueError, OverflowError
        If they are of another dtype than given, not sorted, equal, or too large together.
    """
    if not isinstance(dtype, str) or not isinstance(values, list):
        raise TypeError("the classes must have a dtype and a list of values")
    kind = np.dtype(dtype)
    # Of itemsize 0, numpy takes the longest label's instead.
    if kind.kind not in "biufUO" or not 0 < kind.itemsize * len(values) <= _MAX_LABELS:
        raise ValueError(f"{len(values)} labels of dtype {kind!s:.80}")
    if kind.kind == "O" and not all(isinstance(value, str | int | float) for value in values):
        raise TypeError("labels must be text or numbers")
    labels = np.array(values, dtype=kind)
    found = labels.tolist()
    if labels.ndim != 1 or found != values or list(map(type, found)) != list(map(type, values)):
        raise ValueError(f"the labels are not of dtype {kind!s:.80}")
    if not len(labels) or not (labels[:-1] < labels[1:]).all():
        raise ValueError("the labels are not sorted, or not different")
    return labels


def _check_preprocessing(values: Mapping[str, Any]) -> None:
    size = values["image_size"]
    if not isinstance(size, list) or len(size) != 2:
        raise ValueError(f"image_size must be height and width; got {size!r:.80}")
    for side in size:
        _integer("image_size", side, *SIDES)
    channels = _integer("channels", values["channels"], 1, MAX_SIZES["input_channels"])
    if type(values["eight_bit"]) is not bool:
        raise TypeError(f"eight_bit must be true or false; got {values['eight_bit']!r:.80}")
    low, high = (_number("value_range", limit) for limit in values["value_range"])
    if low > high or (values["eight_bit"] and not 0 <= low <= high <= 255):
        raise ValueError(f"value_range cannot be from {low!r} to {high!r}")
    for name in ("mean", "std"):
        if not isinstance(values[name], list) or len(values[name]) != channels:
            raise ValueError(f"{name} must have one number for each of {channels} channels")
    unit = 255 if values["eight_bit"] else 1
    low, high = low / unit, high / unit
    rounding = 1e-5 * max(abs(low), abs(high))
    for mean, std in zip(values["mean"], values["std"], strict=True):
        # The deviation is at most half of the range. All is computed with in single precision.
        if (
            not low - rounding <= _number("mean", mean) <= high + rounding
            or not 0 <= _number("std", std) <= (high - low) / 2 + rounding
            or not all(map(_fits, (mean, std, *((1 / std, mean / std) if std else ()))))
        ):
            raise ValueError(
                f"mean {mean!r:.80} and std {std!r:.80} cannot be those of values from {low!r} to "
                f"{high!r}"
            )
    if not any(values["std"]) and high - low > max(values["mean"]) - min(values["mean"]) + rounding:
        raise ValueError(f"std is 0 for values from {low!r} to {high!r}")


def _check_offered(genotype: Genotype, supernet: SupernetConfig) -> None:
    """Refuse operations that the search space does not offer where they are."""
    for reduction in (False, True):
        edges = get_space(supernet.space).edges(reduction)
        for position in range(N_NODES):
            for operation, state in genotype.nodes(reduction)[position]:
                if operation not in edges[position * (position + 3) // 2 + state]:
                    raise ValueError(
                        f"the genotype has {operation} where space {supernet.space} does not"
                    )


def _check_input(fitted: Mapping[str, Any]) -> None:
    """Check what later arrays are compared with."""
    shape, n_features = fitted["image_shape"], fitted["n_features_in"]
    if shape is not None:
        if not isinstance(shape, list) or len(shape) != 3:
            raise ValueError(f"image_shape must be height, width and channels; got {shape!r:.80}")
        for length in shape:
            _integer("image_shape", length, 1, _MOST)
    if n_features is not None:
        _integer("n_features_in", n_features, 1, _MOST)
        if shape is None or math.prod(shape) != n_features:
            raise ValueError(f"n_features_in is {n_features}, but image_shape {shape!r:.80}")
    names = fitted["feature_names_in"]
    if names is not None and (
        not isinstance(names, list)
        or len(names) != n_features
        or not all(isinstance(name, str) for name in names)
    ):
        raise ValueError(f"feature_names_in must be {n_features} names")


def _check_row(row: Any) -> None:
    """Check a row of the history: plain values, and what others compute with is a number."""
    for key, value in _mapping("a row of history", row).items():
        if not isinstance(value, str | bool | int | float | None):
            raise TypeError(f"history has {key!r:.80} of {type(value).__name__}")
        if key == "stage" and not isinstance(value, str):
            raise TypeError(f"history has a stage {value!r:.80}")
        if key.endswith(("seconds", "accuracy", "loss")) and value is not None:
            _number(key, value)


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{name} must be a mapping; got {value!r:.80}")
    return value


def _integer(name: str, value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} must be an integer from {least} to {most}; got {value!r:.80}")
    return value


def _number(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    if type(value) not in (int, float) or not least <= value <= most:
        raise ValueError(f"{name} must be a number from {least} to {most}; got {value!r:.80}")
    return float(value)


def _fits(value: float) -> bool:
    """Whether a number is finite in single precision."""
    try:
        struct.pack("<f", value)
    except OverflowError:
        return False
    return True
