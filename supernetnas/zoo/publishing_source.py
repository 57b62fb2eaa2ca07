"""A single source on its way to a repository of its own on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..storage.hub_push import Pushed, Target
from .cards import source_card
from .entries import (
    CARD,
    CONFIG,
    HISTORY,
    SIGNATURE,
    SUPERNET,
    Entry,
    ZooError,
)

__all__ = ["ATTRIBUTES", "SOURCE_FILES", "push_source", "refuse_damaged"]

ATTRIBUTES = ".gitattributes"
"""File that the Hub puts into every repository."""

SOURCE_FILES = (CONFIG, SUPERNET, SIGNATURE, HISTORY)


def push_source(
    name: str,
    entry: Entry,
    embedder_id: str,
    find: Callable[[str], Path],
    target: Target,
    *,
    message: str | None,
) -> Pushed:
    """Make or update a repository of one source; see `Source.push_to_hub`.

    ``find`` returns where a file of the source is.
    """
    parent = target.head()
    files = set(target.files(parent))
    if strangers := sorted(files - {CARD, ATTRIBUTES, *SOURCE_FILES}):
        raise ZooError(
            f"{target.repo_id} holds {strangers[0]!r}, which is not of a source. Choose another "
            "repository."
        )
    additions: dict[str, bytes | Path] = {file: find(file) for file in entry.files}
    additions[CARD] = source_card(name, entry, embedder_id, target.repo_id).encode()
    deletions = (files & set(SOURCE_FILES)) - entry.files.keys()
    return target.commit(additions, deletions, message or f"Update {name}", parent)


def refuse_damaged(problems: list[str]) -> None:
    """Raise what keeps sources from being pushed, if anything does."""
    if problems:
        raise ZooError("Nothing was pushed, for this is damaged:\n" + "\n".join(problems))
