"""The card of a zoo: a README.md for people, with a YAML header for the Hugging Face Hub."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ..storage.counting import counted
from .entries import Entry
from .index import Index
from .provenance import NAMES
from .weights import about_supernet

__all__ = [
    "cell",
    "code",
    "header_list",
    "is_number",
    "licence_header",
    "source_card",
    "table",
    "zoo_card",
]

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

_SOURCE = """\
---
{licence}library_name: supernetnas
pipeline_tag: image-classification
tags: {tags}
datasets: {datasets}
---

# Supernet {title}

A pretrained supernet for architecture search by transfer, with the signature of the dataset that
it was pretrained on. Written by supernetnas.

{about}

"Licence" is what the place that the images were taken from says about them. "Not stated" grants
nothing. The images themselves are not here. The signature was made with the embedder
{embedder}; it is not anonymous.

## Evaluation

Of the supernet, at the end of its pretraining:

{metrics}

## How to load

```python
from supernetnas import Zoo  # installed with the extra "hub"

zoo = Zoo.open("path/to/a/zoo")  # of the same embedder
zoo.link("{name}", "{where}")
```
"""

_TAGS = ("supernetnas", "supernet", "neural-architecture-search", "image-classification")
_LONGEST = 1000  # characters of one value
_WEIGHTS = ("weights", "weights_licence")
# What begins emphasis, code, links, images, tables, formulas or entities. Within a word, an
# underscore means nothing.
_MARKS = re.compile(r"[\\`*\[\]|$&~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")

_LICENCES = (
    "apache-2.0",
    "bsd-2-clause",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "gpl-3.0",
    "lgpl-3.0",
    "mit",
    "odbl",
    "pddl",
    "unlicense",
)
"""Identifiers of licences that the Hub knows, of those that datasets have."""

_BODY = """\
# Supernet zoo {title}

{count} for architecture search by transfer: a search on new images starts
from the supernet whose data resemble them most, instead of from random weights. Made with
supernetnas, which wrote this card.

## Sources

{sources}

"Licence" is what the place that the images were taken from says about them. "Not stated" grants
nothing. The images themselves are not here. A signature keeps statistics and a sample of
features of a dataset, from which images cannot simply be read back, but which is not anonymous.

## Supernets

{supernets}

{before}Signatures were made with the embedder {embedder}. The classifiers are not included.

## How to load

```python
from supernetnas import SupernetTransferClassifier, Zoo{installed}

clf = SupernetTransferClassifier(strategy="ot", zoo="{where}").fit(X, y)  # chooses a source

zoo = Zoo.open("{where}")
zoo.verify()  # compares every file with the SHA-256 in index.json
{example}```
"""


def zoo_card(index: Index, title: str, address: str | None = None) -> str:
    """Return the card of a zoo.

    Parameters
    ----------
    index : Index
    title : str
    address : str, optional
        Repository on the Hub; by default the zoo is a folder.

    Returns
    -------
    str
        Markdown with a YAML header that ``huggingface_hub.ModelCard`` reads. What sources say
        about themselves is escaped.
    """
    entries = index.sources
    own = sorted({tag for entry in entries.values() for tag in about_supernet(entry)[1]})
    datasets = [
        str(entry.provenance.get("dataset", name))
        for name, entry in entries.items()
        if entry.kind == "single"
    ]
    example = f'zoo["{next(iter(entries))}"].state_dict()  # torch tensors\n' if entries else ""
    count = counted(len(entries), "pretrained supernet")
    return _HEADER.format(
        tags=header_list([*_TAGS, *own]),
        datasets=header_list(datasets),
    ) + _BODY.format(
        title=cell(title),
        count=count,
        sources=_sources_table(entries),
        supernets=_supernets_table(entries),
        before=_warm_starts(entries)
        + "".join(_published_weights(name, entry) for name, entry in entries.items()),
        embedder=code(index.embedder_id),
        where=address or "path/to/this/folder",
        installed="" if address is None else '  # installed with the extra "hub"',
        example=example,
    )


def source_card(name: str, entry: Entry, embedder_id: str, address: str) -> str:
    """Return the card of a source in a repository of its own."""
    provenance, (about, tags) = entry.provenance, about_supernet(entry)
    rows: list[list[Any]] = [
        ["dataset", provenance.get("dataset")],
        [NAMES["upstream"], provenance.get("upstream")],
        [NAMES["source"], provenance.get("source")],
        ["licence", provenance.get("licence") or "not stated"],
        *([NAMES[name], provenance[name]] for name in _WEIGHTS if name in provenance),
        *([[NAMES["warm_start_datasets"], seen]] if (seen := _seen_before(entry)) else []),
        ["images", entry.n_images],
        ["classes", entry.n_classes],
        *([key, value] for key, value in about.items()),
    ]
    metrics = [[name.replace("_", " "), value] for name, value in entry.metrics.items()]
    return _SOURCE.format(
        licence=licence_header(provenance.get("licence")),
        tags=header_list([*_TAGS, *tags]),
        datasets=header_list([str(provenance.get("dataset", name))]),
        title=cell(name),
        about=table(["", ""], rows),
        metrics=table(["metric", "value"], metrics),
        embedder=code(embedder_id),
        name=name,
        where=address,
    )


def _seen_before(entry: Entry) -> str:
    """Names of the datasets that a source's supernet was trained on before its own."""
    seen = entry.provenance.get("warm_start_datasets")
    return ", ".join(map(str, seen)) if isinstance(seen, list) else ""


