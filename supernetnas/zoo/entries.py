"""What a zoo's index says about one source, and the names and files that there may be.

All of it is checked when it is read, as it may come from a stranger: names, folders, hashes, sizes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np

from ..selection.strategies import reserved_names
from ..storage.files import FileError, read_bytes
from ..storage.foreign_text import ForeignError
from ..storage.hub import is_commit, is_repo_id

__all__ = [
    "BASIS",
    "BUNDLES",
    "CARD",
    "CONFIG",
    "EARLIER_FAMILY",
    "HISTORY",
    "INDEX",
    "LIMITS",
    "LOCK",
    "MAX_BUNDLE",
    "SHARED",
    "SIGNATURE",
    "SUPERNET",
    "VECTORS",
    "Bundle",
    "Entry",
    "FileRecord",
    "Origin",
    "UnknownSourceError",
    "ZooError",
    "check_name",
    "check_names_differ",
    "decode_vector",
    "described",
    "encode_vector",
    "is_sha256",
    "names_of",
    "read_verified",
    "same_source",
    "shared_path",
    "signature_key",
]

EARLIER_FAMILY = "cells"
"""Family of every source of versions 1 and 2."""

INDEX, CARD, BASIS, LOCK = "index.json", "README.md", "basis.safetensors", ".lock"
VECTORS = "vectors.safetensors"
"""Files of the zoo itself."""

CONFIG, SUPERNET = "config.json", "supernet.safetensors"
SIGNATURE, HISTORY = "signature.safetensors", "history.csv"
"""Files of a source."""

BUNDLES = "_signatures"
"""Folder of the bundles of signatures. No source can have this name."""

SHARED = "_shared"
"""Folder of signatures that several sources have in common, each named after its SHA-256."""

LIMITS = {
    INDEX: 64 * 2**20,
    BASIS: 64 * 2**20,
    VECTORS: 64 * 2**20,
    CONFIG: 4 * 2**20,
    SUPERNET: 2**31,
    SIGNATURE: 256 * 2**20,
    HISTORY: 16 * 2**20,
}
"""Bytes that a file may have; a larger one is refused unread."""

MAX_BUNDLE = 2**30
"""Bytes that a bundle of signatures may have."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FAMILY = re.compile(r"[a-z][a-z0-9_]{0,47}")
_DEVICES = {"con", "prn", "aux", "nul"} | {
    f"{port}{n}" for port in ("com", "lpt") for n in "123456789"
}

_MAX_COUNT = 2**53  # of images or classes


class ZooError(ForeignError):
    """A zoo that is missing, damaged, foreign, too new, or not fit for what was asked."""


class UnknownSourceError(ZooError, KeyError):
    """A name that the zoo does not have."""


def check_name(name: object) -> str:
    """Return a name; refuse one that is not fit for a folder on every system.

    Raises
    ------
    ValueError
        Unless the name is 1 to 96 letters, digits, dots, dashes and underscores, begins with a
        letter or digit, does not end with a dot, and is neither one of the zoo's own files nor a
        device of Windows nor a strategy of the classifier, whose names share a parameter with
        those of sources.
    """
    if (
        not isinstance(name, str)
        or not _NAME.fullmatch(name)
        or name.lower() in {INDEX, CARD.lower(), BASIS, VECTORS, *reserved_names()}
        or not _is_portable(name)
    ):
        raise ValueError(
            f"{name!r:.120} cannot name a source: use 1 to 96 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit and not ending with a dot, and no name of a "
            "strategy, of a zoo's file or of a device of Windows, such as 'con' or 'nul.txt'."
        )
    return name


def check_names_differ(names: Iterable[str]) -> None:
    """Refuse names that differ in nothing but case: some systems have one folder for them.

    Raises
    ------
    ValueError
        Naming two of them.
    """
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name.lower(), name)) != name:
            raise ValueError(f"{name!r} and {other!r} are one folder on some systems.")


def _is_portable(name: str) -> bool:
    """Whether Windows would keep a file of this name as such."""
    return not name.endswith(".") and name.lower().split(".")[0] not in _DEVICES


