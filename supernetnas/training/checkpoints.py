"""Tensors and plain values in one file, and the state of optimizers as tensors."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..storage.files import clear_temporaries, write_atomic
from .distributed import ALONE, Processes

__all__ = [
    "Checkpoint",
    "Resumable",
    "load_checkpoint",
    "optimizer_tensors",
    "restore_optimizer",
    "save_checkpoint",
]

logger = logging.getLogger(__name__)


class Resumable(Protocol):
    """A training of a supernet that goes on from its state."""

    supernet: nn.Module

    @property
    def epoch(self) -> int: ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]: ...

    def load_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None: ...


class Checkpoint:
    """The file that a training goes on from, written by the first of its processes.

    Parameters
    ----------
    path : Path
    processes : Processes, optional
        Those that train together.
    """

    def __init__(self, path: Path, processes: Processes = ALONE) -> None:
        self.path, self.processes = path, processes
        self._last = time.monotonic()

    def restore(self, training: Resumable) -> None:
        """Go on from the file, if it exists, in all processes alike."""
        if self.processes.rank == 0:
            clear_temporaries(self.path)
        # The first process does not write before the others have joined it in a step.
        if self.path.exists():
            training.load_state(*load_checkpoint(self.path))
            logger.info("resuming %s after epoch %d", self.path.stem, training.epoch)
        self.processes.check_same(training.epoch, f"the epoch that they find in {self.path}")
        self.processes.equalise(training.supernet)

    def save(self, training: Resumable) -> None:
        """Write the file; where that fails there is a warning, and the old one stays."""
        self._last = time.monotonic()
        if self.processes.rank == 0:
            try:
                save_checkpoint(self.path, *training.state())
            except OSError as error:
                warnings.warn(
                    f"The checkpoint {self.path} cannot be written; the pretraining goes on: "
                    f"{error}",
                    UserWarning,
                    stacklevel=2,
                )

    def save_after(self, seconds: float, training: Resumable) -> None:
        """Write the file if it was not for so long."""
        if time.monotonic() - self._last > seconds:
            self.save(training)


def save_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict) -> None:
    """Write tensors and a JSON-able state to one file, beside and renamed into place."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    write_atomic(path, save(tensors, {"state": json.dumps(state)}))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read what `save_checkpoint` wrote."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["state"])


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """State of an optimizer as named tensors."""
    tensors = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if value is not None:
                tensors[f"{prefix}.{index}.{key}"] = torch.as_tensor(value)
    return tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer, prefix: str, tensors: Mapping[str, Tensor]
) -> None:
    """Put the state that `optimizer_tensors` returned back, laid out as the parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict] = {}
    for name, value in tensors.items():
        if name.startswith(prefix + "."):
            _, index, key = name.rsplit(".", 2)
            parameter = parameters[int(index)]
            if value.shape == parameter.shape:
                value = torch.empty_like(parameter.detach(), dtype=value.dtype).copy_(value)
            state.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