def _warm_starts(entries: Mapping[str, Entry]) -> str:
    """Say which datasets sources have seen besides their own: a test on them tells nothing."""
    started: dict[str, list[str]] = {}
    for name, entry in entries.items():
        if seen := _seen_before(entry):
            started.setdefault(seen, []).append(name)
    return "".join(
        f"Started from a supernet that had been trained on {cell(seen)}: "
        f"{cell(', '.join(names))}.\n\n"
        for seen, names in started.items()
    )


def _published_weights(name: str, entry: Entry) -> str:
    """Say which published weights a source began with, where it says so itself."""
    if "weights" not in entry.provenance:
        return ""
    said = cell(entry.provenance["weights"])
    licence = cell(entry.provenance.get("weights_licence") or "not stated")
    return f"{cell(name)} began with published weights, {said} (licence: {licence}).\n\n"


def licence_header(licence: Any) -> str:
    """Return what a licence is in the YAML header of a card; empty if none is stated."""
    if not licence:
        return ""
    identifier = "-".join(_printable(str(licence)).lower().split())
    for known in _LICENCES:
        if identifier in (known, known.replace("-1.0", "").replace("-4.0", "")):
            return f"license: {known}\n"
    (name,) = json.loads(header_list([str(licence)]))
    return f"license: other\nlicense_name: {json.dumps(name, ensure_ascii=False)}\n"


def _sources_table(entries: Mapping[str, Entry]) -> str:
    metrics = sorted(
        {key for e in entries.values() for key, value in e.metrics.items() if is_number(value)}
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
    head = ["source", "dataset", NAMES["upstream"], NAMES["source"], "licence"]
    head += ["images", "classes"]
    return table([*head, *(key.replace("_", " ") for key in metrics)], rows)


def _supernets_table(entries: Mapping[str, Entry]) -> str:
    about = {name: about_supernet(entry)[0] for name, entry in entries.items()}
    facts = list(dict.fromkeys(key for said in about.values() for key in said))
    linked = any(entry.origin for entry in entries.values())
    rows = []
    for name, entry in entries.items():
        n_bytes = sum(record.size for record in entry.files.values())
        row = [name, entry.kind, *(about[name].get(fact) for fact in facts)]
        row.append(f"{n_bytes / 2**20:.2f}")
        if linked:
            row.append("" if entry.origin is None else entry.origin.repo_id)
        rows.append(row)
    head = ["source", "kind", *facts, "MiB", *(["repository"] if linked else [])]
    return table(head, rows)


def table(head: list[str], rows: list[list[Any]]) -> str:
    """Write a table; what is in its cells is escaped."""
    if not rows:
        return "None yet."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell(value) for value in line)} |" for line in lines)


def is_number(value: Any) -> bool:
    """Whether a value is a number, which True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _printable(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def cell(value: Any) -> str:
    """Write a value as one line of Markdown that shows it as it is: no link, image or HTML."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = _MARKS.sub(r"\\\g<0>", _printable(str(value))[:_LONGEST])
    return text.replace("<", "&lt;")


def code(value: Any) -> str:
    """Write a value as a span of code, which has no escapes: without backticks."""
    text = _printable(str(value))[:_LONGEST].replace("`", "'").replace("|", "/")
    return f"`{text or ' '}`"


def header_list(values: list[str]) -> str:
    """Write a list of strings; JSON is YAML once nothing in it needs an escape beyond quotes."""
    return json.dumps([_printable(value)[:_LONGEST] for value in values], ensure_ascii=False)
