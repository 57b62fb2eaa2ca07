"""What steps of training share: gradients, schedules, weights of classes, evaluation."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .batches import LabelledImages
from .distributed import ALONE, Processes

__all__ = ["class_weights", "cosine_schedule", "evaluate", "held_constant", "set_gradients"]


def set_gradients(parameters: Iterable[Tensor], gradients: Iterable[Tensor | None]) -> None:
    """Give parameters their gradients, laid out in memory as they are.

    Fused optimizers take it for granted that the layouts are the same.
    """
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None and gradient.stride() != parameter.stride():
            gradient = torch.empty_like(parameter).copy_(gradient)
        parameter.grad = gradient


@contextlib.contextmanager
def held_constant(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Compute no gradients of ``parameters`` meanwhile.

    Asking `torch.autograd.grad` for others alone is not enough: an operation that has its backward
    pass in Python computes the gradients of everything that requires one.
    """
    held = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def cosine_schedule(progress: float, peak: float, final: float = 0.0, warmup: float = 0.0) -> float:
    """Learning rate: linear warm-up from a tenth of the peak, then half a cosine to the end.

    Parameters
    ----------
    progress : float
        Share of the steps that are done, in [0, 1].
    peak, final : float
        Rate at the end of the warm-up, and at progress 1.
    warmup : float, default=0.0
        Share of the steps that warm up.
    """
    if progress < warmup:
        return peak * (0.1 + 0.9 * progress / warmup)
    angle = math.pi * (progress - warmup) / (1 - warmup)
    return final + (peak - final) * (1 + math.cos(angle)) / 2


def class_weights(labels: Tensor, n_classes: int, class_weight: str | dict | None) -> Tensor | None:
    """Weight of each class in the loss; "balanced" has mean 1 over the given labels.

    Parameters
    ----------
    labels : torch.Tensor of shape (n,), int64
    n_classes : int
    class_weight : {"balanced"}, dict of class index to float, or None
        "balanced" weighs a class by ``n / (n_classes * its count)``.
    """
    if class_weight is None:
        return None
    counts = torch.bincount(labels, minlength=n_classes).to(torch.float32)
    if isinstance(class_weight, str):  # "balanced"
        return (len(labels) / (n_classes * counts.clamp(min=1))).to(labels.device)
    weights = torch.ones(n_classes)
    for index, weight in class_weight.items():
        weights[index] = weight
    return weights.to(labels.device)


@torch.no_grad()
def evaluate(
    scores: Callable[[Tensor], Tensor],
    data: LabelledImages,
    batch_size: int = 256,
    own_scores: Callable[[Tensor, Tensor], Tensor] | None = None,
    processes: Processes = ALONE,
) -> tuple[float, float]:
    """Mean cross entropy and accuracy of ``scores`` on images that are not augmented.

    ``scores`` maps standardised images to class scores; put its module into evaluation mode.
    ``own_scores`` maps scores and labels to the scores that count for these labels. Several
    processes share the images of each batch and all get the same result.
    """
    loss = correct = torch.zeros((), device=data.labels.device)
    # Mixed, though in the same way every time: under the statistics of its batch, an image's score
    # depends on the company it is in, and data are often sorted by class.
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    order = order.to(data.images.index_device, non_blocking=True)
    for batch in order.tensor_split(-(-len(data) // batch_size)):
        index = batch.tensor_split(processes.size)[processes.rank]
        output = scores(data.images.clean(index)).float()
        labels = data.labels_at(index)
        output = own_scores(output, labels) if own_scores else output
        loss = loss + F.cross_entropy(output, labels, reduction="sum")
        correct = correct + (output.argmax(1) == labels).sum()
    loss, correct = processes.sum(loss), processes.sum(correct)
    return float(loss) / len(data), float(correct) / len(data)
