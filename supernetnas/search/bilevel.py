"""The alternating search: a step of the alphas, then a step of the weights.

First-order DARTS (Liu et al., 2019, equation 7 with xi = 0) and SmoothDARTS (Chen and Hsieh, 2020),
which perturbs the operation weights in the weight step. This is the loop of algorithms 1 to 3 of
the supernet transfer paper (Singh and Vanschoren): from random weights it searches from scratch,
from a source's weights and alphas it is the warm start.

Deviations from the DARTS code, on purpose:

- The learning rate follows its cosine per step, with a short warm-up, not per epoch.
- Validation batches come from shuffled passes over the validation images, begun anew each epoch;
  the original draws a fresh shuffle for every step.
- The validation accuracy of an epoch is measured under batch statistics, as the alpha step sees it.
  Running statistics lag many steps behind, which on a few hundred images is several epochs.
- Each step computes only the gradients it uses. The original also accumulates and discards those
  of the weights in the alpha step and those of the alphas in the weight step.

The other methods of the family (`supernetnas.search.methods`) are subclasses that replace one of
the methods under "What the methods of the family change".
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..augmentation import ImageTensors
from ..captured import CapturedStep, Recorder
from ..devices import autocast
from ..distributed import ALONE, Processes
from ..spaces.genotype import Genotype
from ..supernets.cell import CellSupernet
from ..supernets.paths import Choices, path_scores
from ..training import (
    LabelledImages,
    Stopwatch,
    balanced_batches,
    cosine_schedule,
    endless_batches,
    evaluate,
    frozen_batch_norm,
    held_constant,
    optimizer_tensors,
    restore_optimizer,
    set_gradients,
)
from .budget import Budget
from .diagnostics import genotype_agreement
from .perturbation import adversarial_perturbation, perturbation_radius, random_perturbation
from .stopping import EigenvalueRise, Plateau, Settled

__all__ = ["BilevelSearch", "SearchSettings"]

logger = logging.getLogger(__name__)

# Adam moves alphas by their learning rate at most, so whatever the weights do, no reasonable rate
# brings them here; softmax, and the loss, are finite for a long way beyond.
_LARGE_ALPHA = 1e6


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
    patience : int or None
        Epochs without a better validation accuracy after which the search stops.
    precision : {"float32", "bfloat16"}
        What convolutions compute in; see `supernetnas.devices.autocast`.
    compile : bool or "graph"
        Whether cells are compiled by `torch.compile`; or "graph", whether whole steps are captured
        as CUDA graphs, see `supernetnas.captured`. Searches that decide on the host how they go on
        run their steps one by one all the same.
    gradient_checkpointing : bool
        Whether cells are computed again in the backward pass, for less memory.
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
    patience: int | None = None
    precision: str = "float32"
    compile: bool | str = False
    gradient_checkpointing: bool = False


class BilevelSearch:
    """A search that can be run epoch by epoch, saved and resumed.

    Parameters
    ----------
    supernet : CellSupernet
        Changed in place; on its final device.
    train, validation : LabelledImages
        Images for the weights, and images for the alphas.
    settings : SearchSettings
    generator : torch.Generator
        On the CPU; the source of every random draw. On a GPU what is drawn within an epoch comes
        from a generator there that this one seeds.
    class_weight : torch.Tensor of shape (n_classes,), optional
        Weight of each class in both losses.
    budget : Budget, optional
        Adds its term to the loss of the alpha steps.
    stopping : Settled or EigenvalueRise, optional
        What ends the search instead of the plateau of the settings' patience.
    processes : Processes, optional
        Those that train together, each on its part of every batch; all with the same arguments.

    Attributes
    ----------
    genotypes : list of Genotype
        The genotype before the first epoch and after each.
    kept_epoch : int or None
        Epoch whose state the search went back to when it was stopped; None for the last.
    out_of_time : bool
        Whether the time limit ended the search.
    capturable : bool
        Whether all that differs between two steps of an epoch, and of others, is in tensors.
    rate_name : str
        What errors call the learning rate of the weights.
    """

    capturable = True
    rate_name = "learning_rate"

    def __init__(
        self,
        supernet: CellSupernet,
        train: LabelledImages,
        validation: LabelledImages,
        settings: SearchSettings,
        generator: torch.Generator,
        class_weight: Tensor | None = None,
        budget: Budget | None = None,
        stopping: Settled | EigenvalueRise | None = None,
        processes: Processes = ALONE,
    ) -> None:
        processes.check_enough(len(train), len(validation))
        self.supernet, self.train, self.validation = supernet, train, validation
        self.settings, self.generator = settings, generator
        self.class_weight, self.budget = class_weight, budget
        self.processes = processes
        self.alpha_optimizer = torch.optim.Adam(
            supernet.alpha_parameters(),
            lr=settings.alpha_learning_rate,
            betas=(0.5, 0.999),
            weight_decay=settings.alpha_weight_decay,
            # The fused optimizers take what changes from tensors.
            **({"fused": True, "capturable": True} if self._captures else {}),
        )
        self.weight_optimizer = torch.optim.SGD(
            supernet.weight_parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            **({"fused": True} if self._captures else {"foreach": True}),
        )
        self._captured: CapturedStep | None = None
        self._largest_alpha = torch.zeros((), device=supernet.alphas_normal.device)
        self.epoch = 0
        self.history: list[dict] = []
        self.plateau = Plateau(settings.patience)
        self.stopping = stopping
        self.genotypes: list[Genotype] = [supernet.genotype()]
        self.kept_epoch: int | None = None
        self.finished = self.out_of_time = False
        device, seed = supernet.alphas_normal.device, self._draw_seed()
        self._noise = torch.Generator(device=device).manual_seed(seed + processes.rank)
        supernet.seed_noise(self._noise)
        # Draws within an epoch, alike in all processes: a step must not wait for a transfer.
        self._draws = generator
        if device.type != "cpu":
            self._draws = torch.Generator(device=device).manual_seed(self._draw_seed())
        supernet.compiled = settings.compile is True
        supernet.checkpointed = settings.gradient_checkpointing

    def run(
        self,
        *,
        stopwatch: Stopwatch | None = None,
        on_epoch: Callable[[BilevelSearch], bool | None] | None = None,
    ) -> list[dict]:
        """Search until the epochs, the plateau, the time or a callback ends it.

        Parameters
        ----------
        stopwatch : Stopwatch, optional
            The search ends after the epoch in which its limit passes.
        on_epoch : callable, optional
            Called with this search after each epoch; True ends it.

        Returns
        -------
        list of dict
            The history: one row per epoch.
        """
        # A resumed search may have finished, or its time may be up.
        stop = self.epoch > 0 and bool(stopwatch and stopwatch.expired())
        with self.capturing():
            while self.epoch < self.settings.epochs and not (self.finished or stop):
                row = self.run_epoch()
                self.finished = self.may_stop() and self.plateau.update(row["validation_accuracy"])
                if self.stopping is not None:
                    self.finished = self.may_stop() and self.stopping.update(self)
                if stopwatch and stopwatch.expired():
                    self.finished = self.out_of_time = True
                self.finished = self.processes.any(self.finished)
                stop = self.processes.any(bool(on_epoch and on_epoch(self)))
        return self.history

    @contextlib.contextmanager
    def capturing(self) -> Iterator[None]:
        """Capture the steps within, if the settings ask for it, and free the graphs after them."""
        if self._captures:
            device = self.supernet.alphas_normal.device
            recorder = self._recorder(device, [self._draws, self._noise])
            self._captured = CapturedStep(self._full_step, device, recorder)
        try:
            yield
        finally:
            self._captured = None

    def run_epoch(self) -> dict:
        """Pass once over the training images; returns and appends the epoch's row."""
        settings, watch = self.settings, Stopwatch()
        radius = perturbation_radius(self.epoch, settings.epochs, settings.perturbation_radius)
        self.before_epoch()
        batches = balanced_batches(
            len(self.train),
            settings.batch_size,
            self.generator,
            self.train.images.index_device,
            self.processes,
        )
        validation = self._validation_batches()
        self.supernet.train()
        device = self.train.labels.device
        total_loss = correct = torch.zeros((), device=device)
        loss: Tensor | float
        for position, index in enumerate(batches):
            step = self.epoch * len(batches) + position
            rate = cosine_schedule(
                step / (settings.epochs * len(batches)),
                settings.learning_rate,
                settings.final_learning_rate,
                settings.warmup,
            )
            moves = step % settings.weight_steps_per_alpha_step == 0 and not self.alphas_frozen()
            loss, hits = self._step(next(validation) if moves else None, index, rate, radius)
            total_loss = total_loss + loss * len(index)
            correct = correct + hits
        n_seen = sum(map(len, batches)) * self.processes.size
        row = {
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
        genotype = self.supernet.genotype()
        row["genotype_agreement"] = genotype_agreement(genotype, self.genotypes)
        self.genotypes.append(genotype)
        row["skip_connections"] = genotype.count("skip_connect")
        row["alpha_entropy"] = self.supernet.alpha_entropy()
        row["seconds"] = watch.seconds
        if not all(map(torch.isfinite, map(torch.tensor, (row["train_loss"], loss)))):
            raise self.divergence(f"The search diverged in epoch {row['epoch']}")
        self.epoch += 1
        self.history.append(row)
        logger.info("search epoch %(epoch)d: validation accuracy %(validation_accuracy).3f", row)
        return row

    def divergence(self, what: str) -> FloatingPointError:
        """Return the error of a loss that is not finite, which names the rate to lower."""
        if self._largest_alpha > _LARGE_ALPHA:
            rate, value = "alpha_learning_rate", self.settings.alpha_learning_rate
        else:
            rate, value = self.rate_name, self.settings.learning_rate
        return FloatingPointError(f"{what}: its loss is not finite. Lower {rate} ({value:g}).")

    def _loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(
            self.own_scores(scores.float(), labels),
            labels,
            weight=self.class_weight,
            label_smoothing=self.settings.label_smoothing,
        )

    def scores(self, images: Tensor, weights: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Class scores of the supernet, in the precision of the search."""
        with autocast(images.device, self.settings.precision):
            return self.supernet(images, weights)

    def path_scores(
        self, images: Tensor, choices: Choices, weights: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Class scores of single paths of the supernet, in the precision of the search."""
        with autocast(images.device, self.settings.precision):
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

    def own_scores(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Scores that count for images of these labels: all of them."""
        return scores

    # What the methods of the family change

    def before_epoch(self) -> None:
        """Prepare the epoch to come, number ``self.epoch`` from 0."""

    def alphas_frozen(self) -> bool:
        """Whether the current epoch leaves the alphas as they are."""
        return False

    def may_stop(self) -> bool:
        """Whether the epoch that has just been run may be the last, however it went."""
        return True

    def alpha_scores(self, images: Tensor) -> Tensor:
        """Scores that an alpha step differentiates."""
        return self.scores(images)

    def weight_scores(self, images: Tensor, labels: Tensor, radius: float | Tensor) -> Tensor:
        """Scores that a weight step differentiates."""
        return self.scores(images, self._operation_weights(images, labels, radius))

    def evaluation_scores(self, images: Tensor) -> Tensor:
        """Scores that validation images are classified by."""
        return self.scores(images)

    def alpha_gradients(self, index: Tensor, train_index: Tensor) -> Sequence[Tensor | None]:
        """Gradients of the validation loss with respect to the alphas.

        Parameters
        ----------
        index, train_index : torch.Tensor of int64
            The validation images of this step, and the training images of the weight step that
            follows.
        """
        images = self.validation.images.augmented(index, self._draws)
        with held_constant(self.supernet.weight_parameters()):
            loss = self._loss(self.alpha_scores(images), self.validation.labels_at(index))
            if self.budget is not None:
                loss = loss + self.budget.penalty(self.supernet.operation_weights())
            # Unused are the alphas of a kind of cell that a stack of one or two does not have.
            return torch.autograd.grad(loss, self.supernet.alpha_parameters(), allow_unused=True)

    @property
    def validation_accuracy(self) -> float:
        """Validation accuracy of the supernet as the search left it; minus infinity before."""
        rows = [row for row in self.history if row["stage"] == "search"]
        if not rows:
            return float("-inf")
        return rows[-1 if self.kept_epoch is None else self.kept_epoch - 1]["validation_accuracy"]

    def searched_supernet(self) -> CellSupernet:
        """Return the supernet that the search leaves, in the form that zoos keep."""
        return self.supernet

    def derive(self, stopwatch: Stopwatch | None = None) -> Genotype:
        """Architecture that the search has found.

        Parameters
        ----------
        stopwatch : Stopwatch, optional
            Once its limit has passed, a derivation that measures architectures is cut short.
        """
        return self.supernet.genotype()

    # The two steps

    # Records steps as graphs; a test has one of its own.
    _recorder = Recorder

    @property
    def _captures(self) -> bool:
        alone = self.processes.size == 1
        resident = all(isinstance(d.images, ImageTensors) for d in (self.train, self.validation))
        return self.settings.compile == "graph" and self.capturable and resident and alone

    def _step(self, *arguments: Tensor | float | None) -> tuple[Tensor, ...]:
        """Run `_full_step`, captured or as it is."""
        step: Callable[..., tuple[Tensor, ...]] = self._captured or self._full_step
        return step(*arguments)

    def _full_step(
        self,
        validation_index: Tensor | None,
        index: Tensor,
        rate: float | Tensor,
        radius: float | Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Step the alphas, if there are validation images for it, then the weights.

        Returns the training loss and the number of hits.
        """
        for group in self.weight_optimizer.param_groups:
            group["lr"] = rate
        if validation_index is not None:
            self._alpha_step(validation_index, index)
        return self._weight_step(index, radius)

    def _alpha_step(self, index: Tensor, train_index: Tensor) -> None:
        self.move_alphas(self.processes.average(self.alpha_gradients(index, train_index)))

    def move_alphas(self, gradients: Sequence[Tensor | None]) -> None:
        """Step the alphas along gradients."""
        alphas = self.supernet.alpha_parameters()
        set_gradients(alphas, gradients)
        self.alpha_optimizer.step()
        self.alpha_optimizer.zero_grad()
        for alpha in alphas:  # fmax takes no NaN
            torch.fmax(self._largest_alpha, alpha.detach().abs().max(), out=self._largest_alpha)

    def _weight_step(self, index: Tensor, radius: float | Tensor) -> tuple[Tensor, Tensor]:
        images = self.train.images.augmented(index, self._draws)
        labels = self.train.labels_at(index)
        scores = self.weight_scores(images, labels, radius)
        loss = self._loss(scores, labels)
        weights = self.supernet.weight_parameters()
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        set_gradients(weights, self.processes.average(gradients))
        torch.nn.utils.clip_grad_norm_(weights, self.settings.clip_norm, foreach=True)
        self.weight_optimizer.step()
        self.weight_optimizer.zero_grad()
        scores = self.own_scores(scores.detach(), labels)
        return loss.detach(), (scores.argmax(1) == labels).sum()

    def _operation_weights(
        self, images: Tensor, labels: Tensor, radius: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Operation weights of a weight step: perturbed, and constants."""
        with torch.no_grad():
            weights = self.supernet.operation_weights()
        masks = self.supernet.operation_masks()
        if self.settings.perturbation == "none":
            return weights
        if self.settings.perturbation == "random":
            return random_perturbation(weights, masks, radius, self._draws)
        supernet, precision = self.supernet, self.settings.precision
        constant = held_constant(supernet.weight_parameters())
        with frozen_batch_norm(supernet), constant, autocast(images.device, precision):
            scores = supernet.scores_of(images)
            return adversarial_perturbation(
                lambda perturbed: self._loss(scores(perturbed), labels),
                weights,
                masks,
                radius,
                self._draws,
            )

    def _validation_batches(self) -> Iterator[Tensor]:
        return endless_batches(
            len(self.validation),
            self.settings.batch_size,
            self.generator,
            self.validation.images.index_device,
            self.processes,
        )

    def _draw_seed(self) -> int:
        return int(torch.randint(2**31 - 1, (), generator=self.generator))

    def checkpoint(self) -> tuple[dict[str, Tensor], dict]:
        """Everything that `restore` needs to go on as if nothing had happened."""
        tensors = {f"supernet.{k}": v for k, v in self.supernet.state_dict().items()}
        tensors |= optimizer_tensors(self.alpha_optimizer, "alpha_optimizer")
        tensors |= optimizer_tensors(self.weight_optimizer, "weight_optimizer")
        tensors["generator"] = self.generator.get_state()
        tensors["noise"] = self._noise.get_state()
        tensors["draws"] = self._draws.get_state()
        state = {
            "epoch": self.epoch,
            "history": self.history,
            "best": self.plateau.best,
            "stale": self.plateau.stale,
            "genotypes": [genotype.to_dict() for genotype in self.genotypes],
            "kept_epoch": self.kept_epoch,
            "finished": self.finished,
        }
        if isinstance(self.stopping, EigenvalueRise):
            states, state["eigenvalues"] = self.stopping.checkpoint()
            tensors |= states
        return tensors, state

    def restore(self, tensors: dict[str, Tensor], state: dict) -> None:
        """Continue from what `checkpoint` returned."""
        prefix = "supernet."
        self.supernet.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
        restore_optimizer(self.alpha_optimizer, "alpha_optimizer", tensors)
        restore_optimizer(self.weight_optimizer, "weight_optimizer", tensors)
        self.generator.set_state(tensors["generator"])
        if "noise" in tensors:
            self._noise.set_state(tensors["noise"])
        if "draws" in tensors:
            self._draws.set_state(tensors["draws"])
        if self.processes.rank:  # the checkpoint has the noise of the first process
            own = self.processes.size * state["epoch"] + self.processes.rank
            self._noise.manual_seed(self._noise.initial_seed() + own)
        self.epoch, self.history = state["epoch"], state["history"]
        self.plateau.best, self.plateau.stale = state["best"], state["stale"]
        if "genotypes" in state:
            self.genotypes = [Genotype.from_dict(data) for data in state["genotypes"]]
            self.kept_epoch = state["kept_epoch"]
        if isinstance(self.stopping, EigenvalueRise) and "eigenvalues" in state:
            self.stopping.restore(tensors, state["eigenvalues"])
        self.finished = state.get("finished", False)
