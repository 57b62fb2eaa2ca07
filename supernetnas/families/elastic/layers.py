"""How weights shrink.

A member has the first channels of each block, the first blocks of each stage, and of a larger
kernel the centre, multiplied by a learned matrix that starts at the identity (Cai et al., "Once for
All", ICLR 2020, section 3). Channels are sorted by importance before, so that the first ones are
those to keep. Deviation: that paper sorts by the L1 norm of the weights; here a channel counts by
how much it moves the block's output, its deviation times the norm of its projection.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...embedding.efficientnet_lite import InvertedResidual
from .space import MIN_SIDE

__all__ = ["KernelTransform", "Resized", "Statistics", "at_size", "prefix", "sort_channels"]

_QUANTILES = 256  # of a normal distribution: the deviation of a clipped one to three digits


def at_size(images: Tensor, size: int) -> Tensor:
    """Resize images of shape (n, channels, h, w) to squares of a side, where they are others."""
    height, width = images.shape[-2:]
    if min(height, width) < MIN_SIDE:
        raise ValueError(
            f"Images must be at least {MIN_SIDE} pixels high and wide; got {height}x{width}. "
            "Enlarge them first."
        )
    if height == width == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


class Resized(nn.Module):
    """Images resized to squares of a side."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """As `at_size`."""
        return at_size(images, self.size)


def prefix(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Return the first entries along every axis, as a view."""
    return tensor[tuple(slice(n) for n in shape)]


class KernelTransform(nn.Module):
    """From depthwise kernels to smaller ones: their centre, times a matrix.

    Parameters
    ----------
    kernel : int
        Side of the smaller kernel.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.eye(kernel**2))

    def forward(self, weight: Tensor) -> Tensor:
        """Kernels of shape (channels, 1, k, k) to (channels, 1, kernel, kernel)."""
        start = (weight.shape[-1] - self.kernel) // 2
        centre = weight[..., start : start + self.kernel, start : start + self.kernel]
        return F.linear(centre.flatten(1), self.weight).view(centre.shape)


class Statistics(nn.Module):
    """Running statistics of all batch norms of one member, behind one another.

    Parameters
    ----------
    module : torch.nn.Module
        The member's plain module, on any device.
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.norms = {
            name: norm.num_features
            for name, norm in module.named_modules()
            if isinstance(norm, nn.BatchNorm2d)
        }
        total = sum(self.norms.values())
        self.register_buffer("mean", torch.zeros(total))
        self.register_buffer("variance", torch.ones(total))
        self.register_buffer("batches", torch.zeros(len(self.norms), dtype=torch.int64))

    def buffers_by_name(self) -> dict[str, Tensor]:
        """Return views under the names that the plain module gives its buffers."""
        sizes = list(self.norms.values())
        rows = zip(
            self.norms,
            self.mean.split(sizes),
            self.variance.split(sizes),
            self.batches,
            strict=True,
        )
        return {
            f"{name}.{buffer}": value
            for name, *values in rows
            for buffer, value in zip(
                ("running_mean", "running_var", "num_batches_tracked"), values, strict=True
            )
        }

    @torch.no_grad()
    def take(self, module: nn.Module) -> None:
        """Copy the statistics of the plain module."""
        own = dict(module.named_buffers())
        for name, view in self.buffers_by_name().items():
            view.copy_(own[name])


@torch.no_grad()
def sort_channels(trunk: nn.Module) -> None:
    """Bring the inner channels of all inverted residuals into the order of their importance.

    The function of the network stays the same. Importance of a channel is the deviation of what
    the projection sees of it, times the norm of its weights there with their batch norm folded
    in. The deviation is that of a normal variable with the mean and deviation that the batch norm
    before gives, clipped as ReLU6 does, so no images are needed.
    """
    for block in trunk.modules():
        if not isinstance(block, InvertedResidual):
            continue
        if not hasattr(block, "_expand_conv"):
            continue  # its inner channels are those of the block before
        norm, out_norm, project = block._bn1, block._bn2, block._project_conv
        levels = (torch.arange(_QUANTILES, dtype=torch.float64) + 0.5) / _QUANTILES
        normal = torch.special.ndtri(levels).to(norm.weight)
        deviation = F.relu6(norm.bias[:, None] + norm.weight[:, None] * normal).std(dim=1)
        variance = out_norm.state_dict()["running_var"]
        scale = out_norm.weight / (variance + out_norm.eps).sqrt()
        weights = project.weight[:, :, 0, 0] * scale[:, None]
        order = (deviation * weights.norm(dim=0)).argsort(descending=True, stable=True)
        for module in (block._expand_conv, block._bn0, block._depthwise_conv, norm):
            for tensor in module.state_dict().values():
                if tensor.ndim:  # not the number of batches
                    tensor.copy_(tensor[order])
        project.weight.copy_(project.weight[:, order])
