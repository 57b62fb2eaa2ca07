"""Where the files of a zoo are: in a folder, or in a repository on the Hugging Face Hub."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..storage.destinations import user_path
from ..storage.files import FileError, safe_join
from ..storage.hub import HubAddress, HubRepository, hub_address
from .entries import (
    INDEX,
    LIMITS,
    FileRecord,
    ZooError,
    read_verified,
)
from .index import Index

__all__ = ["FolderPlace", "HubPlace", "open_place"]

BUILTIN = "builtin"


@dataclass(frozen=True)
class FolderPlace:
    """A folder.

    Attributes
    ----------
    where : str
        "builtin" or an absolute path.
    """

    where: str

    @property
    def folder(self) -> Path:
        return _builtin_folder() if self.where == BUILTIN else Path(self.where)

    def index(self) -> Index:
        """Read the index."""
        return Index.read(self.folder)

    def path(self, file: str, record: FileRecord) -> Path:
        """Find a file, which may not be the one of the record.

        Raises
        ------
        FileError
            If there is none, or its path leads out of the folder.
        """
        path = safe_join(self.folder, file)
        if not path.exists():
            raise FileError(f"{path} is missing.")
        return path

    def fetch(self, records: Mapping[str, FileRecord]) -> None:
        """Do nothing: all that there is is there."""

    def fetched(self, file: str) -> bool:
        """Return False: nothing was fetched."""
        return False

    def name(self, file: str) -> str:
        """What to call a file."""
        return str(self.folder / file)

    def __str__(self) -> str:
        return self.where


@dataclass(frozen=True)
class HubPlace:
    """A repository at one commit, and the folder in the cache that its files are fetched to.

    Attributes
    ----------
    repository : HubRepository
    """

    repository: HubRepository
    _checked: set[str] = field(default_factory=set, repr=False, compare=False)

    @classmethod
    def open(cls, address: HubAddress, **options: Any) -> HubPlace:
        """Pin the newest commit of a revision; options as in `HubRepository`."""
        try:
            repository, _ = HubRepository.at(address, INDEX, LIMITS[INDEX], **options)
        except FileError as error:
            raise ZooError(f"The index of the zoo {address} cannot be read: {error}") from error
        return cls(repository)

    @property
    def where(self) -> str:
        return str(self.repository.address)

    @property
    def folder(self) -> Path:
        return self.repository.fetch({INDEX: LIMITS[INDEX]})[INDEX].parent

    def index(self) -> Index:
        """Read the index."""
        path = self.repository.fetch({INDEX: LIMITS[INDEX]})[INDEX]
        return Index.read_file(path, f"the zoo {self.where}")

    def path(self, file: str, record: FileRecord) -> Path:
        """Fetch a file if need be, and compare it with its record.

        A file in the cache that is not the one of the record is fetched again, once.

        Raises
        ------
        HubError
            If it cannot be had.
        FileError
            If it is another one at the Hub as well.
        """
        path = self.repository.fetch({file: record.size})[file]
        if file not in self._checked:
            try:
                read_verified(path, record)
            except FileError as error:
                if self.repository.offline:
                    raise FileError(f"{error} It is in the cache of the Hub; delete it.") from None
                path = self.repository.fetch({file: record.size}, force=True)[file]
                read_verified(path, record)
            self._checked.add(file)
        return path

    def fetch(self, records: Mapping[str, FileRecord]) -> None:
        """Fetch files that are not in the cache, several at a time."""
        self.repository.fetch({file: record.size for file, record in records.items()})

    def fetched(self, file: str) -> bool:
        """Whether a file is in the cache."""
        return self.repository.cached(file) is not None

    def name(self, file: str) -> str:
        """What to call a file."""
        return f"{self.where}/{file}"

    def __reduce__(self) -> tuple:
        return HubPlace, (self.repository,)

    def __str__(self) -> str:
        return self.where


def _builtin_folder() -> Path:
    return Path(str(importlib.resources.files(__package__).joinpath(BUILTIN)))


def open_place(zoo: str | os.PathLike | FolderPlace | HubPlace) -> FolderPlace | HubPlace:
    """Find out where a zoo is; see `hub_address` for what is taken for a repository."""
    if isinstance(zoo, FolderPlace | HubPlace):
        return zoo
    if zoo == BUILTIN:
        return FolderPlace(BUILTIN)
    if (address := hub_address(zoo)) is not None:
        return HubPlace.open(address)
    return FolderPlace(str(user_path(zoo, ZooError).resolve()))
