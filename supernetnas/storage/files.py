"""Files written whole and read with suspicion.

Zoos and fitted classifiers are folders that may come from a stranger. What is written here appears
complete or not at all; what is read here is bounded in size before it is read. What is in them, see
`supernetnas.storage.formats`.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from .foreign_text import ForeignError

__all__ = [
    "FileError",
    "clear_temporaries",
    "locked",
    "read_bytes",
    "safe_join",
    "sha256",
    "sync_folder",
    "temporary_beside",
    "write_atomic",
    "write_new",
]


TEMPORARY = ".tmp-"
"""How the names of files and folders that are still being written begin."""

_MAX_NAME = 200
"""Most bytes of a name that a temporary one repeats: file systems allow 255."""

_NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EROFS}
"""Errors of file systems, as of some networks and containers, that have no `os.fsync`."""


class FileError(ForeignError):
    """A file that is missing, too large, malformed or outside its folder."""


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
