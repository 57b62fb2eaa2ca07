"""How a zoo grows: from a fitted classifier, from another zoo, from a repository of one source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeGuard

from ..storage.files import FileError, dump_safetensors, parse_json, plain, read_bytes
from ..storage.hub import HubAddress, HubRepository
from .index import (
    CONFIG,
    LIMITS,
    SIGNATURE,
    SUPERNET,
    Entry,
    FileRecord,
    Origin,
    ZooError,
    check_name,
)
from .places import HubPlace
from .source import Source
from .writing import install, replace_index

if TYPE_CHECKING:
    from ..classifier import SupernetTransferClassifier
    from ..distance.signature import DatasetSignature
    from .zoo import Zoo

__all__ = ["classifier_contents", "is_classifier", "link_repository", "merge_zoos"]


# From a classifier


def is_classifier(source: object) -> TypeGuard[SupernetTransferClassifier]:
    """Whether a source is to be made of this; the class itself is not imported, it imports zoos."""
    return hasattr(source, "get_params")


def classifier_contents(
    clf: SupernetTransferClassifier, zoo: Zoo, card: Mapping[str, Any], X: Any, y: Any
) -> dict[str, Any]:
    """Return what `Zoo.add` takes of a fitted classifier.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        Before ``fit``.
    ValueError
        If there is no signature, or one that the zoo has no use for.
    """
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(clf)
    signature = _signature(clf, zoo, X, y)
    search: list[Mapping[str, Any]] = [row for row in clf.history_ if row.get("stage") == "search"]
    retraining: list[Mapping[str, Any]] = [
        row for row in clf.history_ if row.get("stage") == "retrain"
    ]
    metrics: dict[str, Any] = {"epochs": len(search)}
    for name, rows, key in (
        ("validation_accuracy", search, "validation_accuracy"),
        ("train_accuracy", search, "train_accuracy"),
        ("network_train_accuracy", retraining, "train_accuracy"),
    ):
        if rows and rows[-1].get(key) is not None:
            metrics[name] = rows[-1][key]
    counts = signature.counts
    metrics["chance_accuracy"] = float(counts.max() / counts.sum())
    metrics["seconds"] = round(sum(row.get("seconds", 0) for row in clf.history_), 1)
    metrics |= plain(card.get("metrics", {}))
    provenance = {key: value for key, value in card.items() if key != "metrics"}
    return {
        "config": replace(clf.supernet_config_, n_classes=len(clf.classes_)),
        "state_dict": clf.supernet_state_,
        "signature": signature,
        "provenance": {
            **provenance,
            "started_from": clf.source_,
            "n_images": int(counts.sum()),
            "n_classes": len(clf.classes_),
        },
        "metrics": metrics,
        "history": clf.history_,
        "classes": [str(label) for label in clf.classes_],
    }


def _signature(clf: SupernetTransferClassifier, zoo: Zoo, X: Any, y: Any) -> DatasetSignature:
    if (X is None) != (y is None):
        raise ValueError("Pass both X and y, or neither.")
    signature = getattr(clf, "signature_", None) if X is None else _sign(clf, X, y)
    if signature is None:
        raise ValueError(
            f"A fit with strategy={clf.strategy!r} makes no signature of the images, which a "
            "source needs to be chosen by. Pass them: zoo.add(clf, name=..., X=X, y=y)."
        )
    if signature.embedder_id != zoo.embedder_id:
        raise ValueError(
            f"The images were embedded with {signature.embedder_id!r}, the zoo with "
            f"{zoo.embedder_id!r}: their signatures cannot be compared. Set the classifier's "
            "embedder to the zoo's and pass the images: zoo.add(clf, name=..., X=X, y=y)."
        )
    return _in_basis_of(signature, zoo)


def _sign(clf: SupernetTransferClassifier, X: Any, y: Any) -> DatasetSignature:
    import numpy as np

    from ..embedding.embedder import get_embedder
    from ..fitting.validation import read_new_images
    from ..selection.strategies import sign_target

    images, labels = read_new_images(clf, X), np.asarray(y)
    unknown = sorted({str(label) for label in labels[~np.isin(labels, clf.classes_)]})
    if unknown or labels.shape != (len(images),) or not len(labels):
        raise ValueError(
            f"y must have one of the {len(clf.classes_)} classes of the fit for each of the "
            f"{len(images)} images; it has shape {labels.shape} and other classes: {unknown[:5]}."
        )
    classes, codes = np.unique(labels, return_inverse=True)
    return sign_target(images, codes, classes, get_embedder(clf.embedder), device=clf.device_)


def _in_basis_of(signature: DatasetSignature, zoo: Zoo) -> DatasetSignature:
    """Bring a full signature to the form that the signatures of a zoo have."""
    basis = zoo.basis()
    if basis is None or signature.basis is not None:
        return signature
    return signature.compress(basis)


# From another zoo


def merge_zoos(zoo: Zoo, other: Zoo, names: Iterable[str] | None, *, overwrite: bool) -> list[str]:
    """Copy sources of another zoo to this one; see `Zoo.merge`."""
    if other.embedder_id != zoo.embedder_id:
        raise ZooError(
            f"{other!r} was made with another embedder than {zoo!r}: their signatures cannot be "
            "compared."
        )
    chosen = [other[name] for name in (other if names is None else dict.fromkeys(names))]
    other.download([source.name for source in chosen])
    with zoo._writing() as index:
        changed, new, old_folders = index, [], []
        for source in chosen:
            entry = _entry_of_copy(source, zoo)
            if (old := index.sources.get(source.name)) is not None:
                if replace(old, folder=source.name) == entry:
                    continue
                if old.origin is None:
                    old_folders.append(old.folder)
                    if old.folder == source.name:
                        entry = replace(entry, folder=f"{source.name}~")
            zoo._check_place(changed, source.name, entry, overwrite)
            changed = changed.with_source(source.name, entry)
            new.append(source)
        if new:
            folders = [changed.sources[source.name].folder for source in new]
            copies = (_contents_of_copy(source, zoo) for source in new)
            install(zoo.folder, changed, folders, copies, old_folders)
            zoo._replaced(changed)
    return [source.name for source in new]


def _entry_of_copy(source: Source, zoo: Zoo) -> Entry:
    vector = zoo._vector_of(source)
    entry = replace(source._entry, folder=source.name, origin=None, vector=vector)
    if source.kind == "multi" or source._zoo._index.basis == zoo._index.basis:
        return entry
    contents = _contents_of_copy(source, zoo)  # of another signature
    return replace(entry, files={file: FileRecord.of(data) for file, data in contents.items()})


def _contents_of_copy(source: Source, zoo: Zoo) -> dict[str, bytes]:
    """Return the files of a source as another zoo keeps them, checked.

    Raises
    ------
    ZooError
        If a file of the source is not as its zoo says, or if the bases of compact signatures
        differ.
    """
    files = source._entry.files
    with source._refusing():
        source._description()
        contents = {file: source._read(file) for file in files if file != SIGNATURE}
        if SIGNATURE in files:
            contents[SIGNATURE] = source._signature_file()
    source.state_dict()
    if source.kind == "single":
        signature = source.signature()
        if source._zoo._index.basis == zoo._index.basis:
            pass
        elif signature.basis is None:
            signature = _in_basis_of(signature, zoo)
            contents[SIGNATURE] = dump_safetensors(signature.to_tensors(), signature.metadata())
        else:
            raise ZooError(
                f"The signature of {source.name!r} is compact in a basis that {zoo!r} has not. "
                "Only full signatures go into any zoo; make a new one with "
                "Zoo.create(folder, embedder_id=other.embedder_id, basis=other.basis())."
            )
    return {file: contents[file] for file in files}


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
    if not isinstance(data, dict) or data.keys() != wanted or not isinstance(data["config"], dict):
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
    )


def link_repository(
    zoo: Zoo, name: str, address: HubAddress, subfolder: str, *, overwrite: bool, **options: Any
) -> None:
    """Add a source that stays in its own repository; see `Zoo.link`."""
    check_name(name)
    Origin.from_dict({"repo_id": address.repo_id, "commit": "0" * 40, "subfolder": subfolder})
    first = f"{subfolder}/{CONFIG}" if subfolder else CONFIG
    repository, _ = HubRepository.at(address, first, LIMITS[CONFIG], **options)
    try:
        entry = _entry_of_repository(repository, subfolder, zoo.embedder_id)
        # What could not be read from an index is not written to one.
        entry = Entry.from_dict(name, asdict(replace(entry, folder=name)))
    except (FileError, TypeError, ValueError) as error:
        raise ZooError(f"{repository.address} holds no source: {error}") from error
    with zoo._writing() as index:
        old = index.sources.get(name)
        zoo._check_place(index, name, entry, overwrite)
        if problems := Source(zoo, name, entry, HubPlace(repository)).verify():
            raise ZooError(f"{repository.address} cannot be linked:\n" + "\n".join(problems))
        changed = index.with_source(name, entry)
        replace_index(zoo.folder, changed, [] if old is None or old.origin else [old.folder])
        zoo._replaced(changed)
