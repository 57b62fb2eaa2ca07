"""``index.json``: what a zoo holds, small enough to be read for every question but the weights.

The index is the zoo's only truth. A folder that it does not name is not part of the zoo, and
replacing the index is the one step that adds, replaces or removes a source. All that it says is
checked when it is read, as it may come from a stranger: format, names, folders, hashes, sizes.

Version 2 of the format adds what zoos on the Hugging Face Hub need: copies of the signatures in a
few bundles, and sources in repositories of their own. Version 3 adds families of supernets, and
datasets that several sources were pretrained on. What has no need of a version is written as an
earlier one, in which all sources are of one family and each of a dataset of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..storage.files import FileError, read_bytes, safe_join, write_atomic
from ..storage.formats import dump_json, parse_json
from .entries import (
    BASIS,
    BUNDLES,
    EARLIER_FAMILY,
    INDEX,
    LIMITS,
    SIGNATURE,
    VECTORS,
    Bundle,
    Entry,
    FileRecord,
    ZooError,
    check_names_differ,
    signature_key,
)

__all__ = ["FORMAT_VERSION", "Index", "check_together"]

FORMAT = "supernetnas-zoo"
FORMAT_VERSION = 3
"""Newest version of the format that is read; see above for which is written."""

_BUNDLE = re.compile(rf"{BUNDLES}/[0-9]{{4}}\.bin")
_MAKE = "'supernetnas zoo pretrain' or Zoo.create makes one."


@dataclass(frozen=True)
class Index:
    """Content of ``index.json``.

    Attributes
    ----------
    embedder_id : str
        Identity of the embedder of all signatures.
    sources : dict of str to Entry
        By name, in the order of the names.
    basis : FileRecord or None
        The shared basis of compact signatures.
    bundles : dict of str to Bundle
        By path. Copies of signatures; a change of the sources drops them.
    vectors : FileRecord or None
        The space of the sources' vectors.
    """

    embedder_id: str
    sources: dict[str, Entry] = field(default_factory=dict)
    basis: FileRecord | None = None
    bundles: dict[str, Bundle] = field(default_factory=dict)
    vectors: FileRecord | None = None

    @classmethod
    def read(cls, folder: Path) -> Index:
        """Read and check the index of the zoo in a folder.

        Raises
        ------
        ZooError
            Saying what is wrong and what to do about it.
        """
        if not folder.is_dir():
            what = "is a file, not a folder" if folder.exists() else "does not exist"
            raise ZooError(f"There is no zoo in {folder}: it {what}. {_MAKE}")
        if not (folder / INDEX).exists():
            raise ZooError(f"There is no zoo in {folder}: it holds no {INDEX}. {_MAKE}")
        try:
            path = safe_join(folder, INDEX)
        except FileError as error:
            raise ZooError(f"The index of the zoo in {folder} cannot be read: {error}") from error
        return cls.read_file(path, f"the zoo in {folder}")

    @classmethod
    def read_file(cls, path: Path, zoo: str) -> Index:
        """Read and check an index; ``zoo`` is what errors call the zoo.

        Raises
        ------
        ZooError
            Saying what is wrong and what to do about it.
        """
        try:
            data = parse_json(read_bytes(path, limit=LIMITS[INDEX]), name=str(path))
        except FileError as error:
            raise ZooError(f"The index of {zoo} cannot be read: {error}") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ZooError(
                f"The {INDEX} of {zoo} is not the index of a zoo: its format is another."
            )
        version = data.get("format_version")
        if type(version) is not int or version < 1:
            raise ZooError(f"The {INDEX} of {zoo} has no valid format version: {version!r:.80}.")
        if version > FORMAT_VERSION:
            raise ZooError(
                f"{zoo[0].upper()}{zoo[1:]} has format version {version}; this supernetnas reads "
                f"up to {FORMAT_VERSION}. Install a newer supernetnas."
            )
        try:
            return cls._from_dict(data)
        except (KeyError, TypeError, ValueError) as error:
            raise ZooError(
                f"The index of {zoo} is damaged: {error}. Take {INDEX} again from where the zoo "
                "came from."
            ) from error

    @classmethod
    def _from_dict(cls, data: Mapping[str, Any]) -> Index:
        embedder_id, entries = data["embedder_id"], data["sources"]
        basis, vectors = data.get("basis"), data.get("vectors")
        if not isinstance(embedder_id, str) or not isinstance(entries, dict):
            raise ValueError("embedder_id or sources has another type")
        sources = {}
        for name in sorted(entries):
            try:
                sources[name] = Entry.from_dict(name, entries[name])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"source {name!r:.120}: {error}") from error
        check_together(sources)
        return cls(
            embedder_id,
            sources,
            None if basis is None else FileRecord.from_dict(basis, LIMITS[BASIS]),
            _bundles(data.get("bundles", {}), sources),
            None if vectors is None else FileRecord.from_dict(vectors, LIMITS[VECTORS]),
        )

    def dump(self) -> bytes:
        """Return the content of ``index.json``."""
        data = {"format": FORMAT, "format_version": 1, **asdict(self)}
        entries: dict[str, dict[str, Any]] = data["sources"]
        optional = [(data, "bundles"), (data, "vectors")]
        optional += [(entry, key) for entry in entries.values() for key in ("origin", "vector")]
        for mapping, key in optional:
            if mapping[key]:
                data["format_version"] = 2
            else:
                del mapping[key]
        if any(_needs_version_3(name, entry) for name, entry in self.sources.items()):
            data["format_version"] = 3
        for entry in entries.values():
            if data["format_version"] < 3 or entry["dataset"] is None:
                del entry["dataset"]
            if data["format_version"] < 3:
                del entry["family"]
            if not entry["shared"]:
                del entry["shared"]
        return dump_json(data)

    def write(self, folder: Path) -> None:
        """Replace the index of a zoo in one step.

        Raises
        ------
        ZooError
            If it has become larger than what is read.
        """
        data = self.dump()
        if len(data) > LIMITS[INDEX]:
            raise ZooError(
                f"The index of the zoo in {folder} would have {len(data)} bytes; at most "
                f"{LIMITS[INDEX]} are read. Make a second zoo, or keep less provenance."
            )
        write_atomic(folder / INDEX, data)

    def bundle_of(self, name: str) -> tuple[str, Bundle, int] | None:
        """Find a copy of a source's signature.

        Returns
        -------
        path, bundle, offset : str, Bundle and int; or None
            Where the copy begins, in bytes.
        """
        entry = self.sources[name]
        return self._bundled.get(signature_key(name, entry)) if entry.kind == "single" else None

    @cached_property
    def _bundled(self) -> dict[str, tuple[str, Bundle, int]]:
        """What `bundle_of` finds, by `signature_key`."""
        found = {}
        for path, bundle in self.bundles.items():
            offset = 0
            for name in bundle.sources:
                entry = self.sources[name]
                found[signature_key(name, entry)] = path, bundle, offset
                offset += entry.files[SIGNATURE].size
        return found

    def with_sources(self, sources: Mapping[str, Entry]) -> Index:
        """Return an index with these sources; those of one dataset share its signature.

        Raises
        ------
        ValueError
            If the sources do not go together.
        """
        check_together(sources)
        here = Counter(entry.dataset for entry in sources.values() if entry.origin is None)
        marked = {
            name: replace(entry, shared=True)
            if entry.origin is None and entry.dataset is not None and here[entry.dataset] > 1
            else entry
            for name, entry in sorted(sources.items())
        }
        return replace(self, sources=marked, bundles={})

    def without_source(self, name: str) -> Index:
        """Return an index without ``name``."""
        sources = {other: entry for other, entry in self.sources.items() if other != name}
        return replace(self, sources=sources, bundles={})


def check_together(sources: Mapping[str, Entry]) -> None:
    """Refuse sources that cannot be in one zoo.

    Raises
    ------
    ValueError
        If names differ in nothing but case, a family has two sources of kind "multi", or sources of
        one dataset have different signatures.
    """
    check_names_differ(sources)
    multi: dict[str, str] = {}
    signed: dict[str, str] = {}
    for name, entry in sources.items():
        if entry.kind == "multi" and (other := multi.setdefault(entry.family, name)) != name:
            raise ValueError(
                f"A zoo has at most one source of kind 'multi' of a family; {other!r} and {name!r} "
                f"are both of {entry.family!r}."
            )
        if entry.dataset is None:
            continue
        other = signed.setdefault(entry.dataset, name)
        if sources[other].files[SIGNATURE] != entry.files[SIGNATURE]:
            raise ValueError(
                f"{other!r} and {name!r} are of one dataset, {entry.dataset!r}, and have different "
                "signatures. Give one of them another dataset, or remove it first."
            )


def _needs_version_3(name: str, entry: Entry) -> bool:
    own = name if entry.kind == "single" else None
    return entry.shared or (entry.family, entry.dataset) != (EARLIER_FAMILY, own)


def _bundles(data: Any, sources: Mapping[str, Entry]) -> dict[str, Bundle]:
    """Check and rebuild the bundles, which must be of the signatures that the sources have."""
    if not isinstance(data, dict):
        raise ValueError("its bundles are no mapping")
    bundles, seen = {}, set()
    for path, record in data.items():
        if not _BUNDLE.fullmatch(path):
            raise ValueError(f"{path!r:.120} cannot be a bundle of signatures")
        bundle = bundles[path] = Bundle.from_dict(record)
        for name in bundle.sources:
            if name in seen or name not in sources or SIGNATURE not in sources[name].files:
                raise ValueError(f"{path} cannot hold a signature of {name!r:.120}")
            seen.add(name)
        if bundle.size != sum(sources[name].files[SIGNATURE].size for name in bundle.sources):
            raise ValueError(f"{path} has not the size of its signatures")
    return bundles
