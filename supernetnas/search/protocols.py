"""What searching and path training need to know of a family of supernets."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

__all__ = ["Architecture", "PathSupernet", "Space"]


class Architecture(Hashable, Protocol):
    """A member of a supernet: frozen, printable."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""


A = TypeVar("A", bound=Architecture)
A_contra = TypeVar("A_contra", bound=Architecture, contravariant=True)


class Space(Protocol[A]):
    """All architectures of a supernet.

    Attributes
    ----------
    genes : tuple of int
        How many choices each gene has.
    smallest, largest : Architecture
    """

    genes: tuple[int, ...]
    smallest: A
    largest: A

    def encode(self, architecture: A) -> tuple[int, ...]:
        """Return the genes of an architecture, each a number from 0."""

    def decode(self, genes: Sequence[int]) -> A:
        """Return the architecture of genes."""


class PathSupernet(Protocol[A_contra]):
    """A supernet whose members are run one at a time; None is the whole."""

    def __call__(self, images: Tensor, architecture: A_contra | None = None) -> Tensor:
        """Class scores."""

    def features(self, images: Tensor, architecture: A_contra | None = None) -> Tensor:
        """Pooled features before the classifier."""

    def weight_parameters(self) -> Iterator[nn.Parameter]:
        """Everything that is trained."""
