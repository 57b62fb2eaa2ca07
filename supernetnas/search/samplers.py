"""Which members of a supernet a step trains.

A sampler is called with the number of the step and returns the architectures of that step. It is a
function of that number and its seed alone, so that several processes draw the same and training
that is interrupted goes on with the same. Samplers that look at the supernet are in
`supernetnas.search.scored_samplers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch

from .bounds import Bounds
from .protocols import Architecture, Space

__all__ = [
    "Bounded",
    "Grouped",
    "InTurn",
    "OneChanged",
    "Sampler",
    "Sandwich",
    "StrictlyFair",
    "Uniform",
    "seeded",
]

A = TypeVar("A", bound=Architecture)
A_co = TypeVar("A_co", bound=Architecture, covariant=True)

_AGAIN = 2**40  # further than any step: where a step is drawn again


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
class Grouped(Generic[A]):
    """As `Uniform`, but that one gene has a choice of a group: each step that of the next group.

    Of a supernet that was split, see `supernetnas.search.splitting`, each step trains one part.

    Attributes
    ----------
    space : Space
    gene : int
    groups : sequence of sequence of int
        Choices of this gene.
    n : int
        How many a step trains.
    seed : int
    """

    space: Space[A]
    gene: int
    groups: Sequence[Sequence[int]]
    n: int = 1
    seed: int = 0

    def __call__(self, step: int) -> tuple[A, ...]:
        """Return the architectures of a step."""
        generator = seeded(self.seed, step)
        group = self.groups[step % len(self.groups)]
        options: list[Sequence[int]] = [range(n) for n in self.space.genes]
        options[self.gene] = group
        return tuple(
            self.space.decode(
                [of[int(torch.randint(len(of), (), generator=generator))] for of in options]
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


@dataclass(frozen=True)
class StrictlyFair(Generic[A]):
    """As many architectures as a layer has choices, that have each choice of each layer once.

    The sampling of Chu et al., "FairNAS: Rethinking Evaluation Fairness of Weight Sharing Neural
    Architecture Search" (ICCV 2021), algorithm 1: a permutation of the choices for each layer.
    Their gradients on one batch make one update. Deviation: `PathTraining` takes their mean, not
    their sum.

    Attributes
    ----------
    space : Space
        Of which every gene has equally many choices.
    seed : int
    """

    space: Space[A]
    seed: int = 0

    def __post_init__(self) -> None:
        if len(set(self.space.genes)) != 1:
            raise ValueError(
                "Every choice can have its turn once only where all layers have equally many; this "
                f"space has {sorted(set(self.space.genes))}. Use Uniform or OneChanged."
            )

    def __call__(self, step: int) -> tuple[A, ...]:
        """Return the architectures of a step."""
        generator = seeded(self.seed, step)
        orders = [torch.randperm(n, generator=generator).tolist() for n in self.space.genes]
        return tuple(self.space.decode(genes) for genes in zip(*orders, strict=True))


@dataclass(frozen=True)
class OneChanged(Generic[A]):
    """A walk: each architecture differs from the one before in a single gene.

    After Xu et al., "Analyzing and Mitigating Interference in Neural Architecture Search" (ICML
    2022): architectures that follow one another disturb each other's weights the less, the more
    alike they are. Here genes change in rounds, each once in a round and in an order drawn anew,
    and a gene goes through all its choices before one of them comes again.

    Attributes
    ----------
    space : Space
    n : int
        How many a step trains; the walk goes on from one to the next.
    seed : int
    """

    space: Space[A]
    n: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if max(self.space.genes, default=0) < 2:
            raise ValueError("A space in which nothing can be chosen has no architecture to walk.")

    def __call__(self, step: int) -> tuple[A, ...]:
        """Return the architectures of a step."""
        return tuple(self._at(step * self.n + place) for place in range(self.n))

    def _at(self, number: int) -> A:
        free = [gene for gene, n in enumerate(self.space.genes) if n > 1]
        turn, changed = divmod(number, len(free))
        order = torch.randperm(len(free), generator=seeded(self.seed, 2 * turn)).tolist()
        genes = [0] * len(self.space.genes)
        for position, place in enumerate(order):
            genes[free[place]] = self._choice(free[place], turn + (position < changed))
        return self.space.decode(genes)

    def _choice(self, gene: int, count: int) -> int:
        """Choice of a gene that has changed so often."""
        n = self.space.genes[gene]
        if n == 2:
            return (self._order(gene, 0)[0] + count) % 2
        cycle, place = divmod(count, n)
        order = self._order(gene, cycle)
        # What ends the cycle before must not begin this one; of three or more, no end moves.
        if cycle and order[0] == self._order(gene, cycle - 1)[-1]:
            order[:2] = order[1::-1]
        return order[place]

    def _order(self, gene: int, cycle: int) -> list[int]:
        number = 2 * (cycle * len(self.space.genes) + gene) + 1
        n = self.space.genes[gene]
        return torch.randperm(n, generator=seeded(self.seed, number)).tolist()


@dataclass(frozen=True)
class Bounded(Generic[A]):
    """What another sampler draws, drawn again until it keeps limits.

    Each place of a step is drawn again by itself, so what ties the architectures of a step, or of
    consecutive steps, together is lost where that happens.

    Attributes
    ----------
    sampler : Sampler
    bounds : Bounds
    first : int
        Place of a step from which on the limits hold: 1 spares the teacher of a `Sandwich`.
    tries : int
        How often; afterwards it is a random architecture within the limits.
    seed : int
        Of those.
    """

    sampler: Sampler[A]
    bounds: Bounds[A]
    first: int = 0
    tries: int = 100
    seed: int = 0

    def __call__(self, step: int) -> tuple[A, ...]:
        """Return the architectures of a step."""
        drawn = self.sampler(step)
        return tuple(
            architecture
            if place < self.first or self.bounds.keep(architecture)
            else self._again(step, place, len(drawn))
            for place, architecture in enumerate(drawn)
        )

    def _again(self, step: int, place: int, n: int) -> A:
        for attempt in range(1, self.tries + 1):
            architecture = self.sampler(step + attempt * _AGAIN)[place]
            if self.bounds.keep(architecture):
                return architecture
        return self.bounds.random(seeded(self.seed, step * n + place))


def seeded(seed: int, number: int) -> torch.Generator:
    """Random numbers of one step, or epoch, of one seed.

    Mixed first: torch's generator on a CPU looks at the last 32 bits of its seed alone.
    """
    (mixed,) = np.random.SeedSequence([seed, number]).generate_state(1)
    return torch.Generator().manual_seed(int(mixed))
