"""Finetuning of the derived network: step 14 of algorithm 2 of the supernet transfer paper."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images.augmentation import ImageTensors
from ..parameters import AnyOf, Constraint, OneOf, Parameters, Real, Whole
from ..training.batches import LabelledImages, balanced_batches
from ..training.captured import CapturedStep, Recorder
from ..training.checkpoints import optimizer_tensors, restore_optimizer
from ..training.clock import Stopwatch
from ..training.execution import FLOAT32, Execution
from ..training.history import HistoryRow, figures
from ..training.protocols import (
    Checkpoint,
    FreshParameters,
    OwnDraws,
    OwnLoss,
    seed_draws,
    set_execution,
)
from ..training.steps import cosine_schedule

__all__ = ["RetrainSettings", "Retraining", "retrain"]

logger = logging.getLogger(__name__)

_NOUNS = {"retrain": "retraining", "teach": "teaching"}


class Retraining(Parameters):
    """How the derived network is trained to the end, on all images.

    Parameters
    ----------
    epochs : int >= 1 or "auto", default="auto"
        Passes over the images. "auto" is 30 for cells, whose search by default leaves the time
        to them, and 45 for paths for the same reason, 15 of both from random weights; and 25 for
        elastic networks. What one of these teaches is trained for four fifths of the epochs, or
        eight fifths if all that it teaches are of other shapes. Cells that see fewer pixels because
        of a limit have more epochs in proportion, up to twice as many.
    learning_rate : float > 0 or "auto", default="auto"
        Peak learning rate. "auto" is 0.03 for cells and paths, which SGD trains, and 0.0005 for
        elastic networks, which AdamW trains (0.002 from random weights). The new classifier of
        elastic networks, and of cells without a search, learns at ten times the rate of what comes
        from a source.
    label_smoothing : float >= 0 and < 1, default=0.1
        Share of the label that is spread over all classes.
    dropout : float >= 0 and < 1 or "auto", default="auto"
        Before the classifier of the network. "auto" is 0 for cells, 0.1 for paths and 0.2 for
        elastic networks.
    """

    constraints: ClassVar[Mapping[str, Constraint]] = {
        "epochs": AnyOf(Whole(1), OneOf("auto")),
        "learning_rate": AnyOf(Real(), OneOf("auto")),
        "label_smoothing": Real(0, 1, "low"),
        "dropout": AnyOf(Real(0, 1, "low"), OneOf("auto")),
    }

    def __init__(self, epochs="auto", *, learning_rate="auto", label_smoothing=0.1, dropout="auto"):
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.label_smoothing = label_smoothing
        self.dropout = dropout

    def settings(self, defaults: Mapping[str, Any], batch_size: int) -> RetrainSettings:
        """Numbers of the retraining.

        Parameters
        ----------
        defaults : mapping
            What "auto" stands for, and what else the family has; see
            `supernetnas.families.base.Family.retraining`.
        batch_size : int
        """
        chosen = {
            name: value for name, value in self.get_params(deep=False).items() if value != "auto"
        }
        numbers = {"batch_size": batch_size, **defaults, **chosen}
        numbers["epochs"] = int(numbers["epochs"])
        numbers["dropout"] = float(numbers["dropout"])  # perhaps of numpy; it is stored
        return RetrainSettings(**numbers)


@dataclass(frozen=True)
class RetrainSettings:
    """Numbers of the retraining.

    Attributes
    ----------
    epochs : int
        Passes over the training images.
    batch_size : int
    learning_rate : float
        Peak of the cosine, which ends at zero.
    fresh_rate : float
        How many times the learning rate `supernetnas.training.protocols.FreshParameters` learn at.
    warmup : float
        Share of the steps over which the learning rate rises to its peak.
    optimizer : {"sgd", "adamw"}
        SGD has Nesterov's momentum.
    momentum, weight_decay, clip_norm : float
        Biases and the scales of batch norms do not decay.
    label_smoothing : float
    dropout : float
        Of the network that is built.
    """

    epochs: int = 15
    batch_size: int = 64
    learning_rate: float = 0.03
    fresh_rate: float = 10.0
    warmup: float = 0.1
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_norm: float = 5.0
    label_smoothing: float = 0.1
    dropout: float = 0.0


def retrain(
    network: nn.Module,
    train: LabelledImages,
    settings: RetrainSettings,
    generator: torch.Generator,
    *,
    execution: Execution = FLOAT32,
    class_weight: Tensor | None = None,
    time_limit: float | None = None,
    measure: Callable[[], Mapping[str, float]] | None = None,
    on_epoch: Callable[[HistoryRow], bool | None] | None = None,
    checkpoint: Checkpoint | None = None,
    recorder: Callable[[torch.device, list[torch.Generator]], Recorder] = Recorder,
    stage: str = "retrain",
) -> list[HistoryRow]:
    """Train a network on all of the target's images.

    Parameters
    ----------
    network : torch.nn.Module
        Changed in place; left in evaluation mode. What it draws in training has to come from
        modules that are a `supernetnas.training.protocols.RandomModule`; it may be a
        `supernetnas.training.protocols.OwnLoss`.
    train : LabelledImages
    settings : RetrainSettings
    generator : torch.Generator
        On the CPU; the source of every random draw. On a GPU what is drawn within an epoch comes
        from a generator there that this one seeds.
    execution : Execution
        How the network runs while it is trained; by default in float32.
    class_weight : torch.Tensor of shape (n_classes,), optional
    time_limit : float, optional
        Seconds. The first epochs are timed, and the schedule is shortened to what fits, so that the
        learning rate still falls to zero if more than one fits; at least one epoch runs.
    measure : callable, optional
        Returns further figures of each epoch, such as those on images held out. It may leave the
        network in evaluation mode.
    on_epoch : callable, optional
        Called with the row of each epoch; True ends the training.
    checkpoint : Checkpoint, optional
        Written after each epoch; if it exists, the training goes on from there.
    recorder : callable
        Makes what records steps as graphs, where the settings ask for it.
    stage : {"retrain", "teach"}
        Which it is; the rows and the log say so.

    Returns
    -------
    list of HistoryRow
        The history: one row per epoch.

    Raises
    ------
    FloatingPointError
        If the loss is not finite.
    ValueError
        If the network draws from torch's global random state, or would ignore a setting; see
        `supernetnas.training.protocols`.
    """
    execution = execution.on(train.labels.device)
    # A dispatch mode watches the first step: what runs within one, torch never compiles again.
    set_execution(network, replace(execution, compile=False) if execution.compiled else execution)
    noise = _seed_draws(network, train.labels.device, generator)
    draws = generator if noise is None or train.labels.device.type == "cpu" else noise
    captures = execution.captured and isinstance(train.images, ImageTensors)
    optimizer = _optimizer(network, settings, captures)
    watch, history, epochs, epoch, progress = Stopwatch(), [], settings.epochs, 0, 0.0
    generators = {"generator": generator} | ({} if noise is None else {"noise": noise})
    saved = checkpoint.load() if checkpoint else None
    if saved is not None:
        tensors, state = saved
        network.load_state_dict(_under(tensors, "network."))
        restore_optimizer(optimizer, "optimizer", tensors)
        for name, source in generators.items():
            source.set_state(tensors[name])
        history, epochs, progress = state["history"], state["epochs"], state["progress"]
        epoch = len(history)
        watch.start -= sum(row["seconds"] for row in history)
        # A warning, so that whoever calls the command again sees it.
        logger.warning("the %s goes on from epoch %d", _NOUNS[stage], epoch + 1)
        if on_epoch:
            for known in history:
                on_epoch(known)

    guard: contextlib.AbstractContextManager = OwnDraws(train.labels.device)  # of the first step

    def of_labels(scores: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(
            scores.float(), labels, weight=class_weight, label_smoothing=settings.label_smoothing
        )

    def step(index: Tensor, rate: float | Tensor) -> tuple[Tensor, Tensor]:
        for group in optimizer.param_groups:
            times = group["times"]
            group["lr"] = rate if times == 1 else rate * times
        images, labels = train.images.augmented(index, draws), train.labels_at(index)
        with execution.autocast(images.device), guard:
            if isinstance(network, OwnLoss):
                loss, scores = network.training_loss(images, labels, of_labels)
            else:
                scores = network(images).float()
        if not isinstance(network, OwnLoss):
            loss = of_labels(scores, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach(), (scores.detach().argmax(1) == labels).sum()

    run: Callable[..., tuple[Tensor, ...]] = step
    first = True
    if captures:
        run = CapturedStep(step, train.labels.device, recorder(train.labels.device, [draws]))
    while epoch < epochs:
        epoch_watch = Stopwatch()
        network.train()
        total_loss = correct = torch.zeros((), device=train.labels.device)
        batches = balanced_batches(
            len(train), settings.batch_size, generator, train.images.index_device
        )
        share = (1.0 - progress) / ((epochs - epoch) * len(batches))
        for index in batches:
            rate = cosine_schedule(progress, settings.learning_rate, warmup=settings.warmup)
            progress += share
            loss, hits = run(index, rate)
            if first:
                guard, first = contextlib.nullcontext(), False
                set_execution(network, execution)
            total_loss = total_loss + loss * len(index)
            correct = correct + hits
        epoch += 1
        row: HistoryRow = {
            "stage": stage,
            "epoch": epoch,
            "train_loss": float(total_loss) / len(train),
            "train_accuracy": float(correct) / len(train),
        }
        if not math.isfinite(row["train_loss"]):
            raise FloatingPointError(
                f"The {_NOUNS[stage]} diverged in epoch {epoch}: its loss is not finite. "
                f"Lower the retraining's learning_rate ({settings.learning_rate:g})."
            )
        if measure is not None:
            row.update(measure())  # type: ignore[typeddict-item]
        row["seconds"] = epoch_watch.seconds
        history.append(row)
        shown = ", ".join(f"{name} {value}" for name, value in figures(row).items())
        logger.info("%s epoch %d: %s", stage, epoch, shown)
        if time_limit is not None:
            left = time_limit - watch.seconds
            epochs = min(epochs, epoch + max(0, int(left / (watch.seconds / epoch))))
        if checkpoint:
            tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
            tensors |= optimizer_tensors(optimizer, "optimizer")
            tensors |= {name: source.get_state() for name, source in generators.items()}
            checkpoint.save(tensors, {"history": history, "epochs": epochs, "progress": progress})
        if on_epoch and on_epoch(row):
            break
    network.eval()
    set_execution(network, FLOAT32)
    return history


def _optimizer(
    network: nn.Module, settings: RetrainSettings, captured: bool
) -> torch.optim.Optimizer:
    """Optimiser of what is trained of a network."""
    trained = [p for p in network.parameters() if p.requires_grad]
    fresh = set(network.fresh_parameters()) if isinstance(network, FreshParameters) else set()
    groups: list[dict[str, Any]] = []
    for times, part in (
        (1.0, [p for p in trained if p not in fresh]),
        (settings.fresh_rate, [p for p in trained if p in fresh]),
    ):
        decays, others = [p for p in part if p.ndim > 1], [p for p in part if p.ndim <= 1]
        groups.append({"params": decays, "times": times})
        groups.append({"params": others, "times": times, "weight_decay": 0.0})
    groups = [group for group in groups if group["params"]]
    options: dict[str, Any] = {
        "lr": settings.learning_rate,
        "weight_decay": settings.weight_decay,
    }
    if settings.optimizer == "adamw":  # in one pass, which takes a quarter of the time
        return torch.optim.AdamW(groups, capturable=captured, fused=True, **options)
    options |= {"fused": True} if captured else {"foreach": True}
    return torch.optim.SGD(groups, momentum=settings.momentum, nesterov=True, **options)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _seed_draws(
    network: nn.Module, device: torch.device, generator: torch.Generator
) -> torch.Generator | None:
    """Let all modules that draw do so from a generator of their own, and return it.

    None where nothing draws; on a GPU there is always one.
    """
    draws = torch.Generator(device=device)
    if not seed_draws(network, draws) and device.type == "cpu":
        return None
    return draws.manual_seed(int(torch.randint(2**31 - 1, (), generator=generator)))
