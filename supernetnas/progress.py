"""Progress bars over the epochs of a stage."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from tqdm.auto import tqdm

__all__ = ["Progress"]


class Progress:
    """Draws one bar per stage, or nothing.

    Parameters
    ----------
    verbose : int
        0 draws nothing.
    """

    def __init__(self, verbose: int) -> None:
        self.enabled = bool(verbose)

    @contextlib.contextmanager
    def stage(self, name: str, n_epochs: int) -> Iterator[Callable[[dict], None]]:
        """Open a bar; yields what to call with the row of each epoch."""
        with tqdm(total=n_epochs, desc=name, unit="epoch", disable=not self.enabled) as bar:

            def advance(row: dict) -> None:
                accuracy = row.get("validation_accuracy", row["train_accuracy"])
                bar.set_postfix(loss=f"{row['train_loss']:.3f}", accuracy=f"{accuracy:.3f}")
                bar.update()

            yield advance
