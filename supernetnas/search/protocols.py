"""What searching takes for granted of architectures, supernets and searches of any family.

A family keeps to these; nothing here or in its neighbours names one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeVar

from ..training.history import HistoryRow

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ..training.clock import Stopwatch
    from ..training.execution import Execution
    from .costs import Costs
    from .limits import Limits

__all__ = [
    "Architecture",
    "Evolvable",
    "Observed",
    "PathSupernet",
    "Search",
    "Space",
    "Step",
    "Supernet",
]


class Architecture(Hashable, Protocol):
    """A discrete network of a space, as a value; its text is for people."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""


class Supernet(Protocol):
    """A module that holds every architecture of a space.

    Attributes
    ----------
    config : object
        What it was built from, with ``to_dict`` and ``from_dict``.
    """

    config: Any

    def features(self, images: Tensor) -> Tensor:
        """Pooled features of the whole, of shape (n, features), before the classifier."""

    def weight_parameters(self) -> list[nn.Parameter]:
        """Parameters but those that decide between architectures."""

    def place(self, device: torch.device, execution: Execution = ...) -> Self:
        """Move to a device, and say how the module runs there; returns itself."""


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

    @property
    def genes(self) -> tuple[int, ...]: ...

    @property
    def smallest(self) -> A: ...

    @property
    def largest(self) -> A: ...

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

    def weight_parameters(self) -> Iterable[nn.Parameter]:
        """Everything that is trained."""


class Step(NamedTuple):
    """A part of a member, run after the parts before it.

    What goes from part to part may be anything; the last two end with features and class scores.

    Attributes
    ----------
    key : hashable
        Parts of equal keys do the same work, and members whose first keys are equal compute the
        same up to there.
    module : torch.nn.Module
        From the images, or the output of the part before, to its own output.
    """

    key: Hashable
    module: nn.Module


class Evolvable(PathSupernet[A], Protocol[A]):
    """A supernet that says what there is to choose from, and what each choice costs."""

    def space_for(self, shape: tuple[int, ...]) -> Space[A]:
        """Return what there is to choose from for images of a shape (channels, height, width)."""

    def costs(self, architecture: A) -> Costs:
        """Multiply-accumulates for one image, and parameters, of a member's network."""

    def cheapest(self, limits: Limits) -> A:
        """Return a member that keeps limits on both, one that costs little if it can.

        Raises
        ------
        ValueError
            If there is none; names the smallest costs.
        """

    def network(self, architecture: A) -> nn.Module:
        """Return a member's plain network, with a copy of its weights."""

    def steps(self, architecture: A) -> Sequence[Step]:
        """Return the parts of a member; the last is the classifier of its features.

        One after another they give what the supernet gives, by its own weights or by copies. Their
        only state that changes as they run is that of `torch.nn.BatchNorm2d`.
        """


class Observed(Protocol):
    """What a stopping rule sees of a search.

    Attributes
    ----------
    epoch : int
        Epochs that have been run.
    history : list of HistoryRow
        A row for each of them.
    architectures : list of Architecture
        What the search would have ended with before the first epoch and after each; empty if it
        does not decide before its end.
    supernet : torch.nn.Module
    kept_epoch : int or None
        Epoch whose state a rule has gone back to.
    """

    epoch: int
    history: list[HistoryRow]
    architectures: list[Hashable]
    supernet: nn.Module
    kept_epoch: int | None


class Search(Protocol):
    """What a fit does with a search.

    Attributes
    ----------
    supernet : torch.nn.Module
        Changed by the search.
    generator : torch.Generator
        The source of every random draw.
    epoch : int
    history : list of HistoryRow
    searches : bool
        Whether there are architectures to choose from; where there is one alone, the history says
        what it was measured to be worth.
    out_of_time : bool
        Whether the time limit ended it.
    """

    supernet: Any
    generator: torch.Generator
    epoch: int
    history: list[HistoryRow]
    searches: bool
    out_of_time: bool

    @property
    def validation_accuracy(self) -> float:
        """Validation accuracy of what the search has left; minus infinity before it."""

    def run(
        self,
        *,
        stopwatch: Stopwatch | None = None,
        on_epoch: Callable[[Any], bool | None] | None = None,
    ) -> list[HistoryRow]:
        """Search to the end, and return the history."""

    def derive(self, stopwatch: Stopwatch | None = None) -> Architecture:
        """Choose the architecture."""

    def searched_supernet(self) -> Any:
        """Return the supernet in the form that zoos keep."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and plain values that `load_state` goes on from."""

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned, as if nothing had happened in between."""
