"""What an elastic supernet can shrink to, as data.

Kernels, expansions, the depth of each stage and the input size are free, as in Cai et al., "Once
for All: Train One Network and Specialize it for Efficient Deployment" (ICLR 2020) and Yu et al.,
"BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models" (ECCV 2020). Channels
between blocks stay as they are, which keeps the features of all architectures comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

__all__ = ["MIN_SIDE", "Backbone", "Block", "ElasticArchitecture", "ElasticSpace", "Stage"]

MIN_SIDE = 8
"""Smallest side of images, in pixels."""


class Stage(NamedTuple):
    """Blocks of equal output: ``repeats`` of them, the first with the stride."""

    repeats: int
    channels: int
    kernel: int
    stride: int
    expansion: int


class Block(NamedTuple):
    """An inverted residual: side of its depthwise kernel, and its width by its input's."""

    kernel: int
    expansion: int

    def __str__(self) -> str:
        return f"k{self.kernel}e{self.expansion}"


@dataclass(frozen=True)
class Backbone:
    """The largest network: a stem, stages of inverted residuals, and a last convolution.

    Attributes
    ----------
    stem : int
        Channels of the stem, a 3x3 convolution of stride 2.
    stages : tuple of Stage
    features : int
        Channels of the last 1x1 convolution, and so of the pooled features.
    """

    stem: int
    stages: tuple[Stage, ...]
    features: int

    def __post_init__(self) -> None:
        numbers = (self.stem, self.features, *(value for stage in self.stages for value in stage))
        if not self.stages or any(not isinstance(n, int) or n < 1 for n in numbers):
            raise ValueError(
                f"A backbone has at least one stage, and all its numbers are positive; got {self}."
            )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Backbone:
        """Rebuild from what `dataclasses.asdict` gives, or JSON made of it."""
        return cls(data["stem"], tuple(Stage(*s) for s in data["stages"]), data["features"])


