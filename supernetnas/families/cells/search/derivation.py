"""DARTS-PT: choose each operation by what its removal costs, not by its alpha.

Wang et al., "Rethinking Architecture Selection in Differentiable NAS" (ICLR 2021), section 4 and
algorithm 1. The edges of a cell are projected one after the other, in random order. For each
operation of an edge, its weight is set to zero, the other weights stay as they are (they are not
normalised again), and the accuracy on validation images is measured; the edge keeps the
operation without which the accuracy is lowest. Afterwards the same is done to whole edges: of each
node with more than two, in random order, the edge that is missed least goes, until two are left.
Between two projections the supernet is tuned. Each step projects an edge of the normal and then one
of the reduction cell.

The tuning trains weights and the alphas of what is not projected by the two steps of first-order
DARTS, at a tenth of the peak learning rate on a cosine, with a new optimizer for the weights. The
paper tunes for 10 epochs between projections after a search of 50, 161 in all; here
``tuning_epochs`` says how many, for small data one.

Deviations: the tuning is that of DARTS whatever the search method was, without the perturbation,
the draws or the look ahead of others, where the authors' code goes on perturbing the weight steps
of SmoothDARTS; the operation ``none`` is never a candidate, as it is no operation of a genotype;
equal accuracies, which small validation sets often give, are told apart by their losses; and the
measurements, under the statistics of their batches, leave the running statistics alone and draw the
same noise each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ....training.batch_norm import frozen_batch_norm
from ....training.batches import balanced_batches, endless_batches
from ....training.clock import Stopwatch
from ....training.steps import cosine_schedule, evaluate, held_constant, set_gradients
from ..genotype import Genotype
from ..space import N_EDGES, N_NODES, CellKind, edges_into

if TYPE_CHECKING:
    from .bilevel import BilevelSearch

__all__ = ["PerturbationDerivation"]

_N_INPUTS = 2  # edges that a node keeps
_N_STEPS = N_EDGES + N_NODES - 1  # the first node has two edges to begin with


class PerturbationDerivation:
    """Selects an architecture from a searched supernet.

    Parameters
    ----------
    search : BilevelSearch
        After its run; the supernet is tuned in place.
    tuning_epochs : int
        Passes over the training images between two projections.

    Attributes
    ----------
    chosen : tuple of two lists of int or None
        For the normal and the reduction cell, the operation of each edge that is projected.
    removed : tuple of two sets of int
        Edges that were removed.
    """

    def __init__(self, search: BilevelSearch, tuning_epochs: int = 1) -> None:
        self.search, self.tuning_epochs = search, tuning_epochs
        self.chosen: tuple[list[int | None], list[int | None]] = (
            [None] * N_EDGES,
            [None] * N_EDGES,
        )
        self.removed: tuple[set[int], set[int]] = (set(), set())
        self._step = 0  # of the tuning

    def run(self, stopwatch: Stopwatch | None = None) -> Genotype:
        """Project all edges; the search's history gets a row for each projection.

        Parameters
        ----------
        stopwatch : Stopwatch, optional
            Once its limit has passed, nothing more is tuned or measured: the largest weights
            decide what is left to decide.
        """
        search, kinds = self.search, self.search.supernet.kinds
        edges = [self._order(N_EDGES) for _ in CellKind]
        nodes = [[1 + node for node in self._order(N_NODES - 1)] for _ in CellKind]
        search.supernet.train()
        old = search.weight_optimizer
        search.weight_optimizer = torch.optim.SGD(
            search.supernet.weight_parameters(), **old.defaults
        )
        try:
            for step in range(_N_STEPS):
                watch = Stopwatch()
                for kind in CellKind:
                    measure = kind in kinds and not (stopwatch and stopwatch.expired())
                    if step < N_EDGES:
                        self._project_operation(kind, edges[kind][step], measure)
                    else:
                        self._project_node(kind, nodes[kind][step - N_EDGES], measure)
                if step < _N_STEPS - 1 and not (stopwatch and stopwatch.expired()):
                    for _ in range(self.tuning_epochs):
                        self._tune()
                self._record(step, watch)
        finally:
            search.weight_optimizer = old
        return self.genotype()

    def genotype(self) -> Genotype:
        """The architecture that is left, once everything is projected."""
        space, cells = self.search.supernet.space, []
        for kind in CellKind:
            nodes = []
            for node in range(N_NODES):
                nodes.append(
                    tuple(
                        (space.edges(kind)[edge][index], state)
                        for state, edge in enumerate(edges_into(node))
                        if edge not in self.removed[kind]
                        and (index := self.chosen[kind][edge]) is not None
                    )
                )
            cells.append(tuple(nodes))
        return Genotype(space.name, *cells)

    def operation_weights(self) -> tuple[Tensor, Tensor]:
        """Softmax of the alphas; one-hot on projected edges, zero on removed ones."""
        result = []
        pairs = zip(CellKind, self.search.supernet.operation_weights(), strict=True)
        for kind, weights in pairs:
            rows = []
            for edge, row in enumerate(weights.unbind()):
                if edge in self.removed[kind]:
                    row = torch.zeros_like(row)
                elif (index := self.chosen[kind][edge]) is not None:
                    row = torch.zeros_like(row)
                    row[index] = 1.0
                rows.append(row)
            result.append(torch.stack(rows))
        return result[0], result[1]

    # Projections

    def _project_operation(self, kind: CellKind, edge: int, measure: bool) -> None:
        supernet = self.search.supernet
        names = supernet.space.edges(kind)[edge]
        left = supernet.operation_masks()[kind][edge].tolist()
        candidates = [i for i, name in enumerate(names) if name != "none" and left[i]]
        weights = supernet.operation_weights()[kind][edge].detach().tolist()
        if len(candidates) > 1 and measure:
            scores = [self._without(kind, edge, index) for index in candidates]
            self.chosen[kind][edge] = candidates[scores.index(min(scores))]
        else:
            self.chosen[kind][edge] = max(candidates, key=lambda index: weights[index])

    def _project_node(self, kind: CellKind, node: int, measure: bool) -> None:
        edges = list(edges_into(node))
        decisions = self.search.supernet.decision_weights()[kind].detach().tolist()
        while len(edges) > _N_INPUTS:
            if measure:
                scores = [self._without(kind, edge) for edge in edges]
            else:
                scores = [decisions[edge][self.chosen[kind][edge]] * -1 for edge in edges]
            # Of equal scores the last edge goes, so that ties keep the lower states.
            worst = max(range(len(edges)), key=lambda i: (scores[i], i))
            self.removed[kind].add(edges.pop(worst))

    @torch.no_grad()
    def _without(self, kind: int, edge: int, index: int | None = None) -> tuple[float, float]:
        """Accuracy and negative loss without one operation, or without the whole edge."""
        weights = self.operation_weights()
        weights[kind][edge, slice(None) if index is None else index] = 0.0
        return self._measure(weights)

    def _measure(self, weights: tuple[Tensor, Tensor]) -> tuple[float, float]:
        search = self.search
        with frozen_batch_norm(search.supernet), search.fixed_noise():
            loss, accuracy = evaluate(
                lambda images: search.scores(images, weights),
                search.validation,
                own_scores=search.own_scores,
            )
        return accuracy, -loss

    # Tuning

    def _tune(self) -> None:
        """One epoch of both steps of the search, on what is projected so far."""
        search, settings = self.search, self.search.settings
        generator = search.generator
        batches = balanced_batches(len(search.train), settings.batch_size, generator)
        validation = endless_batches(len(search.validation), settings.batch_size, generator)
        n_steps = max(1, (_N_STEPS - 1) * self.tuning_epochs * len(batches))
        for index in batches:
            for group in search.weight_optimizer.param_groups:
                group["lr"] = cosine_schedule(self._step / n_steps, settings.learning_rate / 10)
            self._step += 1
            self._alpha_step(next(validation))
            images = search.train.images.augmented(index, search._draws)
            with torch.no_grad():
                weights = self.operation_weights()
            loss = search._loss(search.scores(images, weights), search.train.labels_at(index))
            parameters = search.supernet.weight_parameters()
            set_gradients(parameters, self._gradients(loss, parameters))
            torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm, foreach=True)
            search.weight_optimizer.step()
            search.weight_optimizer.zero_grad()
        if not math.isfinite(float(loss.detach())):
            raise search.divergence("The tuning of the derivation diverged")

    def _alpha_step(self, index: Tensor) -> None:
        search = self.search
        if all(None not in chosen for chosen in self.chosen):
            return
        images = search.validation.images.augmented(index, search._draws)
        with held_constant(search.supernet.weight_parameters()):
            scores = search.scores(images, self.operation_weights())
            loss = search._loss(scores, search.validation.labels_at(index))
            search.move_alphas(self._gradients(loss, search.supernet.alpha_parameters()))

    @staticmethod
    def _gradients(loss: Tensor, parameters: Sequence[Tensor]) -> Sequence[Tensor | None]:
        return torch.autograd.grad(loss, parameters, allow_unused=True)

    def _order(self, n: int) -> list[int]:
        return torch.randperm(n, generator=self.search.generator).tolist()

    @torch.no_grad()
    def _record(self, step: int, watch: Stopwatch) -> None:
        accuracy, negative_loss = self._measure(self.operation_weights())
        self.search.history.append(
            {
                "stage": "derive",
                "epoch": step + 1,
                "validation_loss": -negative_loss,
                "validation_accuracy": accuracy,
                "seconds": watch.seconds,
            }
        )
