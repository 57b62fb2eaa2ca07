"""From a source's supernet to the target's: algorithm 2, step 8, of the supernet transfer paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..training.batches import seeded_modules
from .cells.config import SupernetConfig
from .cells.supernet import CellSupernet

__all__ = ["warm_started_supernet"]

_STEM = "stem.0.weight"


def warm_started_supernet(
    config: SupernetConfig,
    state: Mapping[str, Tensor],
    *,
    image_size: tuple[int, int],
    input_channels: int,
    n_classes: int,
    seed: int,
) -> CellSupernet:
    """Build the target's supernet with a source's weights and alphas and a new classifier.

    Parameters
    ----------
    config : SupernetConfig
        The source's.
    state : mapping of str to torch.Tensor
        The source's state dict, without classifier.
    image_size, input_channels, n_classes
        The target's.
    seed : int
        Of the new classifier.

    Returns
    -------
    CellSupernet
        Where the number of channels differs, the stem's kernels are summed over the source's
        channels and shared out over the target's: a grey image gives what its three equal channels
        gave.
    """
    target = replace(
        config, image_size=image_size, input_channels=input_channels, n_classes=n_classes
    )
    state = dict(state)
    if input_channels != config.input_channels:
        kernels = state[_STEM].sum(1, keepdim=True) / input_channels
        state[_STEM] = kernels.expand(-1, input_channels, -1, -1).contiguous()
    with seeded_modules(seed):
        supernet = CellSupernet(target)
    classifier = {f"classifier.{k}": v for k, v in supernet.classifier.state_dict().items()}
    supernet.load_state_dict(state | classifier)
    with torch.no_grad():
        # A small head: the first gradients are those of its own, not of what was transferred.
        supernet.classifier.weight.mul_(0.1)
        supernet.classifier.bias.zero_()
    return supernet
