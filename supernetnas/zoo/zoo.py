"""A zoo: pretrained supernets in a folder, with what is needed to choose among them.

::

    index.json                       see `supernetnas.zoo.index`
    <source>/config.json             configuration of the supernet, provenance, metrics, classes
    <source>/supernet.safetensors    weights, alphas and batch-norm statistics, without the head
    <source>/signature.safetensors   signature of the dataset; sources of kind "single" only
    <source>/history.csv             the pretraining, a row per epoch; optional
    basis.safetensors                shared basis of compact signatures; optional
    vectors.safetensors              space of the vectors in the index; optional
    README.md                        the card, generated

Opening a zoo reads the index alone. A file is read when it is asked for, compared with the size
and SHA-256 that the index states, and parsed strictly; nothing is unpickled. A source is added by
writing its folder under another name, renaming it, and replacing the index: whatever interrupts
this, the index names only complete sources.
"""

from __future__ import annotations

import difflib
import importlib.resources
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..files import (
    TEMPORARY,
    FileError,
    dump_csv,
    dump_json,
    dump_safetensors,
    parse_safetensors,
    plain,
    safe_join,
    write_atomic,
)
from .card import zoo_card
from .index import (
    BASIS,
    CARD,
    CONFIG,
    HISTORY,
    INDEX,
    SIGNATURE,
    SUPERNET,
    VECTORS,
    Entry,
    FileRecord,
    Index,
    UnknownSourceError,
    ZooError,
    check_name,
    encode_vector,
    read_verified,
)
from .source import Source, describe
from .weights import dump_supernet
from .writing import clear_leftovers, discard, install, locked

if TYPE_CHECKING:
    import pandas
    import torch

    from ..dataset_vectors import VectorSpace
    from ..signature import Basis, DatasetSignature
    from ..supernets.cell import SupernetConfig

__all__ = ["Source", "Zoo", "ZooError"]


