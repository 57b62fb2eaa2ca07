"""Changing a zoo so that other writers lose nothing and an interruption breaks nothing.

Whoever writes holds the lock. A source's folder is written under a temporary name, renamed, and
becomes part of the zoo when the index that names it replaces the old one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from ..storage import files
from ..storage.files import TEMPORARY, sync_folder, temporary_beside, write_new
from .index import CONFIG, HISTORY, LOCK, SIGNATURE, SUPERNET, Index, ZooError

__all__ = ["clear_leftovers", "discard", "install", "locked"]

LOCK_TIMEOUT = 300.0
"""Seconds to wait while another process writes."""


def locked(folder: Path) -> AbstractContextManager[None]:
    """Keep other writers out of a zoo; readers need no lock.

    Raises
    ------
    ZooError
        If another writer does not finish within `LOCK_TIMEOUT`.
    """
    busy = ZooError(
        f"Another process has been writing to {folder} for {LOCK_TIMEOUT:.0f} s. If there is none, "
        f"delete {folder / LOCK}."
    )
    return files.locked(folder / LOCK, timeout=LOCK_TIMEOUT, busy=busy)


def clear_leftovers(folder: Path) -> None:
    """Delete what killed writers left half-written; only who holds the lock may."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        discard(leftover)


def install(zoo: Path, index: Index, sources: Iterable[tuple[str, Mapping[str, bytes]]]) -> None:
    """Write folders of sources, then the index that names them.

    Parameters
    ----------
    zoo : pathlib.Path
    index : Index
    sources : iterable of (folder, contents)
        Content by the name of the file; may be made one by one.

    Raises
    ------
    ZooError
        If something that is not of a zoo is in the way. This and every other error or
        interruption leaves the zoo as it was or, once the index is replaced, with the sources.
    """
    installed = []
    try:
        for folder, contents in sources:
            installed.append(zoo / folder)
            _install_folder(zoo / folder, contents)
        sync_folder(zoo)
        index.write(zoo)
    except BaseException:
        if Index.read(zoo) != index:
            for target in installed:
                if target.exists() and _is_leftover(target):
                    discard(target)
        raise


def _install_folder(target: Path, contents: Mapping[str, bytes]) -> None:
    if target.exists() and not _is_leftover(target):
        raise ZooError(f"{target} is in the way and not part of the zoo. Move it elsewhere.")
    temporary = temporary_beside(target)
    try:
        temporary.mkdir()
        for file, data in contents.items():
            write_new(temporary / file, data)
        sync_folder(temporary)
        discard(target)
        os.rename(temporary, target)
    except BaseException:
        discard(temporary)
        raise


def discard(path: Path) -> None:
    """Delete a file or folder if it is there; of a symbolic link only the link."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path, ignore_errors=True)


def _is_leftover(folder: Path) -> bool:
    """Whether a folder holds nothing but what a killed `Zoo.add` may have left."""
    ours = {CONFIG, SUPERNET, SIGNATURE, HISTORY}
    return folder.is_dir() and all(p.name in ours and p.is_file() for p in folder.iterdir())
