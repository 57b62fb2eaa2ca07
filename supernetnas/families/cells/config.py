"""What builds a supernet or a discrete network again: their sizes, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from .genotype import Genotype
from .space import get_space

__all__ = ["NetworkConfig", "SupernetConfig"]


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

    space: str = "s1"
    init_channels: int = 16
    n_cells: int = 5
    image_size: tuple[int, int] = (32, 32)
    input_channels: int = 3
    n_classes: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", tuple(self.image_size))
        get_space(self.space)
        numbers = (
            self.init_channels,
            self.n_cells,
            *self.image_size,
            self.input_channels,
            self.n_classes,
        )
        if any(not isinstance(n, int) or n < 1 for n in numbers) or len(self.image_size) != 2:
            raise ValueError(f"Sizes of a supernet must be positive integers; got {self}.")
        if self.init_channels % 2:
            raise ValueError(f"init_channels must be even; got {self.init_channels}.")

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

    genotype: Genotype
    init_channels: int
    n_cells: int
    input_channels: int
    n_classes: int
    dropout: float = 0.0

    def to_dict(self) -> dict:
        """Return plain values, for JSON."""
        return {**asdict(self), "genotype": self.genotype.to_dict()}

    @classmethod
    def from_dict(cls, data: dict) -> NetworkConfig:
        """Rebuild what `to_dict` returned."""
        return cls(**{**data, "genotype": Genotype.from_dict(data["genotype"])})
