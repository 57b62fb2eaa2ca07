"""Where a user wants something to be written: tried before long work, explained if refused."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from .files import TEMPORARY, FileError, sync_folder, temporary_beside, write_new
from .folders import make_folder, unmake

__all__ = ["check_file", "check_folder", "refusal", "user_path", "write_file", "write_files"]

_REMEDIES = {
    errno.ENOSPC: "The disk is full: free some space, or choose another folder.",
    errno.EDQUOT: "Your share of the disk is used up: free some space, or choose another folder.",
    errno.EROFS: "It is mounted to be read only: choose another folder.",
    errno.EACCES: "You may not write there: choose another folder, or have its rights changed.",
    errno.EPERM: "You may not write there: choose another folder, or have its rights changed.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}
_NOT_OF_THE_USER = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def user_path(path: str | os.PathLike, kind: type[OSError] = FileError) -> Path:
    """Return a path that a user gave, with the home folder for ``~``.

    Raises
    ------
    FileError, or another kind
        If nobody knows which that is, as in a container without ``HOME``.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise kind(
            f"{os.fspath(path)!r} begins with a home folder that cannot be found. Set the "
            "environment variable HOME, or write the whole path."
        ) from error


def refusal(kind: type[OSError], what: str, error: OSError) -> OSError:
    """Return an error that says what could not be done, why, and what helps.

    Parameters
    ----------
    kind : subclass of OSError
        Of the error to return.
    what : str
        The sentence that is explained, without its full stop.
    error : OSError
        With which the system refused.
    """
    remedy = _REMEDIES.get(error.errno or 0, "Try again, or choose another folder.")
    result = kind(f"{what}: {str(error).removesuffix('.')}. {remedy}")
    if error.errno in _NOT_OF_THE_USER:
        result.errno = error.errno  # the command line tells them from a place chosen wrongly
    return result


def check_folder(folder: Path) -> None:
    """Find out whether files could be written to a folder, made if need be; leaves no trace.

    Raises
    ------
    OSError
        If the system refuses.
    """
    try:
        made = make_folder(folder)
        probe = folder / f"{TEMPORARY}{secrets.token_hex(8)}"
        try:
            probe.mkdir()
            write_new(probe / "probe", b"probe")
        finally:
            shutil.rmtree(probe, ignore_errors=True)
            unmake(made)
    except OSError as error:
        raise refusal(type(error), f"{folder} cannot be written to", error) from error


def write_files(contents: Mapping[Path, bytes], what: str | None = None) -> None:
    """Write files that a user named, once there is room for all of them.

    Each takes its place in one step. A symbolic link is followed. A pipe, a device and a file that
    is a mount point are written to.

    Parameters
    ----------
    contents : mapping of Path to bytes
    what : str, optional
        The sentence that an error begins with; by default it names the file.

    Raises
    ------
    FileError
        If the system refuses; says why, and what helps.
    """
    waiting: dict[Path, Path] = {}
    try:
        for path, data in contents.items():
            if not _is_device(path):
                waiting[path] = temporary_beside(Path(os.path.realpath(path)))
                write_new(waiting[path], data)
        for path, data in contents.items():
            if path not in waiting or not _replaced(waiting[path], Path(os.path.realpath(path))):
                path.write_bytes(data)
    except OSError as error:
        plain = OSError(error.strerror or str(error))  # the name of a temporary file says nothing
        plain.errno = error.errno
        raise refusal(FileError, what or f"{path} cannot be written", plain) from error
    finally:
        for temporary in waiting.values():
            temporary.unlink(missing_ok=True)


def write_file(path: str | os.PathLike, data: bytes, what: str | None = None) -> None:
    """Write one file as `write_files` does."""
    write_files({Path(path): data}, what)


def _replaced(temporary: Path, path: Path) -> bool:
    """Whether a file has taken the place of another, which may be a mount point."""
    try:
        os.replace(temporary, path)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    sync_folder(path.parent)
    return True


def check_file(path: str | os.PathLike, option: str) -> None:
    """Find out whether `write_file` could write a file; leaves no trace.

    Parameters
    ----------
    path : path
    option : str
        That the path was given with, for errors.

    Raises
    ------
    OSError
        If the system refuses, there is a folder of that name, or no folder to write it to.
    """
    if _is_device(path):
        return
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{option} {path}: there is no such folder.")
    if os.path.isdir(path):
        raise IsADirectoryError(f"{option} {path}: that is a folder, not a file.")
    probe = temporary_beside(path)
    try:
        write_new(probe, b"probe")
        if not path.exists():  # its name may be one that the system does not take
            os.rename(probe, path)
            path.unlink()
    except OSError as error:
        raise refusal(type(error), f"{option} {path}: it cannot be written", error) from error
    finally:
        probe.unlink(missing_ok=True)


def _is_device(path: str | os.PathLike) -> bool:
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
