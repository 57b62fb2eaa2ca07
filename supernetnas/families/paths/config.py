"""What builds a single-path supernet or a network of it again, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .space import PathArchitecture, PathSpace

__all__ = ["PathConfig", "PathNetworkConfig"]

_MOST = {"image_size": 4096, "input_channels": 65_536, "n_classes": 100_000}
# Far above what is of use, and what a stored one may claim.


@dataclass(frozen=True)
class PathConfig:
    """Everything that is needed to build a supernet again.

    Attributes
    ----------
    space : PathSpace
    image_size : tuple of int
        Height and width in pixels, which the strides follow from.
    input_channels, n_classes : int
    """

    family: ClassVar[str] = "paths"

    space: PathSpace
    image_size: tuple[int, int] = (32, 32)
    input_channels: int = 3
    n_classes: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", _checked_size(self.image_size))
        _check("input_channels", self.input_channels)
        _check("n_classes", self.n_classes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "space": self.space.to_dict(),
            "image_size": list(self.image_size),
            "input_channels": self.input_channels,
            "n_classes": self.n_classes,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PathConfig:
        """Rebuild what `to_dict` returned, or JSON made of it."""
        return cls(**{**data, "space": PathSpace.from_dict(data["space"])})


@dataclass(frozen=True)
class PathNetworkConfig:
    """Everything that is needed to build the network of an architecture again.

    Attributes
    ----------
    space : PathSpace
    architecture : PathArchitecture
    image_size : tuple of int
        Height and width in pixels, which the strides follow from.
    input_channels, n_classes : int
    dropout : float
        Share of the pooled features that are dropped before the classifier in training.
    """

    space: PathSpace
    architecture: PathArchitecture
    image_size: tuple[int, int] = (32, 32)
    input_channels: int = 3
    n_classes: int = 10
    dropout: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", _checked_size(self.image_size))
        _check("input_channels", self.input_channels)
        _check("n_classes", self.n_classes)
        self.space.check(self.architecture)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be from 0 to below 1; got {self.dropout!r:.80}.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            **vars(self),
            "space": self.space.to_dict(),
            "architecture": self.architecture.to_dict(),
            "image_size": list(self.image_size),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PathNetworkConfig:
        """Rebuild what `to_dict` returned, or JSON made of it."""
        return cls(
            **{
                **data,
                "space": PathSpace.from_dict(data["space"]),
                "architecture": PathArchitecture.from_dict(data["architecture"]),
            }
        )


def _checked_size(image_size: Any) -> tuple[int, int]:
    if not isinstance(image_size, list | tuple) or len(image_size) != 2:
        raise ValueError(f"image_size must be height and width; got {image_size!r:.80}.")
    for side in image_size:
        _check("image_size", side)
    return image_size[0], image_size[1]


def _check(name: str, value: Any) -> None:
    if type(value) is not int or not 1 <= value <= _MOST[name]:
        raise ValueError(f"{name} must be an integer from 1 to {_MOST[name]}; got {value!r:.80}.")
