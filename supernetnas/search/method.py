"""A way of searching as a value: its parameters, and how a search is begun and ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ..parameters import Parameters
from ..training.execution import FLOAT32, Execution
from .limits import Limits

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..training.batches import LabelledImages
    from ..training.clock import Stopwatch
    from .protocols import Architecture, Search

__all__ = ["SearchMethod", "SearchTask"]


@dataclass(frozen=True)
class SearchTask:
    """What every search of a fit works on.

    Attributes
    ----------
    train, validation : LabelledImages
        Images for the weights, and images that architectures are compared on: the same where the
        method asks for none of its own.
    batch_size : int
    generator : torch.Generator
        On the CPU; the source of every random draw.
    class_weight : torch.Tensor of shape (n_classes,) or None
        Weight of each class in every loss.
    budget : object or None
        What the family has made of the limits for the supernet that is searched; see
        `supernetnas.families.base.Family.budget`.
    limits : Limits
        On the cost of the network.
    evolvable : Evolvable or None
        The supernet as one whose members are run one at a time; None if it is that itself.
    execution : Execution
        What they compute in then; a supernet that is run as a whole has been placed with it.
    """

    train: LabelledImages
    validation: LabelledImages
    batch_size: int
    generator: torch.Generator
    class_weight: Tensor | None = None
    budget: Any = None
    limits: Limits = field(default_factory=Limits)
    evolvable: Any = None
    execution: Execution = FLOAT32


class SearchMethod(Parameters):
    """Base of the searches that a fit can be given.

    Attributes
    ----------
    name : str
        What stands for the method with its default parameters.
    limited : bool
        Whether it can keep limits on the cost of the network.
    along_paths : bool
        Whether its epochs run one architecture at a time, not the whole supernet.
    compares : bool
        Whether it measures a validation accuracy by which searches from several sources compare.
    n_epochs : int
        Most epochs.
    validation_share : float
        Share of each class that architectures are compared on; 0 where the method compares them
        by other means.
    holds_out : bool
        Whether these images are kept from the retraining, too, to measure what comes of it.
    """

    name: ClassVar[str]
    along_paths: ClassVar[bool] = False

    @property
    def limited(self) -> bool:
        return False

    @property
    def holds_out(self) -> bool:
        return False

    @property
    def compares(self) -> bool:
        return self.n_epochs > 0

    @property
    def n_epochs(self) -> int:
        raise NotImplementedError

    @property
    def validation_share(self) -> float:
        raise NotImplementedError

    def start(self, supernet: Any, task: SearchTask) -> Search:
        """Begin a search of a supernet, which will be changed in place."""
        raise NotImplementedError

    def derive(
        self, search: Any, task: SearchTask, stopwatch: Stopwatch | None = None
    ) -> Architecture:
        """Choose the architecture after the search; the stopwatch cuts it short."""
        raise NotImplementedError
