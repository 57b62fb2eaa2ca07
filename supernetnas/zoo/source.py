"""One pretrained supernet of a zoo, read file by file as it is asked for."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..storage.files import FileError, safe_join
from ..storage.foreign_text import one_line
from ..storage.formats import parse_json, parse_safetensors
from ..storage.hub import HubRepository
from ..training.history import HistoryRow, parse_history
from .entries import (
    CONFIG,
    HISTORY,
    INDEX,
    SIGNATURE,
    SUPERNET,
    Bundle,
    Entry,
    FileRecord,
    ZooError,
    decode_vector,
    described,
    names_of,
    read_verified,
)
from .places import FolderPlace, HubPlace
from .weights import about_supernet, load_supernet, read_config

if TYPE_CHECKING:
    import torch

    from ..distance.signature import Basis, DatasetSignature
    from ..families.base import Config
    from ..storage.hub_push import Pushed

__all__ = ["Home", "Source"]


class Home(Protocol):
    """What a source asks of the zoo that it is in.

    Attributes
    ----------
    place : FolderPlace or HubPlace
    where : str
        What the zoo is called.
    embedder_id : str
        Identity of the embedder of the signatures.
    """

    place: FolderPlace | HubPlace

    @property
    def where(self) -> str: ...

    @property
    def embedder_id(self) -> str: ...

    def basis(self) -> Basis | None:
        """Load the basis of compact signatures."""

    def bundle_of(self, name: str) -> tuple[str, Bundle, int] | None:
        """Find the bundle of a source's signature, and where in it that begins."""

    def source(self, name: str) -> Source:
        """Return a source."""


