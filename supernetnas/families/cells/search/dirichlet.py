"""DrNAS: operation weights are drawn from Dirichlet distributions that the search shapes.

Chen et al., "DrNAS: Dirichlet Neural Architecture Search" (ICLR 2021). Each forward pass draws the
weights of each edge from a Dirichlet distribution of concentration ``ELU(alpha) + 1`` (section
3.1), and the alphas get the gradient of the draw itself. The search is progressive (section 3.3):
in a first half operations see one in six channels, then one in four and only the four
operations of each edge with the largest alphas stay. The alphas rest for the first 40 % of each
half (10 of 25 epochs in the paper). The genotype ranks by the softmax of the alphas. Alphas are
kept small by the weight decay of their optimizer, the authors' default, not by a KL divergence.

Deviations from the authors' code:

- A draw is a vector of Gamma draws divided by its sum, whose derivative torch knows as well; the
  derivative of torch's own Dirichlet is another estimate of the same expectation, and cannot
  draw from a given generator.
- The momentum of operations that are widened starts anew; the original widens it, too.
- In a stack with normal and reduction cells of several widths, K of six means the nearest whole
  number of channels, see `supernetnas.families.cells.partial`.
- The concentration of an operation that an earlier search pruned is as good as zero, not zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ....training.batches import LabelledImages
from ..partial import PartialSupernet
from ..space import CellKind
from ..supernet import CellSupernet
from .bilevel import BilevelSearch
from .weight_training import SearchSettings

__all__ = ["DirichletSearch", "dirichlet_sample"]

_LEAST_ALPHA = -15.0


def dirichlet_sample(alphas: Tensor, mask: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw operation weights.

    Parameters
    ----------
    alphas : torch.Tensor of shape (edges, k)
        The concentrations are ``ELU(alphas) + 1``.
    mask : torch.Tensor of shape (edges, k), bool
        Which entries are operations; the others become 0.
    generator : torch.Generator
        On the device of the alphas.

    Returns
    -------
    torch.Tensor of shape (edges, k)
        Rows sum to one; differentiable with respect to the alphas.
    """
    # Double precision: single Gamma draws of small concentrations round to zero.
    # Of an operation that an earlier search pruned they would be zero, without a gradient.
    alphas_of_draw = alphas.double().clamp(min=_LEAST_ALPHA)
    concentration = (F.elu(alphas_of_draw) + 1).masked_fill(~mask, 1.0)
    draws = torch._standard_gamma(concentration, generator=generator) * mask
    return (draws / draws.sum(1, keepdim=True)).to(alphas.dtype)


class DirichletSearch(BilevelSearch):
    """DrNAS with its progressive stages.

    Parameters
    ----------
    supernet : CellSupernet
        An ordinary one, as it comes from a zoo; its operations' leading channels are searched.
    train, validation, settings, generator, **kwargs
        As for `BilevelSearch`.

    Attributes
    ----------
    partial_channels : tuple of int
        K of each stage.
    n_operations : tuple of int or None
        Operations that each stage keeps of every edge; None for all.
    frozen_share : float
        Share of the epochs of a stage, from its first, that leave the alphas as they are.
    stage : int
        Stage that has been entered.
    """

    capturable = False  # a new stage has other weights
    supernet: PartialSupernet
    partial_channels: tuple[int, ...] = (6, 4)
    n_operations: tuple[int | None, ...] = (None, 4)
    frozen_share = 0.4

    def __init__(
        self,
        supernet: CellSupernet,
        train: LabelledImages,
        validation: LabelledImages,
        settings: SearchSettings,
        generator: torch.Generator,
        **kwargs,
    ) -> None:
        partial = PartialSupernet(supernet, self.partial_channels[0])
        super().__init__(partial, train, validation, settings, generator, **kwargs)
        self.stage = 0

    def before_epoch(self) -> None:
        """Enter the next stage when its time has come."""
        super().before_epoch()
        while self.stage < self._stage_of(self.epoch):
            self._enter(self.stage + 1)
        # The same draws for all epochs, so that these can be compared.
        self._judging = torch.Generator(device=self._noise.device).manual_seed(0)

    def alphas_frozen(self) -> bool:
        """Whether the epoch is one of the first of its stage."""
        first, last = self._epochs_of(self._stage_of(self.epoch))
        return self.epoch - first < round(self.frozen_share * (last - first))

    def may_stop(self) -> bool:
        """Whether the last stage has let the alphas move."""
        first, last = self._epochs_of(len(self.partial_channels) - 1)
        return self.epoch > first + round(self.frozen_share * (last - first))

    def alpha_scores(self, images: Tensor) -> Tensor:
        """Scores under drawn operation weights, with gradients of the alphas."""
        return self.scores(images, self._draw())

    def weight_scores(self, images: Tensor, labels: Tensor, radius: float | Tensor = 0.0) -> Tensor:
        """Scores under drawn operation weights."""
        with torch.no_grad():
            weights = self._draw()
        return self.scores(images, weights)

    def evaluation_scores(self, images: Tensor) -> Tensor:
        """Scores under drawn operation weights: they are drawn in evaluation, too."""
        return self.scores(images, self._draw(self._judging))

    def searched_supernet(self) -> CellSupernet:
        """Return an ordinary supernet; operations that were pruned have no weight in it."""
        return self.supernet.full()

    def _draw(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        supernet = self.supernet
        normal, reduce = (
            dirichlet_sample(alphas, mask, generator or self._noise)
            for alphas, mask in zip(
                supernet.alpha_parameters(), supernet.operation_masks(), strict=True
            )
        )
        return normal, reduce

    def _epochs_of(self, stage: int) -> tuple[int, int]:
        """First epoch of a stage, from 0, and of the next."""
        n_stages, epochs = len(self.partial_channels), self.settings.epochs
        return stage * epochs // n_stages, (stage + 1) * epochs // n_stages

    def _stage_of(self, epoch: int) -> int:
        stages = range(len(self.partial_channels))
        return next(s for s in stages if epoch < self._epochs_of(s)[1] or s == stages[-1])

    def _enter(self, stage: int) -> None:
        """Prune, widen, and hand the momentum of all other weights to a new optimizer."""
        self.stage = stage
        if (n_operations := self.n_operations[stage]) is not None:
            self.supernet.prune(n_operations)
        self.supernet.widen(self.partial_channels[stage], self.generator)
        self.supernet.seed_noise(self._noise)
        old = self.weight_optimizer
        self.weight_optimizer = torch.optim.SGD(self.supernet.weight_parameters(), **old.defaults)
        for weight in self.supernet.weight_parameters():
            if weight in old.state:
                self.weight_optimizer.state[weight] = old.state[weight]
        self.stopping.reshaped()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As in `BilevelSearch`, with the stage and the operations that are left."""
        tensors, state = super().state()
        tensors |= {f"mask.{kind.key}": self.supernet.mask(kind).clone() for kind in CellKind}
        return tensors, state | {"stage": self.stage}

    def load_state(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        while self.stage < state["stage"]:
            self._enter(self.stage + 1)
        self.supernet.mask_operations(*(tensors[f"mask.{kind.key}"] for kind in CellKind))
        super().load_state(tensors, state)
