"""The files of a source that is new, and what the index will say about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ..storage.formats import dump_json, plain
from ..training.history import dump_history
from .entries import (
    CONFIG,
    HISTORY,
    SIGNATURE,
    SUPERNET,
    Entry,
    FileRecord,
    described,
)
from .weights import dump_supernet

if TYPE_CHECKING:
    import torch
    from numpy import ndarray

    from ..families.base import Config

__all__ = ["new_source"]


def new_source(
    name: str,
    config: Config,
    state_dict: Mapping[str, torch.Tensor | ndarray],
    *,
    kind: str,
    dataset: str | None,
    signature: bytes | None,
    provenance: Mapping[str, Any],
    metrics: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    dtype: str,
    embedder_id: str,
) -> tuple[Entry, dict[str, bytes]]:
    """Make a source; parameters as for `Zoo.add`, and the file of the signature.

    Returns
    -------
    entry : Entry
        In a folder of the source's name.
    contents : dict of str to bytes
        Its files by name.

    Raises
    ------
    TypeError, ValueError
        If they could not be read again.
    """
    facts: dict[str, Any] = plain(provenance)
    if "license" in facts:
        raise ValueError("Write provenance['licence']: under 'license' no card would show it.")
    contents = {SUPERNET: dump_supernet(state_dict, config, dtype)}
    if signature is not None:
        contents[SIGNATURE] = signature
    if history:
        contents[HISTORY] = dump_history(history)
    entry = Entry(
        kind=kind,
        folder=name,
        config=plain(config.to_dict()),
        n_images=facts.get("n_images"),
        n_classes=facts.get("n_classes", config.n_classes),
        provenance=facts,
        metrics=plain(metrics),
        family=config.family,
        dataset=dataset,
    )
    names = [str(item) for item in classes]
    contents[CONFIG] = dump_json(described(entry, embedder_id, names))
    entry = replace(entry, files={file: FileRecord.of(data) for file, data in contents.items()})
    return Entry.from_dict(name, asdict(entry)), contents
