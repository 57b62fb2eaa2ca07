"""Strategies: from a zoo and a target to the supernets to start from.

"ot" is algorithm 2 of the supernet transfer paper (Singh and Vanschoren), lines 1 to 7: the source
at the smallest dataset distance. "multi" is algorithm 3. "oracle" is the upper bound of the paper's
section 5.1, which tries every source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .signature import DatasetSignature
    from .zoo import Source, Zoo

__all__ = ["STRATEGIES", "Selection", "check_strategy", "rank_sources", "select_sources"]

STRATEGIES = {
    "multi": "start from the supernet that was pretrained on all sources together",
    "ot": "start from the source at the smallest optimal transport dataset distance",
    "oracle": "search from every source and keep the best on validation data",
    "random": "start from a source drawn at random",
    "scratch": "start from random weights",
}


@dataclass(frozen=True)
class Selection:
    """What a strategy proposes.

    Attributes
    ----------
    candidates : tuple of Source
        Supernets to search from, of which the best is kept; empty for a search from scratch.
    distances : dict of str to float, or None
        Distance of the target to each single source, nearest first, where it was measured.
    """

    candidates: tuple[Source, ...]
    distances: dict[str, float] | None = None


def rank_sources(target: DatasetSignature, sources: Iterable[Source]) -> dict[str, float]:
    """Measure the distance of a target to sources.

    Parameters
    ----------
    target : DatasetSignature
    sources : iterable of Source
        Of kind "single".

    Returns
    -------
    dict of str to float
        OTDD by name of the source, nearest first; see `supernetnas.otdd`.
    """
    distances = {s.name: target.distance(s.signature()).distance for s in sources}
    return dict(sorted(distances.items(), key=lambda item: item[1]))


def check_strategy(strategy: str, zoo: Zoo | None) -> None:
    """Refuse a strategy that the zoo cannot serve.

    Raises
    ------
    ValueError
        Naming the strategies and sources that there are.
    """
    names = [] if zoo is None else zoo.names
    if strategy not in STRATEGIES and strategy not in names:
        raise ValueError(
            f"The 'strategy' parameter of SupernetTransferClassifier must be one of "
            f"{tuple(STRATEGIES)} or the name of a source of the zoo ({', '.join(names)}). "
            f"Got {strategy!r} instead."
        )
    if strategy == "multi" and zoo.multi() is None:
        raise ValueError(f"strategy='multi' needs a source of kind 'multi'; {zoo!r} has none.")
    if strategy in ("ot", "random", "oracle") and not zoo.singles():
        raise ValueError(f"strategy={strategy!r} needs single sources; {zoo!r} has none.")


def select_sources(
    strategy: str,
    zoo: Zoo | None,
    *,
    signature: Callable[[], DatasetSignature],
    random_state: np.random.RandomState,
) -> Selection:
    """Choose what to start from.

    Parameters
    ----------
    strategy : str
        A key of `STRATEGIES` or the name of a source.
    zoo : Zoo or None
        None for "scratch".
    signature : callable
        Returns the target's signature; called only where distances are needed.
    random_state : numpy.random.RandomState
        Draws the source of "random".

    Returns
    -------
    Selection
    """
    check_strategy(strategy, zoo)
    if strategy == "scratch":
        return Selection(())
    if strategy == "multi":
        return Selection((zoo.multi(),))
    if strategy == "oracle":
        return Selection(tuple(zoo.singles()))
    if strategy == "random":
        sources = zoo.singles()
        return Selection((sources[random_state.randint(len(sources))],))
    if strategy == "ot":
        distances = rank_sources(signature(), zoo.singles())
        return Selection((zoo[next(iter(distances))],), distances)
    return Selection((zoo[strategy],))
