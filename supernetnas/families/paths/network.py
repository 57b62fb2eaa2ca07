"""The plain network of one path."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layers import Dropout
from ..module_types import Layers
from .blocks import make_block, make_last, make_stem
from .config import PathNetworkConfig

__all__ = ["PathNetwork", "take_parameters"]


class PathNetwork(nn.Module):
    """The network of one architecture; its batch norms have scales and offsets.

    Parameters
    ----------
    config : PathNetworkConfig
        What to build.
    """

    def __init__(self, config: PathNetworkConfig) -> None:
        super().__init__()
        self.config = config
        space, size = config.space, config.image_size
        self.stem = make_stem(space, config.input_channels, space.strides(size)[0], affine=True)
        names = [name for stage in config.architecture.stages for name in stage]
        rows = list(space.layers(size))
        self.layers = Layers(
            *(
                make_block(space, name, layer, affine=True)
                for name, layer in zip(names, rows, strict=True)
            )
        )
        self.last = make_last(space, rows[-1].outputs, affine=True)
        self.dropout = Dropout(config.dropout)
        self.classifier = nn.Linear(space.features, config.n_classes, bias=False)

    def features(self, images: Tensor) -> Tensor:
        """Pooled features before the classifier, of shape (n, features)."""
        return self.last(self.layers(self.stem(images)))

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of standardised images of shape (n, input_channels, h, w).

        Images of another size than the config's give scores as well, after other strides than a
        network for them would have.
        """
        return self.classifier(self.dropout(self.features(images)))


@torch.no_grad()
def take_parameters(module: nn.Module, donor: nn.Module) -> int:
    """Copy all parameters of a donor and its statistics; returns the number of parameters.

    Scales and offsets of batch norms, which a supernet does not have, stay as they are.
    """
    available = {**dict(donor.named_parameters()), **dict(donor.named_buffers())}
    count = 0
    for name, tensor in module.state_dict().items():
        if name in available:
            tensor.copy_(available[name])
            count += available[name].numel() if isinstance(available[name], nn.Parameter) else 0
    return count
