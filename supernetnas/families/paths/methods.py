"""The searches of single paths as values: what the ``search`` of a fit can be.

Evolution and shifting are those of all families.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ...parameters import Constraint, Real, Whole
from ...search.evolution import Evolution, EvolutionSearch
from ...search.method import SearchMethod, SearchTask
from ...training.clock import Stopwatch
from ..evolutions import EVOLUTIONS
from .space import PathArchitecture

__all__ = ["SEARCHES", "NoSearch", "RandomPaths"]


class RandomPaths(SearchMethod):
    """The best of some random paths, by their accuracy with the supernet's weights.

    Parameters
    ----------
    candidates : int >= 1, default=50
        How many are compared. With one, it is a random path.
    epochs : int >= 0, default=10
        Passes over the images that train the supernet before, each batch along a random path.
    learning_rate : float > 0, default=0.001
        Of this training.
    label_smoothing : float >= 0 and < 1, default=0.1
        Of this training.
    validation_fraction : float > 0 and < 1, default=0.2
        Share of each class that paths are compared on. Retraining uses all images.
    n_recalibration : int >= 1, default=256
        Images, about, that the batch norms of each path get their statistics from.
    split : Split or None, default=None
        As in `Evolution`.
    """

    name = "random"
    along_paths = True
    constraints: ClassVar[Mapping[str, Constraint]] = {
        "candidates": Whole(1),
        "epochs": Whole(0),
        "learning_rate": Real(),
        "label_smoothing": Real(0, 1, "low"),
        "validation_fraction": Real(0, 1),
        "n_recalibration": Whole(1),
        "split": Evolution.constraints["split"],
    }

    def __init__(
        self,
        candidates=50,
        *,
        epochs=10,
        learning_rate=0.001,
        label_smoothing=0.1,
        validation_fraction=0.2,
        n_recalibration=256,
        split=None,
    ):
        self.candidates = candidates
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.label_smoothing = label_smoothing
        self.validation_fraction = validation_fraction
        self.n_recalibration = n_recalibration
        self.split = split

    @property
    def limited(self) -> bool:
        return True

    @property
    def n_epochs(self) -> int:
        return self._generation().n_epochs

    @property
    def validation_share(self) -> float:
        return float(self.validation_fraction)

    def start(self, supernet: Any, task: SearchTask) -> EvolutionSearch:
        """Begin a search of a supernet, which will be changed in place."""
        return EvolutionSearch(supernet, task, self._generation())

    def derive(
        self, search: EvolutionSearch, task: SearchTask, stopwatch: Stopwatch | None = None
    ) -> PathArchitecture:
        """Choose the path."""
        return search.derive(stopwatch)

    def _generation(self) -> Evolution:
        """Return the evolution of one generation that it is."""
        given = {k: v for k, v in self.get_params(deep=False).items() if k != "candidates"}
        return Evolution(1, population=self.candidates, mutations=0, crossovers=0, **given)


class NoSearch(SearchMethod):
    """No search: a random path, within the limits."""

    name = "none"
    constraints: ClassVar[Mapping[str, Constraint]] = {}

    @property
    def limited(self) -> bool:
        return True

    @property
    def n_epochs(self) -> int:
        return 1

    @property
    def validation_share(self) -> float:
        return RandomPaths().validation_share

    def start(self, supernet: Any, task: SearchTask) -> EvolutionSearch:
        """Draw a path of a supernet."""
        search = RandomPaths(1, epochs=0).start(supernet, task)
        search.searches = False
        return search

    def derive(
        self, search: EvolutionSearch, task: SearchTask, stopwatch: Stopwatch | None = None
    ) -> PathArchitecture:
        """Return the path."""
        return search.derive(stopwatch)


SEARCHES = {
    "none": NoSearch,
    **EVOLUTIONS,
    "random": RandomPaths,
}
"""Searches of single paths by name."""
