"""What pretraining, search and retraining share: batches, schedules, evaluation, checkpoints."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..images.augmentation import StandardisedImages
from ..storage.files import write_atomic
from .distributed import ALONE, Processes

__all__ = [
    "LabelledImages",
    "Stopwatch",
    "balanced_batches",
    "class_weights",
    "cosine_schedule",
    "endless_batches",
    "evaluate",
    "frozen_batch_norm",
    "held_constant",
    "load_checkpoint",
    "optimizer_tensors",
    "recalibrate_batch_norm",
    "restore_optimizer",
    "save_checkpoint",
    "seeded_modules",
    "set_gradients",
    "stratified_split",
]

_BUILD_LOCK = threading.RLock()


@dataclass(frozen=True)
class LabelledImages:
    """Images on a device with their labels.

    Attributes
    ----------
    images : StandardisedImages
        n images.
    labels : torch.Tensor of shape (n,), int64
        Class indices, on the device of the images.
    """

    images: StandardisedImages
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def labels_at(self, index: Tensor) -> Tensor:
        """Labels at an index on any device, without waiting for one that has to move."""
        return self.labels[index.to(self.labels.device, non_blocking=True)]


def set_gradients(parameters: Iterable[Tensor], gradients: Iterable[Tensor | None]) -> None:
    """Give parameters their gradients, laid out in memory as they are.

    Fused optimizers take it for granted that the layouts are the same.
    """
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None and gradient.stride() != parameter.stride():
            gradient = torch.empty_like(parameter).copy_(gradient)
        parameter.grad = gradient


@contextlib.contextmanager
def seeded_modules(seed: int) -> Iterator[None]:
    """Initialise modules from ``seed`` and leave the global random state of torch as it was.

    Weight initialisation knows no other source than the global generator, so the state is forked
    around it; a lock keeps threads that build networks at the same time from mixing their draws.
    """
    with _BUILD_LOCK, torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        yield


def balanced_batches(
    n: int,
    batch_size: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    processes: Processes = ALONE,
) -> list[Tensor]:
    """Shuffle ``n`` indices into batches whose sizes differ by one at most.

    No batch holds a single image unless ``n`` is one, so batch norm always has statistics. The
    indices go to ``device`` in one transfer, which nothing waits for. Of several processes with
    equal generators, each gets its part of every batch.
    """
    order = processes.own_part(torch.randperm(n, generator=generator))
    order = order.to(device, non_blocking=True)
    return list(order.tensor_split(max(1, min(round(n / batch_size), len(order) // 2))))


def endless_batches(
    n: int,
    batch_size: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    processes: Processes = ALONE,
) -> Iterator[Tensor]:
    """Yield balanced batches for ever, reshuffled every time all ``n`` indices have been seen."""
    while True:
        yield from balanced_batches(n, batch_size, generator, device, processes)


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


def stratified_split(
    labels: Tensor, fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Split images in two, class by class.

    Parameters
    ----------
    labels : torch.Tensor of shape (n,), int64
        Class indices from 0, each of at least two images.
    fraction : float
        Share of each class that goes to the second part, rounded; at least one image and not all.
    generator : torch.Generator

    Returns
    -------
    first, second : torch.Tensor of int64
        Sorted indices.
    """
    first, second = [], []
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        n_second = min(max(round(fraction * len(members)), 1), len(members) - 1)
        second.append(members[:n_second])
        first.append(members[n_second:])
    return torch.cat(first).sort().values, torch.cat(second).sort().values


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


class Stopwatch:
    """Seconds since it was made; knows whether a limit has passed."""

    def __init__(self, limit: float | None = None) -> None:
        self.start, self.limit = time.monotonic(), limit

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def expired(self, share: float = 1.0) -> bool:
        """Whether more than ``share`` of the limit has passed; False without a limit."""
        return self.limit is not None and self.seconds > share * self.limit


def save_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict) -> None:
    """Write tensors and a JSON-able state to one file, beside and renamed into place."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    write_atomic(path, save(tensors, {"state": json.dumps(state)}))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read what `save_checkpoint` wrote."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["state"])


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """State of an optimizer as named tensors."""
    tensors = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if value is not None:
                tensors[f"{prefix}.{index}.{key}"] = torch.as_tensor(value)
    return tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer, prefix: str, tensors: Mapping[str, Tensor]
) -> None:
    """Put the state that `optimizer_tensors` returned back, laid out as the parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict] = {}
    for name, value in tensors.items():
        if name.startswith(prefix + "."):
            _, index, key = name.rsplit(".", 2)
            parameter = parameters[int(index)]
            if value.shape == parameter.shape:
                value = torch.empty_like(parameter.detach(), dtype=value.dtype).copy_(value)
            state.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
