"""From a user's data and a zoo to what a fit starts from; what cannot be done is refused first."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from ..distance.signature import DatasetSignature
from ..distance.signing import sign
from ..embedding.embedder import Embedder, get_embedder
from ..families.base import Family
from ..selection.select import Selection, open_zoo, select_sources
from ..selection.strategies import find_strategy
from ..training.devices import resolve_device
from ..zoo import Source, Zoo
from .checkpoints import FitCheckpoints
from .racing import raced
from .resolved import execution_of, family_of, limits_of, method_of, only_family_of
from .starts import Start, choose_start, possible_starts
from .validation import TrainingData, check_limited, check_parameters, read_training_data

__all__ = ["checked", "chosen_start", "selected", "warn_of_unused_sizes"]


def checked(clf: Any, X, y) -> tuple[TrainingData, Zoo | None, Embedder | None]:
    """Refuse what a fit cannot do, before any long work; return what it begins with."""
    check_parameters(clf)
    resolve_device(clf.device)
    data = read_training_data(clf, X, y)
    strategy = find_strategy(clf.strategy)
    embedder = get_embedder(clf.embedder) if strategy and strategy.embeds else None
    zoo = open_zoo(clf.strategy, clf.zoo, embedder, only_family_of(clf))
    _check_limits(clf, zoo, data)
    return data, zoo, embedder


def _check_limits(clf: Any, zoo: Zoo | None, data: TrainingData) -> None:
    """Refuse limits that no network keeps, whichever source may be selected."""
    errors, limits = [], limits_of(clf)
    named = zoo is not None and find_strategy(clf.strategy) is None
    sources = [None] if zoo is None else [zoo[clf.strategy]] if named else [*zoo.values()]
    for source in sources if limits else []:
        try:
            possible_starts(
                *([source], partial(_searchable_family, clf), data, clf.image_size, limits),
                loads=False,
            )
            return
        except ValueError as error:
            errors.append(error)
    if errors:
        raise type(errors[0])(" ".join(dict.fromkeys(map(str, errors))))


def selected(
    clf: Any,
    zoo: Zoo | None,
    data: TrainingData,
    embedder: Embedder | None,
    device: torch.device,
    seed: int,
) -> Selection:
    """Choose the sources to start from; embeds the images if the strategy asks for it."""

    def signature() -> DatasetSignature:
        assert embedder is not None  # where a strategy asks for a signature
        return sign(
            *(data.images, data.labels, embedder, [str(label) for label in data.classes]),
            device=device,
            random_state=seed,
        )

    return select_sources(
        clf.strategy,
        zoo,
        signature=signature,
        random_state=np.random.RandomState(seed),
        device=device,
    )


def chosen_start(
    clf: Any,
    sources: Sequence[Source],
    data: TrainingData,
    device: torch.device,
    seed: int,
    kept: FitCheckpoints,
    race: bool = True,
) -> tuple[Start, list, list[Source]]:
    """Choose what to start from, and how large images shall be, where there is a choice.

    What probes do not tell apart is raced if ``race``. Of sources that the search compares, limits
    may ask for images of different sizes: the smallest is for all of them.

    Returns
    -------
    start : Start
    scores : list of dict
        Of the starts that were compared.
    sources : list of Source
        To search from: several if the search compares them; none for random weights. Those that
        limits leave no network of are not among them.
    """
    strategy = find_strategy(clf.strategy)
    among: Sequence[Source | None] = sources
    if strategy is None or not (strategy.probes or strategy.compares):
        among = [next(iter(sources), None)]
    limits, family = limits_of(clf), partial(_searchable_family, clf)
    starts = possible_starts(among, family, data, clf.image_size, limits, execution_of(clf))
    if strategy is not None and strategy.compares:
        searched = [start.source for start in starts if start.source is not None]
        return min(starts, key=lambda start: math.prod(start.seen.size)), [], searched
    checkpoint = kept.stage("start")
    brief = partial(raced, clf, data=data, seed=seed) if race else None
    start, scores = choose_start(starts, data, limits, device, seed, checkpoint, clf.resize, brief)
    return start, scores, [] if start.source is None else [start.source]


def _searchable_family(clf: Any, source: Source | None = None) -> Family:
    """The family of a source; ParameterError if it lacks the search, or that keeps no limits."""
    family = family_of(clf, source)
    check_limited(clf, method_of(clf, family))
    return family


def warn_of_unused_sizes(family: Family, source: Source | None) -> None:
    """Warn of sizes that were chosen and that the source does not have."""
    if source is None:
        return
    for said in family.unused(source.config):
        warnings.warn(
            f"{said} The search starts from the source {source.name!r}, which brings its own "
            "supernet; the sizes of one count with strategy='scratch'.",
            UserWarning,
            stacklevel=4,  # the caller of `fit`
        )
