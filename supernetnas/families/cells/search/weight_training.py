"""Training the weights of a supernet of cells, epoch by epoch: what all its searches share.

Deviations from the DARTS code, on purpose: the learning rate follows its cosine per step, with a
short warm-up, not per epoch; and the validation accuracy of an epoch is measured under batch
statistics, as the alpha step sees it. Running statistics lag many steps behind, which on a few
hundred images is several epochs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import get_total_norm

from ....images.augmentation import ImageTensors
from ....search.loop import SearchLoop
from ....search.stopping import StoppingRule
from ....training.batch_norm import frozen_batch_norm
from ....training.batches import LabelledImages, balanced_batches
from ....training.captured import CapturedStep, Recorder
from ....training.checkpoints import optimizer_tensors, restore_optimizer
from ....training.clock import Stopwatch
from ....training.distributed import ALONE, Processes
from ....training.history import HistoryRow
from ....training.steps import cosine_schedule, evaluate, set_gradients
from ..paths import Choices, path_scores
from ..supernet import CellSupernet

__all__ = ["SearchSettings", "WeightTraining"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchSettings:
    """Numbers of a search.

    Attributes
    ----------
    epochs : int
        Most passes over the training images.
    batch_size : int
    learning_rate, final_learning_rate : float
        Of the weights' SGD: peak and end of the cosine.
    warmup : float
        Share of the steps over which the learning rate rises to its peak.
    momentum, weight_decay, clip_norm : float
        Of the weights' SGD; gradients are clipped to this norm.
    alpha_learning_rate, alpha_weight_decay : float
        Of the alphas' Adam, whose betas are (0.5, 0.999).
    weight_steps_per_alpha_step : int
        Weight steps for one step of the alphas; 1 in DARTS.
    perturbation : {"random", "adversarial", "none"}
        SDARTS-RS, SDARTS-ADV, or DARTS.
    perturbation_radius : tuple of float
        First and limiting epsilon of the perturbation.
    label_smoothing : float
    """

    epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 0.025
    final_learning_rate: float = 0.001
    warmup: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip_norm: float = 5.0
    alpha_learning_rate: float = 3e-4
    alpha_weight_decay: float = 1e-3
    weight_steps_per_alpha_step: int = 1
    perturbation: str = "random"
    perturbation_radius: tuple[float, float] = (0.03, 0.3)
    label_smoothing: float = 0.0


class WeightTraining(SearchLoop):
    """A search that trains a supernet's weights, in the execution that it was placed with.

    Parameters
    ----------
    supernet : CellSupernet
        Changed in place; on its final device.
    train, validation : LabelledImages
        Images for the weights, and images that epochs are judged by.
    settings : SearchSettings
    generator : torch.Generator
        On the CPU; the source of every random draw. On a GPU what is drawn within an epoch comes
        from a generator there that this one seeds.
    class_weight : torch.Tensor of shape (n_classes,), optional
        Weight of each class in the loss.
    stopping : StoppingRule, optional
        What ends the search before its last epoch; by default nothing does.
    processes : Processes, optional
        Those that train together, each on its part of every batch; all with the same arguments.
    dataset_of_class : torch.Tensor of shape (n_classes,), int64, optional
        Number of the dataset that each class belongs to, where there are several: the supernet's
        classifier is the concatenation of one head per dataset, and an image's loss and prediction
        look at the scores of its own dataset's classes only. By default there is one.

    Attributes
    ----------
    capturable : bool
        Whether all that differs between two steps of an epoch, and of others, is in tensors.
    """

    capturable = True
    supernet: CellSupernet

    def __init__(
        self,
        supernet: CellSupernet,
        train: LabelledImages,
        validation: LabelledImages,
        settings: SearchSettings,
        generator: torch.Generator,
        class_weight: Tensor | None = None,
        stopping: StoppingRule | None = None,
        processes: Processes = ALONE,
        dataset_of_class: Tensor | None = None,
    ) -> None:
        if dataset_of_class is not None and settings.label_smoothing:
            raise ValueError(
                "Label smoothing would spread over the classes of all datasets; "
                "a search over several datasets takes label_smoothing=0."
            )
        processes.check_enough(len(train), len(validation))
        super().__init__(supernet, settings.epochs, generator, stopping, processes)
        self.train, self.validation = train, validation
        self.settings, self.class_weight = settings, class_weight
        self.dataset_of_class = dataset_of_class
        self.weight_optimizer = torch.optim.SGD(
            supernet.weight_parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            # The fused optimizers take what changes from tensors.
            **({"fused": True} if self._captures else {"foreach": True}),
        )
        self._captured: CapturedStep | None = None
        device, seed = self.device, self._draw_seed()
        self._noise = torch.Generator(device=device).manual_seed(seed + processes.rank)
        supernet.seed_noise(self._noise)
        # Draws within an epoch, alike in all processes: a step must not wait for a transfer.
        self._draws = generator
        if device.type != "cpu":
            self._draws = torch.Generator(device=device).manual_seed(self._draw_seed())

    @property
    def device(self) -> torch.device:
        """Where the supernet is."""
        return self.supernet.classifier.weight.device

    @contextlib.contextmanager
    def capturing(self) -> Iterator[None]:
        """Capture the steps within, if the execution asks for it, and free the graphs after."""
        if self._captures:
            recorder = self._recorder(self.device, [self._draws, self._noise])
            self._captured = CapturedStep(self._full_step, self.device, recorder)
        try:
            yield
        finally:
            self._captured = None

    def run_epoch(self) -> HistoryRow:
        """Pass once over the training images; returns and appends the epoch's row."""
        settings, watch = self.settings, Stopwatch()
        self.before_epoch()
        batches = balanced_batches(
            len(self.train),
            settings.batch_size,
            self.generator,
            self.train.images.index_device,
            self.processes,
        )
        self.supernet.train()
        total_loss = correct = torch.zeros((), device=self.train.labels.device)
        loss: Tensor | float
        for position, index in enumerate(batches):
            step = self.epoch * len(batches) + position
            rate = cosine_schedule(
                step / (settings.epochs * len(batches)),
                settings.learning_rate,
                settings.final_learning_rate,
                settings.warmup,
            )
            loss, hits = self.step(step, index, rate)
            total_loss = total_loss + loss * len(index)
            correct = correct + hits
        n_seen = sum(map(len, batches)) * self.processes.size
        row: HistoryRow = {
            "stage": "search",
            "epoch": self.epoch + 1,
            "train_loss": float(self.processes.sum(total_loss)) / n_seen,
            "train_accuracy": float(self.processes.sum(correct)) / n_seen,
        }
        self.processes.average_statistics(self.supernet)
        with frozen_batch_norm(self.supernet):
            loss, accuracy = evaluate(
                self.evaluation_scores,
                self.validation,
                own_scores=self.own_scores,
                processes=self.processes,
            )
        row["validation_loss"], row["validation_accuracy"] = loss, accuracy
        self.describe_epoch(row)
        row["seconds"] = watch.seconds
        # A single path, or drawn weights, may have missed what is not finite: it must not be kept.
        state = [t for t in self.supernet.state_dict().values() if t.is_floating_point()]
        figures = torch.tensor([row["train_loss"], loss, float(get_total_norm(state))])
        if not torch.isfinite(figures).all():
            raise self.divergence(f"The search diverged in epoch {row['epoch']}")
        self.epoch += 1
        self.history.append(row)
        logger.info("search epoch %(epoch)d: validation accuracy %(validation_accuracy).3f", row)
        return row

    def divergence(self, what: str) -> FloatingPointError:
        """Return the error of a loss that is not finite, which names the rate to lower."""
        rate = self.settings.learning_rate
        return FloatingPointError(
            f"{what}: its loss is not finite. Lower the search's learning_rate ({rate:g})."
        )

    def scores(self, images: Tensor, weights: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Class scores of the supernet, in the precision of the search."""
        with self.supernet.execution.autocast(images.device):
            return self.supernet(images, weights)

    def path_scores(
        self, images: Tensor, choices: Choices, weights: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Class scores of single paths of the supernet, in the precision of the search."""
        with self.supernet.execution.autocast(images.device):
            return path_scores(self.supernet, images, choices, weights)

    @contextlib.contextmanager
    def fixed_noise(self) -> Iterator[None]:
        """Let ``noise`` operations draw the same whenever this is entered: to compare what follows.

        Afterwards they go on as if nothing had been drawn.
        """
        fixed = torch.Generator(device=self._noise.device).manual_seed(0)
        self.supernet.seed_noise(fixed)
        try:
            yield
        finally:
            self.supernet.seed_noise(self._noise)

    # What searches of their own change

    def before_epoch(self) -> None:
        """Prepare the epoch to come, number ``self.epoch`` from 0."""

    def step(self, number: int, index: Tensor, rate: float) -> tuple[Tensor, ...]:
        """Run a step, captured or as it is.

        Parameters
        ----------
        number : int
            Of the step in the whole search, from 0.
        index : torch.Tensor of int64
            The training images.
        rate : float
            Learning rate of the weights.

        Returns
        -------
        loss, hits : torch.Tensor of shape ()
            Training loss, and number of images that are classified right.
        """
        return self._run(index, rate)

    def describe_epoch(self, row: HistoryRow) -> None:
        """Add to the row of an epoch what else there is to tell of it."""

    def weight_scores(self, images: Tensor, labels: Tensor, radius: float | Tensor = 0.0) -> Tensor:
        """Scores that a weight step differentiates; some perturb operation weights by a radius."""
        return self.scores(images)

    def evaluation_scores(self, images: Tensor) -> Tensor:
        """Scores that validation images are classified by."""
        return self.scores(images)

    def own_scores(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Scores that count for images of these labels: others are minus infinity."""
        if self.dataset_of_class is None:
            return scores
        foreign = self.dataset_of_class[None, :] != self.dataset_of_class[labels][:, None]
        return scores.masked_fill(foreign, -torch.inf)

    # The step

    # Records steps as graphs; a test has one of its own.
    _recorder = Recorder

    @property
    def _captures(self) -> bool:
        alone = self.processes.size == 1
        resident = all(isinstance(d.images, ImageTensors) for d in (self.train, self.validation))
        return self.supernet.execution.captured and self.capturable and resident and alone

    def _run(self, *arguments: Tensor | float | None) -> tuple[Tensor, ...]:
        """Run `_full_step`, captured or as it is."""
        run: Callable[..., tuple[Tensor, ...]] = self._captured or self._full_step
        return run(*arguments)

    def _full_step(self, index: Tensor, rate: float | Tensor) -> tuple[Tensor, Tensor]:
        """Step the weights; returns the training loss and the number of hits."""
        self._set_rate(rate)
        return self._weight_step(index)

    def _set_rate(self, rate: float | Tensor) -> None:
        for group in self.weight_optimizer.param_groups:
            group["lr"] = rate

    def _weight_step(self, index: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        """Step the weights on training images; further arguments go to `weight_scores`."""
        images = self.train.images.augmented(index, self._draws)
        labels = self.train.labels_at(index)
        scores = self.weight_scores(images, labels, *arguments)
        loss = self._loss(scores, labels)
        weights = self.supernet.weight_parameters()
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        set_gradients(weights, self.processes.average(gradients))
        torch.nn.utils.clip_grad_norm_(weights, self.settings.clip_norm, foreach=True)
        self.weight_optimizer.step()
        self.weight_optimizer.zero_grad()
        scores = self.own_scores(scores.detach(), labels)
        return loss.detach(), (scores.argmax(1) == labels).sum()

    def _loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(
            self.own_scores(scores.float(), labels),
            labels,
            weight=self.class_weight,
            label_smoothing=self.settings.label_smoothing,
        )

    def _draw_seed(self) -> int:
        return int(torch.randint(2**31 - 1, (), generator=self.generator))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As in `SearchLoop`, with the optimizer and all generators."""
        tensors, state = super().state()
        tensors |= optimizer_tensors(self.weight_optimizer, "weight_optimizer")
        tensors["noise"] = self._noise.get_state()
        tensors["draws"] = self._draws.get_state()
        return tensors, state

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        super().load_state(tensors, state)
        restore_optimizer(self.weight_optimizer, "weight_optimizer", tensors)
        self._noise.set_state(tensors["noise"])
        self._draws.set_state(tensors["draws"])
        if self.processes.rank:  # the checkpoint has the noise of the first process
            own = self.processes.size * state["epoch"] + self.processes.rank
            self._noise.manual_seed(self._noise.initial_seed() + own)
