"""What a user sees of a fit while it runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tqdm.auto import tqdm

__all__ = ["Progress"]


class Progress:
    """Follows the epochs of each stage, on the standard error.

    Parameters
    ----------
    verbose : int
        0 shows nothing, 1 a bar per stage, 2 and more a line per epoch, for logs.
    """

    def __init__(self, verbose: int) -> None:
        self.bars = verbose == 1
        self.lines = verbose > 1

    @contextlib.contextmanager
    def stage(self, name: str, n_epochs: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """Begin a stage; yields what to call with the row of the history of each epoch."""
        with tqdm(
            total=n_epochs, desc=name, unit="epoch", disable=not self.bars, dynamic_ncols=True
        ) as bar:

            def advance(row: Mapping[str, Any]) -> None:
                accuracy = row.get("validation_accuracy", row["train_accuracy"])
                loss, accuracy = f"{row['train_loss']:.3f}", f"{accuracy:.3f}"
                bar.set_postfix(loss=loss, accuracy=accuracy, refresh=False)
                bar.update()
                if self.lines:
                    print(
                        f"{name}: epoch {row['epoch']} of at most {n_epochs}, loss {loss}, "
                        f"accuracy {accuracy}, {row['seconds']:.1f} s",
                        file=sys.stderr,
                    )

            yield advance
