"""What a network costs."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Costs", "count_macs", "count_parameters"]


class Costs(NamedTuple):
    """Multiply-accumulates for one image (see `count_macs`), and trainable values."""

    macs: int
    parameters: int


def count_parameters(module: nn.Module) -> int:
    """Number of trainable values."""
    return sum(p.numel() for p in module.parameters())


def count_macs(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of the convolutions and matrix products for one image.

    The convention of the DARTS and single-path papers, whose "FLOPs" are these: a multiplication
    and its addition count once; batch norm, pooling, activations and biases do not count. What
    counts is what runs: a linear layer at each of its positions, the two products of an attention,
    of a sliced convolution the slice.

    Parameters
    ----------
    module : torch.nn.Module
        Left as it is: a copy without data, in evaluation mode, is what runs.
    input_shape : tuple of int (channels, height, width)
    """
    copied = copy.deepcopy(module).to("meta").eval()
    dtype = next((p.dtype for p in module.parameters()), None)
    with torch.no_grad(), _Products() as products:
        copied(torch.zeros(1, *input_shape, dtype=dtype, device="meta"))
    return products.flops // 2


class _Products(TorchDispatchMode):
    """Adds up what torch's own formulas say of every operation of this thread.

    `FlopCounterMode`, which has the formulas, would also hook into the modules that other threads
    run meanwhile. Tensors without data never take the closed kernels of attention, which have none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self._formulas = FlopCounterMode(display=False).flop_registry

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.native_batch_norm.default:
            # Costs nothing, and torch takes longer to say of what shape it is than for the rest.
            return torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0)
        result = func(*args, **kwargs)
        formula = self._formulas.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        return result
