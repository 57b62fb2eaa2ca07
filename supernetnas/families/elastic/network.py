"""The plain network of one architecture: inverted residuals of fixed sizes, nothing elastic."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...embedding.efficientnet_lite import InvertedResidual, SameConv2d, batch_norm, normalised
from ..layers import Dropout
from ..module_types import Layers
from .layers import at_size
from .space import Backbone, ElasticArchitecture

__all__ = ["Network", "NetworkConfig", "Trunk"]


class Trunk(nn.Module):
    """Images of any height and width to pooled features.

    Parameters
    ----------
    backbone : Backbone
    architecture : ElasticArchitecture
        Whose blocks to build. Its size is not looked at.
    input_channels : int
    """

    def __init__(
        self, backbone: Backbone, architecture: ElasticArchitecture, input_channels: int
    ) -> None:
        super().__init__()
        self.stem = SameConv2d(input_channels, backbone.stem, 3, stride=2)
        self.stem_norm = batch_norm(backbone.stem)
        channels, stages = backbone.stem, []
        for stage, blocks in zip(backbone.stages, architecture.stages, strict=True):
            layers = []
            for place, (kernel, expansion) in enumerate(blocks):
                stride = stage.stride if place == 0 else 1
                layers.append(InvertedResidual(channels, stage.channels, kernel, stride, expansion))
                channels = stage.channels
            stages.append(nn.Sequential(*layers))
        self.stages = Layers(*stages)
        self.head = SameConv2d(channels, backbone.features, 1)
        self.head_norm = batch_norm(backbone.features)

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features of shape (n, features)."""
        return self.after(0, self.up_to(0, images))

    def up_to(self, n_stages: int, images: Tensor) -> Tensor:
        """Activations after the stem and the first stages, which `after` goes on from."""
        x = F.relu6(normalised(self.stem, self.stem_norm, images))
        return self.stages[:n_stages](x)

    def after(self, n_stages: int, x: Tensor) -> Tensor:
        """Pooled features from the activations after the first stages."""
        x = self.stages[n_stages:](x)
        x = F.relu6(normalised(self.head, self.head_norm, x))
        return x.mean(dim=(2, 3), dtype=torch.float32 if x.dtype == torch.bfloat16 else None)


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that is needed to build a member's network again.

    Attributes
    ----------
    backbone : Backbone
        What the architecture was shrunk from.
    architecture : ElasticArchitecture
    input_channels, n_classes : int
    dropout : float
        Share of the pooled features that are dropped before the classifier in training.
    """

    backbone: Backbone
    architecture: ElasticArchitecture
    input_channels: int
    n_classes: int
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("input_channels", "n_classes"):
            if type(value := getattr(self, name)) is not int or value < 1:
                raise ValueError(f"{name} must be a positive whole number; got {value!r:.80}.")
        if not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be a number in [0, 1); got {self.dropout!r:.80}.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {**asdict(self), "architecture": self.architecture.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> NetworkConfig:
        """Rebuild what `to_dict` returned, or JSON made of it."""
        return cls(
            **{
                **data,
                "backbone": Backbone.from_dict(data["backbone"]),
                "architecture": ElasticArchitecture.from_dict(data["architecture"]),
            }
        )


class Network(nn.Module):
    """The network of one architecture.

    Parameters
    ----------
    config : NetworkConfig
        What to build.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config.backbone, config.architecture, config.input_channels)
        self.dropout = Dropout(config.dropout)
        self.classifier = nn.Linear(config.backbone.features, config.n_classes)

    def features(self, images: Tensor) -> Tensor:
        """Pooled features before the classifier, of shape (n, features)."""
        return self.trunk(at_size(images, self.config.architecture.size))

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of standardised images of shape (n, input_channels, h, w).

        Images of another size than the architecture's are resized to it.
        """
        return self.classifier(self.dropout(self.features(images)))
