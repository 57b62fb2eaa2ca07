"""What the members of an elastic supernet cost, without building them."""

from __future__ import annotations

from ...search.costs import Costs
from .space import Backbone, ElasticArchitecture

__all__ = ["Costs", "member_costs"]


def member_costs(
    backbone: Backbone,
    architecture: ElasticArchitecture,
    *,
    input_channels: int,
    n_classes: int,
) -> Costs:
    """Return what the network of an architecture costs at the architecture's input size.

    Parameters
    ----------
    backbone : Backbone
        What the architecture was shrunk from.
    architecture : ElasticArchitecture
    input_channels, n_classes : int

    Returns
    -------
    Costs
        Exactly those of the built `Network`.
    """
    side = -(-architecture.size // 2)
    layers = [_conv(side, input_channels, backbone.stem, kernel=3)]
    channels = backbone.stem
    for stage, blocks in zip(backbone.stages, architecture.stages, strict=True):
        for place, (kernel, expansion) in enumerate(blocks):
            width = channels * expansion
            if expansion != 1:
                layers.append(_conv(side, channels, width))
            side = -(-side // (stage.stride if place == 0 else 1))
            layers.append(_conv(side, 1, width, kernel))
            layers.append(_conv(side, width, stage.channels))
            channels = stage.channels
    layers.append(_conv(side, channels, backbone.features))
    layers.append(Costs(backbone.features * n_classes, (backbone.features + 1) * n_classes))
    return Costs(sum(layer.macs for layer in layers), sum(layer.parameters for layer in layers))


def _conv(side: int, inputs: int, outputs: int, kernel: int = 1) -> Costs:
    """Of a convolution with outputs of a side, each of ``inputs`` channels, and its batch norm."""
    weights = inputs * outputs * kernel**2
    return Costs(weights * side**2, weights + 2 * outputs)
