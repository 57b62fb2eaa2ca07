"""When a search is done.

`Plateau` watches the validation accuracy, `Settled` the architecture as well. `EigenvalueRise` is
the early stopping of RobustDARTS (Zela et al., "Understanding and Robustifying Differentiable
Architecture Search", ICLR 2020, section 4.3): the dominant eigenvalue of the Hessian of the
validation loss with respect to the alphas rises before a search collapses. When its local average
has risen to more than 1.3 times what it was, the search ends with what it had before. The numbers
are those of the authors' code; the 0.75 of the paper is the inverse ratio.

One deviation: all eigenvalues of a search are measured on one fixed batch of validation images, not
each on the batch that happened to come last, so that they differ by the supernet alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from .protocols import Observed

__all__ = ["EigenvalueRise", "Plateau", "Settled", "StoppingRule", "unchanged_epochs"]


class StoppingRule(Protocol):
    """What ends a search before its last epoch."""

    def update(self, search: Observed) -> bool:
        """Look at the search after one more epoch and say whether to stop.

        A rule may take the search back to an earlier epoch, whose number it leaves in its
        ``kept_epoch``, or add a figure to the last row of its history.
        """

    def reshaped(self) -> None:
        """Take note that the tensors of the supernet have other shapes from now on."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and plain values that `load_state` goes on from."""

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""


@dataclass
class Plateau:
    """Stops when the validation accuracy has not risen by ``min_delta`` for ``patience`` epochs.

    Attributes
    ----------
    patience : int or None
        Epochs without improvement that are allowed; None never stops.
    min_delta : float
        Smallest rise that counts.
    best : float
        Best accuracy so far.
    stale : int
        Epochs since then.
    """

    patience: int | None
    min_delta: float = 1e-3
    best: float = float("-inf")
    stale: int = 0

    def update(self, search: Observed) -> bool:
        """Take the accuracy of one more epoch and say whether to stop."""
        return self.add(search.history[-1]["validation_accuracy"])

    def add(self, score: float) -> bool:
        """Take one more score and say whether to stop."""
        if score >= self.best + self.min_delta:
            self.best, self.stale = score, 0
        else:
            self.stale += 1
        return self.patience is not None and self.stale >= self.patience

    def reshaped(self) -> None:
        """Scores are comparable whatever the shapes."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As in `StoppingRule`."""
        best = None if self.best == float("-inf") else self.best  # JSON has no infinity
        return {}, {"best": best, "stale": self.stale}

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """As in `StoppingRule`."""
        self.best = float("-inf") if state["best"] is None else state["best"]
        self.stale = state["stale"]


class Settled(Plateau):
    """Stops when for ``patience`` epochs neither the architecture nor the accuracy has moved.

    A search whose validation accuracy is on its plateau while the architecture still changes goes
    on, and so does one whose architecture stands while the accuracy rises.
    """

    def update(self, search: Observed) -> bool:
        """Look at the search after one more epoch and say whether to stop."""
        level, found = super().update(search), search.architectures
        return level and (not found or unchanged_epochs(found) >= (self.patience or 0))


def unchanged_epochs(architectures: Sequence[Hashable]) -> int:
    """How many epochs the last architecture has been the same for."""
    count = 0
    for architecture in reversed(architectures[:-1]):
        if architecture != architectures[-1]:
            break
        count += 1
    return count


@dataclass
class EigenvalueRise:
    """Stops when the dominant eigenvalue has risen, and goes back to before it rose.

    Attributes
    ----------
    measure : callable
        Returns the eigenvalue of a search, which it leaves as it is.
    every : int
        Epochs between two measurements.
    window : int
        Measurements in a local average, which belongs to the epoch in its middle.
    delta : int
        Measurements between the two local averages that are compared.
    ratio : float
        Rise that stops the search.
    start : int
        First epoch, from 0, that the search can go back to.
    eigenvalues : list of float
        What was measured.
    """

    measure: Callable[[Any], float]
    every: int = 2
    window: int = 5
    delta: int = 4
    ratio: float = 1.3
    start: int = 10
    eigenvalues: list[float] = field(default_factory=list)
    _states: dict[int, dict[str, Tensor]] = field(default_factory=dict, repr=False)

    def update(self, search: Observed) -> bool:
        """Measure if it is time to; stop and restore the search if the eigenvalue has risen."""
        epoch = search.epoch - 1
        if epoch % self.every:
            return False
        eigenvalue = self.measure(search)
        search.history[-1]["eigenvalue"] = eigenvalue
        self._states[epoch] = {k: v.clone() for k, v in search.supernet.state_dict().items()}
        stop_epoch = self.add(epoch, eigenvalue)
        oldest = epoch - self.every * (self.window // 2 + self.delta)
        self._states = {e: state for e, state in self._states.items() if e > oldest} | (
            {} if stop_epoch is None else {stop_epoch: self._states[stop_epoch]}
        )
        if stop_epoch is None:
            return False
        search.supernet.load_state_dict(self._states[stop_epoch])
        search.kept_epoch = stop_epoch + 1
        return True

    def add(self, epoch: int, eigenvalue: float) -> int | None:
        """Take one more eigenvalue; return the epoch to go back to if it has risen, else None.

        Parameters
        ----------
        epoch : int
            From 0.
        eigenvalue : float
        """
        self.eigenvalues.append(eigenvalue)
        back = epoch - self.every * (self.window // 2 + self.delta)
        if back < self.start or len(self.eigenvalues) <= self.delta + self.window // 2:
            return None
        now = self._average(len(self.eigenvalues))
        before = self._average(len(self.eigenvalues) - self.delta)
        return back if now > self.ratio * before > 0 else None

    def _average(self, end: int) -> float:
        values = self.eigenvalues[max(0, end - self.window) : end]
        return sum(values) / len(values)

    def reshaped(self) -> None:
        """Forget everything: neither states nor eigenvalues can be compared any more."""
        self.eigenvalues.clear()
        self._states.clear()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As in `StoppingRule`: the states that the search may go back to, and the eigenvalues."""
        tensors = {
            f"{epoch}.{name}": value
            for epoch, state in self._states.items()
            for name, value in state.items()
        }
        return tensors, {"eigenvalues": list(self.eigenvalues)}

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """As in `StoppingRule`."""
        self.eigenvalues, self._states = list(state["eigenvalues"]), {}
        for key, value in tensors.items():
            epoch, name = key.split(".", 1)
            self._states.setdefault(int(epoch), {})[name] = value
