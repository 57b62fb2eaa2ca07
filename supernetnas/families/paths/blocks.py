"""The blocks of single-path spaces, for supernets and for networks alike.

In a supernet batch norms have neither scale nor offset, as in the code of Guo et al. (ECCV 2020):
what they would learn differs from path to path.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...training.depthwise import DepthwiseConv2d
from ..layers import Pooled
from ..module_types import Layers
from .space import Layer, PathSpace

__all__ = ["InvertedBlock", "ShuffleBlock", "make_block", "make_last", "make_stem"]


class ShuffleBlock(nn.Module):
    """A block of ShuffleNetV2 (Ma et al., ECCV 2018).

    The first of a stage has two branches that both see the whole input; in others every other
    channel goes through the main branch, and the rest around it.

    Parameters
    ----------
    choice : {"k3", "k5", "k7", "xception"}
        Kernel of the main branch's depthwise convolution, or three of kernel 3.
    layer : Layer
        Where it stands.
    affine : bool
        Whether batch norms have a scale and an offset.
    """

    def __init__(self, choice: str, layer: Layer, affine: bool) -> None:
        super().__init__()
        inputs = layer.inputs if layer.first else layer.inputs // 2
        middle, outputs = layer.outputs // 2, layer.outputs - inputs
        kernel = 3 if choice == "xception" else int(choice.removeprefix("k"))
        if choice == "xception":
            main = [
                *_depthwise(inputs, 3, layer.stride, affine),
                *_pointwise(inputs, middle, affine),
                *_depthwise(middle, 3, 1, affine),
                *_pointwise(middle, middle, affine),
                *_depthwise(middle, 3, 1, affine),
                *_pointwise(middle, outputs, affine),
            ]
        else:
            main = [
                *_pointwise(inputs, middle, affine),
                *_depthwise(middle, kernel, layer.stride, affine),
                *_pointwise(middle, outputs, affine),
            ]
        self.main = Layers(*main)
        self.beside: nn.Module | None = None
        if layer.first:
            self.beside = Layers(
                *_depthwise(inputs, kernel, layer.stride, affine),
                *_pointwise(inputs, inputs, affine),
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.beside is not None:
            return torch.cat((self.beside(x), self.main(x)), dim=1)
        kept, changed = x[:, 0::2], x[:, 1::2]
        return torch.cat((kept, self.main(changed)), dim=1)


class InvertedBlock(nn.Module):
    """An inverted residual of MobileNetV2 (Sandler et al., CVPR 2018).

    Parameters
    ----------
    choice : str
        Kernel and expansion, such as "k5e3".
    layer : Layer
        Where it stands.
    affine : bool
        Whether batch norms have a scale and an offset.
    """

    def __init__(self, choice: str, layer: Layer, affine: bool) -> None:
        super().__init__()
        kernel, expansion = map(int, choice.removeprefix("k").split("e"))
        middle = layer.inputs * expansion
        self.main = Layers(
            *_pointwise(layer.inputs, middle, affine, nn.ReLU6),
            *_depthwise(middle, kernel, layer.stride, affine, nn.ReLU6),
            *_pointwise(middle, layer.outputs, affine, None),
        )
        self.residual = layer.stride == 1 and layer.inputs == layer.outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.main(x) if self.residual else self.main(x)


def make_block(space: PathSpace, choice: str, layer: Layer, affine: bool) -> nn.Module:
    """Build one of the blocks of a layer."""
    kind = ShuffleBlock if space.name == "shufflenetv2" else InvertedBlock
    return kind(choice, layer, affine)


def make_stem(space: PathSpace, input_channels: int, stride: int, affine: bool) -> nn.Sequential:
    """Build what stands before the layers."""
    if space.lead is None:
        return Layers(*_convolution(_dense(input_channels, space.stem, 3, stride), affine, nn.ReLU))
    return Layers(
        *_convolution(_dense(input_channels, space.stem, 3, stride), affine, nn.ReLU6),
        *_depthwise(space.stem, 3, 1, affine, nn.ReLU6),
        *_pointwise(space.stem, space.lead, affine, None),
    )


def make_last(space: PathSpace, inputs: int, affine: bool) -> nn.Sequential:
    """Build what stands between the layers and the classifier, down to pooled features."""
    relu = nn.ReLU if space.name == "shufflenetv2" else nn.ReLU6
    return Layers(*_pointwise(inputs, space.features, affine, relu), Pooled())


def _pointwise(
    inputs: int, outputs: int, affine: bool, relu: type[nn.Module] | None = nn.ReLU
) -> list[nn.Module]:
    return _convolution(_dense(inputs, outputs, 1, 1), affine, relu)


def _depthwise(
    channels: int, kernel: int, stride: int, affine: bool, relu: type[nn.Module] | None = None
) -> list[nn.Module]:
    return _convolution(DepthwiseConv2d(channels, kernel, stride), affine, relu)


def _convolution(conv: nn.Conv2d, affine: bool, relu: type[nn.Module] | None) -> list[nn.Module]:
    """A convolution and its batch norm, and what follows them."""
    norm = nn.BatchNorm2d(conv.out_channels, affine=affine)
    return [conv, norm, *([] if relu is None else [relu()])]


def _dense(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
