"""Files written whole and read with suspicion.

Zoos and fitted classifiers are folders of JSON, CSV and safetensors that may come from a stranger.
What is written here appears complete or not at all; what is read here is bounded in size before it
is read, parsed strictly, and never executed: there is no pickle on these paths.

Readers take bytes where the caller checks a hash, so that what was hashed is what is parsed.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import glob
import hashlib
import io
import json
import math
import os
import re
import secrets
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from .foreign_text import ForeignError

__all__ = [
    "FileError",
    "TensorSpec",
    "check_tensors",
    "check_values",
    "clear_temporaries",
    "dump_csv",
    "dump_json",
    "dump_safetensors",
    "is_text",
    "locked",
    "parse_csv",
    "parse_json",
    "parse_safetensors",
    "plain",
    "read_bytes",
    "read_json",
    "safe_join",
    "sha256",
    "sync_folder",
    "temporary_beside",
    "write_atomic",
    "write_new",
]

MAX_HEADER = 8 * 2**20
"""Largest safetensors header that is read or written, in bytes: some 70,000 tensors."""

MAX_DEPTH = 64
"""Most lists and mappings that JSON may have inside one another."""

TEMPORARY = ".tmp-"
"""How the names of files and folders that are still being written begin."""

_MAX_NAME = 200
"""Most bytes of a name that a temporary one repeats: file systems allow 255."""

_NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EROFS}
"""Errors of file systems, as of some networks and containers, that have no `os.fsync`."""

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


class FileError(ForeignError):
    """A file that is missing, too large, malformed or outside its folder."""


class TensorSpec(NamedTuple):
    """What a tensor must look like: its shape, and the numpy names of the dtypes it may have."""

    shape: tuple[int, ...]
    dtypes: tuple[str, ...]


# Whole or not at all


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_new(path: Path, data: bytes) -> None:
    """Write a file that must not exist yet, and wait until it is on the disk."""
    try:
        with open(path, "xb") as file:
            file.write(data)
            file.flush()
            _sync(file.fileno())
    except OSError as error:
        if error.errno is not None and error.filename is None:  # as where a disk is full
            error.filename = os.fspath(path)
        raise


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one may be allowed to write names and not to read them
        return
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def temporary_beside(path: Path) -> Path:
    """Return an unused name in the same folder, and so on the same file system."""
    return path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}-{_short(path.name)}")


def _short(name: str) -> str:
    """Return a name, or another that stands for it if there would be no room for a prefix."""
    data = os.fsencode(name)
    return name if len(data) <= _MAX_NAME else hashlib.sha256(data).hexdigest()


def write_atomic(path: str | os.PathLike, data: bytes | str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    The data go to a temporary file beside, are forced to the disk, and replace the old file in
    one step. Text is encoded as UTF-8.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        write_new(temporary, data.encode() if isinstance(data, str) else data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def clear_temporaries(path: str | os.PathLike) -> None:
    """Delete what writers of a file that were killed left beside it; no one may be writing it."""
    path = Path(path)
    for leftover in path.parent.glob(f"{TEMPORARY}*-{glob.escape(_short(path.name))}"):
        leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, *, timeout: float, busy: OSError) -> Iterator[None]:
    """Hold a lock file meanwhile, which nobody else can hold.

    Parameters
    ----------
    path : pathlib.Path
        Made if need be.
    timeout : float
        Seconds to wait for others.
    busy : OSError
        Raised if they take longer.
    """
    import filelock

    lock = filelock.FileLock(path, timeout=timeout)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise busy from error
    try:
        yield
    finally:
        lock.release()


# Read with suspicion


def safe_join(folder: str | os.PathLike, relative: str) -> Path:
    """Join a relative path from an untrusted file to a folder.

    Parameters
    ----------
    folder : path
        The folder that must not be left. It may itself be reached through a symbolic link.
    relative : str
        Path inside it, with forward slashes.

    Returns
    -------
    pathlib.Path
        Absolute, symbolic links resolved. It need not exist.

    Raises
    ------
    FileError
        If ``relative`` is empty, absolute, holds ``..``, ``.``, a backslash or a drive, or if a
        symbolic link on the way leads out of the folder.
    """
    parts = relative.split("/")
    if (
        any(part in ("", ".", "..") for part in parts)
        or "\\" in relative
        or "\0" in relative
        or PureWindowsPath(relative).drive
        or PurePosixPath(relative).is_absolute()
    ):
        raise FileError(f"{relative!r} is not a plain path inside a folder.")
    root = Path(folder).resolve()
    try:
        path = root.joinpath(*parts).resolve()
    except (OSError, RuntimeError) as error:  # a loop of links, a name too long
        raise FileError(f"{relative!r} cannot be followed inside {root}: {error}.") from error
    if not path.is_relative_to(root):
        raise FileError(f"{root / relative} is a link that leads out of {root}.")
    return path


def read_bytes(path: str | os.PathLike, *, limit: int) -> bytes:
    """Read a regular file of at most ``limit`` bytes.

    Raises
    ------
    FileError
        If the file is missing, is no regular file (a folder, a pipe, a device) or is too large.
        Nothing is read then.
    """
    path = Path(path)
    if not path.exists():
        raise FileError(f"{path} is missing.")
    if not path.is_file():
        raise FileError(f"{path} is not a regular file.")
    try:
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError as error:
        raise FileError(f"{path} is missing.") from error
    with file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise FileError(f"{path} has {size} bytes; at most {limit} are read.")
        data = file.read(size + 1)
    if len(data) != size:
        raise FileError(f"{path} changed while it was read.")
    return data


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


# Tensors


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
