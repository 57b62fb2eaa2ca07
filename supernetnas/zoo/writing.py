"""Changing a zoo so that other writers lose nothing and an interruption breaks nothing.

Whoever writes holds the lock. A source's folder is written under a temporary name, renamed, and
becomes part of the zoo when the index that names it replaces the old one. Before anything else,
the folders that will be new or out of use are written to a note, so that those which the index does
not name are cleared away, here or, after an interruption, by the next writer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..storage import files
from ..storage.destinations import refusal
from ..storage.files import TEMPORARY, FileError, sync_folder, write_atomic
from ..storage.folders import discard, write_folder
from ..storage.formats import dump_json, read_json
from .entries import (
    BUNDLES,
    CONFIG,
    HISTORY,
    LOCK,
    SHARED,
    SIGNATURE,
    SUPERNET,
    ZooError,
    check_name,
    shared_path,
)
from .index import Index

__all__ = ["clear_leftovers", "install", "leftovers", "locked", "replace_index"]

NOTE = f"{TEMPORARY}folders"
_SHARED = re.compile(r"[0-9a-f]{64}\.safetensors")
_NOTE_LIMIT = 64 * 2**20

LOCK_TIMEOUT = 300.0
"""Seconds to wait while another process writes."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other writers out of a zoo; readers need no lock.

    Raises
    ------
    ZooError
        If another writer does not finish within `LOCK_TIMEOUT`, or the system refuses to write
        here or to what is run inside.
    """
    busy = ZooError(
        f"Another process has been writing to {folder} for {LOCK_TIMEOUT:.0f} s. If there is none, "
        f"delete {folder / LOCK}."
    )
    try:
        with files.locked(folder / LOCK, timeout=LOCK_TIMEOUT, busy=busy):
            yield
    except OSError as error:
        if error.errno is None or isinstance(error, ZooError):
            raise
        what = f"The zoo in {folder} cannot be written to (Zoo.save makes a copy)"
        raise refusal(ZooError, what, error) from error


def leftovers(zoo: Path, index: Index) -> list[Path]:
    """What writers that were interrupted left in a zoo of this index."""
    known = {entry.folder for entry in index.sources.values()}
    if index.bundles:
        known.add(BUNDLES)
    noted = [zoo / name for name in _noted(zoo) if name not in known]
    found = [*filter(_is_leftover, noted), *zoo.glob(f"{TEMPORARY}*")]
    return found + _unshared(zoo, index)


def _unshared(zoo: Path, index: Index) -> list[Path]:
    """Signatures that no sources share any more, and own ones of sources that share theirs."""
    sharing = [entry for entry in index.sources.values() if entry.shared]
    own = [zoo / entry.folder / SIGNATURE for entry in sharing]
    folder, kept = zoo / SHARED, {shared_path(entry.files[SIGNATURE]) for entry in sharing}
    if folder.is_dir() and not folder.is_symlink():
        found = [path for path in folder.iterdir() if _SHARED.fullmatch(path.name)]
        own += [path for path in found if f"{SHARED}/{path.name}" not in kept]
        if not kept and len(found) == len(list(folder.iterdir())):
            own.append(folder)
    return [path for path in own if path.exists()]


def clear_leftovers(zoo: Path, index: Index) -> None:
    """Delete `leftovers`; only who holds the lock may. What cannot be deleted now stays."""
    paths = leftovers(zoo, index)
    for path in paths:
        if path.name != NOTE:
            discard(path)
    if not any(path.exists() for path in paths if path.name != NOTE):
        discard(zoo / NOTE)


def replace_index(zoo: Path, index: Index, out_of_use: Iterable[str]) -> None:
    """Write an index that leaves folders out of use; `clear_leftovers` deletes them."""
    install(zoo, index, (), (), out_of_use)


def install(
    zoo: Path,
    index: Index,
    folders: Collection[str],
    contents: Iterable[Mapping[str, bytes]],
    out_of_use: Iterable[str] = (),
) -> None:
    """Write folders of sources, then the index that names them.

    Parameters
    ----------
    zoo : pathlib.Path
    index : Index
    folders : collection of str
        Names of the new folders.
    contents : iterable of mapping of str to bytes
        Content of each by the name of the file; may be made one by one.
    out_of_use : iterable of str
        Names of the folders that the index does not name any more.

    Raises
    ------
    ZooError
        If something that is not of a zoo is in the way. This and every other error or
        interruption leaves the zoo as it was or, once the index is replaced, with the sources,
        and in either case with `leftovers`.
    """
    write_atomic(zoo / NOTE, dump_json([*folders, *out_of_use, BUNDLES]))
    entries = {entry.folder: entry for entry in index.sources.values() if entry.origin is None}
    for folder, content in zip(folders, contents, strict=True):
        if entries[folder].shared:
            content = dict(content)
            path = zoo / shared_path(entries[folder].files[SIGNATURE])
            if path.parent.is_symlink():  # which may lead anywhere
                discard(path.parent)
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, content.pop(SIGNATURE))
        _install_folder(zoo / folder, content)
    sync_folder(zoo)
    index.write(zoo)


def _noted(zoo: Path) -> list[str]:
    """Names of folders in the note of a writer; it may come from a stranger, like all of a zoo."""
    try:
        names = read_json(zoo / NOTE, limit=_NOTE_LIMIT)
        return [name for name in names if name == BUNDLES or check_name(name.removesuffix("~"))]
    except (AttributeError, FileError, TypeError, ValueError):
        return []


def _install_folder(target: Path, contents: Mapping[str, bytes]) -> None:
    if target.exists() and not _is_leftover(target):
        raise ZooError(f"{target} is in the way and not part of the zoo. Move it elsewhere.")
    write_folder(target, contents)


def _is_leftover(folder: Path) -> bool:
    """Whether a folder holds nothing but what a killed `Zoo.add` may have left."""
    ours = {CONFIG, SUPERNET, SIGNATURE, HISTORY}
    return folder.is_dir() and all(
        (p.name in ours or folder.name == BUNDLES) and p.is_file() for p in folder.iterdir()
    )
