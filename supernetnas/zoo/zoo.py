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

A repository on the Hugging Face Hub holds the same files, and bundles of the signatures besides;
see `supernetnas.zoo.places` and `supernetnas.zoo.bundles`.
"""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..storage.destinations import refusal, user_path
from ..storage.files import (
    FileError,
    dump_json,
    dump_safetensors,
    parse_safetensors,
    plain,
    write_atomic,
)
from ..storage.foreign_text import one_line
from ..storage.hub import check_address
from ..training.history import dump_history
from .cards import zoo_card
from .growing import classifier_contents, is_classifier, link_repository, merge_zoos
from .index import (
    BASIS,
    BUNDLES,
    CARD,
    CONFIG,
    HISTORY,
    INDEX,
    SIGNATURE,
    SUPERNET,
    VECTORS,
    Bundle,
    Entry,
    FileRecord,
    Index,
    UnknownSourceError,
    ZooError,
    check_name,
    encode_vector,
    read_verified,
)
from .places import BUILTIN, FolderPlace, HubPlace, open_place
from .source import Source, describe
from .weights import dump_supernet
from .writing import clear_leftovers, install, leftovers, locked, replace_index

if TYPE_CHECKING:
    import pandas
    import torch

    from ..classifier import SupernetTransferClassifier
    from ..distance.dataset_vectors import VectorSpace
    from ..distance.signature import Basis, DatasetSignature
    from ..families.cells.config import SupernetConfig
    from ..storage.hub_push import Pushed

__all__ = ["Source", "Zoo", "ZooError"]


class Zoo(Mapping[str, Source]):
    """Pretrained supernets by name; `Zoo.open`, `Zoo.create` and `Zoo.from_pretrained` make it.

    A mapping from names to `Source`, in the order of the names. It copies and pickles as its path,
    or its repository and commit, and is read again where it arrives, so it can be a parameter of
    an estimator. A token is not pickled.

    Attributes
    ----------
    folder : pathlib.Path
        Of a zoo on the Hugging Face Hub, the folder in the cache where its files are fetched to.
    embedder_id : str
        Identity of the embedder that all signatures were made with.

    Examples
    --------
    >>> zoo = Zoo.open("builtin")  # doctest: +SKIP
    >>> zoo["omniglot"].state_dict()  # doctest: +SKIP
    """

    def __init__(
        self,
        folder: str | os.PathLike | FolderPlace | HubPlace,
        names: tuple[str, ...] | None = None,
    ) -> None:
        self._place = open_place(folder)
        self._where = self._place.where
        self._names = names
        self._searched: tuple[Index, Any] | None = None
        self.folder = self._place.folder
        self._index = self._place.index()
        for name in names or ():
            self[name]

    @classmethod
    def open(cls, folder: str | os.PathLike, *, verify: Literal["lazy", "full"] = "lazy") -> Zoo:
        """Open the zoo in a folder, or a repository on the Hugging Face Hub.

        Parameters
        ----------
        folder : path, "builtin" or str
            "builtin" is the zoo that comes with the package; write ``"./builtin"`` for a folder
            of that name. ``"org/name"`` and ``"org/name@revision"`` are a repository, unless
            there is a folder of that name; ``"hf://org/name"`` is one even then, and
            ``"./org/name"`` or a `pathlib.Path` never is.
        verify : {"lazy", "full"}
            Whether to check each file when it is read, or all of them now as well.

        Raises
        ------
        ZooError
            If there is no zoo, or it is damaged or of a newer format, or ``verify="full"`` finds
            a problem.
        HubError
            If a repository cannot be had.
        ImportError
            If ``huggingface_hub`` would be needed and is not installed.
        """
        if verify not in ("lazy", "full"):
            raise ValueError(f"verify must be 'lazy' or 'full'; got {verify!r}.")
        zoo = cls(folder)
        if verify == "full" and (problems := zoo.verify()):
            raise ZooError(f"{zoo!r} has {len(problems)} problem(s):\n" + "\n".join(problems))
        return zoo

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        endpoint: str | None = None,
        progress: bool = True,
    ) -> Zoo:
        """Open a zoo on the Hugging Face Hub.

        The index is fetched now, signatures when sources are ranked, and the weights of a source
        when they are asked for; all of the commit that the revision means now, and each compared
        with the SHA-256 that the index states. What is in the cache is not fetched again, and if
        the revision is the full hash of a commit, not even asked for.

        Parameters
        ----------
        repo_id : str
            ``"org/name"``, also ``"org/name@revision"``.
        revision : str, optional
            Branch, tag or commit; by default the branch "main".
        cache_dir : path, optional
            By default the cache that all libraries of the Hub share (``HF_HOME``).
        token : str or bool, optional
            For a private zoo; by default the one that you have logged in with.
        local_files_only : bool
            Whether to take everything from the cache, as ``HF_HUB_OFFLINE=1`` does.
        endpoint : str, optional
            Address of another Hub or of a mirror.
        progress : bool
            Whether downloads show a progress bar, on a terminal.

        Returns
        -------
        Zoo
            Not to be written to; see `save`.

        Raises
        ------
        HubError
            If the repository, the revision or a file is missing, or access is refused, or the
            network is off and the cache lacks something; says what.
        ZooError
            If it is no zoo, or damaged, or of a newer format.
        ImportError
            If ``huggingface_hub`` is not installed.

        Examples
        --------
        >>> zoo = Zoo.from_pretrained("org/zoo", revision="v1")  # doctest: +SKIP
        """
        if revision is None:
            repo_id, at, tail = repo_id.removeprefix("hf://").partition("@")
            revision = tail if at else None
        address = check_address(repo_id, revision)
        return cls(
            HubPlace.open(
                address,
                cache_dir=None if cache_dir is None else os.fspath(cache_dir),
                token=token,
                local_files_only=local_files_only,
                endpoint=endpoint,
                progress=progress,
            )
        )

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike,
        *,
        embedder_id: str | None = None,
        basis: Basis | None = None,
        exist_ok: bool = False,
    ) -> Zoo:
        """Make an empty zoo.

        Parameters
        ----------
        folder : path
            Made if need be; apart from hidden files it must be empty.
        embedder_id : str, optional
            Identity of the embedder of the signatures to come, see `get_embedder`; by default that
            of the default embedder.
        basis : Basis, optional
            The basis of compact signatures to come. It cannot be changed afterwards.
        exist_ok : bool
            Whether to open a zoo that is there already, if its embedder and basis are the same.

        Raises
        ------
        ZooError
            If the folder holds another zoo or something else.
        """
        if embedder_id is None:
            from ..embedding.embedder import get_embedder

            embedder_id = get_embedder().identity
        if not isinstance(embedder_id, str) or not embedder_id:
            raise ValueError(f"embedder_id must be a non-empty string; got {embedder_id!r}.")
        folder = user_path(folder, ZooError).resolve()
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
                zoo = cls(FolderPlace(str(folder)))
                if not exist_ok:
                    raise ZooError(f"There is a zoo in {folder} already; Zoo.open opens it.")
                for what, old, new in (
                    ("embedder", zoo.embedder_id, embedder_id),
                    ("basis", zoo._index.basis, index.basis),
                ):
                    if old != new:
                        raise ZooError(f"The zoo in {folder} has another {what}: {old}, not {new}.")
                return zoo
            ours = set() if data is None else {BASIS}  # left where this was killed; replaced below
            names = [p.name for p in folder.iterdir() if p.name not in ours]
            if strangers := [name for name in names if not name.startswith(".")]:
                raise ZooError(
                    f"{folder} is neither empty nor a zoo: it holds {sorted(strangers)[0]!r}. "
                    "Choose another folder."
                )
            if data is not None:
                write_atomic(folder / BASIS, data)
            index.write(folder)
            zoo = cls(FolderPlace(str(folder)))
            zoo._write_card()
        return zoo

    @property
    def where(self) -> str:
        """Path of the folder, "builtin", or repository and commit as ``hf://org/name@commit``."""
        return self._where

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
        return Zoo(self._place, tuple(name for name in self if name in chosen))

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
            path = self._place.path(BASIS, self._index.basis)
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
            path = self._place.path(VECTORS, self._index.vectors)
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
        from ..distance.dataset_vectors import fit_vector_space

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

    def _adopt_vectors(self, other: Zoo) -> None:
        """Take over the space of another zoo's vectors, unless there is one already."""
        record = other._index.vectors
        if record is None or self._index.vectors is not None:
            return
        try:
            data = read_verified(other._place.path(VECTORS, record), record)
        except (FileError, FileNotFoundError) as error:
            raise ZooError(f"The space of the zoo's vectors cannot be read: {error}") from error
        with self._writing() as index:
            write_atomic(self.folder / VECTORS, data)
            self._index = replace(index, vectors=record)
            self._index.write(self.folder)

    def _vector_of(self, source: Source) -> str | None:
        """Vector in this zoo's space of a source of any zoo; None if there is no space."""
        if self._index.vectors is None or source.kind == "multi":
            return None
        if source._zoo._index.vectors == self._index.vectors:
            return source._entry.vector
        space = self.vector_space()
        return None if space is None else _vector(space, source.signature())

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

            from ..distance.dataset_vectors import fit_vector_space

            sources = self.singles()
            if not sources:
                raise ZooError(f"{self!r} has no single source.")
            space = self.vector_space()
            if space is None:
                signatures = [source.signature() for source in sources]
                space = fit_vector_space(signatures)
                vectors = [space.vector(signature) for signature in signatures]
            else:
                vectors = [
                    space.vector(source.signature()) if (own := source.vector()) is None else own
                    for source in sources
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

    def download(self, names: Iterable[str] | None = None, *, weights: bool = True) -> None:
        """Fetch what is on the Hub and not in the cache yet, several files at a time.

        Afterwards it can be used without a network. Everything else fetches what it needs by
        itself, too. Signatures come in bundles where most of a bundle is wanted.

        Parameters
        ----------
        names : iterable of str, optional
            Sources; by default all.
        weights : bool
            Whether to fetch all files of the sources, or the signatures alone.

        Raises
        ------
        HubError
            If something cannot be had.
        """
        wanted: dict[FolderPlace | HubPlace, dict[str, FileRecord]] = {}
        if self._index.basis is not None:
            wanted[self._place] = {BASIS: self._index.basis}
        if self._index.vectors is not None:
            wanted.setdefault(self._place, {})[VECTORS] = self._index.vectors
        sources = list(self.values() if names is None else [self[name] for name in names])
        bundles = self._bundles_to_fetch(sources)
        for source in sources:
            records = dict(source._entry.files)
            if source.name in bundles:
                path, bundle = bundles[source.name]
                wanted.setdefault(self._place, {})[path] = bundle
                del records[SIGNATURE]
            if not weights:
                records = {file: r for file, r in records.items() if file == SIGNATURE}
            paths = {source._file(file): record for file, record in records.items()}
            wanted.setdefault(source._place, {}).update(paths)
        for place, records in wanted.items():
            place.fetch(records)

    def _bundles_to_fetch(self, sources: Sequence[Source]) -> dict[str, tuple[str, Bundle]]:
        """Path and bundle for each source whose signature is better fetched with others."""
        by_name = {
            source.name: source
            for source in sources
            if not source._place.fetched(source._file(SIGNATURE))
        }
        chosen: dict[str, tuple[str, Bundle]] = {}
        for path, bundle in self._index.bundles.items():
            inside = [by_name[name] for name in bundle.sources if name in by_name]
            size = sum(source._entry.files[SIGNATURE].size for source in inside)
            foreign = any(source._place != self._place for source in inside)
            if 2 * size >= bundle.size or foreign or self._place.fetched(path):
                chosen |= {source.name: (path, bundle) for source in inside}
        return chosen

    def save(self, folder: str | os.PathLike, names: Iterable[str] | None = None) -> Zoo:
        """Copy the zoo, or some of its sources, to a folder that needs nothing else.

        Parameters
        ----------
        folder : path
            Made if need be. If it holds a zoo of the same embedder and basis, sources that it
            lacks are added, so that an interrupted copy can be gone on with.
        names : iterable of str, optional
            Sources; by default all.

        Returns
        -------
        Zoo
            The copy, every file of it checked.

        Raises
        ------
        ZooError
            If a file is not as the index says, or the folder holds something else.
        HubError
            If something cannot be had from the Hub.
        """
        copy = Zoo.create(folder, embedder_id=self.embedder_id, basis=self.basis(), exist_ok=True)
        copy._adopt_vectors(self)
        copy.merge(self, names)
        return copy

    def push_to_hub(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        create_pr: bool = False,
        overwrite: bool = False,
        prune: bool = False,
        private: bool | None = None,
        message: str | None = None,
        token: str | bool | None = None,
        endpoint: str | None = None,
    ) -> Pushed:
        """Add the sources to a zoo on the Hugging Face Hub, which is made if need be.

        Files are checked before they are sent. Readers see the zoo as it was or as it will be; a
        push of more than 500 files sends the new ones ahead, which no index names yet. If a push
        breaks off, call it again: what has arrived is not sent again. If somebody else pushes at
        the same time, both get in.

        Parameters
        ----------
        repo_id : str
            ``"org/name"``.
        revision : str, optional
            Branch; by default "main".
        create_pr : bool
            Whether to propose the change in a pull request, for a repository of somebody else's.
        overwrite : bool
            Whether to replace sources of the same names that are different.
        prune : bool
            Whether to remove the sources there that this zoo has not.
        private : bool, optional
            Of a repository that is made now.
        message : str, optional
            Of the commit.
        token : str or bool, optional
            By default the one that you have logged in with.
        endpoint : str, optional
            Address of another Hub.

        Returns
        -------
        Pushed
            With ``commit``, ``url`` and ``revision``; that of the newest commit if there was
            nothing to change.

        Raises
        ------
        ZooError
            If a file is damaged, or the sources do not fit to those that are there.
        HubError
            If the Hub refuses or cannot be reached. What is there is as it was.
        """
        from ..storage.hub_push import Target
        from .publishing import push_zoo

        target = Target(
            repo_id,
            revision=revision,
            create_pr=create_pr,
            private=private,
            token=token,
            endpoint=endpoint,
        )
        return push_zoo(self, target, overwrite=overwrite, prune=prune, message=message)

    def merge(
        self,
        other: Zoo | str | os.PathLike,
        names: Iterable[str] | None = None,
        *,
        overwrite: bool = False,
    ) -> list[str]:
        """Copy sources of another zoo to this one, all at once or none.

        Parameters
        ----------
        other : Zoo, path or str
            Also one on the Hub; see `open`. It must be of the same embedder. Full signatures are
            made compact if this zoo has a basis.
        names : iterable of str, optional
            Sources of the other zoo; by default all.
        overwrite : bool
            Whether to replace sources of the same names that are different.

        Returns
        -------
        list of str
            Names of the sources that were added or replaced. Those that are here already, byte by
            byte, are not among them.

        Raises
        ------
        ZooError
            If the zoos do not fit together, a name is taken, or a file is not as it should be.
        HubError
            If something cannot be had from the Hub.
        """
        other = other if isinstance(other, Zoo) else Zoo.open(other)
        return merge_zoos(self, other, names, overwrite=overwrite)

    def link(
        self,
        name: str,
        repo_id: str,
        *,
        revision: str | None = None,
        subfolder: str = "",
        overwrite: bool = False,
        token: str | bool | None = None,
        endpoint: str | None = None,
    ) -> Source:
        """Add a source whose files stay in a repository of its own on the Hugging Face Hub.

        The index remembers the commit and the hash of every file, which are fetched and checked
        now. `save` makes copies of them.

        Parameters
        ----------
        name : str
        repo_id : str
            A repository that `Source.push_to_hub` made.
        revision : str, optional
            Branch, tag or commit; what it means now is kept.
        subfolder : str
            Where in the repository the source is.
        overwrite : bool
            Whether to replace a source of that name.
        token, endpoint
            As in `from_pretrained`; not remembered.

        Returns
        -------
        Source

        Raises
        ------
        ZooError
            If it is no source, or one that does not fit into the zoo.
        HubError
            If it cannot be had.
        """
        address = check_address(repo_id, revision)
        link_repository(
            self, name, address, subfolder, overwrite=overwrite, token=token, endpoint=endpoint
        )
        return self[name]

    def add(
        self,
        source: str | SupernetTransferClassifier | None = None,
        *,
        name: str | None = None,
        card: Mapping[str, Any] | None = None,
        X: Any = None,
        y: Any = None,
        config: SupernetConfig | None = None,
        state_dict: Mapping[str, torch.Tensor | np.ndarray] | None = None,
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

        ``zoo.add(clf, name="flowers", card={"licence": "CC0 1.0"})`` makes a source of a fitted
        classifier: its searched supernet, and the signature of its images. ``zoo.add("flowers",
        config=config, state_dict=state, signature=signature)`` adds any other supernet.

        Parameters
        ----------
        source : str or SupernetTransferClassifier
            Name of the source, or a fitted classifier to make one of.
        name : str
            Letters, digits, dots, dashes and underscores.
        card : mapping, optional
            With a classifier: what `provenance` is otherwise, and ``metrics`` besides.
        X, y : images and labels, optional
            With a classifier: those that it was fitted on. They are needed unless the fit has made
            a signature of them, which it does with strategy "ot", or if that was with another
            embedder than the zoo's. They are embedded, not kept.
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
            A row per epoch; see `supernetnas.training.history.HistoryRow`.
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
            If an argument does not fit the others or the zoo, or the weights are not finite, or a
            classifier has no signature.
        TypeError
            If provenance, metrics or history hold values other than plain ones.
        ZooError
            If the name is taken, or the zoo cannot be written to.
        """
        if is_classifier(source):
            made: dict[str, object] = {"config": config, "state_dict": state_dict}
            made |= {"signature": signature, "provenance": provenance}
            made |= {"metrics": metrics, "classes": classes}
            if given := [argument for argument, value in made.items() if value is not None]:
                raise ValueError(f"{given[0]} comes from the classifier; pass card instead.")
            name = check_name(name)
            contents_of = classifier_contents(source, self, card or {}, X, y)
            return self.add(name, **contents_of, dtype=dtype, overwrite=overwrite)
        if card is not None or X is not None or y is not None:
            raise ValueError("card, X and y belong to a fitted classifier; none is given.")
        name = check_name(name if source is None else source)
        if config is None or state_dict is None:
            raise ValueError("A source needs config and state_dict, or a fitted classifier.")
        if dtype not in ("float32", "float16"):
            raise ValueError(f"dtype must be 'float32' or 'float16'; got {dtype!r}.")
        if name == "multi" and kind == "single":
            raise ValueError(
                "'multi' is the strategy that takes the source of kind 'multi': give this single "
                "source another name."
            )
        self._check_signature(name, kind, signature)
        facts: dict[str, Any] = plain(provenance or {})
        results: dict[str, Any] = plain(metrics or {})
        if "license" in facts:
            raise ValueError("Write provenance['licence']: under 'license' no card would show it.")
        history = history.to_dict("records") if hasattr(history, "to_dict") else list(history)
        contents = {SUPERNET: dump_supernet(state_dict, config, dtype)}
        if signature is not None:
            contents[SIGNATURE] = dump_safetensors(signature.to_tensors(), signature.metadata())
        if history:
            contents[HISTORY] = dump_history(history)
        entry = Entry(
            kind=kind,
            folder=name,
            config=plain(config.to_dict()),
            n_images=facts.get("n_images"),
            n_classes=facts.get("n_classes", config.n_classes),
            provenance=facts,
            metrics=results,
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
            if old is not None and old.folder == name and old.origin is None:
                entry = replace(entry, folder=f"{name}~")
            self._index = index
            if (space := self.vector_space()) is not None:
                entry = replace(entry, vector=_vector(space, signature))
            changed = index.with_source(name, entry)
            out_of_use = [] if old is None or old.origin else [old.folder]
            install(self.folder, changed, [entry.folder], [contents], out_of_use)
            self._replaced(changed)
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
            old = index.sources[name]
            replace_index(self.folder, without, [] if old.origin else [old.folder])
            self._replaced(without)

    def verify(self) -> list[str]:
        """Read and check every file; of a zoo on the Hub, fetch those that are not in the cache.

        Hidden files, as version control leaves them, are passed over.

        Returns
        -------
        list of str
            The problems, a line each: files that are missing, changed, malformed or foreign.
            Empty if there is none.
        """
        return [one_line(problem) for problem in self._problems()]

    def _problems(self) -> list[str]:
        problems = [problem for source in self.values() for problem in source.verify()]
        try:
            self.basis()
        except ZooError as error:
            problems.append(str(error))
        for path, bundle in self._index.bundles.items():
            try:
                read_verified(self._place.path(path, bundle), bundle)
            except FileError as error:
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
        if isinstance(self._place, HubPlace):
            return problems
        known = {INDEX, CARD, VECTORS, *(entry.folder for entry in self._index.sources.values())}
        if self._index.bundles:
            known.add(BUNDLES)
        if self._index.basis is not None:
            known.add(BASIS)
        left = leftovers(self.folder, self._index)
        for item in sorted(self.folder.iterdir()):
            if item in left:
                problems.append(
                    f"{item} is left from an interrupted write; the next one clears it."
                )
            elif item.name not in known and not item.name.startswith("."):
                problems.append(f"{item} does not belong to the zoo. Delete it or move it away.")
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
        where = self._place if isinstance(self._place, HubPlace) else self._where
        return Zoo, (where, self._names)

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
            f"The zoo {self._where!r} has no source {name!r:.120}.{hint} It has: {names or 'none'}."
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
        if isinstance(self._place, HubPlace):
            raise ZooError(
                f"A zoo on the Hub is not written to; {self!r} can be saved to a folder, changed "
                "there, and pushed."
            )
        if self._where == BUILTIN:
            raise ZooError("The builtin zoo is part of the installation; write to a copy of it.")
        if self._names is not None:
            raise ZooError(f"A subset is not written to; Zoo.open({self._where!r}) is.")
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

    def _replaced(self, index: Index) -> None:
        """Take note that the index was replaced, and discard what it does not name any more."""
        self._index = index
        clear_leftovers(self.folder, index)
        try:
            self._write_card()
        except OSError as error:
            warnings.warn(
                f"The zoo in {self.folder} was changed, but not its {CARD}: {error}",
                UserWarning,
                stacklevel=3,
            )

    def _write_card(self) -> None:
        write_atomic(self.folder / CARD, zoo_card(self._index, self.folder.name))


def _vector(space: VectorSpace, signature: DatasetSignature | None) -> str | None:
    return None if signature is None else encode_vector(space.vector(signature))


@lru_cache(maxsize=32)
def _load_vector_space(path: str, mtime_ns: int, record: FileRecord) -> VectorSpace:
    from ..distance.dataset_vectors import VectorSpace

    arrays, _ = parse_safetensors(read_verified(Path(path), record), name=path)
    for array in arrays.values():
        array.flags.writeable = False
    try:
        return VectorSpace.from_tensors(arrays)
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error


@lru_cache(maxsize=32)
def _load_basis(path: str, mtime_ns: int, record: FileRecord) -> Basis:
    from ..distance.signature import Basis

    arrays, _ = parse_safetensors(read_verified(Path(path), record), name=path)
    for array in arrays.values():
        array.flags.writeable = False  # all signatures share it
    try:
        return Basis.from_tensors(arrays)
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error
