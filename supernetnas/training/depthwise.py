"""Depthwise convolutions whose gradients are fast on CPUs, and exact.

The library that torch calls on CPUs has a fast gradient of depthwise kernels that are at most three
columns wide and not higher than the image; that of others takes five to ten times as long.
But the gradient of a tap does not know of other taps: that of a wider kernel is put together from
those of three columns each. The gradient of the images is a convolution with the flipped kernel,
where there is no stride. Nor has the library fast gradients in bfloat16; what is left of them is
computed in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DepthwiseConv2d", "depthwise_conv", "kernel_gradient"]

_COLUMNS = 3  # that the fast gradient has at most
_CHANNELS = 16  # whose multiples have one with strides, too


def depthwise_conv(
    x: Tensor, kernel: Tensor, stride: int, padding: int, bias: Tensor | None = None
) -> Tensor:
    """Convolve each channel with its own kernel.

    Parameters
    ----------
    x : torch.Tensor of shape (n, c, h, w)
    kernel : torch.Tensor of shape (c, 1, k, k)
        With the dtype of the images, or float32.
    stride, padding : int
        Along both axes.
    bias : torch.Tensor of shape (c,), optional

    Returns
    -------
    torch.Tensor of shape (n, c, h', w')
        What `torch.nn.functional.conv2d` returns.
    """
    if x.device.type != "cpu" or not torch.is_grad_enabled() or torch.jit.is_tracing():
        return _convolved(x, kernel, bias, stride, padding)
    if torch.is_autocast_enabled("cpu"):
        x = x.to(torch.get_autocast_dtype("cpu"))
    return _DepthwiseConv.apply(x, kernel, bias, stride, padding)


torch.fx.wrap("depthwise_conv")  # is not looked into where networks are traced


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution with fast gradients, built without a bias.

    Parameters
    ----------
    channels, kernel_size, stride : int
        Padded by half the kernel's side.
    """

    def __init__(self, channels: int, kernel_size: int, stride: int = 1) -> None:
        padding = kernel_size // 2
        super().__init__(
            *(channels, channels, kernel_size, stride, padding), groups=channels, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """As of `torch.nn.Conv2d`."""
        return depthwise_conv(x, self.weight, self.stride[0], int(self.padding[0]), self.bias)


class _DepthwiseConv(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, kernel: Tensor, bias: Tensor | None, stride: int, padding: int
    ) -> Tensor:
        return _convolved(x, kernel, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, kernel, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, kernel)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, kernel = ctx.saved_tensors
        stride, padding, dtype = ctx.stride, ctx.padding, x.dtype
        dx = dkernel = dbias = None
        if ctx.needs_input_grad[2]:
            dbias = gradient.sum((0, 2, 3), dtype=kernel.dtype)
        outside = kernel.shape[-1] - 1 - padding
        if stride == 1 and outside >= 0 and ctx.needs_input_grad[0]:
            flipped = kernel.flip(2, 3).to(dtype)
            dx = F.conv2d(gradient, flipped, None, 1, outside, 1, x.shape[1])
        if dtype == torch.bfloat16:
            x, gradient = x.float(), gradient.float()
        if dx is None and ctx.needs_input_grad[0]:
            dx = _gradient(x, gradient, kernel.to(x.dtype), stride, padding, 0).to(dtype)
        if ctx.needs_input_grad[1]:
            dkernel = kernel_gradient(x, gradient, kernel.to(x.dtype), stride, padding)
            dkernel = dkernel.to(kernel.dtype)
        return dx, dkernel, dbias, None, None


def _convolved(x: Tensor, kernel: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    if bias is not None:
        bias = bias.to(x.dtype)
    return F.conv2d(x, kernel.to(x.dtype), bias, stride, padding, 1, x.shape[1])


def kernel_gradient(
    x: Tensor, gradient: Tensor, kernel: Tensor, stride: int, padding: int
) -> Tensor:
    """Gradient of the kernel of a depthwise convolution.

    Parameters
    ----------
    x : torch.Tensor of shape (n, c, h, w)
    gradient : torch.Tensor of shape (n, c, h', w')
        Of the convolution's result.
    kernel : torch.Tensor of shape (c, 1, k, k)
    stride, padding : int

    Returns
    -------
    torch.Tensor of shape (c, 1, k, k)
    """
    side, channels = kernel.shape[-1], x.shape[1]
    fast = stride == 1 or channels % _CHANNELS == 0
    if side <= _COLUMNS or not fast:
        return _gradient(x, gradient, kernel, stride, padding, 1)
    height, width = x.shape[2:]
    wanted = (gradient.shape[3] - 1) * stride + _COLUMNS  # columns that three taps meet
    above = below = 0
    if height < side:
        above = padding
        below = (gradient.shape[2] - 1) * stride + side - height - padding
    firsts = sorted({*range(0, side - _COLUMNS, _COLUMNS), side - _COLUMNS})
    pieces = []
    for first, following in zip(firsts, [*firsts[1:], side], strict=True):
        left = padding - first
        met = F.pad(x, (left, wanted - width - left, above, below))
        rows = 0 if height < side else padding
        three = kernel[..., first : first + _COLUMNS]
        piece = _gradient(met, gradient, three, stride, (rows, 0), 1)
        pieces.append(piece[..., : following - first])
    return torch.cat(pieces, dim=-1)


def _gradient(
    x: Tensor,
    gradient: Tensor,
    kernel: Tensor,
    stride: int,
    padding: int | tuple[int, int],
    place: int,
) -> Tensor:
    """Gradient of the images (place 0) or of the kernel (1), as torch computes it."""
    padding = (padding, padding) if isinstance(padding, int) else padding
    return torch.ops.aten.convolution_backward(
        *(gradient, x, kernel, None, (stride, stride), padding, (1, 1), False, (0, 0), x.shape[1]),
        [place == 0, place == 1, False],
    )[place]
