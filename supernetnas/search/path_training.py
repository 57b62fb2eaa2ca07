"""Training of a supernet's weights, a few of its members in every step.

Which members, says a sampler; what they learn, a distillation. Gradients of the members of a step
are averaged before one step of the optimiser. What no member of a step has does not move in it: it
has no gradient, and neither momentum nor decay reach it. An exponential average of the weights is
kept beside them.

The rate warms up, stays, and falls linearly in the last share of the steps: what is interrupted
early can be brought to an end at any time by training on with fewer epochs.

Gradients of the first member, which in a sandwich is the largest, and of the others may point
apart. With ``conflicts="project"`` the first one's gives way, as in Gong et al., "NASViT: Neural
Architecture Search for Efficient Vision Transformers with Gradient Conflict Aware Supernet
Training" (ICLR 2022).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor, nn

from ..training.batches import LabelledImages, balanced_batches
from ..training.checkpoints import optimizer_tensors, restore_optimizer
from ..training.distributed import ALONE, Processes
from ..training.execution import FLOAT32, Execution
from ..training.history import HistoryRow
from .distillation import Distillation
from .protocols import Architecture, PathSupernet
from .samplers import Sampler, seeded

__all__ = [
    "AugmentedImages",
    "PathTraining",
    "PathTrainingSettings",
    "Remembering",
    "TrainingData",
]

A = TypeVar("A", bound=Architecture)


class TrainingData(Protocol):
    """Images with what a distillation compares with."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Return images and targets at an index, as they are shown in an epoch."""


class AugmentedImages:
    """Images with their labels, augmented anew in every epoch.

    Parameters
    ----------
    data : LabelledImages
    seed : int
        What is drawn follows from it and from the epoch, if an epoch is shown from its first batch
        on.
    """

    def __init__(self, data: LabelledImages, seed: int) -> None:
        self._data, self._seed = data, seed
        self._epoch, self._generator = -1, torch.Generator()

    def __len__(self) -> int:
        return len(self._data)

    def batch(self, index: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Return images and labels at an index."""
        if epoch != self._epoch:
            self._epoch, self._generator = epoch, seeded(self._seed, epoch)
        return self._data.images.augmented(index, self._generator), self._data.labels_at(index)


@runtime_checkable
class Remembering(Protocol):
    """A sampler that keeps something from step to step."""

    def state(self) -> dict[str, Any]:
        """Return plain values that `load_state` goes on from."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""


@dataclass(frozen=True)
class PathTrainingSettings:
    """How the weights are trained.

    Attributes
    ----------
    epochs : int
    batch_size : int
    learning_rate : float
        Between warm-up and decay.
    warmup : int
        Steps that warm up.
    decay : float
        Share of the steps at the end in which the rate falls to a hundredth.
    weight_decay : float
        Of tensors of more than one axis.
    optimizer : {"adamw", "sgd"}
    momentum : float
        Of SGD.
    conflicts : {"sum", "project"}
        Whether, of each tensor whose gradients of the first member and of the others point apart,
        the first one's loses its part against the others'.
    clip : float
        Largest norm of a step's gradient.
    average : float
        Decay of the exponential average, in a step; less in the first steps.
    seed : int
        Of the order of images.
    """

    epochs: int = 30
    batch_size: int = 96
    learning_rate: float = 1e-3
    warmup: int = 200
    decay: float = 0.3
    weight_decay: float = 0.02
    optimizer: str = "adamw"
    momentum: float = 0.9
    conflicts: str = "sum"
    clip: float = 5.0
    average: float = 0.999
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("optimizer", ("adamw", "sgd")), ("conflicts", ("sum", "project"))):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(repr, allowed))}; got "
                    f"{getattr(self, name)!r:.80}."
                )

    def rate(self, step: int, n_steps: int) -> float:
        """Learning rate of a step, counted from 0, of so many."""
        rising = (step + 1) / (self.warmup + 1)
        falling = (n_steps - step) / max(self.decay * n_steps, 1)
        return self.learning_rate * max(min(rising, falling, 1.0), 0.01)


