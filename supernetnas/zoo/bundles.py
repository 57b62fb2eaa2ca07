"""Bundles: copies of signatures in a few files, so that ranking a large zoo takes few requests.

Whoever chooses a source needs all signatures and one supernet. A bundle is the signature files of
many sources, one after another; the index says which. One that several sources share is there once.
A source goes to the bundle that the hash of its name says, so that a new source changes one bundle
and the others stay in everybody's cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from .entries import (
    BUNDLES,
    SIGNATURE,
    Bundle,
    FileRecord,
    signature_key,
)
from .index import Index

__all__ = ["assign_bundles", "make_bundles"]

_TARGET = 8 * 2**20  # bytes of a bundle, on average; a transfer that breaks off begins it again


def assign_bundles(index: Index) -> dict[str, tuple[str, ...]]:
    """Choose the bundle of each signature.

    Returns
    -------
    dict of str to tuple of str
        Names of sources by path of the bundle, both sorted; of those that share a signature, the
        first.
    """
    once = {
        signature_key(name, entry): name
        for name, entry in sorted(index.sources.items(), reverse=True)
        if SIGNATURE in entry.files
    }
    sizes = {name: index.sources[name].files[SIGNATURE].size for name in once.values()}
    n_bundles = 1
    while n_bundles * _TARGET < sum(sizes.values()):
        n_bundles *= 2  # each bundle of a zoo that grew is split in two
    assigned: dict[str, list[str]] = {}
    for name in sorted(sizes):
        number = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % n_bundles
        assigned.setdefault(f"{BUNDLES}/{number:04d}.bin", []).append(name)
    return {path: tuple(names) for path, names in sorted(assigned.items())}


def make_bundles(
    index: Index, old: Index, read: Callable[[str], bytes]
) -> tuple[dict[str, Bundle], dict[str, bytes]]:
    """Bundle the signatures of an index.

    Parameters
    ----------
    index : Index
        Of the zoo as it will be.
    old : Index
        Of the zoo as it is; its bundles are kept where nothing changes.
    read : callable
        Returns the signature file of a source, checked.

    Returns
    -------
    bundles : dict of str to Bundle
        All of them.
    contents : dict of str to bytes
        Those that are new or changed.
    """
    bundles, contents = {}, {}
    for path, names in assign_bundles(index).items():
        records = {name: index.sources[name].files[SIGNATURE] for name in names}
        existing = old.bundles.get(path)
        if existing is not None and existing.sources == names:
            before = {name: old.sources[name].files[SIGNATURE] for name in names}
            if before == records:
                bundles[path] = existing
                continue
        data = b"".join(read(name) for name in names)
        record = FileRecord.of(data)
        bundles[path] = Bundle(record.sha256, record.size, names)
        contents[path] = data
    return bundles, contents
