"""Which members of a supernet a step trains.

A sampler is called with the number of the step and returns the architectures of that step. It is a
function of that number and its seed alone, so that several processes draw the same and training
that is interrupted goes on with the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch

from .protocols import Architecture, Space

__all__ = ["InTurn", "Sampler", "Sandwich", "Uniform", "seeded"]

A = TypeVar("A", bound=Architecture)
A_co = TypeVar("A_co", bound=Architecture, covariant=True)


class Sampler(Protocol[A_co]):
    """Returns the architectures of a step."""

    def __call__(self, step: int) -> tuple[A_co, ...]:
        """Return the architectures of a step, counted from 0."""


@dataclass(frozen=True)
class Uniform(Generic[A]):
    """Architectures whose genes are drawn uniformly and independently.

    Attributes
    ----------
    space : Space
    n : int
        How many a step trains.
    seed : int
    """

    space: Space[A]
    n: int = 1
    seed: int = 0

    def __call__(self, step: int) -> tuple[A, ...]:
        """Return the architectures of a step."""
        generator = seeded(self.seed, step)
        return tuple(
            self.space.decode(
                [int(torch.randint(n, (), generator=generator)) for n in self.space.genes]
            )
            for _ in range(self.n)
        )


@dataclass(frozen=True)
class Sandwich(Generic[A]):
    """The largest, the smallest, and some in between.

    The rule of Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques"
    (ICCV 2019), section 3.2. The largest comes first, so that it can teach the others.

    Attributes
    ----------
    space : Space
    n : int
        How many random architectures beside the two.
    seed : int
    """

    space: Space[A]
    n: int = 2
    seed: int = 0

    def __call__(self, step: int) -> tuple[A, ...]:
        """Return the architectures of a step."""
        between = Uniform(self.space, self.n, self.seed)(step)
        return (self.space.largest, *between, self.space.smallest)


@dataclass(frozen=True)
class InTurn(Generic[A]):
    """A few fixed members, each as often as any other.

    In a round every member is trained once, in an order that is drawn anew for each round.

    Attributes
    ----------
    members : sequence of Architecture
    n : int
        How many a step trains: at most as many as there are members.
    seed : int
    """

    members: Sequence[A]
    n: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.n <= len(self.members):
            raise ValueError(
                f"n must be from 1 to the number of members, {len(self.members)}; got {self.n}."
            )

    def __call__(self, step: int) -> tuple[A, ...]:
        """Return the architectures of a step."""
        first = step * self.n
        rounds = {place // len(self.members) for place in (first, first + self.n - 1)}
        orders = {r: self._order(r) for r in rounds}
        places = (divmod(first + i, len(self.members)) for i in range(self.n))
        return tuple(self.members[orders[r][place]] for r, place in places)

    def _order(self, number: int) -> list[int]:
        return torch.randperm(len(self.members), generator=seeded(self.seed, number)).tolist()


def seeded(seed: int, number: int) -> torch.Generator:
    """Random numbers of one step, or epoch, of one seed.

    Mixed first: torch's generator on a CPU looks at the last 32 bits of its seed alone.
    """
    (mixed,) = np.random.SeedSequence([seed, number]).generate_state(1)
    return torch.Generator().manual_seed(int(mixed))
