"""How long an epoch takes, measured on one batch before the first."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F

from ..training.batches import LabelledImages
from ..training.execution import Execution
from ..training.protocols import OwnLoss

__all__ = ["epoch_seconds"]

_IMAGES = 16  # enough for the time of an image, and few against those of an epoch


def epoch_seconds(module: Any, train: LabelledImages, execution: Execution) -> float | None:
    """Estimate the seconds of an epoch of training.

    A forward and a backward pass of a few images are timed, twice, and the second time counts.
    Nothing is changed, and nothing drawn: the module is in evaluation mode meanwhile.

    Parameters
    ----------
    module : torch.nn.Module
        From images to class scores, or a `supernetnas.training.protocols.OwnLoss`.
    train : LabelledImages
        Of which an epoch has all.
    execution : Execution

    Returns
    -------
    float or None
        None where training is compiled or captured, which a few images do not tell the time of.
    """
    if execution.compiled or execution.captured:
        return None
    index = torch.arange(min(_IMAGES, len(train)), device=train.images.index_device)
    images, labels = train.images.clean(index), train.labels_at(index)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        for _ in range(2):
            _wait(images.device)
            start = time.perf_counter()
            with execution.autocast(images.device):
                if isinstance(module, OwnLoss):
                    loss, _scores = module.training_loss(images, labels, F.cross_entropy)
                else:
                    loss = F.cross_entropy(module(images).float(), labels)
            torch.autograd.grad(loss, trained, allow_unused=True)
            _wait(images.device)
            seconds = time.perf_counter() - start
    finally:
        for part, mode in modes:
            part.training = mode
    return seconds * len(train) / len(index)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
