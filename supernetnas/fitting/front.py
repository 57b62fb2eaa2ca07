"""Several networks of one fit: what they cost, what they reach, and which to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..families.base import Family
from ..search.limits import Limits
from ..training.batches import LabelledImages

__all__ = ["member_within", "validate_front"]

_BATCH = 128


@torch.no_grad()
def validate_front(
    front: Sequence[dict[str, Any]], family: Family, supernet: Any, validation: LabelledImages
) -> None:
    """Add to every row the accuracy of its network on images that it has not seen."""
    for row in front:
        network = family.member(supernet.config, supernet.state_dict(), row["architecture"])
        network.to(validation.labels.device)
        hits = 0
        for index in torch.arange(len(validation)).split(_BATCH):
            scores = network(validation.images.clean(index))
            hits += int((scores.argmax(1) == validation.labels_at(index)).sum())
        row["validation_accuracy"] = hits / len(validation)


def member_within(front: Sequence[Mapping[str, Any]], limits: Limits) -> Mapping[str, Any]:
    """Choose the row of a front that is best within limits.

    That of the greatest validation accuracy, or where none was measured the most expensive.

    Raises
    ------
    ValueError
        If none keeps the limits; names what there is.
    """
    within = [row for row in front if limits.keep(row["n_macs"], row["n_parameters"])]
    if not within:
        there = "; ".join(
            f"{row['n_macs']:,} multiply-accumulates and {row['n_parameters']:,} parameters"
            for row in front
        )
        raise ValueError(
            f"The fit has trained no network within max_macs={limits.max_macs} and "
            f"max_parameters={limits.max_parameters}, but of {there or 'one architecture alone'}. "
            "Fit with these limits, or a front of several networks with family='elastic' and "
            "search='front'."
        )
    return max(within, key=lambda row: (row.get("validation_accuracy") or 0.0, row["n_macs"]))