class Zoo(Mapping[str, Source]):
    """Pretrained supernets by name; made by `Zoo.open` and `Zoo.create`.

    A mapping from names to `Source`, in the order of the names. It copies and pickles as its path
    and is read again where it arrives, so it can be a parameter of an estimator.

    Attributes
    ----------
    folder : pathlib.Path
    embedder_id : str
        Identity of the embedder that all signatures were made with.

    Examples
    --------
    >>> zoo = Zoo.open("builtin")  # doctest: +SKIP
    >>> zoo["omniglot"].state_dict()  # doctest: +SKIP
    """

    def __init__(self, folder: str | os.PathLike, names: tuple[str, ...] | None = None) -> None:
        self._where = "builtin" if folder == "builtin" else _absolute(folder)
        self._names = names
        self._searched: tuple[Index, Any] | None = None
        self.folder = _builtin_folder() if folder == "builtin" else Path(self._where)
        self._index = Index.read(self.folder)
        for name in names or ():
            self[name]

    @classmethod
    def open(cls, folder: str | os.PathLike, *, verify: Literal["lazy", "full"] = "lazy") -> Zoo:
        """Open the zoo in a folder.

        Parameters
        ----------
        folder : path or "builtin"
            "builtin" is the zoo that comes with the package; write ``"./builtin"`` for a folder
            of that name.
        verify : {"lazy", "full"}
            Whether to check each file when it is read, or all of them now as well.

        Raises
        ------
        ZooError
            If there is no zoo, or it is damaged or of a newer format, or ``verify="full"`` finds
            a problem.
        """
        if verify not in ("lazy", "full"):
            raise ValueError(f"verify must be 'lazy' or 'full'; got {verify!r}.")
        zoo = cls(folder)
        if verify == "full" and (problems := zoo.verify()):
            raise ZooError(f"{zoo!r} has {len(problems)} problem(s):\n" + "\n".join(problems))
        return zoo

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike,
        *,
        embedder_id: str,
        basis: Basis | None = None,
        exist_ok: bool = False,
    ) -> Zoo:
        """Make an empty zoo.

        Parameters
        ----------
        folder : path
            Made if need be; apart from hidden files it must be empty.
        embedder_id : str
            Identity of the embedder of the signatures to come.
        basis : Basis, optional
            The basis of compact signatures to come. It cannot be changed afterwards.
        exist_ok : bool
            Whether to open a zoo that is there already, if its embedder and basis are the same.

        Raises
        ------
        ZooError
            If the folder holds another zoo or something else.
        """
        if not isinstance(embedder_id, str) or not embedder_id:
            raise ValueError(f"embedder_id must be a non-empty string; got {embedder_id!r}.")
        folder = Path(_absolute(folder))
        if folder.exists() and not folder.is_dir():
            raise ZooError(f"{folder} is a file, not a folder.")
        folder.mkdir(parents=True, exist_ok=True)
        data = None if basis is None else dump_safetensors(basis.to_tensors())
        index = Index(embedder_id, basis=None if data is None else FileRecord.of(data))
        with locked(folder):
            if (folder / INDEX).exists():
                zoo = cls(folder)
                if not exist_ok:
                    raise ZooError(f"There is a zoo in {folder} already; Zoo.open opens it.")
                for what, old, new in (
                    ("embedder", zoo.embedder_id, embedder_id),
                    ("basis", zoo._index.basis, index.basis),
                ):
                    if old != new:
                        raise ZooError(f"The zoo in {folder} has another {what}: {old}, not {new}.")
                return zoo
            if strangers := [p.name for p in folder.iterdir() if not p.name.startswith(".")]:
                raise ZooError(
                    f"{folder} is neither empty nor a zoo: it holds {sorted(strangers)[0]!r}. "
                    "Choose another folder."
                )
            if data is not None:
                write_atomic(folder / BASIS, data)
            index.write(folder)
            zoo = cls(folder)
            zoo._write_card()
        return zoo

    @property
    def embedder_id(self) -> str:
        return self._index.embedder_id

    @property
    def names(self) -> list[str]:
        """Names of the sources, sorted."""
        return list(self)

    def singles(self) -> list[Source]:
        """Sources that were pretrained on one dataset."""
        return [source for source in self.values() if source.kind == "single"]

    def multi(self) -> Source | None:
        """Return the source that was pretrained on many datasets, if there is one."""
        return next((source for source in self.values() if source.kind == "multi"), None)

    def subset(self, names: Iterable[str]) -> Zoo:
        """Return the same zoo with fewer sources, to choose from and not to write to.

        Raises
        ------
        ZooError
            If it lacks one of them.
        """
        chosen = {self[name].name for name in names}
        return Zoo(self._where, tuple(name for name in self if name in chosen))

    def basis(self) -> Basis | None:
        """Load the basis that compact signatures of the zoo share, if there is one.

        Raises
        ------
        ZooError
            If the file is missing or was changed.
        """
        if self._index.basis is None:
            return None
        try:
            path = safe_join(self.folder, BASIS)
            return _load_basis(str(path), path.stat().st_mtime_ns, self._index.basis)
        except (FileError, FileNotFoundError) as error:
            raise ZooError(
                f"The basis of the zoo's signatures cannot be read: {error} Take {BASIS} again "
                "from where the zoo came from."
            ) from error

    def vector_space(self) -> VectorSpace | None:
        """Load what turns datasets into the vectors of the index, if the zoo has vectors.

        Raises
        ------
        ZooError
            If the file is missing or was changed.
        """
        if self._index.vectors is None:
            return None
        try:
            path = safe_join(self.folder, VECTORS)
            return _load_vector_space(str(path), path.stat().st_mtime_ns, self._index.vectors)
        except (FileError, FileNotFoundError) as error:
            raise ZooError(
                f"The space of the zoo's vectors cannot be read: {error} Take {VECTORS} again from "
                "where the zoo came from, or let Zoo.index_vectors make new ones."
            ) from error

    def index_vectors(self, *, random_state: int = 0) -> None:
        """Give every single source a vector, by which `nearest` finds it among many.

        A space is fitted to the sources that there are now. `add` computes the vectors of later
        sources in the same space; call this again when the zoo has become another.

        Parameters
        ----------
        random_state : int, default=0
            Seed of the choice of reference points.

        Raises
        ------
        ZooError
            If there is no single source, a signature cannot be read, or the zoo cannot be written
            to. Whatever interrupts this, the zoo is whole: as it was, with all vectors, or, where
            new ones replace old ones, without any.
        """
        from ..dataset_vectors import fit_vector_space

        with self._writing() as index:
            self._index = index
            signatures = {source.name: source.signature() for source in self.singles()}
            if not signatures:
                raise ZooError(f"{self!r} has no single source to make a vector of.")
            space = fit_vector_space(list(signatures.values()), random_state=random_state)
            data = dump_safetensors(space.to_tensors())
            sources = {
                name: replace(entry, vector=_vector(space, signatures.get(name)))
                for name, entry in index.sources.items()
            }
            without = replace(
                index,
                vectors=None,
                sources={name: replace(entry, vector=None) for name, entry in sources.items()},
            )
            if index.vectors is not None:
                without.write(self.folder)  # an index never names another file than is there
                self._index = without
            write_atomic(self.folder / VECTORS, data)
            self._index = replace(index, sources=sources, vectors=FileRecord.of(data))
            self._index.write(self.folder)

    def nearest(self, signature: DatasetSignature, k: int) -> dict[str, float]:
        """Propose the single sources that are likely to be nearest to a dataset.

        The vectors of the index are searched; no file of a source is read. Where the zoo has no
        vectors, their space is fitted to the signatures of the sources for the occasion.

        Parameters
        ----------
        signature : DatasetSignature
            Made with the zoo's embedder.
        k : int
            How many to propose at most.

        Returns
        -------
        dict of str to float
            Estimates of the distance by name of the source, nearest first.

        Raises
        ------
        ValueError
            If the signature was made with another embedder.
        ZooError
            If the zoo has no single source, or files that are needed cannot be read.
        """
        if signature.embedder_id != self.embedder_id:
            raise ValueError(
                f"The signature was made with the embedder {signature.embedder_id!r}, those of the "
                f"zoo with {self.embedder_id!r}: they cannot be compared."
            )
        space, names, neighbours = self._neighbours
        query, energy = space.query(signature)
        k = min(k, len(names))
        distances, positions = neighbours.kneighbors(query[np.newaxis], k)
        return {
            names[position]: float(distance) ** 2 / 2 + energy
            for distance, position in zip(distances[0], positions[0], strict=True)
        }

    @property
    def _neighbours(self) -> tuple[VectorSpace, list[str], Any]:
        """The vectors' space, the sources that have vectors, and what searches these."""
        if self._searched is None or self._searched[0] is not self._index:
            from sklearn.neighbors import NearestNeighbors

            from ..dataset_vectors import fit_vector_space

            sources = self.singles()
            if not sources:
                raise ZooError(f"{self!r} has no single source.")
            space = self.vector_space()
            vectors = [source.vector() for source in sources]
            if space is None:
                signatures = [source.signature() for source in sources]
                space = fit_vector_space(signatures)
                vectors = [space.vector(signature) for signature in signatures]
            vectors = [
                space.vector(source.signature()) if vector is None else vector
                for source, vector in zip(sources, vectors, strict=True)
            ]
            if wrong := [len(vector) for vector in vectors if len(vector) != space.dimension]:
                raise ZooError(
                    f"The zoo's vectors should have {space.dimension} numbers, but one has "
                    f"{wrong[0]}. Let Zoo.index_vectors make new ones."
                )
            neighbours = NearestNeighbors(algorithm="brute").fit(np.stack(vectors))
            self._searched = self._index, (space, [s.name for s in sources], neighbours)
        return self._searched[1]

    def to_frame(self) -> pandas.DataFrame:
        """Return a table with a row for each source; it needs pandas."""
        import pandas as pd

        rows = [
            {
                "kind": source.kind,
                **source._entry.config,
                "n_images": source.n_images,
                "n_classes": source.n_classes,
                **source.provenance,
                **source.metrics,
                "n_bytes": source.n_bytes,
            }
            for source in self.values()
        ]
        return pd.DataFrame(rows, index=pd.Index(self.names, name="source", dtype=object))

    def add(
        self,
        name: str,
        *,
        config: SupernetConfig,
        state_dict: Mapping[str, torch.Tensor | np.ndarray],
        kind: Literal["single", "multi"] = "single",
        signature: DatasetSignature | None = None,
        provenance: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        history: Iterable[Mapping[str, Any]] | pandas.DataFrame = (),
        classes: Sequence[str] | None = None,
        dtype: Literal["float32", "float16"] = "float32",
        overwrite: bool = False,
    ) -> Source:
        """Add a source; safe while other processes add theirs, and at any interruption.

        Parameters
        ----------
        name : str
            Letters, digits, dots, dashes and underscores.
        config : SupernetConfig
            What the supernet was built from.
        state_dict : mapping of str to tensor
            State of the supernet. The classifier's tensors are left out.
        kind : {"single", "multi"}
            A zoo has at most one source of kind "multi".
        signature : DatasetSignature
            For kind "single", made with the zoo's embedder.
        provenance : mapping, optional
            Plain values. ``dataset`` (title), ``upstream`` (collection the images come from),
            ``licence`` (as its source states it), ``source`` (where the files were taken from),
            ``n_images`` and ``n_classes`` (by default the configuration's) appear in index and
            card; other keys are kept.
        metrics : mapping, optional
            Plain values, numbers where they should appear in the card. What is not finite becomes
            None.
        history : rows or DataFrame, optional
        classes : sequence of str, optional
            Names of the classes; by default the signature's.
        dtype : {"float32", "float16"}
            Precision to store weights in. Alphas and batch-norm statistics are always float32.
        overwrite : bool
            Whether to replace a source of that name.

        Returns
        -------
        Source

        Raises
        ------
        ValueError
            If an argument does not fit the others or the zoo, or the weights are not finite.
        TypeError
            If provenance, metrics or history hold values other than plain ones.
        ZooError
            If the name is taken, or the zoo cannot be written to.
        """
        check_name(name)
        if dtype not in ("float32", "float16"):
            raise ValueError(f"dtype must be 'float32' or 'float16'; got {dtype!r}.")
        self._check_signature(name, kind, signature)
        provenance, metrics = plain(provenance or {}), plain(metrics or {})
        if "license" in provenance:
            raise ValueError("Write provenance['licence']: under 'license' no card would show it.")
        history = history.to_dict("records") if hasattr(history, "to_dict") else list(history)
        contents = {SUPERNET: dump_supernet(state_dict, config, dtype)}
        if signature is not None:
            contents[SIGNATURE] = dump_safetensors(signature.to_tensors(), signature.metadata())
        if history:
            contents[HISTORY] = dump_csv(history)
        entry = Entry(
            kind=kind,
            folder=name,
            config=plain(config.to_dict()),
            n_images=provenance.get("n_images"),
            n_classes=provenance.get("n_classes", config.n_classes),
            provenance=provenance,
            metrics=metrics,
        )
        if classes is None:
            classes = () if signature is None else signature.class_names
        contents[CONFIG] = dump_json(
            describe(entry, self.embedder_id, [str(item) for item in classes])
        )
        entry = replace(entry, files={file: FileRecord.of(data) for file, data in contents.items()})
        entry = Entry.from_dict(name, asdict(entry))  # never write what could not be read
        with self._writing() as index:
            old = index.sources.get(name)
            self._check_place(index, name, entry, overwrite)
            if old is not None and old.folder == name:
                entry = replace(entry, folder=f"{name}~")
            self._index = index
            if (space := self.vector_space()) is not None:
                entry = replace(entry, vector=_vector(space, signature))
            changed = index.with_source(name, entry)
            install(self.folder, changed, entry.folder, contents)
            self._index = changed
            if old is not None:
                discard(self.folder / old.folder)
            self._write_card()
        return self[name]

    def remove(self, name: str) -> None:
        """Remove a source and its files.

        Raises
        ------
        ZooError
            If there is none of that name, or the zoo cannot be written to.
        """
        with self._writing() as index:
            if name not in index.sources:
                raise self._unknown(name)
            without = index.without_source(name)
            without.write(self.folder)
            self._index = without
            discard(self.folder / index.sources[name].folder)
            self._write_card()

    def verify(self) -> list[str]:
        """Read and check every file.

        Hidden files, as version control leaves them, are passed over.

        Returns
        -------
        list of str
            The problems, a sentence each: files that are missing, changed, malformed or foreign.
            Empty if there is none.
        """
        problems = [problem for source in self.values() for problem in source.verify()]
        try:
            self.basis()
        except ZooError as error:
            problems.append(str(error))
        try:
            space = self.vector_space()
            for source in self.singles():
                if (vector := source.vector()) is not None and (
                    space is None or len(vector) != space.dimension
                ):
                    problems.append(f"The vector of {source.name!r} is not of the zoo's space.")
        except ZooError as error:
            problems.append(str(error))
        known = {INDEX, CARD, VECTORS, *(entry.folder for entry in self._index.sources.values())}
        if self._index.basis is not None:
            known.add(BASIS)
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith(TEMPORARY):
                problems.append(
                    f"{path} is left from an interrupted write; the next one clears it."
                )
            elif path.name not in known and not path.name.startswith("."):
                problems.append(f"{path} does not belong to the zoo. Delete it or move it away.")
        return problems

    def __getitem__(self, name: str) -> Source:
        if name not in self:
            raise self._unknown(name)
        return Source(self, name, self._index.sources[name])

    def __contains__(self, name: object) -> bool:
        return name in self._index.sources and (self._names is None or name in self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index.sources if self._names is None else self._names)

    def __len__(self) -> int:
        return len(self._index.sources if self._names is None else self._names)

    def __reduce__(self) -> tuple:
        return Zoo, (self._where, self._names)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Zoo):
            return NotImplemented
        return (self._where, self._names) == (other._where, other._names)

    def __hash__(self) -> int:
        return hash((self._where, self._names))

    def __repr__(self) -> str:
        multi = self.multi()
        return (
            f"<Zoo {self._where!r}: {len(self.singles())} single, "
            f"{'no multi' if multi is None else f'multi {multi.name!r}'}, "
            f"embedder {self.embedder_id!r}>"
        )

    def _unknown(self, name: object) -> UnknownSourceError:
        close = difflib.get_close_matches(str(name), self.names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        names = ", ".join(self.names[:40]) + (" ..." if len(self) > 40 else "")
        return UnknownSourceError(
            f"The zoo {self._where!r} has no source {name!r}.{hint} It has: {names or 'none'}."
        )

    def _check_signature(self, name: str, kind: str, signature: DatasetSignature | None) -> None:
        if kind not in ("single", "multi"):
            raise ValueError(f"kind must be 'single' or 'multi'; got {kind!r}.")
        if (signature is None) != (kind == "multi"):
            raise ValueError(
                f"A source of kind {kind!r} has {'no' if kind == 'multi' else 'a'} signature."
            )
        if signature is not None and signature.embedder_id != self.embedder_id:
            raise ValueError(
                f"The signature of {name!r} was made with the embedder {signature.embedder_id!r}, "
                f"those of the zoo with {self.embedder_id!r}: they cannot be compared."
            )
        if signature is not None and signature.basis is not None:
            basis = self.basis()
            if basis is None or basis.id != signature.basis.id:
                raise ValueError(f"The signature of {name!r} is compact in a basis not the zoo's.")

    def _check_place(self, index: Index, name: str, entry: Entry, overwrite: bool) -> None:
        if name in index.sources and not overwrite:
            raise ZooError(f"The zoo has a source {name!r} already; overwrite=True replaces it.")
        for other, existing in index.sources.items():
            if other != name and other.lower() == name.lower():
                raise ZooError(f"{name!r} and {other!r} are one folder on some systems.")
            if other != name and entry.kind == existing.kind == "multi":
                raise ZooError(f"The zoo has a source of kind 'multi' already: {other!r}.")

    @contextmanager
    def _writing(self) -> Iterator[Index]:
        """Hold the zoo for writing, and yield its index as it is on the disk now."""
        if self._where == "builtin":
            raise ZooError("The builtin zoo is part of the installation; write to a copy of it.")
        if self._names is not None:
            raise ZooError(f"A subset is not written to; Zoo.open({self._where!r}) is.")
        with locked(self.folder):
            clear_leftovers(self.folder)
            index = Index.read(self.folder)
            if index.embedder_id != self.embedder_id:
                raise ZooError(f"The zoo in {self.folder} was replaced by another; open it again.")
            yield index

    def _write_card(self) -> None:
        write_atomic(self.folder / CARD, zoo_card(self))


def _absolute(folder: str | os.PathLike) -> str:
    return str(Path(folder).expanduser().resolve())


def _builtin_folder() -> Path:
    return Path(str(importlib.resources.files(__package__).joinpath("builtin")))


def _vector(space: VectorSpace, signature: DatasetSignature | None) -> str | None:
    return None if signature is None else encode_vector(space.vector(signature))


@lru_cache(maxsize=32)
def _load_vector_space(path: str, mtime_ns: int, record: FileRecord) -> VectorSpace:
    from ..dataset_vectors import VectorSpace

    arrays, _ = parse_safetensors(read_verified(Path(path), record), name=path)
    for array in arrays.values():
        array.flags.writeable = False
    try:
        return VectorSpace.from_tensors(arrays)
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error


@lru_cache(maxsize=32)
def _load_basis(path: str, mtime_ns: int, record: FileRecord) -> Basis:
    from ..signature import Basis

    arrays, _ = parse_safetensors(read_verified(Path(path), record), name=path)
    for array in arrays.values():
        array.flags.writeable = False  # all signatures share it
    try:
        return Basis.from_tensors(arrays)
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error
