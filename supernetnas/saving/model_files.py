"""The files of a saved classifier: where they are, and that they belong together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..storage.files import TEMPORARY, FileError, read_bytes
from ..storage.folders import READY, read_member
from ..storage.formats import parse_json
from ..storage.hub import HubRepository

__all__ = [
    "CARD",
    "CONFIG",
    "HELD_OUT",
    "MAX_CONFIG",
    "MODEL",
    "MODEL_FILES",
    "SIGNATURE",
    "SUPERNET",
    "ModelFiles",
    "ModelFilesInMemory",
    "ModelFilesOnHub",
    "check_destination",
    "looks_saved",
    "settled",
]

CONFIG, MODEL, SUPERNET = "config.json", "model.safetensors", "supernet.safetensors"
SIGNATURE, HELD_OUT, CARD = "signature.safetensors", "held_out.csv", "README.md"
MODEL_FILES = {CONFIG, MODEL, SUPERNET, SIGNATURE, HELD_OUT, CARD}
_SYSTEM = {
    "lost+found",
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    "@eaDir",
}  # of file systems and desktops
MAX_CONFIG = 64 * 2**20
_TRIES = 10  # loads from a folder that others write to


def check_destination(folder: Path) -> None:
    """Raise FileError unless the folder is free for a classifier."""
    if not os.path.exists(folder):  # False for names that the system does not take, unlike pathlib
        return
    if not folder.is_dir():
        raise FileError(f"{folder} is a file, not a folder. Choose another folder.")
    names = {path.name for path in folder.iterdir() if not _is_passed_over(path)}
    hidden = {name for name in names if name.startswith(".") and name != READY}
    strangers = sorted(names - MODEL_FILES - hidden)
    if not strangers and names and not looks_saved(folder):
        strangers = sorted(names)
    if strangers:
        raise FileError(
            f"{folder} holds {strangers[0]!r}, which is not of a saved classifier. Choose another "
            "folder."
        )


def _is_passed_over(path: Path) -> bool:
    """Whether a file in a folder is of an interrupted save, or of the system itself."""
    if path.name == READY:
        return not path.is_symlink() and path.is_dir() and {*os.listdir(path)} <= MODEL_FILES
    return path.name.startswith((TEMPORARY, ".nfs", "._")) or path.name in _SYSTEM


def looks_saved(folder: Path) -> bool:
    try:
        config = parse_json(read_member(folder, CONFIG, limit=MAX_CONFIG), name=CONFIG)
    except FileError:
        return False
    return isinstance(config, dict) and config.get("library_name") == "supernetnas"


class ModelFiles:
    """Files of a saved classifier in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def name(self, file: str) -> str:
        return str(self.folder / file)

    def config(self) -> bytes:
        if not self.folder.exists():
            raise FileError(f"There is no folder {self.folder}, and so no classifier in it.")
        try:
            return read_member(self.folder, CONFIG, limit=MAX_CONFIG)
        except FileError as error:
            if (self.folder / CONFIG).exists():
                raise
            raise FileError(
                f"{self.folder} is not a saved classifier: it has no {CONFIG}."
            ) from error

    def read(self, limits: Mapping[str, int], hashes: Mapping[str, str]) -> dict[str, bytes]:
        """Read files of at most so many bytes, which must have these hashes."""
        data = {}
        for file, limit in limits.items():
            data[file] = read_member(self.folder, file, limit=limit)
            self._check(file, data[file], hashes)
        return data

    def _check(self, file: str, data: bytes, hashes: Mapping[str, str]) -> None:
        if hashlib.sha256(data).hexdigest() != hashes[file]:
            raise FileError(
                f"{self.name(file)} is not the file that was saved: its SHA-256 is not that in "
                f"{CONFIG}. Take it again from where it came from."
            )


class ModelFilesOnHub(ModelFiles):
    """Files of a saved classifier in a repository."""

    def __init__(self, repository: HubRepository) -> None:
        self.repository = repository

    def name(self, file: str) -> str:
        return f"{self.repository.address}/{file}"

    def config(self) -> bytes:
        path = self.repository.fetch({CONFIG: MAX_CONFIG})[CONFIG]
        return read_bytes(path, limit=MAX_CONFIG)

    def read(self, limits: Mapping[str, int], hashes: Mapping[str, str]) -> dict[str, bytes]:
        data = {}
        for file, path in self.repository.fetch(limits).items():
            try:
                data[file] = read_bytes(path, limit=limits[file])
                self._check(file, data[file], hashes)
            except FileError:
                if self.repository.offline:
                    raise
                path = self.repository.fetch({file: limits[file]}, force=True)[file]
                data[file] = read_bytes(path, limit=limits[file])
                self._check(file, data[file], hashes)
        return data


class ModelFilesInMemory(ModelFiles):
    """Files of a classifier that are not written yet."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self.contents = contents

    def name(self, file: str) -> str:
        return file

    def config(self) -> bytes:
        return self.contents[CONFIG]

    def read(self, limits: Mapping[str, int], hashes: Mapping[str, str]) -> dict[str, bytes]:
        for file, limit in limits.items():
            if (size := len(self.contents[file])) > limit:
                raise FileError(f"{file} has {size} bytes; at most {limit} are read.")
        return {file: self.contents[file] for file in limits}


def settled(files: ModelFiles, load: Callable[[], Any]) -> Any:
    """Load a classifier; once more each time that another was saved in its place meanwhile."""
    for _ in range(_TRIES):
        before = files.config()
        try:
            return load()
        except FileError:
            if files.config() == before:
                raise
    raise FileError(
        f"{files.name(CONFIG)} was replaced {_TRIES} times while it was loaded. Load it when "
        "nobody saves to its folder."
    )
