"""Several networks of one fit: what they cost, what they reach, and which to take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..families.base import Family
from ..search.latency import check_unit, measured_seconds
from ..search.limits import Limits
from ..storage.counting import counted
from ..training.batches import LabelledImages

__all__ = ["choose_member", "validate_front"]

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


def choose_member(
    front: Sequence[Mapping[str, Any]],
    limits: Limits,
    build: Callable[[Any], nn.Module],
    shape: tuple[int, ...],
) -> tuple[Mapping[str, Any], nn.Module, str]:
    """Choose the most expensive network of a front within limits.

    Not that of the greatest validation accuracy: on the few images that are held out, chance hides
    what is known of cost and accuracy (`benchmarks/README.md`).

    Parameters
    ----------
    front : sequence of mapping
    limits : Limits
        That on latency is kept by what is measured of the built networks.
    build : callable
        Returns the network of an architecture, on the device of the limits.
    shape : tuple of int (channels, height, width)
        Of what the networks see.

    Returns
    -------
    row : mapping
    network : torch.nn.Module
    outcome : str
        From what it was chosen, and whether a cheaper one was better.

    Raises
    ------
    ValueError
        If none keeps the limits; names what there is. If the limit on latency is in another unit
        than seconds, or its callable fails.
    """
    latency, networks = limits.max_latency, {}
    costs = [
        f"{row['n_macs']:,} multiply-accumulates and {row['n_parameters']:,} parameters"
        for row in front
    ]
    kept = [limits.keep(row["n_macs"], row["n_parameters"]) for row in front]
    if front and latency is not None and latency.seconds is not None:
        networks = {place: build(row["architecture"]) for place, row in enumerate(front)}
        device = torch.device(limits.device)
        seconds = measured_seconds([*networks.values()], shape, latency, device)
        check_unit(latency, max(seconds))
        kept = [k and s <= latency.seconds for k, s in zip(kept, seconds, strict=True)]
        costs = [f"{cost} in {s:.3g} seconds" for cost, s in zip(costs, seconds, strict=True)]
    within = [place for place, keeps in enumerate(kept) if keeps]
    if not within:
        raise ValueError(
            f"The fit has trained no network within {limits}, but of "
            f"{'; '.join(costs) or 'one architecture alone'}. "
            "Fit with these limits, or a front of several networks with family='elastic' and "
            "search='front'."
        )

    best = max(within, key=lambda place: front[place]["n_macs"])
    row = front[best]
    chosen = "only one" if len(within) == 1 else f"most expensive of the {len(within)}"
    outcome = (
        f"in a front of {counted(len(front), 'network')} the {chosen} within the limits, with "
        f"{row['n_macs']:,} multiply-accumulates"
    )
    if "validation_accuracy" in row:
        outcome += f" and a validation accuracy of {row['validation_accuracy']:.3f}"
        other = max((front[p] for p in within), key=lambda other: other["validation_accuracy"])
        if other["validation_accuracy"] > row["validation_accuracy"]:
            outcome += (
                f"; {other['validation_accuracy']:.3f} has one with {other['n_macs']:,}, which "
                "max_macs would give"
            )
    network = networks[best] if best in networks else build(row["architecture"])
    return row, network, outcome
