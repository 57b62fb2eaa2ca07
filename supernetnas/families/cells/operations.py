"""Candidate operations of the cell spaces, by name.

An operation is a factory ``(channels, stride, affine) -> nn.Module`` that maps
``(n, channels, h, w)`` to ``(n, channels, ceil(h / stride), ceil(w / stride))``.

The operations are those of DARTS (Liu et al., 2019, section 3.1.1) and, for ``noise``, of space
S4 of RobustDARTS (Zela et al., 2020). Two things differ from their code:

- A factorized reduction of an odd height or width pads its second branch by one row or column, so
  that every image size works; the original raises an error there.
- ``noise`` is its expectation, zero, in evaluation mode, so that a network predicts the same
  twice; the original draws noise then too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..module_types import Layers

__all__ = [
    "OPERATIONS",
    "DilatedConv",
    "FactorizedReduce",
    "Noise",
    "Pool",
    "ReLUConvBN",
    "SeparableConv",
    "Zero",
    "make_operation",
]


def _depthwise(channels: int, kernel: int, stride: int, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(
        channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False
    )


class ReLUConvBN(Layers):
    """ReLU, 1x1 convolution, batch norm: brings a cell's input to the cell's channels."""

    def __init__(self, channels_in: int, channels_out: int, affine: bool) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels_in, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out, affine=affine),
        )


class FactorizedReduce(nn.Module):
    """Halve height and width by two interleaved 1x1 convolutions of stride 2, then batch norm."""

    def __init__(self, channels_in: int, channels_out: int, affine: bool) -> None:
        super().__init__()
        half = channels_out // 2
        self.conv_even = nn.Conv2d(channels_in, half, 1, stride=2, bias=False)
        self.conv_odd = nn.Conv2d(channels_in, channels_out - half, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        height, width = x.shape[-2:]
        shifted = F.pad(x[:, :, 1:, 1:], (0, width % 2, 0, height % 2))
        return self.bn(torch.cat([self.conv_even(x), self.conv_odd(shifted)], dim=1))


class SeparableConv(Layers):
    """(ReLU, depthwise, pointwise, batch norm) twice, the stride in the first half."""

    def __init__(self, channels: int, kernel: int, stride: int, affine: bool) -> None:
        super().__init__(
            nn.ReLU(),
            _depthwise(channels, kernel, stride),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels, affine=affine),
            nn.ReLU(),
            _depthwise(channels, kernel, 1),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels, affine=affine),
        )


class DilatedConv(nn.Module):
    """ReLU, depthwise convolution of dilation 2, pointwise convolution, batch norm.

    At stride 2 a kernel of dilation 2 reads the even rows and columns only. The subsampled image
    under the undilated kernel of stride 1 is the same function for less work, and is what runs.
    """

    def __init__(self, channels: int, kernel: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.stride = stride
        dilation = 2 if stride == 1 else 1
        self.depthwise = _depthwise(channels, kernel, 1, dilation)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        if self.stride == 2:
            x = x[:, :, ::2, ::2]
        return self.bn(self.pointwise(self.depthwise(x)))


class Pool(nn.Module):
    """3x3 max or average pooling; borders do not count in the average.

    A supernet normalises what a pool returns so that it competes with the convolutions on one
    scale; a discrete network does not (DARTS does the same).
    """

    def __init__(self, kind: str, channels: int, stride: int, normalize: bool) -> None:
        super().__init__()
        if kind == "max":
            self.pool: nn.MaxPool2d | nn.AvgPool2d = nn.MaxPool2d(3, stride, padding=1)
        else:
            self.pool = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
        self.bn = nn.BatchNorm2d(channels, affine=False) if normalize else nn.Identity()

    @property
    def stride(self) -> int:
        """Stride of the pooling, the same for height and width."""
        return self.pool.stride  # type: ignore[return-value]  # which may be a pair in general

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.pool(x))


class Zero(nn.Module):
    """The operation ``none``: an edge that is not there."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class Noise(nn.Module):
    """Standard normal noise in place of the input while training; zero in evaluation mode.

    ``generator`` is None, or a `torch.Generator` on the device of the input. With None the global
    random state is used; `CellSupernet.seed_noise` sets it.
    """

    draws = True

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.zeros_like(x[:, :, :: self.stride, :: self.stride])
        return noise.normal_(generator=self.generator) if self.training else noise

    def __getstate__(self) -> dict:
        return {**self.__dict__, "generator": None}


def _skip(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)


#: Operation names and their factories. Inside a supernet batch norms are not affine, and a pool is
#: followed by one; both follow from ``affine=False``.
OPERATIONS: dict[str, Callable[[int, int, bool], nn.Module]] = {
    "none": lambda channels, stride, affine: Zero(stride),
    "noise": lambda channels, stride, affine: Noise(stride),
    "max_pool_3x3": lambda channels, stride, affine: Pool("max", channels, stride, not affine),
    "avg_pool_3x3": lambda channels, stride, affine: Pool("avg", channels, stride, not affine),
    "skip_connect": _skip,
    "sep_conv_3x3": lambda channels, stride, affine: SeparableConv(channels, 3, stride, affine),
    "sep_conv_5x5": lambda channels, stride, affine: SeparableConv(channels, 5, stride, affine),
    "dil_conv_3x3": lambda channels, stride, affine: DilatedConv(channels, 3, stride, affine),
    "dil_conv_5x5": lambda channels, stride, affine: DilatedConv(channels, 5, stride, affine),
}


def make_operation(name: str, channels: int, stride: int, affine: bool) -> nn.Module:
    """Build the operation ``name``.

    Parameters
    ----------
    name : str
        A key of `OPERATIONS`.
    channels : int
        Input and output channels.
    stride : {1, 2}
        1 keeps height and width; 2 halves them, rounding up.
    affine : bool
        Whether batch norms have a learnt scale and offset: False in a supernet, True in a
        discrete network, where a pool is then not followed by a batch norm either.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    ValueError
        If there is no operation of that name.
    """
    if name not in OPERATIONS:
        raise ValueError(f"Unknown operation {name!r}; known are {', '.join(OPERATIONS)}.")
    return OPERATIONS[name](channels, stride, affine)
