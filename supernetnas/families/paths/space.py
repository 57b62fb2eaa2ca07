"""Spaces of single paths, as data: layers in a row, of each of which one of a few blocks is chosen.

"shufflenetv2" is the space of Guo et al., "Single Path One-Shot Neural Architecture Search with
Uniform Sampling" (ECCV 2020), which Zhang et al., "Boosting Order-Preserving and Transferability
for Neural Architecture Search" (CVPR 2024) share: 20 layers of ShuffleNetV2 blocks with kernels of
3, 5 or 7, or shaped like Xception's. "mobilenetv2" stands for the supplementary space of the latter
paper, which says no more than its name; here it has the layers of Cai et al., "ProxylessNAS" (ICLR
2019), each an inverted residual of kernel 3, 5 or 7 and expansion 3 or 6, and none that is left
out.

Deviations. Both papers see squares of 224 pixels and halve them five times. Here images may have
any sides: they are halved as long as four pixels are left of the shorter one, and the first
convolutions of a network lose their strides where that is fewer than five times. A width multiplies
all channels, which are rounded to multiples of four; the papers have none, but depths of half to
four times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

__all__ = ["SPACES", "Blocks", "Layer", "PathArchitecture", "PathSpace"]

_LEFT = 4  # pixels of the shorter side, after all strides
_MOST_DEPTH = 64  # layers of a stage: the paper's have at most four times eight


class Layer(NamedTuple):
    """Where a block stands.

    Attributes
    ----------
    inputs, outputs : int
        Channels.
    stride : int
    first : bool
        Whether it is the first of its stage.
    """

    inputs: int
    outputs: int
    stride: int
    first: bool


@dataclass(frozen=True)
class Blocks:
    """What is fixed of a space.

    Attributes
    ----------
    choices : tuple of str
        The blocks that each layer is chosen from; the first has the fewest parameters.
    largest : str
        The block of the most layers, or of the greatest kernel and expansion.
    stem, features : int
        Channels of the first and of the last convolution.
    lead : int or None
        Channels of a separable convolution after the stem, if there is one.
    channels, strides, depths : tuple of int
        Of each stage: its channels, the stride of its first block, and its blocks by default.
    """

    choices: tuple[str, ...]
    largest: str
    stem: int
    features: int
    lead: int | None
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    depths: tuple[int, ...]


SPACES = {
    "shufflenetv2": Blocks(
        choices=("k3", "k5", "k7", "xception"),
        largest="xception",
        stem=16,
        features=1024,
        lead=None,
        channels=(64, 160, 320, 640),
        strides=(2, 2, 2, 2),
        depths=(4, 4, 8, 4),
    ),
    "mobilenetv2": Blocks(
        choices=("k3e3", "k5e3", "k7e3", "k3e6", "k5e6", "k7e6"),
        largest="k7e6",
        stem=32,
        features=1280,
        lead=16,
        channels=(32, 40, 80, 96, 192, 320),
        strides=(2, 2, 2, 1, 2, 1),
        depths=(4, 4, 4, 4, 4, 1),
    ),
}
"""What is fixed of each space, by name."""


@dataclass(frozen=True)
class PathArchitecture:
    """One block for each layer of a space.

    Attributes
    ----------
    stages : tuple of tuple of str
        Names of the blocks of each stage.

    Examples
    --------
    >>> path = PathArchitecture((("k3", "k7"), ("xception", "k5", "k5")))
    >>> print(path)
    k3 k7 | xception 2 k5
    >>> PathArchitecture.from_dict(path.to_dict()) == path
    True
    """

    stages: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(tuple(stage) for stage in self.stages))

    def to_dict(self) -> dict[str, Any]:
        """Return lists and names only, for JSON."""
        return {"stages": [list(stage) for stage in self.stages]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PathArchitecture:
        """Rebuild what `to_dict` returned; ValueError if it is something else."""
        stages = data.get("stages") if isinstance(data, dict) else None
        if not isinstance(stages, list) or not all(
            isinstance(stage, list) and all(isinstance(name, str) for name in stage)
            for stage in stages
        ):
            raise ValueError(
                "An architecture of paths is stored as {'stages': [[name of a block, ...], ...]}; "
                f"got {data!r:.200}."
            )
        return cls(tuple(tuple(stage) for stage in stages))

    def __str__(self) -> str:
        stages = []
        for blocks in self.stages:
            runs = [(block, len(list(run))) for block, run in groupby(blocks)]
            stages.append(" ".join(f"{n} {block}" if n > 1 else block for block, n in runs))
        return " | ".join(stages)


@dataclass(frozen=True)
class PathSpace:
    """All paths through a number of layers.

    An architecture is encoded as genes: for each layer, the position of its block in ``choices``.

    Attributes
    ----------
    name : str
        One of `SPACES`.
    width : float
        By which the channels of the paper are multiplied, from 0.125 to 8.
    depths : tuple of int
        Layers of each stage; by default those of the paper.

    Examples
    --------
    >>> space = PathSpace("shufflenetv2", depths=(1, 1, 2, 1))
    >>> print(space.decode([0, 3, 2, 2, 1]))
    k3 | xception | 2 k7 | k5
    """

    name: str = "shufflenetv2"
    width: float = 1.0
    depths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in SPACES:
            raise ValueError(
                f"A space of paths is one of {', '.join(map(repr, SPACES))}; got {self.name!r:.80}."
            )
        if isinstance(self.width, bool) or not isinstance(self.width, int | float):
            raise ValueError(f"width must be a number; got {self.width!r:.80}.")
        if not 0.125 <= self.width <= 8:
            raise ValueError(f"width must be from 0.125 to 8; got {self.width}.")
        object.__setattr__(self, "width", float(self.width))
        object.__setattr__(self, "depths", tuple(self.depths) or self.blocks.depths)
        stages = len(self.blocks.channels)
        fine = all(type(n) is int and 1 <= n <= _MOST_DEPTH for n in self.depths)
        if len(self.depths) != stages or not fine:
            raise ValueError(
                f"depths of the space {self.name!r} are {stages} whole numbers from 1 to "
                f"{_MOST_DEPTH}, one for each stage; got {self.depths!r:.80}."
            )

    @property
    def blocks(self) -> Blocks:
        """What is fixed of the space."""
        return SPACES[self.name]

    @property
    def choices(self) -> tuple[str, ...]:
        """Names of the blocks that each layer is chosen from."""
        return self.blocks.choices

    @cached_property
    def genes(self) -> tuple[int, ...]:
        """How many choices each gene has."""
        return (len(self.choices),) * sum(self.depths)

    @property
    def stem(self) -> int:
        """Channels of the first convolution."""
        return self._scaled(self.blocks.stem)

    @property
    def lead(self) -> int | None:
        """Channels of the separable convolution after the stem, if there is one."""
        return None if self.blocks.lead is None else self._scaled(self.blocks.lead)

    @property
    def features(self) -> int:
        """Channels of the last convolution, and so of the pooled features."""
        return self._scaled(self.blocks.features)

    def strides(self, image_size: Sequence[int]) -> tuple[int, ...]:
        """Strides of the stem and of the first block of each stage, for images of a size."""
        strides, halved = (2, *self.blocks.strides), 0
        while halved < strides.count(2) and min(image_size) >= _LEFT * 2 ** (halved + 1):
            halved += 1
        dropped, kept = strides.count(2) - halved, []
        for stride in strides:
            dropped -= stride == 2
            kept.append(1 if stride == 2 and dropped >= 0 else stride)
        return tuple(kept)

    def layers(self, image_size: Sequence[int]) -> Iterator[Layer]:
        """Walk over the layers of a network for images of a size (height, width)."""
        inputs = self.lead or self.stem
        _, *strides = self.strides(image_size)
        for channels, stride, depth in zip(self.blocks.channels, strides, self.depths, strict=True):
            outputs = self._scaled(channels)
            for place in range(depth):
                yield Layer(inputs, outputs, stride if place == 0 else 1, place == 0)
                inputs = outputs

    def encode(self, architecture: PathArchitecture) -> tuple[int, ...]:
        """Return the genes of an architecture; ValueError if it is not of this space."""
        self.check(architecture)
        return tuple(self.choices.index(name) for stage in architecture.stages for name in stage)

    def decode(self, genes: Sequence[int]) -> PathArchitecture:
        """Return the architecture of genes; ValueError if they are none of this space."""
        n_choices = len(self.choices)
        if len(genes) != len(self.genes) or not all(0 <= gene < n_choices for gene in genes):
            raise ValueError(
                f"Genes of this space are {len(self.genes)} whole numbers from 0, below "
                f"{n_choices}; got {tuple(genes)}."
            )
        names = iter([self.choices[int(gene)] for gene in genes])
        return PathArchitecture(
            tuple(tuple(next(names) for _ in range(depth)) for depth in self.depths)
        )

    def check(self, architecture: PathArchitecture) -> None:
        """Refuse an architecture of another space, with a ValueError."""
        if not isinstance(architecture, PathArchitecture):
            raise TypeError(f"Expected a PathArchitecture; got {type(architecture).__name__}.")
        depths = tuple(len(stage) for stage in architecture.stages)
        if depths != self.depths:
            raise ValueError(
                f"The stages of the space have {self.depths} layers; those of the architecture "
                f"{depths}: {architecture}."
            )
        unknown = {name for stage in architecture.stages for name in stage} - {*self.choices}
        if unknown:
            raise ValueError(
                f"Blocks of the space {self.name!r} are {', '.join(self.choices)}; the "
                f"architecture has {min(unknown)!r:.80}."
            )

    @cached_property
    def smallest(self) -> PathArchitecture:
        """The architecture of the fewest parameters: the first choice everywhere.

        Where a stage halves the image, others may have fewer multiply-accumulates.
        """
        return self.decode([0] * len(self.genes))

    @cached_property
    def largest(self) -> PathArchitecture:
        """The architecture with the largest block everywhere."""
        return self.decode([self.choices.index(self.blocks.largest)] * len(self.genes))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {**asdict(self), "depths": list(self.depths)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PathSpace:
        """Rebuild what `to_dict` returned, or JSON made of it."""
        return cls(data["name"], data["width"], tuple(data["depths"]))

    def _scaled(self, channels: int) -> int:
        return max(4, 4 * round(channels * self.width / 4))
