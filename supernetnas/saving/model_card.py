"""The card of a fitted classifier: a README.md for people, with a YAML header for the Hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..evaluation.evaluation import Evaluation
from ..families.base import get_family
from ..images.resizing import ASPECTS
from ..training.history import TRAINING
from ..zoo.cards import cell, code, header_list, is_number, licence_header, table

__all__ = ["model_card"]

_KEYS = ("title", "description", "dataset", "dataset_id", "licence", "metrics")

_CARD = """\
---
{licence}library_name: supernetnas
pipeline_tag: image-classification
tags: {tags}
{results}---

# {title}

{description}A convolutional network that was fitted to its images with supernetnas, starting
from {start}.

{about}

## Evaluation

{evaluation}

## How to load

```python
from supernetnas import SupernetTransferClassifier{installed}

clf = SupernetTransferClassifier.from_pretrained("{where}")
clf.predict(images)
```

## Architecture

```text
{genotype}
```
"""


def model_card(clf: Any, card: Mapping[str, Any], where: str) -> str:
    """Return the card of a fitted classifier.

    Parameters
    ----------
    clf : SupernetTransferClassifier
    card : mapping
        See `SupernetTransferClassifier.save_pretrained`.
    where : str
        What the classifier is loaded from.

    Returns
    -------
    str
        Markdown with a YAML header that ``huggingface_hub.ModelCard`` reads. Metrics that the
        card gives are in the header too, as results of the model, and the accuracy on images that
        the fit has held out; those of the search are of its supernet, and are not.

    Raises
    ------
    ValueError
        If the card has other keys, or metrics that are no numbers.
    """
    if unknown := sorted(set(card) - set(_KEYS)):
        raise ValueError(f"A card has {', '.join(_KEYS)}; got {unknown[0]!r}.")
    given = dict(card.get("metrics") or {})
    if wrong := [name for name, value in given.items() if not is_number(value)]:
        raise ValueError(f"The metric {wrong[0]!r} must be a number; got {given[wrong[0]]!r}.")
    holdout = getattr(clf, "holdout_", None)
    metrics = given if holdout is None else {"accuracy": holdout.accuracy, **given}
    tags = ["supernetnas", "neural-architecture-search", "image-classification"]
    start = "random weights"
    if clf.source_ != "scratch":
        start = f"the pretrained supernet {code(clf.source_)}"
    description = f"{card['description']}\n\n" if card.get("description") else ""
    hub = "/" in where and not where.startswith("path/")
    return _CARD.format(
        licence=licence_header(card.get("licence")),
        tags=header_list([*tags, *get_family(clf.family_).tags(clf.supernet_config_)]),
        results=_results(card, metrics, where),
        title=cell(card.get("title") or "Image classifier found by supernet transfer"),
        description=description,
        start=start,
        about=_about(clf, card),
        evaluation=_evaluation(clf, given, holdout),
        installed='  # installed with the extra "hub"' if hub else "",
        where=where,
        genotype=clf.architecture_,
    )


def _about(clf: Any, card: Mapping[str, Any]) -> str:
    classes = ", ".join(str(label) for label in clf.classes_[:10])
    more = ", ..." if len(clf.classes_) > 10 else ""
    rows = [
        ["classes", f"{len(clf.classes_)}: {classes}{more}"],
        ["input", clf.preprocessing_.input],
        ["search", clf.outcome_ or None],
        ["images of another aspect", ASPECTS[clf.preprocessing_.resize]],
        ["parameters", f"{clf.n_parameters_:,}"],
        ["multiply-accumulates per image", f"{clf.n_macs_:,}"],
        *map(list, _supernet(clf).items()),
        ["strategy", clf.strategy],
    ]
    if card.get("dataset") or card.get("dataset_id"):
        rows.insert(0, ["dataset", card.get("dataset") or card["dataset_id"]])
    rows.append(["licence", card.get("licence") or "not stated"])
    return table(["", ""], rows)


def _supernet(clf: Any) -> dict[str, str]:
    """What the family says of the supernet, but for the input, which is that of the network."""
    described = get_family(clf.family_).describe(clf.supernet_config_)
    return {name: text for name, text in described.items() if name != "input"}


def _evaluation(clf: Any, given: Mapping[str, float], holdout: Evaluation | None) -> str:
    rows = [[name, value, "given by the authors"] for name, value in given.items()]
    if holdout is not None:
        figures = holdout.summary()
        what = f"network, on {figures.pop('images')} images held out"
        low, high = figures.pop("accuracy_low"), figures.pop("accuracy_high")
        within = {"accuracy": f"{what} (95 % interval {low:.3f} to {high:.3f})"}
        rows += [[k.replace("_", " "), v, within.get(k, what)] for k, v in figures.items()]
    for stages, key in ((("search",), "validation_accuracy"), (TRAINING, "train_accuracy")):
        history = [row for row in clf.history_ if row.get("stage") in stages]
        if history and history[-1].get(key) is not None:
            rows.append([key.replace("_", " "), history[-1][key], _measured_on(history[-1])])
    return table(["metric", "value", "of what"], rows)


def _measured_on(row: Mapping[str, Any]) -> str:
    """Say of what and on which images an accuracy of the history is."""
    if row["stage"] in TRAINING:
        return "network, on augmented training images"
    if row.get("alpha_entropy") is not None:
        return "supernet, on the images that train its alphas"
    return "supernet, on the images that architectures were compared on"


def _results(card: Mapping[str, Any], metrics: Mapping[str, float], where: str) -> str:
    """Datasets, metrics and results in the YAML header; JSON is YAML."""
    lines = []
    name = card.get("dataset_id") or card.get("dataset")
    if name:
        lines.append(f"datasets: {header_list([str(name)])}")
    if metrics:
        lines.append(f"metrics: {header_list(list(metrics))}")
        result = {
            "task": {"type": "image-classification", "name": "Image classification"},
            "dataset": {
                "type": str(card.get("dataset_id") or "custom"),
                "name": str(card.get("dataset") or name or "images held out by the authors"),
            },
            "metrics": [
                {"type": key, "name": key, "value": float(value)} for key, value in metrics.items()
            ],
        }
        model = {"name": where.rpartition("/")[2], "results": [result]}
        lines.append(f"model-index: {json.dumps([model])}")
    return "".join(f"{line}\n" for line in lines)