def is_sha256(value: object) -> bool:
    """Whether a value is a SHA-256 as 64 hexadecimal digits."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


@dataclass(frozen=True)
class FileRecord:
    """Content hash (64 hexadecimal digits) and size (bytes) of a file."""

    sha256: str
    size: int

    @classmethod
    def of(cls, data: bytes) -> FileRecord:
        """Record a content."""
        return cls(hashlib.sha256(data).hexdigest(), len(data))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], limit: int) -> Self:
        """Check and rebuild a record of a file of at most ``limit`` bytes."""
        record = cls(**data)
        if not is_sha256(record.sha256):
            raise ValueError(f"{record.sha256!r:.80} is not a SHA-256")
        if type(record.size) is not int or not 0 <= record.size <= limit:
            raise ValueError(f"a size of {record.size!r:.80} bytes is not within 0 to {limit}")
        return record


@dataclass(frozen=True)
class Bundle(FileRecord):
    """A file that holds the signature files of several sources, one after another.

    Attributes
    ----------
    sources : tuple of str
        Names of the sources, in the order of their signatures.
    """

    sources: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], limit: int = MAX_BUNDLE) -> Self:
        """Check and rebuild the record of a bundle."""
        record = super().from_dict(data, limit)
        if not isinstance(record.sources, list) or not all(
            isinstance(name, str) for name in record.sources
        ):
            raise ValueError("its sources are no list of names")
        return cls(record.sha256, record.size, tuple(record.sources))


@dataclass(frozen=True)
class Origin:
    """Where on the Hugging Face Hub the files of a source are, if not in its zoo's folder.

    Attributes
    ----------
    repo_id : str
        Organisation and name.
    commit : str
        Full hash.
    subfolder : str
        Empty for the repository's root.
    """

    repo_id: str
    commit: str
    subfolder: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Origin:
        """Check and rebuild an origin."""
        origin = cls(**data)
        if not is_repo_id(origin.repo_id):
            raise ValueError(f"{origin.repo_id!r:.120} does not name a repository")
        if not is_commit(origin.commit):
            raise ValueError(f"{origin.commit!r:.80} is not the hash of a commit")
        if not isinstance(origin.subfolder, str) or (
            origin.subfolder
            and not all(
                _NAME.fullmatch(part) and _is_portable(part) for part in origin.subfolder.split("/")
            )
        ):
            raise ValueError(f"{origin.subfolder!r:.120} cannot be a folder of a repository")
        return origin

    def path(self, file: str) -> str:
        """Path of a file of the source in the repository."""
        return str(PurePosixPath(self.subfolder, file))


@dataclass(frozen=True)
class Entry:
    """What the index says about a source.

    Attributes
    ----------
    kind : {"single", "multi"}
        Pretrained on one dataset, or on many.
    folder : str
        Where its files are: the source's name or, after it was replaced, the name and ``~``.
    config : dict
        Plain values that the family reads the supernet's configuration from.
    n_images : int or None
    n_classes : int or None
        Of the data it was pretrained on.
    provenance, metrics : dict
        See `Zoo.add`.
    files : dict of str to FileRecord
        Every file of the source.
    origin : Origin or None
        Where its files are; None is the zoo itself.
    vector : str or None
        Vector of the dataset, see `supernetnas.distance.dataset_vectors`: little-endian float32,
        base64.
    family : str
        Name of the kind of supernet; perhaps one that this version does not know.
    dataset : str or None
        Name of the dataset; by default that of the source. None for kind "multi".
    shared : bool
        Whether the signature is in the folder of those that several sources have in common.
    """

    kind: str
    folder: str
    config: dict[str, Any]
    n_images: int | None
    n_classes: int | None
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    files: dict[str, FileRecord] = field(default_factory=dict)
    origin: Origin | None = None
    vector: str | None = None
    family: str = EARLIER_FAMILY
    dataset: str | None = None
    shared: bool = False

    @classmethod
    def from_dict(cls, name: str, data: Mapping[str, Any]) -> Entry:
        """Check and rebuild the entry of the source ``name``."""
        check_name(name)
        entry = cls(**data)
        if entry.kind not in ("single", "multi"):
            raise ValueError(f"{entry.kind!r:.80} is not a kind of source")
        if not isinstance(entry.family, str) or not _FAMILY.fullmatch(entry.family):
            raise ValueError(f"{entry.family!r:.80} cannot be a family of supernets")
        if entry.kind == "single" and entry.dataset is None:
            entry = replace(entry, dataset=name)
        if entry.kind == "multi" and entry.dataset is not None:
            raise ValueError("a source of kind 'multi' has no dataset of its own")
        if entry.dataset is not None and (
            not isinstance(entry.dataset, str) or not _NAME.fullmatch(entry.dataset)
        ):
            raise ValueError(
                f"{entry.dataset!r:.80} cannot name a dataset: use letters, digits, '.', '_', '-'"
            )
        here = entry.kind == "single" and entry.origin is None
        if not isinstance(entry.shared, bool) or (entry.shared and not here):
            raise ValueError("it cannot share a signature")
        if entry.folder not in (name, f"{name}~"):
            raise ValueError(f"{entry.folder!r:.80} cannot be its folder")
        for part in ("config", "provenance", "metrics", "files"):
            if not isinstance(getattr(entry, part), dict):
                raise ValueError(f"its {part} is no mapping")
        for known in ("datasets", "warm_start_datasets"):
            names_of(entry.provenance, known)
        for count in (entry.n_images, entry.n_classes):
            if count is not None and (type(count) is not int or not 0 <= count <= _MAX_COUNT):
                raise ValueError(f"{count!r:.80} is not a number of images or classes")
        if entry.vector is not None:
            decode_vector(entry.vector)
        required = {CONFIG, SUPERNET} | ({SIGNATURE} if entry.kind == "single" else set())
        if not required <= entry.files.keys() <= required | {HISTORY}:
            raise ValueError(f"its files are {sorted(entry.files)!r:.200}, not {sorted(required)}")
        records = {
            file: FileRecord.from_dict(record, LIMITS[file])
            for file, record in data["files"].items()
        }
        origin = None if entry.origin is None else Origin.from_dict(data["origin"])
        return cls(**{**entry.__dict__, "files": records, "origin": origin})

    def path(self, file: str) -> str:
        """Path of a file, in the zoo or in the repository of its origin."""
        if self.origin is not None:
            return self.origin.path(file)
        if self.shared and file == SIGNATURE:
            return shared_path(self.files[SIGNATURE])
        return f"{self.folder}/{file}"


def names_of(provenance: Mapping[str, Any], key: str) -> list[str]:
    """Names that provenance has under a key; a single one may stand alone.

    Raises
    ------
    ValueError
        If something else is there.
    """
    names = provenance.get(key)
    names = [] if names is None else [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise ValueError(f"its {key} are no list of names: {names!r:.80}")
    return names


def shared_path(record: FileRecord) -> str:
    """Path in a zoo of a signature that several sources have in common."""
    return f"{SHARED}/{record.sha256}.safetensors"


def signature_key(name: str, entry: Entry) -> str:
    """What stands for the signature of a source: the same for all that share one."""
    return shared_path(entry.files[SIGNATURE]) if entry.shared else name


def same_source(a: Entry, b: Entry) -> bool:
    """Whether two entries say the same of a source, wherever in their zoos its files are."""
    return replace(a, folder="", shared=False) == replace(b, folder="", shared=False)


def described(entry: Entry, embedder_id: str, classes: list[str] | None) -> dict[str, Any]:
    """Content of ``config.json``."""
    family = {} if entry.family == EARLIER_FAMILY else {"family": entry.family}
    return {
        "library_name": "supernetnas",
        "kind": entry.kind,
        "embedder_id": embedder_id,
        **family,
        "config": entry.config,
        "provenance": entry.provenance,
        "metrics": entry.metrics,
        "classes": classes,
    }


def encode_vector(vector: np.ndarray) -> str:
    """Text of a vector for the index."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def decode_vector(text: str) -> np.ndarray:
    """The vector of a text, float32; ValueError if it is none."""
    try:
        vector = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{text!r:.80} is no vector: {error}") from error
    if not len(vector) or not np.isfinite(vector).all():
        raise ValueError("its vector is empty or not finite")
    return vector.astype(np.float32)


def read_verified(path: Path, record: FileRecord) -> bytes:
    """Read a file and compare it with its record."""
    if path.is_file() and (size := path.stat().st_size) != record.size:
        raise FileError(f"{path} has {size} bytes instead of {record.size}.")
    data = read_bytes(path, limit=record.size)
    if (found := FileRecord.of(data).sha256) != record.sha256:
        raise FileError(
            f"{path} was changed: its SHA-256 begins {found[:12]} instead of {record.sha256[:12]}."
        )
    return data
