"""When a search is done."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Plateau"]


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
