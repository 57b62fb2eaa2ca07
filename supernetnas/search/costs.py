"""What a network costs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["count_macs", "count_parameters"]


def count_parameters(module: nn.Module) -> int:
    """Number of trainable values."""
    return sum(p.numel() for p in module.parameters())


@torch.no_grad()
def count_macs(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of the convolutions and linear layers for one image.

    The convention of the DARTS and single-path papers, whose "FLOPs" are these: a multiplication
    and its addition count once; batch norm, pooling, activations and biases do not count.

    Parameters
    ----------
    module : torch.nn.Module
        Put into evaluation mode while it is measured.
    input_shape : tuple of int (channels, height, width)
    """
    total = 0

    def add(layer: nn.Conv2d | nn.Linear, _: tuple, output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            per_output = layer.weight[0].numel()
            total += output[0].numel() * per_output
        else:
            total += layer.weight.numel()

    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    training, parameter = module.training, next(module.parameters())
    fused = getattr(module, "fused", None)
    try:
        module.eval()
        if fused:
            # The fused cells of a supernet do not call their layers.
            module.fused = False  # type: ignore[assignment]
        module(torch.zeros(1, *input_shape, dtype=parameter.dtype, device=parameter.device))
    finally:
        module.train(training)
        if fused:
            module.fused = fused
        for hook in hooks:
            hook.remove()
    return total
