"""What a user sees of a fit while it runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from tqdm.auto import tqdm

from ..training.history import HistoryRow, figures

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

    def note(self, text: str) -> None:
        """Say what has been found, between the bars or lines."""
        if self.bars or self.lines:
            tqdm.write(text, file=sys.stderr)

    @contextlib.contextmanager
    def stage(self, name: str, n_epochs: int) -> Iterator[Callable[[HistoryRow], None]]:
        """Begin a stage; yields what to call with the row of the history of each epoch."""
        with tqdm(
            total=n_epochs, desc=name, unit="epoch", disable=not self.bars, dynamic_ncols=True
        ) as bar:

            def advance(row: HistoryRow) -> None:
                shown = figures(row)
                bar.set_postfix(shown, refresh=False)
                bar.update()
                if self.lines:
                    parts = [f"{name}: epoch {row['epoch']} of at most {n_epochs}"]
                    parts += [f"{key} {value}" for key, value in shown.items()]
                    print(*parts, f"{row.get('seconds') or 0:.1f} s", sep=", ", file=sys.stderr)

            yield advance