@dataclass(frozen=True)
class ElasticArchitecture:
    """A member of an elastic supernet.

    Attributes
    ----------
    size : int
        Side of the square that images are resized to, in pixels.
    stages : tuple of tuple of Block
        The blocks that each stage has: its first ones, at least one.

    Examples
    --------
    >>> member = ElasticArchitecture(64, ((Block(3, 1),), (Block(5, 4), Block(5, 4))))
    >>> print(member)
    64 px: k3e1 | 2 k5e4
    >>> ElasticArchitecture.from_dict(member.to_dict()) == member
    True
    """

    size: int
    stages: tuple[tuple[Block, ...], ...]

    def __post_init__(self) -> None:
        stages = tuple(tuple(Block(*block) for block in blocks) for blocks in self.stages)
        object.__setattr__(self, "stages", stages)
        if not isinstance(self.size, int) or self.size < MIN_SIDE:
            raise ValueError(
                f"The size of an elastic architecture is a whole number of at least {MIN_SIDE} "
                f"pixels; got {self.size!r}."
            )
        if not self.stages or not all(self.stages):
            raise ValueError("An elastic architecture has at least one block in every stage.")

    def at(self, size: int) -> ElasticArchitecture:
        """Return the same blocks for images of another size."""
        return ElasticArchitecture(size, self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Return lists and numbers only, for JSON."""
        return {"size": self.size, "stages": [[list(b) for b in blocks] for blocks in self.stages]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ElasticArchitecture:
        """Rebuild what `to_dict` returned; ValueError if it is something else."""
        try:
            return cls(
                data["size"],
                tuple(tuple(Block(int(k), int(e)) for k, e in stage) for stage in data["stages"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                "An elastic architecture is stored as {'size': pixels, 'stages': [[[kernel, "
                f"expansion], ...], ...]}}; got {data!r:.200}."
            ) from error

    def __str__(self) -> str:
        stages = []
        for blocks in self.stages:
            runs = [(block, len(list(run))) for block, run in groupby(blocks)]
            stages.append(" ".join(f"{n} {block}" if n > 1 else f"{block}" for block, n in runs))
        return f"{self.size} px: {' | '.join(stages)}"


@dataclass(frozen=True)
class ElasticSpace:
    """All architectures that a backbone can shrink to.

    An architecture is encoded as genes, whole numbers from 0, each the position of a choice in
    ascending order: the size, then for every stage its depth and for each of its blocks kernel
    and expansion. Where there is a single choice there is no gene.

    Attributes
    ----------
    backbone : Backbone
        What the largest member is.
    kernels, expansions : tuple of int
        Ascending. A block may take those up to the backbone's own.
    sizes : tuple of int
        Input sizes to choose from, ascending, in pixels.
    """

    backbone: Backbone
    kernels: tuple[int, ...] = (3, 5)
    expansions: tuple[int, ...] = (2, 3, 4, 6)
    sizes: tuple[int, ...] = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224)

    def __post_init__(self) -> None:
        for name in ("kernels", "expansions", "sizes"):
            values = getattr(self, name)
            if not values or list(values) != sorted(set(values)) or values[0] < 1:
                raise ValueError(f"{name} must be ascending positive numbers; got {values}.")
        for kernel in self.kernels:
            if kernel % 2 == 0:
                raise ValueError(f"kernels must be odd, to have a centre; got {self.kernels}.")
        if self.expansions[0] < 2:
            raise ValueError(
                "expansions must be at least 2: a block of expansion 1 lacks the convolution that "
                f"expands; got {self.expansions}."
            )
        if self.sizes[0] < MIN_SIDE:
            raise ValueError(f"sizes must be at least {MIN_SIDE} pixels; got {self.sizes}.")

    def kernel_choices(self, stage: int) -> tuple[int, ...]:
        """Kernels of the blocks of a stage."""
        return _up_to(self.kernels, self.backbone.stages[stage].kernel)

    def expansion_choices(self, stage: int) -> tuple[int, ...]:
        """Expansions of the blocks of a stage."""
        return _up_to(self.expansions, self.backbone.stages[stage].expansion)

    @cached_property
    def _choices(self) -> tuple[tuple[int, ...], ...]:
        choices = [self.sizes]
        for index, stage in enumerate(self.backbone.stages):
            choices.append(tuple(range(1, stage.repeats + 1)))
            choices += [self.kernel_choices(index), self.expansion_choices(index)] * stage.repeats
        return tuple(choices)

    @cached_property
    def genes(self) -> tuple[int, ...]:
        """How many choices each gene has."""
        return tuple(len(choice) for choice in self._choices if len(choice) > 1)

    def decode(self, genes: Sequence[int]) -> ElasticArchitecture:
        """Return the architecture of genes; what belongs to a block that it lacks is ignored."""
        if len(genes) != len(self.genes) or not all(
            0 <= gene < n for gene, n in zip(genes, self.genes, strict=True)
        ):
            raise ValueError(
                f"Genes of this space are {len(self.genes)} whole numbers from 0, below "
                f"{self.genes}; got {tuple(genes)}."
            )
        given = iter(genes)
        values = iter([c[next(given)] if len(c) > 1 else c[0] for c in self._choices])
        size, stages = next(values), []
        for stage in self.backbone.stages:
            depth = next(values)
            blocks = [Block(next(values), next(values)) for _ in range(stage.repeats)]
            stages.append(tuple(blocks[:depth]))
        return ElasticArchitecture(size, tuple(stages))

    def encode(self, architecture: ElasticArchitecture) -> tuple[int, ...]:
        """Return the genes of an architecture, 0 for what belongs to a block that it lacks.

        Raises
        ------
        ValueError
            If the architecture is not of this space.
        """
        self.check(architecture)
        if architecture.size not in self.sizes:
            raise ValueError(f"{architecture.size} px is none of the space's sizes {self.sizes}.")
        values: list[int | None] = [architecture.size]
        for stage, blocks in zip(self.backbone.stages, architecture.stages, strict=True):
            values.append(len(blocks))
            for block in blocks:
                values += block
            values += [None] * 2 * (stage.repeats - len(blocks))
        return tuple(
            0 if value is None else choice.index(value)
            for value, choice in zip(values, self._choices, strict=True)
            if len(choice) > 1
        )

    def check(self, architecture: ElasticArchitecture) -> None:
        """Refuse blocks that the backbone cannot shrink to, with a ValueError; any size will do."""
        stages = self.backbone.stages
        if not isinstance(architecture, ElasticArchitecture):
            raise TypeError(f"Expected an ElasticArchitecture; got {type(architecture).__name__}.")
        if len(architecture.stages) != len(stages):
            raise ValueError(
                f"The space has {len(stages)} stages; the architecture has "
                f"{len(architecture.stages)}: {architecture}."
            )
        for index, blocks in enumerate(architecture.stages):
            if len(blocks) > stages[index].repeats:
                raise ValueError(
                    f"Stage {index} has {stages[index].repeats} blocks at most; the architecture "
                    f"has {len(blocks)}: {architecture}."
                )
            kernels, expansions = self.kernel_choices(index), self.expansion_choices(index)
            for block in blocks:
                if block.kernel not in kernels or block.expansion not in expansions:
                    raise ValueError(
                        f"Blocks of stage {index} have a kernel of {_or(kernels)} and an "
                        f"expansion of {_or(expansions)}; the architecture has {block}: "
                        f"{architecture}."
                    )

    @cached_property
    def smallest(self) -> ElasticArchitecture:
        """The least of every choice."""
        return self.decode([0] * len(self.genes))

    @cached_property
    def largest(self) -> ElasticArchitecture:
        """The backbone at the largest size."""
        return self.decode([n - 1 for n in self.genes])

    def is_whole(self, architecture: ElasticArchitecture) -> bool:
        """Whether an architecture is the whole backbone, at any size."""
        return architecture.stages == self.largest.stages

    def up_to(self, size: int) -> ElasticSpace:
        """Return the space of the sizes up to one, or of the smallest alone."""
        fitting = tuple(own for own in self.sizes if own <= size)
        return replace(self, sizes=fitting or self.sizes[:1])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ElasticSpace:
        """Rebuild what `to_dict` returned, or JSON made of it."""
        return cls(
            Backbone.from_dict(data["backbone"]),
            **{key: tuple(data[key]) for key in ("kernels", "expansions", "sizes")},
        )


def _up_to(choices: tuple[int, ...], own: int) -> tuple[int, ...]:
    """The choices below the backbone's own value, and that."""
    return (*(choice for choice in choices if choice < own), own)


def _or(values: tuple[int, ...]) -> str:
    return " or ".join(map(str, values))
