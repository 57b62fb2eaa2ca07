"""Distances of a target to the sources of a zoo."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..distance.signature import DatasetSignature
from ..zoo.zoo import Zoo

if TYPE_CHECKING:
    import torch

__all__ = ["FEW_SOURCES", "SHORTLIST", "rank_sources"]

FEW_SOURCES = 50
"""Up to so many sources, a target's distance to each is measured, in some 0.2 s."""

SHORTLIST = 20
"""Of more sources, those to which it is measured: the nearest by the zoo's vectors."""


def rank_sources(
    target: DatasetSignature | Callable[[], DatasetSignature],
    zoo: Zoo,
    *,
    shortlist: int | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, float]:
    """Measure the distance of a target to the single sources of a zoo.

    Parameters
    ----------
    target : DatasetSignature or callable
        A callable returns it; called when the sources' signatures have been read, so that a
        damaged zoo is noticed before the target is embedded.
    zoo : Zoo
        `Zoo.subset` makes one of some sources.
    shortlist : int, optional
        Of more sources than that, measure only so many: those that the zoo's vectors propose; see
        `Zoo.nearest`.
    device : str or torch.device, default="cpu"
        Where distances between classes are computed.

    Returns
    -------
    dict of str to float
        OTDD by name of the source, nearest first; see `supernetnas.distance.otdd`.
    """
    names = [source.name for source in zoo.singles()]
    if shortlist is not None and len(names) > shortlist:
        target = target() if callable(target) else target
        names = list(zoo.nearest(target, shortlist))
    zoo.download(names, weights=False)
    signatures = [zoo[name].signature() for name in names]
    target = target() if callable(target) else target
    results = target.distances(signatures, device=device)
    distances = {name: float(r.distance) for name, r in zip(names, results, strict=True)}
    return dict(sorted(distances.items(), key=lambda item: item[1]))
