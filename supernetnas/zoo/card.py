"""The card of a zoo: a README.md for people, with a YAML header for the Hugging Face Hub."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .zoo import Source, Zoo

__all__ = ["zoo_card"]

_HEADER = """\
---
license: other
license_name: as-stated-for-each-source
license_link: README.md
library_name: supernetnas
pipeline_tag: image-classification
tags: {tags}
datasets: {datasets}
---
"""

_BODY = """\
# Supernet zoo {title}

{count} for architecture search by transfer: a search on new images starts
from the supernet whose data resemble them most, instead of from random weights. Made with
[supernetnas](https://pypi.org/project/supernetnas/), which wrote this card.

## Sources

{sources}

"Licence" is what the place that the images were taken from says about them. "Not stated" grants
nothing. The images themselves are not here. A signature keeps statistics and a sample of
features of a dataset, from which images cannot simply be read back, but which is not anonymous.

## Supernets

{supernets}

Signatures were made with the embedder `{embedder}`. The classifiers are not included.

## How to load

```python
from supernetnas import SupernetTransferClassifier, Zoo

clf = SupernetTransferClassifier(zoo="path/to/this/folder").fit(X, y)  # chooses a source

zoo = Zoo.open("path/to/this/folder")
zoo.verify()  # compares every file with the SHA-256 in index.json
{example}```
"""


def zoo_card(zoo: Zoo) -> str:
    """Return the card of a zoo.

    Returns
    -------
    str
        Markdown with a YAML header that ``huggingface_hub.ModelCard`` reads. What sources say
        about themselves is escaped.
    """
    sources = list(zoo.values())
    spaces = sorted({str(source._entry.config.get("space")) for source in sources})
    tags = ["supernetnas", "supernet", "neural-architecture-search", "image-classification"]
    datasets = [
        str(source._entry.provenance.get("dataset", source.name)) for source in zoo.singles()
    ]
    example = f'zoo["{sources[0].name}"].state_dict()  # torch tensors\n' if sources else ""
    count = f"{len(sources)} pretrained supernet{'' if len(sources) == 1 else 's'}"
    return _HEADER.format(
        tags=_yaml(tags + [f"search-space-{space}" for space in spaces]), datasets=_yaml(datasets)
    ) + _BODY.format(
        title=_cell(zoo.folder.name),
        count=count,
        sources=_sources_table(sources),
        supernets=_supernets_table(sources),
        embedder=_cell(zoo.embedder_id).replace("`", ""),
        example=example,
    )


def _sources_table(sources: list[Source]) -> str:
    entries = {source.name: source._entry for source in sources}
    metrics = sorted(
        {key for e in entries.values() for key, value in e.metrics.items() if _is_number(value)}
    )
    rows = [
        [
            name,
            entry.provenance.get("dataset"),
            entry.provenance.get("upstream"),
            entry.provenance.get("source"),
            entry.provenance.get("licence") or "not stated",
            entry.n_images,
            entry.n_classes,
            *(entry.metrics.get(key) for key in metrics),
        ]
        for name, entry in entries.items()
    ]
    head = ["source", "dataset", "upstream collection", "images taken from", "licence"]
    head += ["images", "classes"]
    return _table([*head, *(key.replace("_", " ") for key in metrics)], rows)


def _supernets_table(sources: list[Source]) -> str:
    rows = []
    for source in sources:
        config = source._entry.config
        size = "x".join(str(side) for side in config.get("image_size", ()))
        rows.append(
            [
                source.name,
                source.kind,
                config.get("space"),
                config.get("init_channels"),
                config.get("n_cells"),
                size,
                f"{source.n_bytes / 2**20:.2f}",
            ]
        )
    return _table(["source", "kind", "space", "channels", "cells", "image size", "MiB"], rows)


def _table(head: list[str], rows: list[list[Any]]) -> str:
    if not rows:
        return "None yet."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _printable(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = _printable(str(value)).replace("\\", "\\\\")
    return text.replace("|", "\\|").replace("<", "&lt;")


def _yaml(values: list[str]) -> str:
    """Write a list of strings; JSON is YAML once nothing in it needs an escape beyond quotes."""
    return json.dumps([_printable(value) for value in values], ensure_ascii=False)
