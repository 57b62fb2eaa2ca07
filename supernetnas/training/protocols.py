"""What a network says of itself so that it can be trained with every setting.

A network that states nothing is trained as it is, and settings that it would ignore are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from .execution import Execution

__all__ = [
    "Checkpoint",
    "Executable",
    "FreshParameters",
    "OwnDraws",
    "OwnLoss",
    "RandomModule",
    "seed_draws",
    "set_execution",
]


class Checkpoint(Protocol):
    """Where a training keeps its state after each epoch."""

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Return the tensors and plain values that were saved last, or None."""

    def save(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Replace what was saved."""


@runtime_checkable
class Executable(Protocol):
    """A network that runs as its attribute says.

    Attributes
    ----------
    execution : Execution
    """

    execution: Execution


@runtime_checkable
class RandomModule(Protocol):
    """A module that draws in training, from a generator that can be set.

    Attributes
    ----------
    generator : torch.Generator or None
        On the device of the input; None is the global random state.
    """

    generator: torch.Generator | None

    @property
    def draws(self) -> bool:
        """Whether it draws at all; a dropout of nothing does not."""


def seed_draws(module: nn.Module, generator: torch.Generator) -> bool:
    """Let all parts of a module that draw do so from a generator; returns whether there are any."""
    drawing = [m for m in module.modules() if isinstance(m, RandomModule) and m.draws]
    for part in drawing:
        part.generator = generator
    return bool(drawing)


@runtime_checkable
class FreshParameters(Protocol):
    """A network some of whose parameters have learned nothing yet, such as a new classifier."""

    def fresh_parameters(self) -> Iterable[torch.Tensor]:
        """Return them; they learn at a rate of their own."""


@runtime_checkable
class OwnLoss(Protocol):
    """A network that learns from more than the labels."""

    def training_loss(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of a batch, and class scores.

        Parameters
        ----------
        images, labels : torch.Tensor
            Of n images. In place of images there may be what else a set of `LabelledImages` gives
            out, if it has a device.
        criterion : callable
            Loss of class scores and labels.
        """


def set_execution(network: nn.Module, execution: Execution) -> None:
    """Say how a network runs.

    Raises
    ------
    ValueError
        If the network is not `Executable`, and parts of it are to be compiled or computed again.
    """
    if isinstance(network, Executable):
        network.execution = execution
        return
    for wanted, setting in (
        (execution.compiled, "compile=True"),
        (execution.checkpointing, "checkpointing=True"),
    ):
        if wanted:
            raise ValueError(
                f"{setting} would have no effect on a {type(network).__name__}, which has no "
                "attribute 'execution'. Leave the setting out, or give the network the attribute "
                "of supernetnas.training.protocols.Executable and let it act on it."
            )


class OwnDraws(TorchDispatchMode):
    """Refuse what draws from torch's global random states within, and leave these as they were.

    An operation that torch marks as random may draw nothing all the same, as attention without
    dropout does, so the states decide.

    Parameters
    ----------
    device : torch.device
        Where the operations run.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._devices = [device] if device.type == "cuda" else []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        random = torch.Tag.nondeterministic_seeded in func.tags
        if not random or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        with torch.random.fork_rng(devices=self._devices):
            before = self._states()
            result = func(*args, **kwargs)
            after = self._states()
        if any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)):
            raise ValueError(
                "The network draws from torch's global random state, as nn.Dropout does "
                f"({func}), so that its training could not be repeated. Use modules that draw from "
                "a generator of their own, such as supernetnas.families.layers.Dropout; see "
                "supernetnas.training.protocols.RandomModule."
            )
        return result

    def _states(self) -> list[torch.Tensor]:
        return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._devices)]