class PathTraining(Generic[A]):
    """Training of those weights of a supernet that require a gradient.

    Parameters
    ----------
    supernet : torch.nn.Module
        A `PathSupernet`; trained in place, in training mode.
    data : TrainingData
    sampler : Sampler
    distillation : Distillation
    settings : PathTrainingSettings
    processes : Processes
        Those that share every batch; all with equal supernets, settings and data.
    execution : Execution
        What members compute in.

    Attributes
    ----------
    step : int
        Steps done.
    history : list of HistoryRow
        A row for each epoch.
    loss : float
        Mean loss of a member over the steps since the last epoch began, in this process.
    average : dict of str to torch.Tensor
        Exponential average of the trained parameters.
    """

    def __init__(
        self,
        supernet: nn.Module,
        data: TrainingData,
        sampler: Sampler[A],
        distillation: Distillation[A],
        settings: PathTrainingSettings,
        processes: Processes = ALONE,
        execution: Execution = FLOAT32,
    ) -> None:
        self.supernet, self.data, self.sampler = supernet, data, sampler
        self.execution = execution
        self.distillation, self.settings, self.processes = distillation, settings, processes
        self.parameters = {k: p for k, p in supernet.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimizer = _optimizer(self.parameters.values(), settings)
        self.history: list[HistoryRow] = []
        self.step, self._loss, self._n_losses, self._seconds = 0, 0.0, 0, 0.0
        self._steps_per_epoch = len(self._order(0))

    @property
    def epochs(self) -> int:
        """Most epochs."""
        return self.settings.epochs

    @property
    def n_steps(self) -> int:
        """Steps of all epochs."""
        return self.epochs * self._steps_per_epoch

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.step // self._steps_per_epoch

    @property
    def loss(self) -> float:
        return self._loss / max(self._n_losses, 1)

    def run(
        self,
        on_step: Callable[[Self], None] | None = None,
        on_epoch: Callable[[Self], bool | None] | None = None,
    ) -> None:
        """Train until all epochs are done.

        Parameters
        ----------
        on_step : callable, optional
            Called with this training after each step.
        on_epoch : callable, optional
            Called with this training after each epoch; True, in any process, ends it.
        """
        while self.step < self.n_steps:
            done = self.step % self._steps_per_epoch
            epoch = self.epoch
            if done == 0:
                self._loss, self._n_losses, self._seconds = 0.0, 0, 0.0
            for index in self._order(epoch)[done:]:
                self._train(index, epoch)
                if on_step is not None:
                    on_step(self)
            self.history.append(self._row())
            if self.processes.any(bool(on_epoch and on_epoch(self))):
                return

    def averaged(self) -> nn.Module:
        """Return a copy of the supernet with the averaged weights."""
        supernet = copy.deepcopy(self.supernet)
        supernet.load_state_dict(self.average, strict=False)
        return supernet

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything that `load_state` needs to go on, as tensors and plain values."""
        tensors = {f"weights.{name}": t for name, t in self.supernet.state_dict().items()}
        tensors.update({f"average.{name}": t for name, t in self.average.items()})
        tensors.update(optimizer_tensors(self.optimizer, "optimizer"))
        sampler = self.sampler.state() if isinstance(self.sampler, Remembering) else None
        return tensors, {
            "sampler": sampler,
            "step": self.step,
            "loss": self._loss,
            "n_losses": self._n_losses,
            "seconds": self._seconds,
            "history": self.history,
        }

    def load_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.supernet.load_state_dict(_part(tensors, "weights."))
        for name, tensor in _part(tensors, "average.").items():
            self.average[name].copy_(tensor)
        restore_optimizer(self.optimizer, "optimizer", tensors)
        if isinstance(self.sampler, Remembering):
            self.sampler.load_state(state["sampler"])
        self.step = state["step"]
        self._loss, self._n_losses = state["loss"], state["n_losses"]
        self._seconds, self.history = state["seconds"], state["history"]

    def _row(self) -> HistoryRow:
        """Row of the epoch that has just ended."""
        loss = self.processes.mean(torch.tensor(self.loss, dtype=torch.float64))
        return {
            "stage": "pretrain",
            "epoch": self.epoch,
            "train_loss": float(loss),
            "seconds": round(self._seconds, 2),
        }

    def _order(self, epoch: int) -> list[Tensor]:
        generator = seeded(self.settings.seed, epoch)
        return balanced_batches(
            len(self.data), self.settings.batch_size, generator, processes=self.processes
        )

    def _train(self, index: Tensor, epoch: int) -> None:
        start = time.perf_counter()
        settings, parameters = self.settings, list(self.parameters.values())
        self.supernet.train()
        architectures = self.sampler(self.step)
        images, targets = self.data.batch(index, epoch)
        self.optimizer.zero_grad(set_to_none=True)
        first: list[Tensor | None] | None = None
        for loss in self._losses(images, targets, architectures):
            (loss / len(architectures)).backward()
            self._loss += float(loss.detach())
            self._n_losses += 1
            if first is None and settings.conflicts == "project":
                first = [p.grad for p in parameters]
                self.optimizer.zero_grad(set_to_none=True)
        gradients = self.processes.average([p.grad for p in parameters])
        if first is not None:
            first = self.processes.average(first)
            gradients = list(map(_reconciled, first, gradients))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(parameters, settings.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate(self.step, self.n_steps)
        self.optimizer.step()
        self.step += 1
        decay = min(settings.average, (1 + self.step) / (10 + self.step))
        _follow(self.average.values(), parameters, decay)
        self._seconds += time.perf_counter() - start

    def _losses(
        self, images: Tensor, targets: Tensor, architectures: Sequence[A]
    ) -> Iterator[Tensor]:
        """Losses of a step, one after another; what is done with them is done in full precision."""
        supernet = cast("PathSupernet[A]", self.supernet)
        losses = self.distillation.losses(supernet, images, targets, architectures)
        while True:
            with self.execution.autocast(images.device):
                loss = next(losses, None)
            if loss is None:
                return
            yield loss


def _optimizer(
    parameters: Iterable[nn.Parameter], settings: PathTrainingSettings
) -> torch.optim.Optimizer:
    parameters = list(parameters)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    return torch.optim.AdamW(groups)


def _reconciled(first: Tensor | None, others: Tensor | None) -> Tensor | None:
    """Add the gradients of a tensor, that of the first member without its part against the others.

    As in the authors' code, at most twice the others' gradient is added for it.
    """
    if first is None or others is None:
        return others if first is None else first
    against = -(first * others).sum() / others.square().sum().clamp(min=1e-30)
    return first + others * (1 + against.clamp(0, 2))


@torch.no_grad()
def _follow(averages: Iterable[Tensor], parameters: Iterable[Tensor], decay: float) -> None:
    torch._foreach_lerp_(list(averages), [p.detach() for p in parameters], 1 - decay)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
