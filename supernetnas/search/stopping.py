"""When a search is done.

`Plateau` watches the validation accuracy, `Settled` the genotype as well. `EigenvalueRise` is the
early stopping of RobustDARTS (Zela et al., "Understanding and Robustifying Differentiable
Architecture Search", ICLR 2020, section 4.3): the dominant eigenvalue of the Hessian of the
validation loss with respect to the alphas rises before a search collapses. When its local average
has risen to more than 1.3 times what it was, the search ends with what it had before. The numbers
are those of the authors' code; the 0.75 of the paper is the inverse ratio.

One deviation: all eigenvalues of a search are measured on one fixed batch of validation images, not
each on the batch that happened to come last, so that they differ by the supernet alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from ..families.cells.search.diagnostics import unchanged_epochs
from ..families.cells.search.eigenvalue import dominant_eigenvalue

if TYPE_CHECKING:
    from ..families.cells.search.bilevel import BilevelSearch

__all__ = ["EigenvalueRise", "Plateau", "Settled"]


@dataclass
class Plateau:
    """Stops when a score has not risen by ``min_delta`` for ``patience`` epochs.

    Attributes
    ----------
    patience : int or None
        Epochs without improvement that are allowed; None never stops.
    min_delta : float
        Smallest rise that counts.
    best : float
        Best score so far.
    stale : int
        Epochs since then.
    """

    patience: int | None
    min_delta: float = 1e-3
    best: float = float("-inf")
    stale: int = 0

    def update(self, score: float) -> bool:
        """Take the score of one more epoch and say whether to stop."""
        if score >= self.best + self.min_delta:
            self.best, self.stale = score, 0
        else:
            self.stale += 1
        return self.patience is not None and self.stale >= self.patience


class Settled:
    """Stops when for ``patience`` epochs neither the genotype nor the accuracy has moved.

    A search whose validation accuracy is on its plateau while the genotype still changes goes on,
    and so does one whose genotype stands while the accuracy rises.
    """

    def update(self, search: BilevelSearch) -> bool:
        """Look at the search after one more epoch and say whether to stop."""
        patience, plateau = search.plateau.patience, search.plateau
        if patience is None:
            return False
        return plateau.stale >= patience and unchanged_epochs(search.genotypes) >= patience


@dataclass
class EigenvalueRise:
    """Stops when the dominant eigenvalue has risen, and goes back to before it rose.

    Attributes
    ----------
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

    every: int = 2
    window: int = 5
    delta: int = 4
    ratio: float = 1.3
    start: int = 10
    eigenvalues: list[float] = field(default_factory=list)
    _states: dict[int, dict[str, Tensor]] = field(default_factory=dict, repr=False)

    def update(self, search: BilevelSearch) -> bool:
        """Measure if it is time to; stop and restore the search if the eigenvalue has risen."""
        epoch = search.epoch - 1
        if epoch % self.every:
            return False
        eigenvalue = dominant_eigenvalue(search)
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

    def checkpoint(self) -> tuple[dict[str, Tensor], list[float]]:
        """What `restore` needs: the states that the search may go back to, and the eigenvalues."""
        tensors = {
            f"stopping.{epoch}.{name}": value
            for epoch, state in self._states.items()
            for name, value in state.items()
        }
        return tensors, list(self.eigenvalues)

    def restore(self, tensors: dict[str, Tensor], eigenvalues: list[float]) -> None:
        """Continue from what `checkpoint` returned; other tensors do not matter."""
        self.eigenvalues, self._states = list(eigenvalues), {}
        for key, value in tensors.items():
            if key.startswith("stopping."):
                _, epoch, name = key.split(".", 2)
                self._states.setdefault(int(epoch), {})[name] = value

    def restart(self) -> None:
        """Forget everything, as when the supernet has changed its shape."""
        self.eigenvalues.clear()
        self._states.clear()
