"""One pretrained supernet of a zoo, read file by file as it is asked for."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..storage.files import FileError, parse_json, parse_safetensors, safe_join
from ..storage.foreign_text import one_line
from ..storage.hub import HubRepository
from ..training.history import HistoryRow, parse_history
from .index import (
    CONFIG,
    HISTORY,
    INDEX,
    SIGNATURE,
    SUPERNET,
    Entry,
    FileRecord,
    ZooError,
    decode_vector,
    read_verified,
)
from .places import FolderPlace, HubPlace
from .weights import load_supernet

if TYPE_CHECKING:
    import torch

    from ..distance.signature import DatasetSignature
    from ..families.cells.config import SupernetConfig
    from ..storage.hub_push import Pushed
    from .zoo import Zoo

__all__ = ["Source", "describe"]


class Source:
    """One pretrained supernet of a zoo; `Zoo` makes them.

    Attributes
    ----------
    name : str
    kind : {"single", "multi"}
        Pretrained on one dataset, or on many with a head each.
    n_images, n_classes : int or None
        Of the data it was pretrained on.
    """

    def __init__(
        self, zoo: Zoo, name: str, entry: Entry, place: FolderPlace | HubPlace | None = None
    ) -> None:
        self._zoo = zoo
        self._entry = entry
        self._place = _place_of(zoo, entry) if place is None else place
        self.name = name

    @property
    def kind(self) -> str:
        return self._entry.kind

    @property
    def family(self) -> str:
        """Name of the kind of supernet."""
        return self.config.family

    @property
    def n_images(self) -> int | None:
        return self._entry.n_images

    @property
    def n_classes(self) -> int | None:
        return self._entry.n_classes

    @property
    def embedder_id(self) -> str:
        """Identity of the embedder of the signature."""
        return self._zoo.embedder_id

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the data come from; see `Zoo.add`. A copy."""
        return copy.deepcopy(self._entry.provenance)

    @property
    def metrics(self) -> dict[str, Any]:
        """What the pretraining reached. A copy."""
        return copy.deepcopy(self._entry.metrics)

    @property
    def n_bytes(self) -> int:
        """Size of all files of the source."""
        return sum(record.size for record in self._entry.files.values())

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the file of weights and alphas, as the zoo's index has it."""
        return self._entry.files[SUPERNET].sha256

    @property
    def config(self) -> SupernetConfig:
        """What the supernet is built from. Its ``n_classes`` is that of the head that was dropped.

        Raises
        ------
        ZooError
            If this version of supernetnas cannot build such a supernet.
        """
        from ..families.cells.config import SupernetConfig

        try:
            return SupernetConfig.from_dict(self._entry.config)
        except (KeyError, TypeError, ValueError) as error:
            raise ZooError(
                f"Source {self.name!r} of {self._zoo._where} has a supernet that this supernetnas "
                f"does not know: {error}"
            ) from error

    @property
    def classes(self) -> list[str]:
        """Names of the classes; empty where the zoo does not keep them."""
        with self._refusing():
            return self._description()["classes"]

    @property
    def origin(self) -> str | None:
        """Repository on the Hugging Face Hub that the files are in, if not with the zoo."""
        origin = self._entry.origin
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
            path = self._path(SUPERNET)
            arrays = load_supernet(
                str(path), path.stat().st_mtime_ns, self._entry.files[SUPERNET], self.config
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
                    tensors, metadata, basis=self._zoo.basis()
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
        return None if self._entry.vector is None else decode_vector(self._entry.vector)

    def history(self) -> list[HistoryRow]:
        """Load the pretraining's history: a row per epoch, empty if none was kept.

        ``pandas.DataFrame(source.history())`` makes a table of it.

        Raises
        ------
        ZooError
            If the file is missing or was changed.
        """
        if HISTORY not in self._entry.files:
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
        from .publishing import push_source

        target = Target(
            repo_id,
            revision=revision,
            create_pr=create_pr,
            private=private,
            token=token,
            endpoint=endpoint,
        )
        return push_source(self, target, message=message)

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
                str(self._path(SUPERNET)), 0, self._entry.files[SUPERNET], self.config
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

    def _file(self, file: str) -> str:
        """Path of a file in the place."""
        origin = self._entry.origin
        return f"{self._entry.folder}/{file}" if origin is None else origin.path(file)

    def _name(self, file: str) -> str:
        return self._place.name(self._file(file))

    def _path(self, file: str) -> Path:
        return self._place.path(self._file(file), self._entry.files[file])

    def _read(self, file: str) -> bytes:
        return read_verified(self._path(file), self._entry.files[file])

    def _signature_file(self) -> bytes:
        """Read the signature, or the copy of it in a bundle."""
        found = self._zoo._index.bundle_of(self.name)
        if found is None or self._place.fetched(self._file(SIGNATURE)):
            return self._read(SIGNATURE)
        path, bundle, offset = found
        record = self._entry.files[SIGNATURE]
        with open(self._zoo._place.path(path, bundle), "rb") as file:
            file.seek(offset)
            data = file.read(record.size)
        if FileRecord.of(data) != record:
            name = self._zoo._place.name(path)
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
            or description != describe(self._entry, self.embedder_id, classes)
        ):
            raise FileError(f"{name} does not agree with {INDEX}.")
        return description

    def _check_own_signature(self) -> None:
        if self._zoo._index.bundle_of(self.name) is not None:  # `signature` reads the copy
            self._read(SIGNATURE)

    def _check_foreign(self) -> None:
        if not isinstance(self._place, FolderPlace):
            return  # what else is in a repository is not even fetched
        folder = safe_join(self._zoo.folder, self._entry.folder)
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                if path.name not in self._entry.files and not path.name.startswith("."):
                    raise FileError(f"{path} does not belong there.")

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except FileError as error:
            if isinstance(self._place, FolderPlace):
                remedy = (
                    f"Take the folder {self._name('')} again from where the zoo came from, or open "
                    "the zoo again if it was written to in the meantime."
                )
            else:
                remedy = f"Tell who publishes {self._place}."
            raise ZooError(
                f"Source {self.name!r} is not as the zoo's index says: {error} {remedy}"
            ) from error

    def __reduce__(self) -> tuple:
        return _open_source, (self._zoo, self.name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Source):
            return NotImplemented
        return (self.name, self._zoo._where, self._entry) == (
            other.name,
            other._zoo._where,
            other._entry,
        )

    def __hash__(self) -> int:
        return hash((self.name, self._zoo._where))

    def __repr__(self) -> str:
        config = self._entry.config
        return (
            f"<Source {self.name!r} ({self.kind}): {one_line(str(config.get('space')))}, "
            f"{config.get('init_channels')!r} channels, {config.get('n_cells')!r} cells; "
            f"{self.n_images} images of {self.n_classes} classes>"
        )


def _place_of(zoo: Zoo, entry: Entry) -> FolderPlace | HubPlace:
    """Where the files of a source are."""
    origin, place = entry.origin, zoo._place
    if origin is None:
        return place
    if isinstance(place, HubPlace):  # with the same cache and token
        repository = replace(place.repository, repo_id=origin.repo_id, commit=origin.commit)
    else:
        repository = HubRepository(origin.repo_id, origin.commit)
    return HubPlace(repository)


def describe(entry: Entry, embedder_id: str, classes: list[str] | None) -> dict[str, Any]:
    """Content of ``config.json``."""
    return {
        "library_name": "supernetnas",
        "kind": entry.kind,
        "embedder_id": embedder_id,
        "config": entry.config,
        "provenance": entry.provenance,
        "metrics": entry.metrics,
        "classes": classes,
    }


def _open_source(zoo: Zoo, name: str) -> Source:
    return zoo[name]
