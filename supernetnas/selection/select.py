"""From a strategy, a zoo and a target to the supernets to start from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from ..distance.signature import DatasetSignature
from ..zoo.source import Source
from ..zoo.zoo import Zoo
from .ranking import FEW_SOURCES, SHORTLIST, rank_sources
from .strategies import STRATEGIES, find_strategy

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ..embedding.embedder import Embedder

__all__ = ["Selection", "check_strategy", "open_zoo", "select_sources"]


@dataclass(frozen=True)
class Selection:
    """What a strategy proposes.

    Attributes
    ----------
    candidates : tuple of Source
        Supernets to search from, of which the best is kept; empty for a search from scratch.
    distances : dict of str to float, or None
        Distance of the target to the single sources, nearest first, where it was measured: to each,
        or to the 20 most likely of more than 50.
    signature : DatasetSignature or None
        The target's, where it was made.
    """

    candidates: tuple[Source, ...]
    distances: dict[str, float] | None = None
    signature: DatasetSignature | None = None


def open_zoo(
    strategy: str,
    zoo: str | os.PathLike | Zoo,
    embedder: Embedder | None = None,
    family: str | None = None,
) -> Zoo | None:
    """Open the zoo that a strategy needs, and check that it can serve it.

    Parameters
    ----------
    strategy : str
        A key of `STRATEGIES` or the name of a source.
    zoo : path, "builtin", "org/name" or Zoo
        As `Zoo.open` takes it. Not looked at by a strategy that needs no zoo.
    embedder : Embedder, optional
        What the target will be embedded with, if it will.
    family : str, optional
        Name of the only family of supernets to choose among; by default all.

    Returns
    -------
    Zoo or None
        None for a strategy that needs no zoo.

    Raises
    ------
    ValueError
        If there is no such strategy, the zoo lacks what it needs, or the zoo was made with another
        embedder.
    ZooError, HubError
        If the zoo is missing or damaged, or cannot be had from the Hub.
    """
    known = find_strategy(strategy)
    if known is not None and known.needs is None:
        return None
    if not isinstance(zoo, Zoo | str | os.PathLike):
        raise TypeError(
            f"zoo must be 'builtin', a folder, 'org/name' on the Hub or a Zoo; got {zoo!r}. "
            "What from_pretrained loads does not know the zoo of its fit: set_params(zoo=...)."
        )
    zoo = zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)
    if family is not None and any(source.family != family for source in zoo.values()):
        zoo = zoo.subset([source.name for source in zoo.values() if source.family == family])
    check_strategy(strategy, zoo)
    if embedder is not None and embedder.identity != zoo.embedder_id:
        raise ValueError(
            f"The zoo was embedded with {zoo.embedder_id!r}, but the given embedder is "
            f"{embedder.identity!r}; distances between features of different embedders mean "
            "nothing. Pass the zoo's embedder, or use strategy 'multi'."
        )
    return zoo


def check_strategy(strategy: str, zoo: Zoo | None) -> None:
    """Refuse a strategy that the zoo cannot serve.

    Raises
    ------
    ValueError
        Naming the strategies and sources that there are.
    """
    known, names = find_strategy(strategy), [] if zoo is None else zoo.names
    if known is None and (not isinstance(strategy, str) or strategy not in names):
        raise ValueError(
            f"The 'strategy' parameter of SupernetTransferClassifier must be one of "
            f"{tuple(STRATEGIES)} or the name of a source of the zoo ({', '.join(names)}). "
            f"Got {strategy!r} instead."
        )
    if known is None or known.needs is None:
        return
    if known.needs == "multi" and (zoo is None or zoo.multi() is None):
        others = "strategy='scratch'"
        if names:
            others = f"'ot', 'random', 'scratch' or the name of a source: {', '.join(names)}"
        raise ValueError(
            f"strategy={strategy!r} needs a source of kind 'multi'; {zoo!r} has none. Use {others}."
        )
    if known.needs == "single" and (zoo is None or not zoo.singles()):
        raise ValueError(
            f"strategy={strategy!r} needs single sources; {zoo!r} has none. Zoo.add and "
            "'supernetnas zoo pretrain' make some; strategy='scratch' needs none."
        )


def select_sources(
    strategy: str,
    zoo: Zoo | None,
    *,
    signature: Callable[[], DatasetSignature],
    random_state: np.random.RandomState,
    device: str | torch.device = "cpu",
) -> Selection:
    """Choose what to start from.

    Parameters
    ----------
    strategy : str
        A key of `STRATEGIES` or the name of a source.
    zoo : Zoo or None
        None for a strategy that needs no zoo.
    signature : callable
        Returns the target's signature; called only where distances are needed.
    random_state : numpy.random.RandomState
        For what is drawn.
    device : str or torch.device, default="cpu"
        Where distances are computed.

    Returns
    -------
    Selection
    """
    check_strategy(strategy, zoo)
    if zoo is None:
        return Selection(())
    if (known := find_strategy(strategy)) is None:
        return Selection((zoo[strategy],))
    target = cache(signature)

    @cache
    def distances() -> dict[str, float]:
        shortlist = SHORTLIST if len(zoo.singles()) > FEW_SOURCES else None
        return rank_sources(target, zoo, shortlist=shortlist, device=device)

    candidates = tuple(zoo[name] for name in known.choose(zoo, random_state, distances))
    if not known.embeds:
        return Selection(candidates)
    # A copy lacks what the distances were computed of, which is ten times as large.
    return Selection(candidates, distances(), replace(target()))
