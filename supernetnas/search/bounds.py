"""The architectures of a space that keep limits: how to draw, change and cross them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Generic, TypeVar

import torch

from .latency import LatencyModel
from .limits import Latency, Limits
from .protocols import Architecture, Evolvable

__all__ = ["Bounds", "one_of"]

A = TypeVar("A", bound=Architecture)

_TRIES = 100  # to draw one that keeps the limits


class Bounds(Generic[A]):
    """What of a supernet may be chosen.

    Parameters
    ----------
    supernet : Evolvable
    limits : Limits
    shape : tuple of int (channels, height, width)
        Of an image.
    timed : bool
        Whether latency is asked for without a limit on it.

    Attributes
    ----------
    latency : LatencyModel or None
        Where there is a limit on latency, or it is asked for.

    Raises
    ------
    ValueError
        If no architecture keeps the limits; names the smallest costs.
    """

    def __init__(
        self,
        supernet: Evolvable[A],
        limits: Limits,
        shape: tuple[int, ...],
        timed: bool = False,
    ) -> None:
        self.space, self.limits = supernet.space_for(shape), limits
        self.costs = lru_cache(maxsize=None)(supernet.costs)
        self.cheapest = supernet.cheapest(limits)
        self.latency: LatencyModel[A] | None = None
        self._most_seconds: float | None = None
        if timed or limits.max_latency is not None:
            asked = limits.max_latency or Latency()
            self.latency = LatencyModel(supernet, shape, asked)
            self._most_seconds = asked.seconds
            self.cheapest = self._fastest(self.latency)

    def keep(self, architecture: A) -> bool:
        """Whether an architecture keeps the limits; latency as it is predicted."""
        if not self.limits.keep(*self.costs(architecture)):
            return False
        most, latency = self._most_seconds, self.latency
        return most is None or latency is None or latency(architecture) <= most

    def confirmed(self, architecture: A) -> bool:
        """Whether the network of an architecture keeps the limit on latency when it is built."""
        if self._most_seconds is None or self.latency is None:
            return True
        return self.latency.measured([architecture])[0] <= self._most_seconds

    def state(self) -> dict[str, Any]:
        """Return what was measured, as plain values."""
        latency = None if self.latency is None else self.latency.state()
        return {"cheapest": list(self.space.encode(self.cheapest)), "latency": latency}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Keep the limits by what `state` returned."""
        self.cheapest = self.space.decode(state["cheapest"])
        if self.latency is not None:
            self.latency.load_state(state["latency"])

    def _fastest(self, latency: LatencyModel[A]) -> A:
        """An architecture within the limits; the fastest if the cheapest is too slow."""
        if self.keep(self.cheapest):
            return self.cheapest
        genes = list(self.space.encode(self.cheapest))
        for place, n in enumerate(self.space.genes):
            options = [[*genes[:place], choice, *genes[place + 1 :]] for choice in range(n)]
            within = [o for o in options if self.limits.keep(*self.costs(self.space.decode(o)))]
            genes = min(within, key=lambda option: latency(self.space.decode(option)))
        fastest = self.space.decode(genes)
        if not self.keep(fastest):
            raise ValueError(
                f"max_latency={self._most_seconds:g} cannot be met: the fastest network takes "
                f"{latency(fastest):.3g} seconds for a batch of {latency.latency.batch_size}. "
                "Raise the limit, or lower the image_size."
            )
        return fastest

    def random(self, generator: torch.Generator) -> A:
        """Draw one uniformly.

        Where a hundred draws find none, genes of the last are made the cheapest's, in random order,
        until it is one.
        """
        for _ in range(_TRIES):
            genes = [_draw(n, generator) for n in self.space.genes]
            if self.keep(architecture := self.space.decode(genes)):
                return architecture
        cheapest = self.space.encode(self.cheapest)
        for place in torch.randperm(len(genes), generator=generator).tolist():
            genes[place] = cheapest[place]
            if self.keep(architecture := self.space.decode(genes)):
                return architecture
        return self.cheapest

    def mutated(self, architecture: A, probability: float, generator: torch.Generator) -> A:
        """Draw each gene anew with a probability; the result may be beyond the limits."""
        genes = list(self.space.encode(architecture))
        changed = torch.rand(len(genes), generator=generator) < probability
        for place in changed.nonzero()[:, 0].tolist():
            genes[place] = _draw(self.space.genes[place], generator)
        return self.space.decode(genes)

    def crossed(self, first: A, second: A, generator: torch.Generator) -> A:
        """Take each gene from one of two; the result may be beyond the limits."""
        pairs = list(zip(self.space.encode(first), self.space.encode(second), strict=True))
        chosen = torch.randint(2, (len(pairs),), generator=generator).tolist()
        return self.space.decode([pair[one] for pair, one in zip(pairs, chosen, strict=True)])


def _draw(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=generator))


def one_of(items: Sequence[A], generator: torch.Generator) -> A:
    """Draw one of some."""
    return items[_draw(len(items), generator)]
