"""Constructor parameters of a classifier as JSON, and back to the same values and types.

JSON has no tuples, no keys other than strings and no objects; these are written as a mapping with
one key that says what they are.

Places do not travel, be it a zoo or a folder for checkpoints: to others, those of one machine say
who works on it and mean nothing, and those of a stranger are not to be read from or written to.
They are None in what is saved and, whatever a file says, in what is loaded; only the builtin zoo is
the same everywhere.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..families.base import Family, available_families, get_family
from ..images.augmentation import Augmentation
from ..search.limits import Latency
from ..search.method import SearchMethod
from ..search.splitting import Split
from ..storage.formats import plain
from ..training.execution import Execution
from ..zoo import Zoo
from ..zoo.places import BUILTIN
from .retraining import Retraining

__all__ = ["decode_parameters", "encode_parameter", "encode_parameters"]

_PLACES = ("zoo", "checkpoint_dir")


def encode_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Write parameters as JSON can hold them; places become None.

    Warns
    -----
    UserWarning
        For each that it cannot hold, such as a callable; it is left out.
    """
    encoded = {}
    for name, value in parameters.items():
        if name in _PLACES or isinstance(value, Zoo | os.PathLike):
            encoded[name] = _place(name, value)
            continue
        try:
            encoded[name] = encode_parameter(value)
        except TypeError:
            warnings.warn(
                f"The parameter {name}={value!r:.80} cannot be saved; the loaded classifier will "
                "have its default instead.",
                UserWarning,
                stacklevel=4,  # the caller of `save_pretrained`
            )
    return encoded


def decode_parameters(encoded: Mapping[str, Any]) -> dict[str, Any]:
    """Read what `encode_parameters` wrote; places become None. Nothing is opened.

    Raises
    ------
    ValueError, TypeError, KeyError
        If a value is none that it writes.
    """
    return {
        name: _place(name, value) if name in _PLACES else _decode(value)
        for name, value in encoded.items()
    }


def _place(name: str, value: Any) -> str | None:
    """What is left of a place."""
    if isinstance(value, Zoo) and value.subset_names is None:
        value = value.where
    return BUILTIN if name == "zoo" and value == BUILTIN else None


def encode_parameter(value: Any) -> Any:
    """Write one value as JSON can hold it, places included; TypeError if it cannot."""
    if isinstance(value, Augmentation):
        return {"augmentation": value.to_dict()}
    if isinstance(value, Zoo):
        names = value.subset_names
        return {"zoo": [value.where, None if names is None else list(names)]}
    if isinstance(value, Family):
        if type(value) is not type(get_family(value.name)):
            raise TypeError(f"{type(value).__name__} is not one of the package's own.")
        return {"family": [value.name, encode_parameters(value.get_params(deep=False))]}
    if isinstance(value, SearchMethod):
        return {"search": _encode_search(value)}
    if isinstance(value, Retraining):
        return {"retraining": encode_parameters(value.get_params(deep=False))}
    if isinstance(value, Split):
        return {"split": encode_parameters(value.get_params(deep=False))}
    if isinstance(value, Execution):
        return {"execution": asdict(value)}
    if isinstance(value, Latency):
        if value.measure is not None:
            raise TypeError("A callable cannot be saved.")
        return {"latency": [value.seconds, value.batch_size, value.repeats]}
    if isinstance(value, os.PathLike):
        return {"path": os.fspath(value)}
    if isinstance(value, tuple):
        return {"tuple": [encode_parameter(item) for item in value]}
    if isinstance(value, list):
        return [encode_parameter(item) for item in value]
    if isinstance(value, Mapping):
        return {
            "dict": [[encode_parameter(key), encode_parameter(item)] for key, item in value.items()]
        }
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(float(value))}
    return plain(value)


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    return _DECODERS[kind](content)


def _searches(name: str) -> dict[str, type]:
    """Classes of the searches of a name by their families, which may call different ones alike."""
    families = map(get_family, available_families())
    return {f.name: type(f.method(name)) for f in families if name in f.searches}


def _encode_search(value: SearchMethod) -> list:
    """Name, parameters and, where the first family with the name has another class, the family."""
    parameters = encode_parameters(value.get_params(deep=False))
    for place, (family, kind) in enumerate(_searches(value.name).items()):
        if type(value) is kind:
            return [value.name, parameters, *([family] if place else [])]
    raise TypeError(f"{type(value).__name__} is not one of the package's own.")


def _decode_family(content: list) -> Family:
    name, parameters = content
    return type(get_family(name))(**decode_parameters(parameters))


def _decode_search(content: list) -> SearchMethod:
    name, parameters, *family = content
    kinds = _searches(name)
    if not kinds or not {*family} <= {*kinds}:
        raise ValueError(f"no family {' '.join(family)} has the search {name!r}")
    return kinds[family[0] if family else next(iter(kinds))](**decode_parameters(parameters))


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "augmentation": Augmentation.from_dict,
    "dict": lambda items: {_decode(key): _decode(item) for key, item in items},
    "execution": lambda content: Execution(**content),
    "family": _decode_family,
    "float": float,
    "latency": lambda content: Latency(*content),
    "path": Path,
    "retraining": lambda content: Retraining(**decode_parameters(content)),
    "search": _decode_search,
    "split": lambda content: Split(**decode_parameters(content)),
    "tuple": lambda items: tuple(_decode(item) for item in items),
}
