"""Zoos on their way to the Hugging Face Hub.

A push adds to what is there: several people, or several machines, can push to one zoo. It reads
the newest index, adds its sources, and commits on the condition that nobody else has in the
meantime; else it begins again. A reader sees the zoo before or after, nothing between.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..storage.hub_push import Conflict, Pushed, Target
from .bundles import make_bundles
from .cards import zoo_card
from .entries import (
    BASIS,
    BUNDLES,
    CARD,
    INDEX,
    SHARED,
    SIGNATURE,
    VECTORS,
    Entry,
    ZooError,
    same_source,
)
from .index import Index
from .places import HubPlace
from .publishing_source import ATTRIBUTES, SOURCE_FILES, refuse_damaged
from .store import ZooStore, with_sources

__all__ = ["push_zoo"]

_ATTEMPTS = 5
_MAX_OPERATIONS = 500  # in a commit; the Hub takes long for more

_OURS = re.compile(
    rf"{re.escape(INDEX)}|{CARD}|{BASIS}|{VECTORS}|{re.escape(ATTRIBUTES)}|{BUNDLES}/[^/]+"
    rf"|{SHARED}/[^/]+"
    rf"|[^/]+/({'|'.join(map(re.escape, SOURCE_FILES))})"
)


class _Plan(NamedTuple):
    """What a push changes: files that were there or not, and what the index will be."""

    additions: dict[str, bytes | Path]
    deletions: set[str]
    changed: list[str]
    removed: list[str]


def push_zoo(
    store: ZooStore,
    names: Sequence[str],
    target: Target,
    *,
    overwrite: bool,
    prune: bool,
    message: str | None,
) -> Pushed:
    """Add the sources of a zoo to a repository; see `Zoo.push_to_hub`."""
    for attempt in itertools.count(1):
        parent = target.head()
        remote = _remote_zoo(target, parent)
        plan = _plan(store, names, remote, target, parent, overwrite=overwrite, prune=prune)
        if not plan.additions and not plan.deletions:
            return Pushed(parent, target.url(parent), target.revision)
        try:
            return _commit(plan, remote, target, parent, message or _message(plan))
        except Conflict:
            if attempt == _ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _remote_zoo(target: Target, commit: str) -> ZooStore | None:
    """Open the zoo that is there, if there is one."""
    files = target.files(commit)
    if INDEX in files:
        return ZooStore(HubPlace(target.repository(commit)))
    # What an interrupted first push has left is no reason to refuse the next one.
    if strangers := [path for path in files if not _OURS.fullmatch(path)]:
        raise ZooError(
            f"{target.repo_id} is not a zoo: it holds {strangers[0]!r} and no {INDEX}. Choose "
            "another repository."
        )
    return None


def _vector_of_same(existing: Entry | None, entry: Entry) -> str | None:
    """The vector that a repository has of a dataset, if it is this one."""
    if existing is None or existing.files.get(SIGNATURE) != entry.files.get(SIGNATURE):
        return None
    return existing.vector


def _plan(
    store: ZooStore,
    names: Sequence[str],
    remote: ZooStore | None,
    target: Target,
    parent: str,
    *,
    overwrite: bool,
    prune: bool,
) -> _Plan:
    ours = store.index
    old = (
        Index(store.embedder_id, basis=ours.basis, vectors=ours.vectors)
        if remote is None
        else remote.index
    )
    _check_same_kind(ours, old, target.repo_id)
    sources = {} if prune else dict(old.sources)
    changed, taken = [], []
    for name in names:
        entry, existing = replace(ours.sources[name], folder=name), old.sources.get(name)
        if old.vectors != ours.vectors:  # a vector means nothing in another space
            entry = replace(entry, vector=_vector_of_same(existing, entry))
        if existing is not None and same_source(existing, entry):
            sources[name] = existing
            continue
        if existing is not None and not overwrite:
            taken.append(name)
        sources[name] = entry
        changed.append(name)
    if taken:
        raise ZooError(
            f"{target.repo_id} has other sources of the names {', '.join(taken)}; overwrite=True "
            "replaces them."
        )
    index = with_sources(old, sources)
    refuse_damaged([problem for name in changed for problem in store.source(name).verify()])

    def signature(name: str) -> bytes:
        holder = store if name in changed or remote is None else remote
        return holder.source(name).signature_file()

    bundles, contents = make_bundles(index, old, signature)
    index = replace(index, bundles=bundles)
    additions: dict[str, bytes | Path] = {}
    for name in changed:
        entry = index.sources[name]
        if entry.origin is None:
            source = store.source(name)
            additions |= {entry.path(file): source.path(file) for file in entry.files}
    for file, record in ((BASIS, old.basis), (VECTORS, old.vectors)):
        if remote is None and record is not None:
            additions[file] = store.place.path(file, record)
    additions |= contents
    deletions: set[str] = set()
    if remote is None or index != old:
        additions[INDEX] = index.dump()
        additions[CARD] = zoo_card(index, target.repo_id, target.repo_id).encode()
        deletions = _files(old) - _files(index)
        if deletions:
            deletions &= set(target.files(parent))
    return _Plan(additions, deletions, changed, sorted(old.sources.keys() - sources.keys()))


def _commit(
    plan: _Plan, remote: ZooStore | None, target: Target, parent: str, message: str
) -> Pushed:
    """Commit a plan: at once, or if it is large, new files first and the index last."""
    replaced = {INDEX, CARD} | (set() if remote is None else _files(remote.index))
    early = [path for path in plan.additions if path not in replaced and "/" in path]
    batches: Sequence[list[str]] = []
    if len(plan.additions) > _MAX_OPERATIONS:
        batches = [
            early[start : start + _MAX_OPERATIONS]
            for start in range(0, len(early), _MAX_OPERATIONS)
        ]
    for number, batch in enumerate(batches, 1):
        files = {path: plan.additions[path] for path in batch}
        part = f"{message} (files, part {number} of {len(batches)})"
        parent = target.commit(files, (), part, parent).commit
    sent = set(itertools.chain.from_iterable(batches))
    last = {path: data for path, data in plan.additions.items() if path not in sent}
    return target.commit(last, sorted(plan.deletions), message, parent)


def _files(index: Index) -> set[str]:
    """Paths of all files that an index names."""
    files = {
        entry.path(file)
        for entry in index.sources.values()
        if entry.origin is None
        for file in entry.files
    }
    if index.basis is not None:
        files.add(BASIS)
    if index.vectors is not None:
        files.add(VECTORS)
    return files | set(index.bundles)


def _check_same_kind(new: Index, old: Index, repo_id: str) -> None:
    for what, ours, theirs in (
        ("embedder", new.embedder_id, old.embedder_id),
        ("basis", new.basis, old.basis),
    ):
        if ours != theirs:
            raise ZooError(
                f"The zoo {repo_id} has another {what}: {theirs}, not {ours}; their signatures "
                "do not belong together. Push to another repository."
            )


def _message(plan: _Plan) -> str:
    parts = []
    for verb, names in (("Add", plan.changed), ("Remove", plan.removed)):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            parts.append(f"{verb} {', '.join(names[:5])}{more}")
    return "; ".join(parts) or "Update the index"
