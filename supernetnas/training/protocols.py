"""What a network says of itself so that it can be trained with every setting.

A network that states nothing is trained as it is, and settings that it would ignore are refused.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["CellNetwork", "OwnDraws", "RandomModule", "set_execution"]


@runtime_checkable
class CellNetwork(Protocol):
    """A network whose cells are compiled and computed again as its attributes say.

    Attributes
    ----------
    compiled : bool
        Whether each cell runs compiled by `torch.compile`.
    checkpointed : bool
        Whether each cell is computed again in the backward pass, for less memory.
    """

    compiled: bool
    checkpointed: bool


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


def set_execution(network: nn.Module, compiled: bool, checkpointed: bool) -> None:
    """Say how the cells of a network run.

    Raises
    ------
    ValueError
        If the network is no `CellNetwork`, and one of the two is asked for.
    """
    if isinstance(network, CellNetwork):
        network.compiled, network.checkpointed = compiled, checkpointed
        return
    for wanted, setting, attribute in (
        (compiled, "compile=True", "compiled"),
        (checkpointed, "gradient_checkpointing=True", "checkpointed"),
    ):
        if wanted:
            raise ValueError(
                f"{setting} would have no effect on a {type(network).__name__}, which has no "
                f"attribute {attribute!r}. Leave the setting out, or give the network the "
                "attributes of supernetnas.training.protocols.CellNetwork and let it act on them."
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
                "a generator of their own, see supernetnas.training.protocols.RandomModule, such "
                "as supernetnas.families.layers.Dropout."
            )
        return result

    def _states(self) -> list[torch.Tensor]:
        return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._devices)]
