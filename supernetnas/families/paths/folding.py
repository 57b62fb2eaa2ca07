"""A path's network for predictions only: batch norms folded into the convolutions before them."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .network import PathNetwork

__all__ = ["folded"]


def folded(network: PathNetwork) -> PathNetwork:
    """Return a copy of a network in which batch norms are part of the convolutions.

    It computes the same up to rounding and cannot be trained.

    Parameters
    ----------
    network : PathNetwork
        In evaluation mode; left as it is.

    Raises
    ------
    ValueError
        If the network is in training mode.
    """
    if network.training:
        raise ValueError("A network in training mode has no fixed statistics; call eval() first.")
    result = copy.deepcopy(network)
    for module in list(result.modules()):
        if not isinstance(module, nn.Sequential):
            continue
        for index in range(1, len(module)):
            conv, norm = module[index - 1], module[index]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[index - 1], module[index] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return result.requires_grad_(False)
