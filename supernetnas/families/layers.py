"""Layers that networks of more than one family have."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["Dropout", "Pooled", "for_channels", "take_over"]


class Dropout(nn.Module):
    """Dropout that draws from ``generator``; None stands for torch's global random state."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.generator: torch.Generator | None = None

    @property
    def draws(self) -> bool:
        return self.share > 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.share == 0:
            return x
        kept = torch.empty_like(x).bernoulli_(1 - self.share, generator=self.generator)
        return x * kept / (1 - self.share)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "generator": None}


class Pooled(nn.Module):
    """Mean over all positions, whatever the size of the image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def for_channels(kernels: Tensor, channels: int) -> Tensor:
    """Return the kernels of a first convolution for images of another number of channels.

    They are summed over the old channels and shared out over the new: a grey image gives what its
    three equal channels gave.

    Parameters
    ----------
    kernels : torch.Tensor of shape (outputs, inputs, h, w)
    channels : int

    Returns
    -------
    torch.Tensor of shape (outputs, channels, h, w)
        The kernels themselves where they have as many channels.
    """
    if kernels.shape[1] == channels:
        return kernels
    shared = kernels.sum(1, keepdim=True) / channels
    return shared.expand(-1, channels, -1, -1).contiguous()


@torch.no_grad()
def take_over(supernet: nn.Module, state: Mapping[str, Tensor], stem: str, head: str) -> None:
    """Give a supernet a source's tensors, but for its head.

    That is made small, so that the first gradients are its own, not of what was transferred.

    Parameters
    ----------
    supernet : torch.nn.Module
        Of random weights; has a linear ``classifier``.
    state : mapping of str to torch.Tensor
        The source's, without a head.
    stem : str
        Name of the kernels that see the images; they are made `for_channels` of the supernet's.
    head : str
        What the names of the head's tensors begin with.
    """
    own = supernet.state_dict()
    kept = {name: tensor for name, tensor in own.items() if name.startswith(head)}
    kernels = for_channels(state[stem], own[stem].shape[1])
    supernet.load_state_dict({**state, stem: kernels, **kept})
    classifier = supernet.get_submodule("classifier")
    for name, parameter in classifier.named_parameters():
        if name == "bias":
            parameter.zero_()
        else:
            parameter.mul_(0.1)
