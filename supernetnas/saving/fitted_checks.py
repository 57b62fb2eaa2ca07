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

from ..families.base import Family, NetworkInput
from ..images.preprocessing import SIDES, Preprocessing
from ..images.resizing import RESIZING
from ..zoo.entries import check_name, is_sha256

__all__ = ["check_fitted"]

_MOST = 2**53
_MOST_CHANNELS = 65_536


def check_fitted(fitted: Mapping[str, Any], family: Family, network: Any, supernet: Any) -> None:
    """Refuse fitted attributes that no fit leaves, or that contradict each other.

    Parameters
    ----------
    fitted : mapping
        As JSON has them, apart from the classes, which `decode_labels` checks.
    family : Family
    network, supernet : Config
        Of the same file.

    Raises
    ------
    KeyError, TypeError, ValueError
        Naming what is wrong.
    """
    n_classes = len(fitted["classes"]["values"])
    preprocessing = fitted["preprocessing"]
    _check_preprocessing(preprocessing)
    size, channels = tuple(preprocessing["image_size"]), preprocessing["channels"]
    seen = family.input(size, channels, size, supernet)
    _check_statistics(preprocessing, seen)
    architecture = family.read_architecture(fitted["architecture"])
    for what, value, expected in (
        ("architecture", architecture, family.architecture(network)),
        ("number of classes of the network", network.n_classes, n_classes),
        ("number of channels of the network", network.input_channels, seen.channels),
    ):
        if value != expected:
            raise ValueError(f"the {what} is {value!s:.200}, elsewhere {expected!s:.200}")
    if not family.fits(supernet, seen, n_classes):
        raise ValueError(f"the supernet is not one of {seen} and {n_classes} classes")
    family.check_network(network, supernet)
    _check_front(fitted.get("front", []), family, supernet)
    if not isinstance(fitted.get("outcome", ""), str | None):
        raise TypeError(f"outcome must be text; got {fitted['outcome']!r:.80}")
    _check_input(fitted)
    source = fitted["source"]
    if source != "scratch":
        check_name(source)
    _check_record(fitted.get("source_record"))
    if fitted["distances"] is not None:
        for name, distance in _mapping("distances", fitted["distances"]).items():
            check_name(name)
            _number("distances", distance)
    _check_scores(fitted.get("scores"))
    if not isinstance(fitted["history"], list):
        raise TypeError("history must be a list")
    for row in fitted["history"]:
        _check_row(row)
    _number("inherited", fitted["inherited"], 0, 1)
    _integer("n_parameters", fitted["n_parameters"], 1, _MOST)
    _integer("n_macs", fitted["n_macs"], 1, _MOST)


def _check_preprocessing(values: Mapping[str, Any]) -> None:
    size = values["image_size"]
    if not isinstance(size, list) or len(size) != 2:
        raise ValueError(f"image_size must be height and width; got {size!r:.80}")
    for side in size:
        _integer("image_size", side, *SIDES)
    channels = _integer("channels", values["channels"], 1, _MOST_CHANNELS)
    if type(values["eight_bit"]) is not bool:
        raise TypeError(f"eight_bit must be true or false; got {values['eight_bit']!r:.80}")
    low, high = (_number("value_range", limit) for limit in values["value_range"])
    if low > high or (values["eight_bit"] and not 0 <= low <= high <= 255):
        raise ValueError(f"value_range cannot be from {low!r} to {high!r}")
    usual = values.get("usual_range", values["value_range"])
    if not isinstance(usual, list) or len(usual) != 2:
        raise ValueError(f"usual_range must be two numbers; got {usual!r:.80}")
    if not all(low <= _number("usual_range", limit) <= high for limit in usual):
        raise ValueError(f"usual_range {usual!r:.80} is not within {low!r} to {high!r}")
    if not RESIZING.allows(resize := values.get("resize", "squeeze")):
        raise ValueError(f"resize must be {RESIZING}; got {resize!r:.80}")
    for name in ("mean", "std"):
        if not isinstance(values[name], list) or len(values[name]) != channels:
            raise ValueError(f"{name} must have one number for each of {channels} channels")


def _check_statistics(values: Mapping[str, Any], seen: NetworkInput) -> None:
    """Check mean and deviation: those of the images, or those that the family asks for."""
    if seen.mean is not None:
        asked = Preprocessing.from_dict(dict(values)).standardised_by(seen.mean, seen.std)
        if (list(asked.mean), list(asked.std)) != (values["mean"], values["std"]):
            raise ValueError(
                f"mean {values['mean']!r:.80} and std {values['std']!r:.80} are not "
                f"{asked.mean} and {asked.std}, as the network wants"
            )
        return
    low, high = values["value_range"]
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


def _check_front(front: Any, family: Family, supernet: Any) -> None:
    """Check what is said of several networks: the supernet must have each."""
    if not isinstance(front, list):
        raise TypeError("front must be a list")
    for row in front:
        row = dict(_mapping("a row of front", row))
        architecture = family.read_architecture(row.pop("architecture"))
        if architecture not in getattr(supernet, "front", ()):
            raise ValueError(f"the supernet has no classifier for {architecture} of the front")
        for name in ("n_macs", "n_parameters"):
            _integer(name, row.pop(name), 1, _MOST)
        for name, value in row.items():
            if name not in ("probe_accuracy", "validation_accuracy"):
                raise ValueError(f"front has {name!r:.80}")
            if value is not None:
                _number(name, value, 0, 1)


def _check_record(record: Any) -> None:
    """Check what is said of the source."""
    if record is None:
        return
    record = dict(_mapping("source_record", record))
    if not is_sha256(digest := record.pop("weights_sha256")):
        raise ValueError(f"{digest!r:.80} is not a SHA-256")
    datasets = record.pop("trained_on")
    if not isinstance(datasets, list) or not all(isinstance(name, str) for name in datasets):
        raise TypeError("trained_on must be a list of names")
    if record:
        raise ValueError(f"source_record has {min(record)!r:.80}")


def _check_scores(scores: Any) -> None:
    """Check how starts were compared."""
    if scores is None:
        return
    if not isinstance(scores, list):
        raise TypeError("scores must be a list")
    for row in scores:
        row = dict(_mapping("a row of scores", row))
        check_name(row.pop("source"))
        if not isinstance(row.pop("family"), str):
            raise TypeError("scores have a family that is no name")
        height, width = row.pop("image_size")
        for side in (height, width):
            _integer("image_size", side, *SIDES)
        _number("accuracy", row.pop("accuracy"), 0, 1)
        _number("seconds", row.pop("seconds"), 0)
        if row:
            raise ValueError(f"scores have {min(row)!r:.80}")


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
