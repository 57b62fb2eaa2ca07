"""Weights of a supernet as a zoo stores them: without the head, strict in names and shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..storage.files import FileError
from ..storage.formats import (
    MAX_HEADER,
    TensorSpec,
    check_tensors,
    check_values,
    dump_safetensors,
    parse_safetensors,
)
from .entries import Entry, FileRecord, read_verified

if TYPE_CHECKING:
    import torch

    from ..families.base import Config, Family

__all__ = ["about_supernet", "dump_supernet", "load_supernet", "read_config", "stored_specs"]


def _family(name: str) -> Family:
    from ..families.base import get_family  # which imports torch; choosing a source does not

    return get_family(name)


def read_config(entry: Entry) -> Config:
    """Return what the supernet of a source is built from.

    Raises
    ------
    KeyError, TypeError, ValueError
        If this version cannot build such a supernet.
    """
    return _family(entry.family).read_config(entry.config)


def about_supernet(entry: Entry) -> tuple[dict[str, str], list[str]]:
    """Describe the supernet of a source: what there is to say of it by name, and tags for the Hub.

    Both are empty for a supernet that this version does not know.
    """
    try:
        family, config = _family(entry.family), read_config(entry)
        return family.describe(config), family.tags(config)
    except (KeyError, TypeError, ValueError):
        return {}, []


def stored_specs(config: Config) -> dict[str, TensorSpec]:
    """Return the tensors of a supernet as a zoo may store them, in one precision or the other."""
    return {
        name: spec._replace(dtypes=("float32", "float16")) if "float32" in spec.dtypes else spec
        for name, spec in _family(config.family).supernet_specs(config).items()
    }


def dump_supernet(
    state_dict: Mapping[str, torch.Tensor | np.ndarray], config: Config, dtype: str
) -> bytes:
    """Return the file of a supernet's state without its head.

    Parameters
    ----------
    state_dict : mapping of str to tensor
    config : Config
        What it must fit.
    dtype : {"float32", "float16"}
        Of the weights; alphas and batch-norm statistics stay float32.

    Raises
    ------
    ValueError
        If `load_supernet` would refuse the file.
    """
    family = _family(config.family)
    arrays = {
        name: _to_array(tensor)
        for name, tensor in state_dict.items()
        if not name.startswith(family.head)
    }
    try:
        check_tensors(
            {name: (array.shape, array.dtype.name) for name, array in arrays.items()},
            stored_specs(config),
            name="state_dict",
        )
    except FileError as error:
        raise ValueError(str(error)) from error
    if dtype == "float16":
        arrays = {name: _to_half(name, array, family.exact) for name, array in arrays.items()}
    try:
        check_values(arrays, name="state_dict")
    except FileError as error:
        hint = " Or is float16 too narrow?" if dtype == "float16" else ""
        raise ValueError(f"{error}{hint}") from error
    return dump_safetensors(arrays, {"format": "pt"})


@lru_cache(maxsize=32)
def load_supernet(
    path: str, mtime_ns: int, record: FileRecord, config: Config
) -> dict[str, np.ndarray]:
    """Read and check a supernet's file; what it returns is shared and not to be changed.

    Parameters
    ----------
    path : str
    mtime_ns : int
        Modification time: a file that was rewritten is read again.
    record : FileRecord
        What the file must be.
    config : Config
        What it must fit.

    Returns
    -------
    dict of str to ndarray
        As stored: float32, float16 or int64.

    Raises
    ------
    FileError
        If the file is another, its tensors are not those of the configuration, or their values
        none that a training leaves.
    """
    try:
        expected = stored_specs(config)
    except (RuntimeError, OverflowError) as error:  # sizes beyond what torch can count
        raise FileError(f"No supernet can be built from {config}: {error}.") from error
    most = 8 * sum(math.prod(spec.shape) for spec in expected.values()) + MAX_HEADER
    if record.size > most:
        raise FileError(f"{path} is too large for a supernet of {config}: {record.size} bytes.")
    data = read_verified(Path(path), record)
    arrays, _ = parse_safetensors(data, name=path, expected=expected)
    check_values(arrays, name=path)
    return arrays


def _to_array(tensor: torch.Tensor | np.ndarray) -> np.ndarray:
    if not isinstance(tensor, np.ndarray):
        tensor = tensor.detach().cpu()
        tensor = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return tensor.astype(np.float32) if tensor.dtype.kind == "f" else tensor


def _to_half(name: str, array: np.ndarray, exact: tuple[str, ...]) -> np.ndarray:
    if array.dtype.kind != "f" or name.rsplit(".", 1)[-1].startswith(exact):
        return array
    with np.errstate(over="ignore"):
        return array.astype(np.float16)
