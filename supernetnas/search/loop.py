"""The loop of any search that goes epoch by epoch: history, stopping, clock, checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..training.clock import Stopwatch
from ..training.distributed import ALONE, Processes
from ..training.history import HistoryRow
from .stopping import Plateau, StoppingRule

__all__ = ["SearchLoop"]


class SearchLoop:
    """A search that can be run epoch by epoch, saved and resumed.

    A search of its own fills in `run_epoch` and `derive`.

    Parameters
    ----------
    supernet : torch.nn.Module
        Changed in place; on its final device.
    epochs : int
        Most epochs.
    generator : torch.Generator
        On the CPU; the source of every random draw.
    stopping : StoppingRule, optional
        What ends the search before its last epoch; by default nothing does.
    processes : Processes, optional
        Those that search together; all with the same arguments.

    Attributes
    ----------
    epoch : int
        Epochs that have been run.
    history : list of HistoryRow
    architectures : list
        What the search would have ended with before the first epoch and after each, where it
        decides as it goes.
    kept_epoch : int or None
        Epoch whose state the search went back to when it was stopped; None for the last.
    finished, out_of_time : bool
        Whether the search has ended before its last epoch, and whether the time limit did it.
    searches : bool
        Whether there are architectures to choose from, as in `supernetnas.search.protocols.Search`.
    """

    searches = True

    def __init__(
        self,
        supernet: Any,
        epochs: int,
        generator: torch.Generator,
        stopping: StoppingRule | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.supernet, self.epochs, self.generator = supernet, epochs, generator
        self.stopping: StoppingRule = stopping or Plateau(None)
        self.processes = processes
        self.epoch = 0
        self.history: list[HistoryRow] = []
        self.architectures: list[Hashable] = []
        self.kept_epoch: int | None = None
        self.finished = self.out_of_time = False

    def run(
        self,
        *,
        stopwatch: Stopwatch | None = None,
        on_epoch: Callable[[Any], bool | None] | None = None,
    ) -> list[HistoryRow]:
        """Search until the epochs, the stopping rule, the time or a callback ends it.

        Parameters
        ----------
        stopwatch : Stopwatch, optional
            The search ends after the epoch in which its limit passes.
        on_epoch : callable, optional
            Called with this search after each epoch; True ends it.

        Returns
        -------
        list of HistoryRow
            The history: one row per epoch.
        """
        # A resumed search may have finished, or its time may be up.
        stop = self.epoch > 0 and bool(stopwatch and stopwatch.expired())
        with self.capturing():
            while self.epoch < self.epochs and not (self.finished or stop):
                self.run_epoch()
                self.finished = self.may_stop() and self.stopping.update(self)
                if stopwatch and stopwatch.expired():
                    self.finished = self.out_of_time = True
                self.finished = self.processes.any(self.finished)
                stop = self.processes.any(bool(on_epoch and on_epoch(self)))
        return self.history

    def run_epoch(self) -> HistoryRow:
        """Run one epoch; counts it, and returns and appends its row."""
        raise NotImplementedError

    @contextlib.contextmanager
    def capturing(self) -> Iterator[None]:
        """Whatever is prepared for many epochs, and freed after them."""
        yield

    def may_stop(self) -> bool:
        """Whether the epoch that has just been run may be the last, however it went."""
        return True

    @property
    def validation_accuracy(self) -> float:
        """Validation accuracy of the supernet as the search left it; minus infinity before."""
        rows = [row for row in self.history if row["stage"] == "search"]
        if not rows:
            return float("-inf")
        return rows[-1 if self.kept_epoch is None else self.kept_epoch - 1]["validation_accuracy"]

    def searched_supernet(self) -> Any:
        """Return the supernet that the search leaves, in the form that zoos keep."""
        return self.supernet

    def derive(self, stopwatch: Stopwatch | None = None) -> Any:
        """Architecture that the search has found.

        Parameters
        ----------
        stopwatch : Stopwatch, optional
            Once its limit has passed, a derivation that measures architectures is cut short.
        """
        raise NotImplementedError

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that `load_state` needs to go on as if nothing had happened."""
        tensors = {f"supernet.{k}": v for k, v in self.supernet.state_dict().items()}
        tensors["generator"] = self.generator.get_state()
        rule_tensors, rule = self.stopping.state()
        tensors |= {f"stopping.{name}": value for name, value in rule_tensors.items()}
        return tensors, {
            "epoch": self.epoch,
            "history": self.history,
            "kept_epoch": self.kept_epoch,
            "finished": self.finished,
            "stopping": rule,
        }

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.supernet.load_state_dict(_below("supernet.", tensors))
        self.generator.set_state(tensors["generator"])
        self.stopping.load_state(_below("stopping.", tensors), state["stopping"])
        self.epoch, self.history = state["epoch"], state["history"]
        self.kept_epoch, self.finished = state["kept_epoch"], state["finished"]


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
