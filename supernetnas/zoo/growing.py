"""How a zoo grows: from another zoo, and from a repository of one source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ..storage.files import FileError, read_bytes
from ..storage.formats import dump_safetensors, parse_json
from ..storage.hub import HubAddress, HubRepository
from .entries import (
    CONFIG,
    EARLIER_FAMILY,
    LIMITS,
    SIGNATURE,
    SUPERNET,
    Entry,
    FileRecord,
    Origin,
    ZooError,
    check_name,
    same_source,
)
from .places import HubPlace
from .source import Source
from .store import ZooStore, check_free, vector_in, with_sources
from .writing import install, replace_index

if TYPE_CHECKING:
    from ..distance.signature import Basis, DatasetSignature

__all__ = ["in_basis_of", "link_repository", "merge_zoos"]


def in_basis_of(signature: DatasetSignature, basis: Basis | None) -> DatasetSignature:
    """Bring a full signature to the form that the signatures of a zoo of this basis have."""
    if basis is None or signature.basis is not None:
        return signature
    return signature.compress(basis)


# From another zoo


def merge_zoos(
    store: ZooStore, other: ZooStore, chosen: Sequence[Source], *, overwrite: bool
) -> list[str]:
    """Copy sources of another zoo to this one; see `Zoo.merge`."""
    if other.embedder_id != store.embedder_id:
        raise ZooError(
            f"The zoo {other.where!r} was made with another embedder, {other.embedder_id!r}, than "
            f"{store.where!r}, {store.embedder_id!r}: their signatures cannot be compared."
        )
    other.download(chosen, weights=True)
    with store.writing() as index:
        store.index = index  # another process may have changed it, the space of vectors, too
        sources, new, old_folders = dict(index.sources), [], []
        for source in chosen:
            entry = _entry_of_copy(source, other, store)
            if (old := index.sources.get(source.name)) is not None:
                if same_source(old, entry):
                    continue
                if old.origin is None:
                    old_folders.append(old.folder)
                    if old.folder == source.name:
                        entry = replace(entry, folder=f"{source.name}~")
            check_free(index, source.name, overwrite)
            sources[source.name] = entry
            new.append(source)
        if new:
            changed = with_sources(index, sources)
            folders = [changed.sources[source.name].folder for source in new]
            copies = (_contents_of_copy(source, other, store) for source in new)
            install(store.folder, changed, folders, copies, old_folders)
            store.replaced(changed)
    return [source.name for source in new]


def _entry_of_copy(source: Source, other: ZooStore, store: ZooStore) -> Entry:
    vector = _vector_of(source, other, store)
    entry = replace(source.entry, folder=source.name, origin=None, vector=vector, shared=False)
    if source.kind == "multi" or other.index.basis == store.index.basis:
        return entry
    contents = _contents_of_copy(source, other, store)  # of another signature
    return replace(entry, files={file: FileRecord.of(data) for file, data in contents.items()})


def _vector_of(source: Source, other: ZooStore, store: ZooStore) -> str | None:
    """Vector of a source of another zoo in the space of this one; None if there is no space."""
    if store.index.vectors is None or source.kind == "multi":
        return None
    if other.index.vectors == store.index.vectors:
        return source.entry.vector
    space = store.vector_space()
    return None if space is None else vector_in(space, source.signature())


def _contents_of_copy(source: Source, other: ZooStore, store: ZooStore) -> dict[str, bytes]:
    """Return the files of a source as another zoo keeps them, checked.

    Raises
    ------
    ZooError
        If a file of the source is not as its zoo says, or if the bases of compact signatures
        differ.
    """
    contents = source.contents()
    if source.kind == "multi" or other.index.basis == store.index.basis:
        return contents
    signature = source.signature()
    if signature.basis is not None:
        raise ZooError(
            f"The signature of {source.name!r} is compact in a basis that {store.where!r} has not. "
            "Only full signatures go into any zoo; make a new one with "
            "Zoo.create(folder, embedder_id=other.embedder_id, basis=other.basis())."
        )
    signature = in_basis_of(signature, store.basis())
    return contents | {SIGNATURE: dump_safetensors(signature.to_tensors(), signature.metadata())}


# From a repository


def _entry_of_repository(repository: HubRepository, subfolder: str, embedder_id: str) -> Entry:
    """Describe the source that a repository holds; its files are fetched for their hashes.

    Raises
    ------
    ZooError
        If it is not the repository of a source, or one of another embedder.
    """
    origin = Origin.from_dict(
        {"repo_id": repository.repo_id, "commit": repository.commit, "subfolder": subfolder}
    )
    path = origin.path(CONFIG)
    where = repository.fetch({path: LIMITS[CONFIG]})[path]
    name = f"{path} of {repository.address}"
    data = parse_json(read_bytes(where, limit=LIMITS[CONFIG]), name=name)
    wanted = {"library_name", "kind", "embedder_id", "config", "provenance", "metrics", "classes"}
    named = data.keys() - {"family"} if isinstance(data, dict) else set()
    if named != wanted or not isinstance(data["config"], dict):
        raise ZooError(f"{name} does not describe a source, as Source.push_to_hub writes it.")
    if data["embedder_id"] != embedder_id:
        raise ZooError(
            f"The signature in {repository.address} was made with {data['embedder_id']!r:.120}, "
            f"those of the zoo with {embedder_id!r}: they cannot be compared."
        )
    required = [CONFIG, SUPERNET, *([SIGNATURE] if data["kind"] == "single" else [])]
    paths = {origin.path(file): LIMITS[file] for file in required}
    found = repository.fetch(paths)
    records = {
        file: FileRecord.of(read_bytes(found[origin.path(file)], limit=LIMITS[file]))
        for file in required
    }
    provenance = data["provenance"] if isinstance(data["provenance"], dict) else {}
    return Entry(
        kind=data["kind"],
        folder="",
        config=data["config"],
        n_images=provenance.get("n_images"),
        n_classes=provenance.get("n_classes", data["config"].get("n_classes")),
        provenance=provenance,
        metrics=data["metrics"],
        files=records,
        origin=origin,
        family=data.get("family", EARLIER_FAMILY),
    )


def link_repository(
    store: ZooStore,
    name: str,
    address: HubAddress,
    subfolder: str,
    dataset: str | None,
    *,
    overwrite: bool,
    **options: Any,
) -> None:
    """Add a source that stays in its own repository; see `Zoo.link`."""
    check_name(name)
    Origin.from_dict({"repo_id": address.repo_id, "commit": "0" * 40, "subfolder": subfolder})
    first = f"{subfolder}/{CONFIG}" if subfolder else CONFIG
    repository, _ = HubRepository.at(address, first, LIMITS[CONFIG], **options)
    try:
        entry = _entry_of_repository(repository, subfolder, store.embedder_id)
        # What could not be read from an index is not written to one.
        entry = Entry.from_dict(name, asdict(replace(entry, folder=name, dataset=dataset)))
    except (FileError, TypeError, ValueError) as error:
        raise ZooError(f"{repository.address} holds no source: {error}") from error
    with store.writing() as index:
        old = index.sources.get(name)
        check_free(index, name, overwrite)
        changed = with_sources(index, {**index.sources, name: entry})
        if problems := Source(store, name, entry, HubPlace(repository)).verify():
            raise ZooError(f"{repository.address} cannot be linked:\n" + "\n".join(problems))
        replace_index(store.folder, changed, [] if old is None or old.origin else [old.folder])
        store.replaced(changed)
