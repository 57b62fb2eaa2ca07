"""Strategies: which supernets of a zoo a search starts from.

"ot" is algorithm 2 of the supernet transfer paper (Singh and Vanschoren), lines 1 to 7: the source
at the smallest dataset distance. "multi" is algorithm 3. "oracle" is the upper bound of the paper's
section 5.1, which tries every source.

A strategy is added here alone: selection, the classifier's checks, the command line and the names
that a zoo refuses for its sources read it from `STRATEGIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

__all__ = ["STRATEGIES", "Strategy", "find_strategy", "reserved_names"]


class _Source(Protocol):
    @property
    def name(self) -> str: ...


class _Sources(Protocol):
    """What strategies see of a zoo."""

    def singles(self) -> Sequence[_Source]: ...

    def multi(self) -> _Source | None: ...

    def multis(self) -> Sequence[_Source]: ...


@dataclass(frozen=True)
class Strategy:
    """A way of choosing what a search starts from.

    Attributes
    ----------
    name : str
    meaning : str
        For people.
    needs : {"single", "multi"} or None
        Kind of source that the zoo must have; None needs no zoo.
    choose : callable
        Takes a zoo that has them, a `numpy.random.RandomState`, and a function that returns the
        target's distance to sources by name, nearest first. Returns the names of the sources to
        search from, of which the best is kept.
    embeds : bool
        Whether it asks for distances, for which the target is embedded.
    compares : bool
        Whether it proposes several sources, which their searches compare.
    probes : bool
        Whether it proposes several sources, of any family, which linear probes compare.
    """

    name: str
    meaning: str
    needs: Literal["single", "multi"] | None
    choose: Callable[
        [_Sources, np.random.RandomState, Callable[[], Mapping[str, float]]], Sequence[str]
    ]
    embeds: bool = False
    compares: bool = False
    probes: bool = False


def _multi(zoo: _Sources, *_: object) -> list[str]:
    source = zoo.multi()
    return [] if source is None else [source.name]


def _every_multi(zoo: _Sources, *_: object) -> list[str]:
    return [source.name for source in zoo.multis()]


def _nearest(
    zoo: _Sources, random_state: object, distances: Callable[[], Mapping[str, float]]
) -> list[str]:
    return [next(iter(distances()))]


def _all(zoo: _Sources, *_: object) -> list[str]:
    return [source.name for source in zoo.singles()]


def _any(zoo: _Sources, random_state: np.random.RandomState, *_: object) -> list[str]:
    sources = zoo.singles()
    return [sources[random_state.randint(len(sources))].name]


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy(
            "auto",
            "start from the supernet, of all families, whose features suit the images best",
            "multi",
            _every_multi,
            probes=True,
        ),
        Strategy(
            "multi",
            "start from the supernet that was pretrained on many datasets together",
            "multi",
            _multi,
        ),
        Strategy(
            "ot",
            "start from the source at the smallest optimal transport distance",
            "single",
            _nearest,
            embeds=True,
        ),
        Strategy(
            "oracle",
            "search from every source and keep the best on validation data",
            "single",
            _all,
            compares=True,
        ),
        Strategy("random", "start from a source drawn at random", "single", _any),
        Strategy("scratch", "start from random weights", None, lambda *_: []),
    )
}
"""Strategies by name."""


def find_strategy(name: object) -> Strategy | None:
    """Return the strategy of a name; None if it is none, but perhaps a source."""
    return STRATEGIES.get(name) if isinstance(name, str) else None


def reserved_names() -> set[str]:
    """Names that no source can have.

    Those of the strategies, but for the one that takes the source of kind "multi", which may have
    the strategy's name.
    """
    return {s.name for s in STRATEGIES.values() if s.needs != "multi" or s.probes}
