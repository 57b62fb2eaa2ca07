"""A trained network for predictions only: batch norms folded into the convolutions before them."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights

from .network import Network
from .operations import DilatedConv, FactorizedReduce

__all__ = ["folded"]


def folded(network: Network) -> Network:
    """Return a copy of a network in which batch norms are part of the convolutions.

    It computes the same up to rounding, in fewer and smaller steps, and cannot be trained: its
    running statistics are fixed.

    Parameters
    ----------
    network : Network
        In evaluation mode; left as it is.

    Returns
    -------
    Network
        In evaluation mode, without gradients.

    Raises
    ------
    ValueError
        If the network is in training mode.
    """
    if network.training:
        raise ValueError("A network in training mode has no fixed statistics; call eval() first.")
    result = copy.deepcopy(network)
    for module in list(result.modules()):
        if isinstance(module, FactorizedReduce):
            _fold_halves(module)
        elif isinstance(module, DilatedConv):
            module.pointwise = fuse_conv_bn_eval(module.pointwise, module.bn)
            module.bn = nn.Identity()  # type: ignore[assignment]
        elif isinstance(module, nn.Sequential):
            for index in range(1, len(module)):
                conv, bn = module[index - 1], module[index]
                if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d):
                    module[index - 1], module[index] = fuse_conv_bn_eval(conv, bn), nn.Identity()
    return result.requires_grad_(False)


def _fold_halves(module: FactorizedReduce) -> None:
    """Fold the batch norm of two convolutions whose outputs are concatenated."""
    bn, start = module.bn, 0
    for conv in (module.conv_even, module.conv_odd):
        part = slice(start, start + conv.out_channels)
        start = part.stop
        conv.weight, conv.bias = fuse_conv_bn_weights(
            *(conv.weight, conv.bias, bn.running_mean[part], bn.running_var[part], bn.eps),
            *(bn.weight[part], bn.bias[part]),
        )
    module.bn = nn.Identity()  # type: ignore[assignment]
