"""What builds a supernet or a discrete network again: their sizes, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

from .genotype import Genotype
from .space import get_space

__all__ = ["MAX_SIZES", "NetworkConfig", "SupernetConfig", "check_sizes"]

MAX_SIZES = {
    "init_channels": 4096,
    "n_cells": 100,
    "image_size": 4096,
    "input_channels": 65_536,
    "n_classes": 100_000,
}
"""Greatest sizes of a network: far above what is of use, and what a stored one may claim."""


def check_sizes(**sizes: int) -> None:
    """Refuse sizes of a network that are no integers from 1 to `MAX_SIZES`, or odd channels.

    Raises
    ------
    ValueError
        Naming the size, what it may be, and what it is.
    """
    for name, value in sizes.items():
        if type(value) is not int or not 1 <= value <= MAX_SIZES[name]:
            raise ValueError(
                f"{name} must be an integer from 1 to {MAX_SIZES[name]}; got {value!r:.80}."
            )
        if name == "init_channels" and value % 2:
            raise ValueError(f"init_channels must be even; got {value}.")


@dataclass(frozen=True)
class SupernetConfig:
    """Everything that is needed to build a supernet's module again.

    Attributes
    ----------
    space : str
        Name of the search space.
    init_channels : int
        Channels of the first cells; each reduction doubles them.
    n_cells : int
        Number of cells, two of which reduce; a single cell reduces, too.
    image_size : tuple of int
        Height and width in pixels that the supernet was or will be trained at. It runs at any
        other size.
    input_channels : int
        Channels of an image.
    n_classes : int
        Outputs of the classifier.
    """

    family: ClassVar[str] = "cells"

    space: str = "s1"
    init_channels: int = 16
    n_cells: int = 5
    image_size: tuple[int, int] = (32, 32)
    input_channels: int = 3
    n_classes: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", tuple(self.image_size))
        get_space(self.space)
        check_sizes(
            init_channels=self.init_channels,
            n_cells=self.n_cells,
            input_channels=self.input_channels,
            n_classes=self.n_classes,
        )
        if len(self.image_size) != 2:
            raise ValueError(f"image_size must be height and width; got {self.image_size!r:.80}.")
        for side in self.image_size:
            check_sizes(image_size=side)

    def to_dict(self) -> dict:
        """Return plain values, for JSON."""
        return {**asdict(self), "image_size": list(self.image_size)}

    @classmethod
    def from_dict(cls, data: dict) -> SupernetConfig:
        """Rebuild what `to_dict` returned."""
        return cls(**{**data, "image_size": tuple(data["image_size"])})


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that is needed to build a discrete network's module again.

    Attributes
    ----------
    genotype : Genotype
    init_channels, n_cells, input_channels, n_classes : int
        As in `SupernetConfig`.
    dropout : float
        Share of the pooled features that are dropped before the classifier in training.
    """

    family: ClassVar[str] = "cells"

    genotype: Genotype
    init_channels: int
    n_cells: int
    input_channels: int
    n_classes: int
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not all(self.genotype.normal + self.genotype.reduce):
            raise ValueError("Every node of a network's genotype needs an edge at least.")
        check_sizes(
            init_channels=self.init_channels,
            n_cells=self.n_cells,
            input_channels=self.input_channels,
            n_classes=self.n_classes,
        )
        if not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be a number in [0, 1); got {self.dropout!r:.80}.")

    def to_dict(self) -> dict:
        """Return plain values, for JSON."""
        return {**asdict(self), "genotype": self.genotype.to_dict()}

    @classmethod
    def from_dict(cls, data: dict) -> NetworkConfig:
        """Rebuild what `to_dict` returned."""
        return cls(**{**data, "genotype": Genotype.from_dict(data["genotype"])})
