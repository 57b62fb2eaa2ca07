"""Statistics of batch norms: left as they are, or taken anew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from ..images.augmentation import StandardisedImages
from .batches import balanced_batches

__all__ = ["frozen_batch_norm", "recalibrate_batch_norm"]


def _batch_norms(module: nn.Module) -> list[nn.BatchNorm2d | nn.SyncBatchNorm]:
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm)]


@contextlib.contextmanager
def frozen_batch_norm(module: nn.Module) -> Iterator[None]:
    """Normalise by the statistics of the batch and leave the running statistics as they are."""
    norms = _batch_norms(module)
    momenta = [bn.momentum for bn in norms]
    counters = [n for bn in norms if (n := bn.num_batches_tracked) is not None]
    kept = torch.stack(counters) if counters else None
    for bn in norms:
        bn.momentum = 0.0
    try:
        yield
    finally:
        for bn, momentum in zip(norms, momenta, strict=True):
            bn.momentum = momentum
        if kept is not None:
            torch._foreach_copy_(counters, list(kept.unbind()))


@torch.no_grad()
def recalibrate_batch_norm(
    module: nn.Module,
    images: StandardisedImages,
    *,
    batch_size: int = 64,
    max_batches: int = 20,
    generator: torch.Generator,
) -> None:
    """Replace all running statistics by plain averages over batches of ``images``.

    A supernet from a source carries the source's statistics and a derived network those of the
    whole supernet; both are wrong. The averages are cumulative, after a reset, so nothing of the
    old values is left.
    """
    norms, training = _batch_norms(module), module.training
    momenta = [bn.momentum for bn in norms]
    module.eval()  # nothing is to be drawn: what is random in training is its mean
    for bn in norms:
        bn.reset_running_stats()
        bn.train()
    try:
        device = images.index_device
        batches = balanced_batches(len(images), batch_size, generator, device)[:max_batches]
        for count, index in enumerate(batches):
            for bn in norms:
                bn.momentum = 1.0 / (count + 1)
            module(images.clean(index))
    finally:
        for bn, momentum in zip(norms, momenta, strict=True):
            bn.momentum = momentum
        module.train(training)
