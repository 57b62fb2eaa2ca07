"""A member's network for predictions only: batch norms folded into the convolutions before them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ...embedding.efficientnet_lite import InvertedResidual, SameConv2d
from .network import Network

__all__ = ["folded"]

_OF_BLOCKS = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
_OF_TRUNKS = (("stem", "stem_norm"), ("head", "head_norm"))


def folded(network: Network) -> Network:
    """Return a copy of a network in which batch norms are part of the convolutions.

    It computes the same up to rounding and cannot be trained.

    Parameters
    ----------
    network : Network
        In evaluation mode; left as it is.

    Raises
    ------
    ValueError
        If the network is in training mode.
    """
    if network.training:
        raise ValueError("A network in training mode has no fixed statistics; call eval() first.")
    result = copy.deepcopy(network)
    for module in result.modules():
        pairs: Sequence[tuple[str, str]] = ()
        if isinstance(module, InvertedResidual):
            pairs = _OF_BLOCKS
        if module is result.trunk:
            pairs = _OF_TRUNKS
        for conv_name, norm_name in pairs:
            conv = getattr(module, conv_name, None)
            if isinstance(conv, SameConv2d):
                norm = getattr(module, norm_name)
                conv.weight, conv.bias = fuse_conv_bn_weights(
                    *(conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps),
                    *(norm.weight, norm.bias),
                )
                setattr(module, norm_name, nn.Identity())
    return result.requires_grad_(False)
