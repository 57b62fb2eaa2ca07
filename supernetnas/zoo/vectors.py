"""Vectors of datasets, by which the sources that are likely to be nearest are found among many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..storage.files import FileError, write_atomic
from ..storage.formats import dump_safetensors
from .entries import (
    VECTORS,
    FileRecord,
    ZooError,
    read_verified,
)
from .source import Source
from .store import ZooStore, vector_in

if TYPE_CHECKING:
    from ..distance.dataset_vectors import VectorSpace
    from ..distance.signature import DatasetSignature

__all__ = ["Neighbours", "adopt_vectors", "index_vectors"]


def index_vectors(store: ZooStore, *, random_state: int) -> None:
    """Give every single source of a zoo a vector; see `Zoo.index_vectors`."""
    from ..distance.dataset_vectors import fit_vector_space

    with store.writing() as index:
        store.index = index
        signatures = {
            name: store.source(name).signature()
            for name, entry in index.sources.items()
            if entry.kind == "single"
        }
        if not signatures:
            raise ZooError(f"The zoo {store.where!r} has no single source to make a vector of.")
        space = fit_vector_space(list(signatures.values()), random_state=random_state)
        data = dump_safetensors(space.to_tensors())
        sources = {
            name: replace(entry, vector=vector_in(space, signatures.get(name)))
            for name, entry in index.sources.items()
        }
        without = replace(
            index,
            vectors=None,
            sources={name: replace(entry, vector=None) for name, entry in sources.items()},
        )
        if index.vectors is not None:
            without.write(store.folder)  # an index never names another file than is there
            store.index = without
        write_atomic(store.folder / VECTORS, data)
        store.index = replace(index, sources=sources, vectors=FileRecord.of(data))
        store.index.write(store.folder)


def adopt_vectors(store: ZooStore, other: ZooStore) -> None:
    """Take over the space of another zoo's vectors, unless there is one already."""
    record = other.index.vectors
    if record is None or store.index.vectors is not None:
        return
    try:
        data = read_verified(other.place.path(VECTORS, record), record)
    except (FileError, FileNotFoundError) as error:
        raise ZooError(f"The space of the zoo's vectors cannot be read: {error}") from error
    with store.writing() as index:
        store.index = index
        if index.vectors is not None:  # another process was first
            return
        write_atomic(store.folder / VECTORS, data)
        store.index = replace(index, vectors=record)
        store.index.write(store.folder)


@dataclass(frozen=True)
class Neighbours:
    """The vectors of sources, ready to be searched."""

    space: VectorSpace
    names: Sequence[str]
    searched: Any

    @classmethod
    def of(cls, sources: Sequence[Source], space: VectorSpace | None) -> Neighbours:
        """Collect the vectors of single sources, or make them where the zoo has none."""
        from sklearn.neighbors import NearestNeighbors

        from ..distance.dataset_vectors import fit_vector_space

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
        searched = NearestNeighbors(algorithm="brute").fit(np.stack(vectors))
        return cls(space, [source.name for source in sources], searched)

    def nearest(self, signature: DatasetSignature, k: int) -> dict[str, float]:
        """Estimate distances to the nearest sources by name; see `Zoo.nearest`."""
        query, energy = self.space.query(signature)
        k = min(k, len(self.names))
        distances, positions = self.searched.kneighbors(query[np.newaxis], k)
        return {
            self.names[position]: float(distance) ** 2 / 2 + energy
            for distance, position in zip(distances[0], positions[0], strict=True)
        }
