"""The files of a zoo: reading them, checking them, and changing them so that nothing is lost.

`supernetnas.zoo.zoo.Zoo` is what users see of it.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..storage.destinations import refusal
from ..storage.files import FileError, write_atomic
from ..storage.formats import dump_safetensors, parse_safetensors
from .cards import zoo_card
from .entries import (
    BASIS,
    BUNDLES,
    CARD,
    INDEX,
    SHARED,
    SIGNATURE,
    VECTORS,
    Bundle,
    Entry,
    FileRecord,
    UnknownSourceError,
    ZooError,
    encode_vector,
    read_verified,
)
from .index import Index
from .places import BUILTIN, FolderPlace, HubPlace
from .source import Source
from .writing import clear_leftovers, install, leftovers, locked, replace_index

if TYPE_CHECKING:
    from ..distance.dataset_vectors import VectorSpace
    from ..distance.signature import Basis, DatasetSignature

__all__ = ["ZooStore", "check_free", "create_store", "vector_in", "with_sources"]

T = TypeVar("T")


class ZooStore:
    """The files of a zoo and its index, as that was when it was opened or last written here.

    Parameters
    ----------
    place : FolderPlace or HubPlace

    Attributes
    ----------
    place : FolderPlace or HubPlace
    index : Index
    """

    def __init__(self, place: FolderPlace | HubPlace) -> None:
        self.place, self.index = place, place.index()

    @property
    def where(self) -> str:
        return self.place.where

    @property
    def folder(self) -> Path:
        return self.place.folder

    @property
    def embedder_id(self) -> str:
        return self.index.embedder_id

    def __reduce__(self) -> tuple:
        return ZooStore, (self.place,)

    # Reading

    def source(self, name: str) -> Source:
        """Return a source; `UnknownSourceError` if there is none of the name."""
        if name not in self.index.sources:
            raise self.unknown(name)
        return Source(self, name, self.index.sources[name])

    def unknown(self, name: object, names: Sequence[str] | None = None) -> UnknownSourceError:
        """Return the error for a name that is not among some, by default all."""
        names = list(self.index.sources) if names is None else names
        close = difflib.get_close_matches(str(name), names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        listed = ", ".join(names[:40]) + (" ..." if len(names) > 40 else "")
        return UnknownSourceError(
            f"The zoo {self.where!r} has no source {name!r:.120}.{hint} It has: {listed or 'none'}."
        )

    def bundle_of(self, name: str) -> tuple[str, Bundle, int] | None:
        """Find the bundle of a source's signature, and where in it that begins."""
        return self.index.bundle_of(name) if name in self.index.sources else None

    def basis(self) -> Basis | None:
        """Load the basis that compact signatures share; see `Zoo.basis`."""
        return self._load(
            BASIS, self.index.basis, _load_basis, "basis of the zoo's signatures", "."
        )

    def vector_space(self) -> VectorSpace | None:
        """Load what turns datasets into the vectors of the index; see `Zoo.vector_space`."""
        remedy = ", or let Zoo.index_vectors make new ones."
        return self._load(
            VECTORS, self.index.vectors, _load_vector_space, "space of the zoo's vectors", remedy
        )

    def _load(
        self,
        file: str,
        record: FileRecord | None,
        load: Callable[[str, int, FileRecord], T],
        what: str,
        remedy: str,
    ) -> T | None:
        if record is None:
            return None
        try:
            path = self.place.path(file, record)
            return load(str(path), path.stat().st_mtime_ns, record)
        except (FileError, FileNotFoundError) as error:
            raise ZooError(
                f"The {what} cannot be read: {error} Take {file} again from where the zoo came "
                f"from{remedy}"
            ) from error

    def download(self, sources: Sequence[Source], *, weights: bool) -> None:
        """Fetch what is on the Hub and not in the cache yet; see `Zoo.download`."""
        wanted: dict[FolderPlace | HubPlace, dict[str, FileRecord]] = {}
        if self.index.basis is not None:
            wanted[self.place] = {BASIS: self.index.basis}
        if self.index.vectors is not None:
            wanted.setdefault(self.place, {})[VECTORS] = self.index.vectors
        bundles = self._bundles_to_fetch(sources)
        for source in sources:
            records = dict(source.entry.files)
            if source.name in bundles:
                path, bundle = bundles[source.name]
                wanted.setdefault(self.place, {})[path] = bundle
                del records[SIGNATURE]
            if not weights:
                records = {file: r for file, r in records.items() if file == SIGNATURE}
            paths = {source.entry.path(file): record for file, record in records.items()}
            wanted.setdefault(source.place, {}).update(paths)
        for place, records in wanted.items():
            place.fetch(records)

    def _bundles_to_fetch(self, sources: Sequence[Source]) -> dict[str, tuple[str, Bundle]]:
        """Path and bundle for each source whose signature is better fetched with others."""
        inside: dict[str, list[Source]] = {}
        for source in sources:
            found = self.bundle_of(source.name)
            if found is not None and not source.place.fetched(source.entry.path(SIGNATURE)):
                inside.setdefault(found[0], []).append(source)
        chosen: dict[str, tuple[str, Bundle]] = {}
        for path, wanting in inside.items():
            bundle = self.index.bundles[path]
            sizes = {source.entry.path(SIGNATURE): source.entry for source in wanting}
            size = sum(entry.files[SIGNATURE].size for entry in sizes.values())
            foreign = any(source.place != self.place for source in wanting)
            if 2 * size >= bundle.size or foreign or self.place.fetched(path):
                chosen |= {source.name: (path, bundle) for source in wanting}
        return chosen

    def problems(self, sources: Iterable[Source]) -> list[str]:
        """Read and check every file of the zoo and of sources; see `Zoo.verify`."""
        sources = list(sources)
        problems = [problem for source in sources for problem in source.verify()]
        try:
            self.basis()
        except ZooError as error:
            problems.append(str(error))
        for path, bundle in self.index.bundles.items():
            try:
                read_verified(self.place.path(path, bundle), bundle)
            except FileError as error:
                problems.append(str(error))
        try:
            space = self.vector_space()
            for source in sources:
                if (vector := source.vector()) is not None and (
                    space is None or len(vector) != space.dimension
                ):
                    problems.append(f"The vector of {source.name!r} is not of the zoo's space.")
        except ZooError as error:
            problems.append(str(error))
        return problems if isinstance(self.place, HubPlace) else problems + self._strangers()

    def _strangers(self) -> list[str]:
        """Say what is in the folder and not of the zoo."""
        known = {INDEX, CARD, VECTORS, *(entry.folder for entry in self.index.sources.values())}
        if self.index.bundles:
            known.add(BUNDLES)
        if self.index.basis is not None:
            known.add(BASIS)
        if any(entry.shared for entry in self.index.sources.values()):
            known.add(SHARED)
        left = leftovers(self.folder, self.index)
        problems = []
        for item in sorted({*self.folder.iterdir(), *left}):
            if item in left:
                problems.append(
                    f"{item} is left from an interrupted write; the next one clears it."
                )
            elif item.name not in known and not item.name.startswith("."):
                problems.append(f"{item} does not belong to the zoo. Delete it or move it away.")
        return problems

    # Writing

    @contextmanager
    def writing(self) -> Iterator[Index]:
        """Hold the zoo for writing, and yield its index as it is on the disk now.

        Raises
        ------
        ZooError
            If it is not to be written to, or somebody else writes all the time.
        """
        if isinstance(self.place, HubPlace):
            raise ZooError(
                f"The zoo {self.where!r} is on the Hub and not written to; it can be saved to a "
                "folder, changed there, and pushed."
            )
        if self.where == BUILTIN:
            raise ZooError("The builtin zoo is part of the installation; write to a copy of it.")
        with locked(self.folder):
            index = Index.read(self.folder)
            clear_leftovers(self.folder, index)
            if index.embedder_id != self.embedder_id:
                raise ZooError(f"The zoo in {self.folder} was replaced by another; open it again.")
            try:
                yield index
            except BaseException:
                with suppress(ZooError):
                    clear_leftovers(self.folder, Index.read(self.folder))
                raise

    def add(
        self,
        name: str,
        entry: Entry,
        contents: Mapping[str, bytes],
        signature: DatasetSignature | None,
        *,
        overwrite: bool,
    ) -> None:
        """Write a source; the entry's folder is its name."""
        with self.writing() as index:
            old = index.sources.get(name)
            if old is not None and old.folder == name and old.origin is None:
                entry = replace(entry, folder=f"{name}~")
            self.index = index
            if (space := self.vector_space()) is not None:
                entry = replace(entry, vector=vector_in(space, signature))
            check_free(index, name, overwrite)
            changed = with_sources(index, {**index.sources, name: entry})
            out_of_use = [] if old is None or old.origin else [old.folder]
            install(self.folder, changed, [entry.folder], [contents], out_of_use)
            self.replaced(changed)

    def remove(self, name: str, names: Sequence[str]) -> None:
        """Remove a source; see `Zoo.remove`. Errors list the names."""
        with self.writing() as index:
            if name not in index.sources:
                raise self.unknown(name, names)
            without = index.without_source(name)
            old = index.sources[name]
            replace_index(self.folder, without, [] if old.origin else [old.folder])
            self.replaced(without)

    def replaced(self, index: Index) -> None:
        """Take note that the index was replaced, and discard what it does not name any more."""
        self.index = index
        clear_leftovers(self.folder, index)
        try:
            self.write_card()
        except OSError as error:
            warnings.warn(
                f"The zoo in {self.folder} was changed, but not its {CARD}: {error}",
                UserWarning,
                stacklevel=4,
            )

    def write_card(self) -> None:
        """Write the card anew."""
        write_atomic(self.folder / CARD, zoo_card(self.index, self.folder.name))


