"""A folder of files that is replaced as a whole, while it stays where it is.

The folder itself is never moved, as it may be a mount point, somebody's current folder, or have
rights that a new one would lack. New files are written to a folder inside, and renaming that one to
`READY` is the step that decides: from then on the new content counts. Then its files move up, one
by one. Whoever reads a file looks into `READY` first, so that there is a whole content to be read
at any moment, even if the writer is killed; the next writer finishes what it began.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

from .files import (
    TEMPORARY,
    FileError,
    locked,
    read_bytes,
    sync_folder,
    temporary_beside,
    write_new,
)

__all__ = [
    "READY",
    "clear",
    "discard",
    "make_folder",
    "read_member",
    "replace_content",
    "unmake",
    "write_folder",
]

READY, LOCK = f"{TEMPORARY}ready", f"{TEMPORARY}lock"
LOCK_TIMEOUT = 60.0
"""Seconds to wait while another process writes."""


def read_member(folder: Path, name: str, *, limit: int) -> bytes:
    """Read a file of the content that counts now; see `read_bytes`."""
    ready = folder / READY / name
    if ready.exists():
        try:
            return read_bytes(ready, limit=limit)
        except FileError:
            if ready.exists():
                raise
    return read_bytes(folder / name, limit=limit)


def replace_content(
    folder: Path, contents: Mapping[str, bytes], names: Set[str], manifest: str
) -> None:
    """Write files to a folder, which is made if need be.

    Parameters
    ----------
    folder : pathlib.Path
    contents : mapping of str to bytes
        By the name of the file.
    names : set of str
        Of all files that the content may have; those that the new one lacks are deleted.
    manifest : str
        The file that is put in its place last.

    Raises
    ------
    FileError
        If another process writes to the folder all the time.
    OSError
        If the system refuses. The folder has its old content then, and no other trace; or, if it
        refused after all was written, to move something to its place, the new one.
    """
    made = make_folder(folder)
    try:
        with _locked(folder):
            _move_up(folder, manifest)
            clear(folder)
            write_folder(folder / READY, contents)
            sync_folder(folder)
            _move_up(folder, manifest)
            for name in names - contents.keys():
                with contextlib.suppress(OSError):  # the manifest does not name it
                    (folder / name).unlink()
    except BaseException:
        unmake(made)
        raise


def clear(folder: Path) -> None:
    """Delete what killed writers left half-written; only who holds the lock may."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        if leftover.name not in (READY, LOCK):
            discard(leftover)


def write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write a folder of files, which appears with all of them or not at all.

    What was there is deleted just before.

    Raises
    ------
    OSError
        If the system refuses; nothing is left behind.
    """
    temporary = temporary_beside(folder)
    try:
        temporary.mkdir()
        for name, data in contents.items():
            write_new(temporary / name, data)
        sync_folder(temporary)
        discard(folder)
        os.rename(temporary, folder)
    except BaseException:
        discard(temporary)
        raise


def discard(path: Path) -> None:
    """Delete a file or folder if it is there and can be; of a symbolic link only the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink()


def _move_up(folder: Path, manifest: str) -> None:
    """Put the files of `READY`, if there is one, into their places."""
    ready = folder / READY
    if not ready.is_dir():
        return
    for path in sorted(ready.iterdir(), key=lambda path: (path.name == manifest, path.name)):
        os.replace(path, folder / path.name)
    sync_folder(folder)
    with contextlib.suppress(OSError):  # an empty one is in nobody's way
        ready.rmdir()


def make_folder(folder: Path) -> list[Path]:
    """Make a folder and what it is in; returns what was made, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    made: list[Path] = []
    try:
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            made.insert(0, path)
    except BaseException:
        unmake(made)
        raise
    return made


def unmake(made: list[Path]) -> None:
    """Delete folders that `make_folder` made, as far as they are empty."""
    with contextlib.suppress(OSError):
        for path in made:
            path.rmdir()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    busy = FileError(f"Another process has been writing to {folder} for {LOCK_TIMEOUT:.0f} s.")
    with locked(folder / LOCK, timeout=LOCK_TIMEOUT, busy=busy):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows deletes no file that is open
                os.unlink(folder / LOCK)
