"""A zoo: pretrained supernets in a folder, with what is needed to choose among them.

::

    index.json                       see `supernetnas.zoo.index`
    <source>/config.json             configuration of the supernet, provenance, metrics, classes
    <source>/supernet.safetensors    weights, alphas and batch-norm statistics, without the head
    <source>/signature.safetensors   signature of the dataset; sources of kind "single" only
    _shared/<sha256>.safetensors     signature of a dataset that several sources are of; optional
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

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..selection.strategies import find_strategy
from ..storage.counting import counted
from ..storage.destinations import user_path
from ..storage.foreign_text import one_line
from ..storage.formats import dump_safetensors
from ..storage.hub import check_address
from .adding import new_source
from .entries import ZooError, check_name
from .growing import in_basis_of, link_repository, merge_zoos
from .index import Index
from .places import FolderPlace, HubPlace, open_place
from .source import Source
from .store import ZooStore, create_store
from .vectors import Neighbours, adopt_vectors, index_vectors

if TYPE_CHECKING:
    import pandas
    import torch
    from numpy import ndarray

    from ..distance.dataset_vectors import VectorSpace
    from ..distance.signature import Basis, DatasetSignature
    from ..families.base import Config
    from ..storage.hub_push import Pushed

__all__ = ["FittedClassifier", "Source", "Zoo", "ZooError"]


class FittedClassifier(Protocol):
    """What a source can be made of."""

    def as_source(self, card: Mapping[str, Any], X: Any, y: Any) -> dict[str, Any]:
        """Return what `Zoo.add` takes of the classifier besides the name; see there for the card.

        Its signature is that of the fit, or of X and y where they are given.
        """


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
    store : ZooStore
        Its files, for those who have to do with them.

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
        self.store = ZooStore(open_place(folder))
        self.folder = self.store.folder
        self._names = names
        self._searched: tuple[Index, Neighbours] | None = None
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
            n_problems = counted(len(problems), "problem")
            raise ZooError(f"{zoo!r} has {n_problems}:\n" + "\n".join(problems))
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
        create_store(folder, embedder_id, basis, exist_ok=exist_ok)
        return cls(FolderPlace(str(folder)))

    @property
    def where(self) -> str:
        """Path of the folder, "builtin", or repository and commit as ``hf://org/name@commit``."""
        return self.store.where

    @property
    def embedder_id(self) -> str:
        return self.store.embedder_id

    @property
    def subset_names(self) -> tuple[str, ...] | None:
        """Names that a `subset` is limited to; None for a whole zoo."""
        return self._names

    @property
    def names(self) -> list[str]:
        """Names of the sources, sorted."""
        return list(self)

    def singles(self) -> list[Source]:
        """Sources that were pretrained on one dataset."""
        return [source for source in self.values() if source.kind == "single"]

    def multi(self, family: str | None = None) -> Source | None:
        """Return the source that was pretrained on many datasets, if there is one.

        Parameters
        ----------
        family : str, optional
            Name of the kind of supernet, of each of which a zoo has one at most; by default the
            first by name.
        """
        return next(
            (
                source
                for source in self.values()
                if source.kind == "multi" and family in (None, source.family)
            ),
            None,
        )

    def multis(self) -> list[Source]:
        """Return the sources that were pretrained on many datasets, one of each family."""
        return [source for source in self.values() if source.kind == "multi"]

    def subset(self, names: Iterable[str]) -> Zoo:
        """Return the same zoo with fewer sources, to choose from and not to write to.

        Raises
        ------
        ZooError
            If it lacks one of them.
        """
        chosen = {self[name].name for name in names}
        return Zoo(self.store.place, tuple(name for name in self if name in chosen))

    def basis(self) -> Basis | None:
        """Load the basis that compact signatures of the zoo share, if there is one.

        Raises
        ------
        ZooError
            If the file is missing or was changed.
        """
        return self.store.basis()

    def vector_space(self) -> VectorSpace | None:
        """Load what turns datasets into the vectors of the index, if the zoo has vectors.

        Raises
        ------
        ZooError
            If the file is missing or was changed.
        """
        return self.store.vector_space()

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
        self._check_whole()
        index_vectors(self.store, random_state=random_state)

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
        index = self.store.index
        if self._searched is None or self._searched[0] is not index:
            if not (sources := self.singles()):
                raise ZooError(f"{self!r} has no single source.")
            self._searched = index, Neighbours.of(sources, self.vector_space())
        return self._searched[1].nearest(signature, k)

    def to_frame(self) -> pandas.DataFrame:
        """Return a table with a row for each source; it needs pandas."""
        import pandas as pd

        rows = [
            {
                "kind": source.kind,
                "family": source.family,
                **source.entry.config,
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
        self.store.download(list(self._chosen(names).values()), weights=weights)

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
        names = None if names is None else list(self._chosen(names))
        copy = Zoo.create(folder, embedder_id=self.embedder_id, basis=self.basis(), exist_ok=True)
        adopt_vectors(copy.store, self.store)
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
        return push_zoo(
            *(self.store, self.names, target), overwrite=overwrite, prune=prune, message=message
        )

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
        self._check_whole()
        chosen = list(other._chosen(names).values())
        return merge_zoos(self.store, other.store, chosen, overwrite=overwrite)

    def link(
        self,
        name: str,
        repo_id: str,
        *,
        revision: str | None = None,
        subfolder: str = "",
        dataset: str | None = None,
        overwrite: bool = False,
        token: str | bool | None = None,
        endpoint: str | None = None,
    ) -> Source:
        """Add a source whose files stay in a repository of its own on the Hugging Face Hub.

        The index remembers the commit and the hashes of configuration, weights and signature,
        which are fetched and checked now; the history stays behind. `save` makes copies of them.

        Parameters
        ----------
        name : str
        repo_id : str
            A repository that `Source.push_to_hub` made.
        revision : str, optional
            Branch, tag or commit; what it means now is kept.
        subfolder : str
            Where in the repository the source is.
        dataset : str, optional
            As in `add`.
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
        self._check_whole()
        link_repository(
            *(self.store, name, address, subfolder, dataset),
            overwrite=overwrite,
            token=token,
            endpoint=endpoint,
        )
        return self[name]

    def add(
        self,
        name: str,
        *,
        config: Config,
        state_dict: Mapping[str, torch.Tensor | ndarray],
        kind: Literal["single", "multi"] = "single",
        signature: DatasetSignature | None = None,
        dataset: str | None = None,
        provenance: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        history: Iterable[Mapping[str, Any]] | pandas.DataFrame = (),
        classes: Sequence[str] | None = None,
        dtype: Literal["float32", "float16"] = "float32",
        overwrite: bool = False,
    ) -> Source:
        """Add a pretrained supernet; safe while other processes add theirs, and if interrupted.

        Parameters
        ----------
        name : str
            Of the source: letters, digits, dots, dashes and underscores.
        config : object
            What the supernet was built from: the configuration of its family.
        state_dict : mapping of str to tensor
            State of the supernet. The classifier's tensors are left out.
        kind : {"single", "multi"}
            A zoo has at most one source of kind "multi" of each family.
        signature : DatasetSignature
            For kind "single", made with the zoo's embedder; by default that which the zoo has of
            the dataset.
        dataset : str, optional
            Name of the dataset of a single source; by default the name of the source. Sources of
            one dataset, as those of several families, share its signature, which is kept once.
        provenance : mapping, optional
            Plain values. ``dataset`` (title), ``upstream`` (collection the images come from),
            ``licence`` (as its source states it), ``source`` (where the files were taken from),
            ``n_images`` and ``n_classes`` (by default the configuration's) appear in index and
            card, and so does ``warm_start_datasets`` (names of what the supernet was trained on
            before); other keys are kept.
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
            If an argument does not fit the others or the zoo, or the weights are not finite.
        TypeError
            If provenance, metrics or history hold values other than plain ones.
        ZooError
            If the name is taken, or the zoo cannot be written to.
        """
        name = check_name(name)
        if dtype not in ("float32", "float16"):
            raise ValueError(f"dtype must be 'float32' or 'float16'; got {dtype!r}.")
        taken = find_strategy(name)
        if taken is not None and taken.needs != kind:
            raise ValueError(
                f"{name!r} is the strategy that takes the source of kind {taken.needs!r}: give "
                f"this {kind} source another name."
            )
        if kind == "single" and dataset is None:
            dataset = name
        file = None
        if kind == "single" and signature is None and (other := self._of_dataset(dataset, name)):
            signature, file = other.signature(), other.signature_file()
        self._check_signature(name, kind, signature)
        if signature is not None and file is None:
            file = dump_safetensors(signature.to_tensors(), signature.metadata())
        if classes is None:
            classes = () if signature is None else signature.class_names
        entry, contents = new_source(
            name,
            config,
            state_dict,
            kind=kind,
            dataset=dataset,
            signature=file,
            provenance=provenance or {},
            metrics=metrics or {},
            history=history.to_dict("records") if hasattr(history, "to_dict") else list(history),
            classes=classes,
            dtype=dtype,
            embedder_id=self.embedder_id,
        )
        self._check_whole()
        self.store.add(name, entry, contents, signature, overwrite=overwrite)
        return self[name]

    def add_classifier(
        self,
        classifier: FittedClassifier,
        name: str,
        *,
        card: Mapping[str, Any] | None = None,
        X: Any = None,
        y: Any = None,
        dataset: str | None = None,
        dtype: Literal["float32", "float16"] = "float32",
        overwrite: bool = False,
    ) -> Source:
        """Make a source of a fitted classifier: its searched supernet, and what its images are.

        Parameters
        ----------
        classifier : SupernetTransferClassifier
        name : str
            Of the source.
        card : mapping, optional
            What `provenance` is in `add`, and ``metrics`` besides. What the fit started from is
            added: ``started_from``, ``started_from_sha256`` and ``warm_start_datasets``.
        X, y : images and labels, optional
            Those that it was fitted on. They are needed unless the fit has made a signature of
            them, which it does with strategy "ot", or if that was with another embedder than the
            zoo's. They are embedded, not kept.
        dataset, dtype, overwrite
            As in `add`.

        Returns
        -------
        Source

        Raises
        ------
        ValueError
            If there is no signature, or one that the zoo has no use for.
        TypeError, ZooError
            As in `add`.

        Examples
        --------
        >>> zoo.add_classifier(clf, "flowers", card={"licence": "CC0 1.0"})  # doctest: +SKIP
        """
        name = check_name(name)
        contents = classifier.as_source(card or {}, X, y)
        signature = contents.pop("signature")
        if signature.embedder_id != self.embedder_id:
            raise ValueError(
                f"The images were embedded with {signature.embedder_id!r}, the zoo with "
                f"{self.embedder_id!r}: their signatures cannot be compared. Set the classifier's "
                "embedder to the zoo's and pass the images: zoo.add_classifier(clf, name, X=X, "
                "y=y)."
            )
        return self.add(
            name,
            **contents,
            signature=in_basis_of(signature, self.basis()),
            dataset=dataset,
            dtype=dtype,
            overwrite=overwrite,
        )

    def remove(self, name: str) -> None:
        """Remove a source and its files.

        Raises
        ------
        ZooError
            If there is none of that name, or the zoo cannot be written to.
        """
        self._check_whole()
        self.store.remove(name, self.names)

    def verify(self) -> list[str]:
        """Read and check every file; of a zoo on the Hub, fetch those that are not in the cache.

        Hidden files, as version control leaves them, are passed over.

        Returns
        -------
        list of str
            The problems, a line each: files that are missing, changed, malformed or foreign.
            Empty if there is none.
        """
        return [one_line(problem) for problem in self.store.problems(self.values())]

    def __getitem__(self, name: str) -> Source:
        if name not in self:
            raise self.store.unknown(name, self.names)
        return self.store.source(name)

    def __contains__(self, name: object) -> bool:
        return name in self.store.index.sources and (self._names is None or name in self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.store.index.sources if self._names is None else self._names)

    def __len__(self) -> int:
        return len(self.store.index.sources if self._names is None else self._names)

    def __reduce__(self) -> tuple:
        place = self.store.place
        return Zoo, (place if isinstance(place, HubPlace) else place.where, self._names)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Zoo):
            return NotImplemented
        return (self.where, self._names) == (other.where, other.subset_names)

    def __hash__(self) -> int:
        return hash((self.where, self._names))

    def __repr__(self) -> str:
        multis = " and ".join(repr(source.name) for source in self.multis())
        return (
            f"<Zoo {self.where!r}: {len(self.singles())} single, "
            f"{f'multi {multis}' if multis else 'no multi'}, "
            f"embedder {self.embedder_id!r}>"
        )

    def _chosen(self, names: Iterable[str] | None) -> dict[str, Source]:
        """Sources of some names, by default all; ZooError if one is not there."""
        if isinstance(names, str):
            raise TypeError(f"names must be a list of names; got {names!r}. Pass [{names!r}].")
        return {name: self[name] for name in (self if names is None else names)}

    def _check_whole(self) -> None:
        """Refuse to write to a subset."""
        if self._names is not None:
            raise ZooError(f"A subset is not written to; Zoo.open({self.where!r}) is.")

    def _of_dataset(self, dataset: str | None, name: str) -> Source | None:
        """Return a source of a dataset, other than the one of a name."""
        sources = (source for source in self.singles() if source.name != name)
        return next((source for source in sources if source.dataset == dataset), None)

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