class Source:
    """One pretrained supernet of a zoo; `Zoo` makes them.

    Attributes
    ----------
    name : str
    kind : {"single", "multi"}
        Pretrained on one dataset, or on many with a head each.
    family : str
        Name of the kind of supernet.
    dataset : str or None
        Name of the dataset, which sources of several families may have in common; None for kind
        "multi".
    n_images, n_classes : int or None
        Of the data it was pretrained on.
    """

    def __init__(
        self, home: Home, name: str, entry: Entry, place: FolderPlace | HubPlace | None = None
    ) -> None:
        self._home = home
        self.entry = entry
        self.place = _place_of(home.place, entry) if place is None else place
        self.name = name

    @property
    def kind(self) -> str:
        return self.entry.kind

    @property
    def family(self) -> str:
        return self.entry.family

    @property
    def dataset(self) -> str | None:
        return self.entry.dataset

    @property
    def n_images(self) -> int | None:
        return self.entry.n_images

    @property
    def n_classes(self) -> int | None:
        return self.entry.n_classes

    @property
    def embedder_id(self) -> str:
        """Identity of the embedder of the signature."""
        return self._home.embedder_id

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the data come from; see `Zoo.add`. A copy."""
        return copy.deepcopy(self.entry.provenance)

    @property
    def metrics(self) -> dict[str, Any]:
        """What the pretraining reached. A copy."""
        return copy.deepcopy(self.entry.metrics)

    @property
    def n_bytes(self) -> int:
        """Size of all files of the source."""
        return sum(record.size for record in self.entry.files.values())

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the file of weights and alphas, as the zoo's index has it."""
        return self.entry.files[SUPERNET].sha256

    @property
    def trained_on(self) -> list[str]:
        """Names of all datasets that the supernet has seen, those that it started from included."""
        own = names_of(self.entry.provenance, "datasets") or [self.dataset or self.name]
        return sorted({*own, *names_of(self.entry.provenance, "warm_start_datasets")})

    @property
    def config(self) -> Config:
        """What the supernet is built from. Its ``n_classes`` is that of the head that was dropped.

        Raises
        ------
        ZooError
            If this version of supernetnas cannot build such a supernet.
        """
        try:
            return read_config(self.entry)
        except (KeyError, TypeError, ValueError) as error:
            raise ZooError(
                f"Source {self.name!r} of {self._home.where} has a supernet that this supernetnas "
                f"does not know: {error}"
            ) from error

    def about(self) -> dict[str, str]:
        """Describe the supernet for people, by name; empty if this version does not know it."""
        return about_supernet(self.entry)[0]

    @property
    def classes(self) -> list[str]:
        """Names of the classes; empty where the zoo does not keep them."""
        with self._refusing():
            return self._description()["classes"]

    @property
    def origin(self) -> str | None:
        """Repository on the Hugging Face Hub that the files are in, if not with the zoo."""
        origin = self.entry.origin
        return None if origin is None else f"hf://{origin.repo_id}@{origin.commit}"

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Load weights, alphas and batch-norm statistics.

        The classifier is not among them. The file is checked and parsed once per process.

        Returns
        -------
        dict of str to torch.Tensor
            On the CPU, for the caller to keep and change. Floats are float32 in whatever precision
            they are stored; ``num_batches_tracked`` is int64.

        Raises
        ------
        ZooError
            If a file of the source is missing, was changed or does not belong to it, or if the
            tensors are not those of the configuration.
        """
        import torch

        with self._refusing():
            self._check_foreign()
            path = self.path(SUPERNET)
            arrays = load_supernet(
                str(path), path.stat().st_mtime_ns, self.entry.files[SUPERNET], self.config
            )
        return {
            name: torch.from_numpy(
                array.astype(np.float32 if array.dtype.kind == "f" else array.dtype)
            )
            for name, array in arrays.items()
        }

    def signature(self) -> DatasetSignature:
        """Load the signature of the dataset.

        Raises
        ------
        ZooError
            For a source of kind "multi", which has none, and as `state_dict`.
        """
        from ..distance.signature import DatasetSignature

        if self.kind == "multi":
            raise ZooError(f"Source {self.name!r} was pretrained on many datasets: no signature.")
        with self._refusing():
            tensors, metadata = parse_safetensors(
                self._signature_file(), name=self._name(SIGNATURE)
            )
            try:
                signature = DatasetSignature.from_tensors(
                    tensors, metadata, basis=self._home.basis()
                )
            except ValueError as error:
                raise FileError(f"{self._name(SIGNATURE)}: {error}") from error
            if signature.embedder_id != self.embedder_id:
                raise FileError(
                    f"{self._name(SIGNATURE)} was made with {signature.embedder_id!r}, not with "
                    f"the zoo's embedder {self.embedder_id!r}."
                )
            return signature

    def vector(self) -> np.ndarray | None:
        """The vector of the dataset in the index, float32; None where the zoo has none.

        See `supernetnas.distance.dataset_vectors`.
        """
        return None if self.entry.vector is None else decode_vector(self.entry.vector)

    def history(self) -> list[HistoryRow]:
        """Load the pretraining's history: a row per epoch, empty if none was kept.

        ``pandas.DataFrame(source.history())`` makes a table of it.

        Raises
        ------
        ZooError
            If the file is missing or was changed.
        """
        if HISTORY not in self.entry.files:
            return []
        with self._refusing():
            return parse_history(self._read(HISTORY), name=self._name(HISTORY))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        create_pr: bool = False,
        private: bool | None = None,
        message: str | None = None,
        token: str | bool | None = None,
        endpoint: str | None = None,
    ) -> Pushed:
        """Publish the source in a repository of its own, for zoos to `Zoo.link` to.

        It has its own card, licence, revisions and count of downloads. Parameters, result and
        errors are as in `Zoo.push_to_hub`.
        """
        from ..storage.hub_push import Target
        from .publishing_source import push_source, refuse_damaged

        refuse_damaged(self.verify())
        target = Target(
            repo_id,
            revision=revision,
            create_pr=create_pr,
            private=private,
            token=token,
            endpoint=endpoint,
        )
        return push_source(
            *(self.name, self.entry, self.embedder_id, self.path, target), message=message
        )

    def verify(self) -> list[str]:
        """Read and check every file of the source, whatever was loaded before.

        Returns
        -------
        list of str
            The problems, a line each; empty if there is none.
        """
        problems = []
        for check in (
            self._check_foreign,
            self._description,
            lambda: load_supernet.__wrapped__(
                str(self.path(SUPERNET)), 0, self.entry.files[SUPERNET], self.config
            ),
            self.signature if self.kind == "single" else list,
            self._check_own_signature,
            self.history,
        ):
            try:
                with self._refusing():
                    check()
            except ZooError as error:
                problems.append(one_line(str(error)))
        return problems

    def path(self, file: str) -> Path:
        """Find a file, which is fetched if need be and may not be as the index says.

        Raises
        ------
        FileError, HubError
            If it cannot be had.
        """
        return self.place.path(self.entry.path(file), self.entry.files[file])

    def signature_file(self) -> bytes:
        """Read the file of the signature, or the copy of it in a bundle.

        Raises
        ------
        ZooError
            If it is missing or was changed.
        """
        with self._refusing():
            return self._signature_file()

    def contents(self) -> dict[str, bytes]:
        """Read all files, by name.

        Raises
        ------
        ZooError
            If one is missing, was changed or does not belong to the source.
        """
        with self._refusing():
            self._description()
            contents = {
                file: self._signature_file() if file == SIGNATURE else self._read(file)
                for file in self.entry.files
            }
        self.state_dict()
        if self.kind == "single":
            self.signature()
        return contents

    def _name(self, file: str) -> str:
        return self.place.name(self.entry.path(file))

    def _read(self, file: str) -> bytes:
        return read_verified(self.path(file), self.entry.files[file])

    def _signature_file(self) -> bytes:
        found = self._home.bundle_of(self.name)
        if found is None or self.place.fetched(self.entry.path(SIGNATURE)):
            return self._read(SIGNATURE)
        path, bundle, offset = found
        record = self.entry.files[SIGNATURE]
        with open(self._home.place.path(path, bundle), "rb") as file:
            file.seek(offset)
            data = file.read(record.size)
        if FileRecord.of(data) != record:
            name = self._home.place.name(path)
            raise FileError(f"{name} holds another signature of {self.name!r} than the index says.")
        return data

    def _description(self) -> dict[str, Any]:
        """Read ``config.json``, which must agree with the index."""
        name = self._name(CONFIG)
        description = parse_json(self._read(CONFIG), name=name)
        classes = description.get("classes") if isinstance(description, dict) else None
        if (
            not isinstance(classes, list)
            or any(not isinstance(item, str) for item in classes)
            or description != described(self.entry, self.embedder_id, classes)
        ):
            raise FileError(f"{name} does not agree with {INDEX}.")
        return description

    def _check_own_signature(self) -> None:
        if self._home.bundle_of(self.name) is not None:  # `signature` reads the copy
            self._read(SIGNATURE)

    def _check_foreign(self) -> None:
        if not isinstance(self.place, FolderPlace):
            return  # what else is in a repository is not even fetched
        folder = safe_join(self.place.folder, self.entry.folder)
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                if path.name not in self.entry.files and not path.name.startswith("."):
                    raise FileError(f"{path} does not belong there.")

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except FileError as error:
            if isinstance(self.place, FolderPlace):
                folder = self.place.name(self.entry.folder)
                remedy = (
                    f"Take the folder {folder} again from where the zoo came from, or open "
                    "the zoo again if it was written to in the meantime."
                )
            else:
                remedy = f"Tell who publishes {self.place}."
            raise ZooError(
                f"Source {self.name!r} is not as the zoo's index says: {error} {remedy}"
            ) from error

    def __reduce__(self) -> tuple:
        return _open_source, (self._home, self.name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Source):
            return NotImplemented
        return (self.name, self._home.where, self.entry) == (
            other.name,
            other._home.where,
            other.entry,
        )

    def __hash__(self) -> int:
        return hash((self.name, self._home.where))

    def __repr__(self) -> str:
        return (
            f"<Source {self.name!r} ({self.kind}, {self.family}): "
            f"{self.n_images} images of {self.n_classes} classes>"
        )


def _place_of(place: FolderPlace | HubPlace, entry: Entry) -> FolderPlace | HubPlace:
    """Where the files of a source are, whose zoo is in a place."""
    origin = entry.origin
    if origin is None:
        return place
    if isinstance(place, HubPlace):  # with the same cache and token
        repository = replace(place.repository, repo_id=origin.repo_id, commit=origin.commit)
    else:
        repository = HubRepository(origin.repo_id, origin.commit)
    return HubPlace(repository)


def _open_source(home: Home, name: str) -> Source:
    return home.source(name)
