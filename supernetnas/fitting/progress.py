"""What a user sees of a fit while it runs."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping

from tqdm import tqdm  # not tqdm.auto, which warns in notebooks without ipywidgets

from ..training.history import HistoryRow, figures

__all__ = ["Planned", "Progress", "Rehearsal", "about"]

_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} epochs [{elapsed}{postfix}]"


class Progress:
    """Follows the epochs of a fit, on the standard error.

    Parameters
    ----------
    verbose : int
        0 shows nothing, 1 one bar for the whole fit, 2 and more a line per epoch, for logs.

    Attributes
    ----------
    rehearses : bool
        Whether the fit is only to find out how long it would take.
    """

    rehearses = False

    def __init__(self, verbose: int) -> None:
        self.lines = verbose > 1
        self._bar = tqdm(
            disable=verbose != 1, total=0, desc="fit", bar_format=_FORMAT, dynamic_ncols=True
        )
        self._shown = verbose > 0
        self._expected: dict[str, float] = {}  # seconds of each stage
        self._told = False
        self._announced: set[str] = set()  # stages whose epochs are in the bar's total
        self._started = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    @property
    def estimates(self) -> bool:
        """Whether anybody wants to know how long a fit takes."""
        return self._shown

    def expect(self, n_images: int, stages: Mapping[str, tuple[int, float]]) -> None:
        """Tell how long a fit is expected to take, the first time that it is known.

        Parameters
        ----------
        n_images : int
            Of the fit.
        stages : mapping of str to tuple of int and float
            Epochs of each stage to come, and seconds of one.
        """
        if not self._told:
            self._told = True
            seconds = time.monotonic() - self._started
            seconds += sum(n_epochs * one for n_epochs, one in stages.values())
            self.tell(f"about {about(seconds)} for {n_images:,} images")
        for name, (n_epochs, one) in stages.items():
            self._expected[name] = n_epochs * one
            self._add(name, n_epochs)

    def doing(self, what: str) -> None:
        """Name what is done before the first epoch, and between stages."""
        self._bar.set_description(what)

    def tell(self, text: str) -> None:
        """Write a line, above the bar where there is one."""
        if self._shown:
            self._bar.write(f"fit: {text}", file=sys.stderr)

    @contextlib.contextmanager
    def stage(
        self, name: str, n_epochs: int, shown: str | None = None
    ) -> Iterator[Callable[[HistoryRow], None]]:
        """Begin a stage; yields what to call with the row of the history of each epoch.

        Parameters
        ----------
        name : str
            As it was expected.
        n_epochs : int
        shown : str, optional
            What it is called; by default its name.
        """
        shown = shown or name
        self._add(name, n_epochs)
        self._bar.set_description(shown)
        expected = self._expected.pop(name, None)
        seconds: list[float] = []

        def advance(row: HistoryRow) -> None:
            measured = figures(row)
            seconds.append(float(row.get("seconds") or 0.0))
            parts = [f"{key} {value}" for key, value in measured.items()]
            left = self._left(seconds, n_epochs, expected)
            if left is not None and left >= 0.1:
                parts.insert(0, f"about {about(left)} left")
            self._bar.set_postfix_str(", ".join(parts), refresh=False)
            self._bar.update()
            if self.lines:
                start = f"{shown}: epoch {row['epoch']} of at most {n_epochs}"
                print(start, *parts, f"{seconds[-1]:.1f} s", sep=", ", file=sys.stderr)

        yield advance
        skipped = n_epochs - len(seconds)  # of a stage that has stopped by itself
        if skipped > 0:
            self._bar.total -= skipped
            self._bar.refresh()

    def _add(self, name: str, n_epochs: int) -> None:
        if name not in self._announced:
            self._announced.add(name)
            self._bar.total = (self._bar.total or 0) + n_epochs
            self._bar.refresh()

    def _left(self, seconds: list[float], n_epochs: int, expected: float | None) -> float | None:
        """Seconds that are left: later stages are as much longer as this one than expected."""
        if expected is None:
            return None
        whole = n_epochs * sum(seconds) / len(seconds)
        later = sum(self._expected.values()) * (whole / expected if expected > 0 else 1.0)
        return whole - sum(seconds) + later


class Planned(Exception):
    """Raised by a `Rehearsal` before the first epoch.

    Attributes
    ----------
    seconds : float
        That the fit would take.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"about {about(seconds)}")
        self.seconds = seconds


class Rehearsal(Progress):
    """Shows nothing, and ends the fit once it is known how long it would take."""

    def __init__(self) -> None:
        super().__init__(0)

    rehearses = True

    @property
    def estimates(self) -> bool:
        """True: that is all that it is for."""
        return True

    def expect(self, n_images: int, stages: Mapping[str, tuple[int, float]]) -> None:
        """Raise `Planned`."""
        seconds = sum(n_epochs * one for n_epochs, one in stages.values())
        raise Planned(time.monotonic() - self._started + seconds)


def about(seconds: float) -> str:
    """Write a time with two digits: "45 s", "12 min", "3.2 h"."""
    for most, unit, name in ((90, 1, "s"), (5400, 60, "min")):
        if seconds < most:
            value = seconds / unit
            return f"{value:.0f} {name}" if value >= 9.5 else f"{max(value, 0.1):.2g} {name}"
    return f"{seconds / 3600:.2g} h"
