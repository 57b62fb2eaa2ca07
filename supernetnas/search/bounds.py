"""The architectures of a space that keep limits: how to draw, change and cross them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Generic, TypeVar

import torch

from .limits import Limits
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

    Raises
    ------
    ValueError
        If no architecture keeps them; names the smallest costs.
    """

    def __init__(self, supernet: Evolvable[A], limits: Limits) -> None:
        self.space, self.limits = supernet.space, limits
        self.costs = lru_cache(maxsize=None)(supernet.costs)
        self.cheapest = supernet.cheapest(limits)

    def keep(self, architecture: A) -> bool:
        """Whether an architecture keeps the limits."""
        return not self.limits or self.limits.keep(*self.costs(architecture))

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
