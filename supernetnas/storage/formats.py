"""JSON, CSV and safetensors, written alike everywhere and parsed strictly.

What is parsed may come from a stranger: sizes, depths and numbers are bounded, and nothing is ever
executed. Parsers take bytes where the caller checks a hash, so that what was hashed is what is
parsed.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import struct
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from .files import FileError, read_bytes

__all__ = [
    "TensorSpec",
    "check_tensors",
    "check_values",
    "dump_csv",
    "dump_json",
    "dump_safetensors",
    "is_text",
    "parse_csv",
    "parse_json",
    "parse_safetensors",
    "plain",
    "read_json",
]

MAX_HEADER = 8 * 2**20
"""Largest safetensors header that is read or written, in bytes: some 70,000 tensors."""

MAX_DEPTH = 64
"""Most lists and mappings that JSON may have inside one another."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
}


class TensorSpec(NamedTuple):
    """What a tensor must look like: its shape, and the numpy names of the dtypes it may have."""

    shape: tuple[int, ...]
    dtypes: tuple[str, ...]


def parse_json(data: bytes, *, name: str) -> Any:
    """Parse JSON strictly, so that `dump_json` can write again whatever comes out.

    It must be UTF-8, without repeated keys, numbers that are not finite, halves of characters
    (lone surrogates), or more than `MAX_DEPTH` levels.

    Parameters
    ----------
    data : bytes
    name : str
        What to call the data in errors.

    Raises
    ------
    FileError
        If the data are anything else.
    """
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_unique_keys,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
        _check_depth(value)
        if _SURROGATE.search(data):  # escaped, or `decode` would have refused it
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise FileError(f"{name} is not valid JSON: it has half a character in a text.") from error
    except (ValueError, RecursionError) as error:
        raise FileError(f"{name} is not valid JSON: {error}.") from error
    return value