def create_store(folder: Path, embedder_id: str, basis: Basis | None, *, exist_ok: bool) -> None:
    """Make an empty zoo in a folder; see `Zoo.create`."""
    if folder.exists() and not folder.is_dir():
        raise ZooError(f"{folder} is a file, not a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(ZooError, f"The zoo in {folder} cannot be made", error) from error
    data = None if basis is None else dump_safetensors(basis.to_tensors())
    index = Index(embedder_id, basis=None if data is None else FileRecord.of(data))
    with locked(folder):
        if (folder / INDEX).exists():
            if not exist_ok:
                raise ZooError(f"There is a zoo in {folder} already; Zoo.open opens it.")
            there = Index.read(folder)
            for what, old, new in (
                ("embedder", there.embedder_id, embedder_id),
                ("basis", there.basis, index.basis),
            ):
                if old != new:
                    raise ZooError(f"The zoo in {folder} has another {what}: {old}, not {new}.")
            return
        ours = set() if data is None else {BASIS}  # left where this was killed; replaced below
        names = [path.name for path in folder.iterdir() if path.name not in ours]
        if strangers := [name for name in names if not name.startswith(".")]:
            raise ZooError(
                f"{folder} is neither empty nor a zoo: it holds {sorted(strangers)[0]!r}. "
                "Choose another folder."
            )
        if data is not None:
            write_atomic(folder / BASIS, data)
        index.write(folder)
        ZooStore(FolderPlace(str(folder))).write_card()


def check_free(index: Index, name: str, overwrite: bool) -> None:
    """Refuse a name that a source has already."""
    if name in index.sources and not overwrite:
        raise ZooError(f"The zoo has a source {name!r} already; overwrite=True replaces it.")


def with_sources(index: Index, sources: Mapping[str, Entry]) -> Index:
    """Return an index with these sources; ZooError if they do not go together."""
    try:
        return index.with_sources(sources)
    except ValueError as error:
        raise ZooError(str(error)) from error


def vector_in(space: VectorSpace, signature: DatasetSignature | None) -> str | None:
    """Text of a dataset's vector for the index; None without a signature."""
    return None if signature is None else encode_vector(space.vector(signature))


def _arrays(path: str, record: FileRecord) -> dict[str, np.ndarray]:
    """Read tensors that many share, and so are not to be changed."""
    arrays, _ = parse_safetensors(read_verified(Path(path), record), name=path)
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


@lru_cache(maxsize=32)
def _load_vector_space(path: str, mtime_ns: int, record: FileRecord) -> VectorSpace:
    from ..distance.dataset_vectors import VectorSpace

    try:
        return VectorSpace.from_tensors(_arrays(path, record))
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error


@lru_cache(maxsize=32)
def _load_basis(path: str, mtime_ns: int, record: FileRecord) -> Basis:
    from ..distance.signature import Basis

    try:
        return Basis.from_tensors(_arrays(path, record))
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error
