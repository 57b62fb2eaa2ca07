"""The alternating search: a step of the alphas, then a step of the weights.

First-order DARTS (Liu et al., 2019, equation 7 with xi = 0) and SmoothDARTS (Chen and Hsieh, 2020),
which perturbs the operation weights in the weight step. This is the loop of algorithms 1 to 3 of
the supernet transfer paper (Singh and Vanschoren): from random weights it searches from scratch,
from a source's weights and alphas it is the warm start.

Deviations from the DARTS code, on purpose, besides those of
`supernetnas.families.cells.search.weight_training`:

- Validation batches come from shuffled passes over the validation images, begun anew each epoch;
  the original draws a fresh shuffle for every step.
- Each step computes only the gradients it uses. The original also accumulates and discards those
  of the weights in the alpha step and those of the alphas in the weight step.

The other methods of the family (`supernetnas.families.cells.search.methods`) are subclasses that
replace one of the methods under "What the methods of the family change".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ....search.stopping import StoppingRule
from ....training.batch_norm import frozen_batch_norm
from ....training.batches import LabelledImages, endless_batches
from ....training.checkpoints import optimizer_tensors, restore_optimizer
from ....training.clock import Stopwatch
from ....training.distributed import ALONE, Processes
from ....training.history import HistoryRow
from ....training.steps import held_constant, set_gradients
from ..genotype import Genotype
from ..supernet import CellSupernet
from .budget import Budget
from .diagnostics import genotype_agreement
from .perturbation import adversarial_perturbation, perturbation_radius, random_perturbation
from .weight_training import SearchSettings, WeightTraining

__all__ = ["BilevelSearch"]

# Adam moves alphas by their learning rate at most, so whatever the weights do, no reasonable rate
# brings them here; softmax, and the loss, are finite for a long way beyond.
_LARGE_ALPHA = 1e6


class BilevelSearch(WeightTraining):
    """A search of alphas and weights in turn.

    Parameters
    ----------
    supernet, train, validation, settings, generator, class_weight, stopping
        Of `WeightTraining`, as are processes and dataset_of_class; the validation images train the
        alphas.
    budget : Budget, optional
        Adds its term to the loss of the alpha steps.

    Attributes
    ----------
    architectures : list of Genotype
        The genotype before the first epoch and after each.
    """

    def __init__(
        self,
        supernet: CellSupernet,
        train: LabelledImages,
        validation: LabelledImages,
        settings: SearchSettings,
        generator: torch.Generator,
        class_weight: Tensor | None = None,
        budget: Budget | None = None,
        stopping: StoppingRule | None = None,
        processes: Processes = ALONE,
        dataset_of_class: Tensor | None = None,
    ) -> None:
        super().__init__(
            *(supernet, train, validation, settings, generator, class_weight, stopping, processes),
            dataset_of_class,
        )
        self.budget = budget
        self._largest_alpha = torch.zeros((), device=self.device)
        self.alpha_optimizer = torch.optim.Adam(
            supernet.alpha_parameters(),
            lr=settings.alpha_learning_rate,
            betas=(0.5, 0.999),
            weight_decay=settings.alpha_weight_decay,
            **({"fused": True, "capturable": True} if self._captures else {}),
        )
        self.architectures: list[Genotype] = [supernet.genotype()]  # type: ignore[assignment]

    def before_epoch(self) -> None:
        """Begin the passes over the validation images anew, and set the radius of the epoch."""
        settings = self.settings
        self._radius = perturbation_radius(
            self.epoch, settings.epochs, settings.perturbation_radius
        )
        self._validation = self._validation_batches()

    def step(self, number: int, index: Tensor, rate: float) -> tuple[Tensor, ...]:
        """Step the alphas when it is time to, then the weights."""
        moves = number % self.settings.weight_steps_per_alpha_step == 0 and not self.alphas_frozen()
        return self._run(next(self._validation) if moves else None, index, rate, self._radius)

    def describe_epoch(self, row: HistoryRow) -> None:
        """Tell how decided the alphas are, and whether their genotype still changes."""
        genotype = self.supernet.genotype()
        row["genotype_agreement"] = genotype_agreement(genotype, self.architectures)
        row["changes"] = genotype.n_edges_beyond(self.architectures[0])
        self.architectures.append(genotype)
        row["skip_connections"] = genotype.count("skip_connect")
        row["alpha_entropy"] = self.supernet.alpha_entropy()

    def derive(self, stopwatch: Stopwatch | None = None) -> Genotype:
        """Architecture that the alphas have decided for."""
        return self.supernet.genotype()

    def divergence(self, what: str) -> FloatingPointError:
        """Return the error of a loss that is not finite, which names the rate to lower."""
        if self._largest_alpha <= _LARGE_ALPHA:
            return super().divergence(what)
        rate = self.settings.alpha_learning_rate
        return FloatingPointError(
            f"{what}: its loss is not finite. Lower the search's alpha_learning_rate ({rate:g})."
        )

    # What the methods of the family change

    def alphas_frozen(self) -> bool:
        """Whether the current epoch leaves the alphas as they are."""
        return False

    def alpha_scores(self, images: Tensor) -> Tensor:
        """Scores that an alpha step differentiates."""
        return self.scores(images)

    def weight_scores(self, images: Tensor, labels: Tensor, radius: float | Tensor = 0.0) -> Tensor:
        """Scores that a weight step differentiates."""
        return self.scores(images, self._operation_weights(images, labels, radius))

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

    # The two steps

    def _full_step(  # type: ignore[override]
        self,
        validation_index: Tensor | None,
        index: Tensor,
        rate: float | Tensor,
        radius: float | Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Step the alphas, if there are validation images for it, then the weights."""
        self._set_rate(rate)
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
        supernet = self.supernet
        constant = held_constant(supernet.weight_parameters())
        autocast = supernet.execution.autocast(images.device)
        with frozen_batch_norm(supernet), constant, autocast:
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

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As in `WeightTraining`, with the alphas' optimizer and the genotypes so far."""
        tensors, state = super().state()
        tensors |= optimizer_tensors(self.alpha_optimizer, "alpha_optimizer")
        return tensors, state | {"genotypes": [g.to_dict() for g in self.architectures]}

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        super().load_state(tensors, state)
        restore_optimizer(self.alpha_optimizer, "alpha_optimizer", tensors)
        self.architectures = [Genotype.from_dict(data) for data in state["genotypes"]]
