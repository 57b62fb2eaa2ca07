"""Strategies: from a zoo and a target to the supernets to start from.

"ot" is algorithm 2 of the supernet transfer paper (Singh and Vanschoren), lines 1 to 7: the source
at the smallest dataset distance. "multi" is algorithm 3. "oracle" is the upper bound of the paper's
section 5.1, which tries every source.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ..distance.measures import grouped_by_class, stratified_sample
from ..distance.signature import DatasetSignature

if TYPE_CHECKING:
    import torch

    from ..embedding.embedder import Embedder
    from ..images.reading import ImageSet
    from ..zoo import Source, Zoo

__all__ = [
    "STRATEGIES",
    "Selection",
    "check_strategy",
    "open_zoo",
    "rank_sources",
    "select_sources",
    "sign_target",
]

STRATEGIES = {
    "multi": "start from the supernet that was pretrained on all sources together",
    "ot": "start from the source at the smallest optimal transport dataset distance",
    "oracle": "search from every source and keep the best on validation data",
    "random": "start from a source drawn at random",
    "scratch": "start from random weights",
}

_MAX_EMBEDDED = 2000  # images of a target; more hardly move its distances, and each costs 10 ms
_MAX_KEPT = 1000  # rows of its signature

FEW_SOURCES = 50
"""Up to so many sources, a target's distance to each is measured, in some 0.2 s."""

SHORTLIST = 20
"""Of more sources, those to which it is measured: the nearest by the zoo's vectors."""


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
    strategy: str, zoo: str | os.PathLike | Zoo, embedder: Embedder | None = None
) -> Zoo | None:
    """Open the zoo that a strategy needs, and check that it can serve it.

    Parameters
    ----------
    strategy : str
        A key of `STRATEGIES` or the name of a source.
    zoo : path, "builtin", "org/name" or Zoo
        As `Zoo.open` takes it. Not looked at for "scratch".
    embedder : Embedder, optional
        What the target will be embedded with, if it will.

    Returns
    -------
    Zoo or None
        None for "scratch".

    Raises
    ------
    ValueError
        If there is no such strategy, the zoo lacks what it needs, or the zoo was made with another
        embedder.
    ZooError, HubError
        If the zoo is missing or damaged, or cannot be had from the Hub.
    """
    from ..zoo import Zoo

    if isinstance(strategy, str) and strategy == "scratch":
        return None
    if not isinstance(zoo, Zoo | str | os.PathLike):
        raise TypeError(
            f"zoo must be 'builtin', a folder, 'org/name' on the Hub or a Zoo; got {zoo!r}. "
            "What from_pretrained loads does not know the zoo of its fit: set_params(zoo=...)."
        )
    zoo = zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)
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
    if strategy == "scratch":
        return
    names = [] if zoo is None else zoo.names
    if not isinstance(strategy, str) or strategy not in (*STRATEGIES, *names):
        raise ValueError(
            f"The 'strategy' parameter of SupernetTransferClassifier must be one of "
            f"{tuple(STRATEGIES)} or the name of a source of the zoo ({', '.join(names)}). "
            f"Got {strategy!r} instead."
        )
    if strategy == "multi" and (zoo is None or zoo.multi() is None):
        others = "strategy='scratch'"
        if names:
            others = f"'ot', 'random', 'scratch' or the name of a source: {', '.join(names)}"
        raise ValueError(
            f"strategy='multi' needs a source of kind 'multi'; {zoo!r} has none. Use {others}."
        )
    if strategy in ("ot", "random", "oracle") and (zoo is None or not zoo.singles()):
        raise ValueError(
            f"strategy={strategy!r} needs single sources; {zoo!r} has none. Zoo.add and "
            "'supernetnas zoo pretrain' make some; strategy='scratch' needs none."
        )


def sign_target(
    images: ImageSet,
    labels: np.ndarray,
    classes: np.ndarray,
    embedder: Embedder,
    *,
    device: str | torch.device = "cpu",
    random_state: int = 0,
    verbose: bool = False,
) -> DatasetSignature:
    """Embed a dataset and keep what distances need.

    Parameters
    ----------
    images : ImageSet
        n images. Of many, a stratified sample of 2000 is embedded, or one image per class if there
        are more classes.
    labels : ndarray of shape (n,), int
        Positions in ``classes``; none without images.
    classes : ndarray of shape (n_classes,)
    embedder : Embedder
    device : str or torch.device
    random_state : int
        Seed of the samples.
    verbose : bool
        Whether to show a progress bar.

    Returns
    -------
    DatasetSignature
    """
    counts = np.bincount(labels)
    sample = grouped_by_class(labels, random_state)
    sample = np.sort(sample[stratified_sample(counts, max(_MAX_EMBEDDED, len(counts)))])
    features = embedder.embed(images.take(sample), device=device, verbose=verbose)
    return DatasetSignature.from_features(
        features,
        labels[sample],
        embedder_id=embedder.identity,
        n_samples=max(_MAX_KEPT, len(counts)),
        class_names=[str(c) for c in classes],
        random_state=random_state,
    )


def rank_sources(
    target: DatasetSignature | Callable[[], DatasetSignature],
    sources: Iterable[Source],
    *,
    shortlist: int | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, float]:
    """Measure the distance of a target to sources.

    Parameters
    ----------
    target : DatasetSignature or callable
        A callable returns it; called when the sources' signatures have been read, so that a
        damaged zoo is noticed before the target is embedded.
    sources : iterable of Source
        Of kind "single", all from one zoo.
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
    sources = list(sources)
    if shortlist is not None and len(sources) > shortlist:
        zoo, names = sources[0]._zoo, [source.name for source in sources]
        if names != [source.name for source in zoo.singles()]:
            zoo = zoo.subset(names)
        target = target() if callable(target) else target
        sources = [zoo[name] for name in zoo.nearest(target, shortlist)]
    for zoo in {source._zoo for source in sources}:
        names = [source.name for source in sources if source._zoo == zoo]
        zoo.download(names, weights=False)
    signatures = [source.signature() for source in sources]
    target = target() if callable(target) else target
    results = target.distances(signatures, device=device)
    distances = {s.name: float(r.distance) for s, r in zip(sources, results, strict=True)}
    return dict(sorted(distances.items(), key=lambda item: item[1]))


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
        None for "scratch".
    signature : callable
        Returns the target's signature; called only where distances are needed.
    random_state : numpy.random.RandomState
        Draws the source of "random".
    device : str or torch.device, default="cpu"
        Where distances are computed.

    Returns
    -------
    Selection
    """
    check_strategy(strategy, zoo)
    if strategy == "scratch" or zoo is None:
        return Selection(())
    if strategy == "multi" and (multi := zoo.multi()) is not None:
        return Selection((multi,))
    if strategy == "oracle":
        return Selection(tuple(zoo.singles()))
    if strategy == "random":
        sources = zoo.singles()
        return Selection((sources[random_state.randint(len(sources))],))
    if strategy == "ot":
        target, sources = cache(signature), zoo.singles()
        shortlist = SHORTLIST if len(sources) > FEW_SOURCES else None
        distances = rank_sources(target, sources, shortlist=shortlist, device=device)
        # A copy lacks what the distances were computed of, which is ten times as large.
        return Selection((zoo[next(iter(distances))],), distances, replace(target()))
    return Selection((zoo[strategy],))