def read_json(path: str | os.PathLike, *, limit: int) -> Any:
    """Read a JSON file of at most ``limit`` bytes; see `parse_json`."""
    return parse_json(read_bytes(path, limit=limit), name=str(path))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def is_text(value: object) -> bool:
    """Whether something is text that UTF-8 has; Python names files even where they are not."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.40} is too large a number")
    return number


def _check_depth(value: Any, depth: int = 0) -> None:
    if isinstance(value, dict | list):
        if depth == MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} lists and mappings are inside one another")
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, depth + 1)


def plain(value: Any, *, depth: int = 0) -> Any:
    """Return a deep copy made of what JSON has.

    Numpy and torch scalars become Python numbers, tuples lists, paths strings, and numbers that
    are not finite None.

    Raises
    ------
    TypeError
        If the value holds anything else: an array for instance, text that is no Unicode, as the
        names of some files are, or more than `MAX_DEPTH` levels.
    """
    if isinstance(value, Mapping | list | tuple) and depth == MAX_DEPTH:
        raise TypeError(f"At most {MAX_DEPTH} lists and mappings inside one another can be stored.")
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item, depth=depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth=depth + 1) for item in value]
    if isinstance(value, os.PathLike):
        return plain(os.fspath(value))
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int) or is_text(value):
        return value
    if isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no text that can be stored: it is not valid Unicode.")
    raise TypeError(f"Only plain values can be stored; got {type(value).__name__}: {value!r:.80}.")


def dump_json(value: Any) -> bytes:
    """Write JSON for people and machines: indented, UTF-8, a newline at the end; see `plain`."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def dump_csv(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Write rows as CSV.

    Columns are the union of the keys in order of appearance. Floats keep all their digits;
    None, NaN and what a row lacks become empty fields.
    """
    rows = [plain(row) for row in rows]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parse_csv(
    data: bytes, *, name: str, text: Collection[str] = ()
) -> list[dict[str, int | float | str | None]]:
    """Read what `dump_csv` wrote; empty fields come back as None, numbers as numbers.

    Parameters
    ----------
    data : bytes
    name : str
        What to call the data in errors.
    text : collection of str, optional
        Columns that stay text. In others a field is a number if JSON would write one so: "nan",
        "007" and "1_000" are text.

    Raises
    ------
    FileError
        If the data are not UTF-8 or a row has more or fewer fields than the header.
    """
    try:
        reader = csv.reader(io.StringIO(data.decode(), newline=""), strict=True)
        columns = next(reader, [])
        return [
            {
                column: (field or None) if column in text else _number(field)
                for column, field in zip(columns, row, strict=True)
            }
            for row in reader
            if row
        ]
    except (ValueError, csv.Error) as error:
        raise FileError(f"{name} is not a valid table: {error}.") from error


_MAX_DIGITS = 4000  # of an integer that Python reads

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")

_FLOAT = re.compile(_INTEGER.pattern + r"(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def _number(field: str) -> int | float | str | None:
    if not field:
        return None
    if _INTEGER.fullmatch(field) and len(field) <= _MAX_DIGITS:
        return int(field)
    if _FLOAT.fullmatch(field) and math.isfinite(number := float(field)):
        return number
    return field


def dump_safetensors(
    tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Write tensors as safetensors; equal tensors and metadata give equal bytes.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        Any memory layout.
    metadata : mapping of str to str, optional

    Raises
    ------
    ValueError
        If the header would be larger than what is read.
    """
    data = safetensors.numpy.save(
        # `order="C"` because safetensors copies memory as it lies, whatever the strides say.
        {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()},
        metadata=dict(metadata or {}),
    )
    # The library keeps metadata in a hash map, whose order differs from process to process.
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ValueError(
            f"The names of {len(tensors)} tensors and what is to be kept beside them take "
            f"{len(text)} bytes; at most {MAX_HEADER} are read again."
        )
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def parse_safetensors(
    data: bytes, *, name: str, expected: Mapping[str, TensorSpec] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read tensors and metadata from the bytes of a safetensors file.

    The header is bounded and checked before any tensor is touched.

    Parameters
    ----------
    data : bytes
    name : str
        What to call the data in errors.
    expected : mapping of str to TensorSpec, optional
        If given, exactly these tensors must be there.

    Returns
    -------
    tensors : dict of str to ndarray
    metadata : dict of str to str

    Raises
    ------
    FileError
        If the data are malformed or other than expected.
    """
    if len(data) < 8:
        raise FileError(f"{name} is not a safetensors file: it ends before its header.")
    (length,) = struct.unpack_from("<Q", data)
    if length > min(MAX_HEADER, len(data) - 8):
        raise FileError(
            f"{name} is not a safetensors file: it declares a header of {length} bytes."
        )
    header = parse_json(data[8 : 8 + length], name=f"The header of {name}")
    if not isinstance(header, dict):
        raise FileError(f"{name} is not a safetensors file: its header is no mapping.")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or any(not isinstance(v, str) for v in metadata.values()):
        raise FileError(f"{name} has metadata other than strings.")
    try:
        found = {
            tensor: (tuple(entry["shape"]), _DTYPES[entry["dtype"]])
            for tensor, entry in header.items()
        }
    except (KeyError, TypeError) as error:
        raise FileError(f"{name} declares a tensor without shape or known dtype.") from error
    if expected is not None:
        check_tensors(found, expected, name=name)
    try:
        return safetensors.numpy.load(data), metadata
    except SafetensorError as error:  # offsets that overlap, leave holes or pass the end
        raise FileError(f"{name} is not a safetensors file: {error}.") from error


def check_tensors(
    found: Mapping[str, tuple[tuple[int, ...], str]],
    expected: Mapping[str, TensorSpec],
    *,
    name: str,
) -> None:
    """Compare names, shapes and dtypes of tensors with what they must be.

    Parameters
    ----------
    found : mapping of str to (shape, dtype name)
    expected : mapping of str to TensorSpec
    name : str
        What to call the tensors in errors.

    Raises
    ------
    FileError
        Naming the tensors that are missing, too many, or of another shape or dtype.
    """
    problems = []
    if missing := sorted(expected.keys() - found.keys()):
        problems.append(f"it lacks {_few(missing)}")
    if surplus := sorted(found.keys() - expected.keys()):
        problems.append(f"it has no use for {_few(surplus)}")
    different = [
        f"{tensor} is {found[tensor][1]} {list(found[tensor][0])}, not "
        f"{' or '.join(spec.dtypes)} {list(spec.shape)}"
        for tensor, spec in expected.items()
        if tensor in found
        and (found[tensor][0] != spec.shape or found[tensor][1] not in spec.dtypes)
    ]
    if different:
        problems.append(_few(different))
    if problems:
        raise FileError(f"{name} does not hold the expected tensors: {'; '.join(problems)}.")


def check_values(arrays: Mapping[str, np.ndarray], *, name: str) -> None:
    """Refuse tensors with numbers that no training leaves.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        By the names of a network's state dict.
    name : str
        What to call them in errors.

    Raises
    ------
    FileError
        If numbers are not finite, or variances or counts of batches are negative.
    """
    for tensor, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise FileError(f"{name} has numbers in {tensor!r} that are not finite.")
        if tensor.endswith(("running_var", "num_batches_tracked")) and (array < 0).any():
            raise FileError(f"{name} has negative numbers in {tensor!r}, which counts or squares.")


def _few(items: list[str], most: int = 3) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(f"{item:.200}" for item in items[:most]) + more
