"""Limits on what the derived network may cost.

During the search the alpha step's loss gets a term that pushes the expected cost of the derived
network below the limit; at derivation the limit is a guarantee: among all genotypes of the space
that keep it, the one of the highest score is found, exactly.

The score of a genotype is the sum of the operation weights of its edges. Without a limit its
maximum is the genotype of DARTS (section 2.4): two edges per node, on each its best operation. With
one, choosing a pair of edges with operations for each of the eight nodes is a multiple-choice
knapsack problem, which `supernetnas.search.knapsack` solves.

The expectation takes each node's edges to be kept with equal probability, two of all, and an
edge's operations with their weights, ``none`` left out. This is an approximation: which edges are
kept depends on the weights, too, but not in a differentiable way.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ....search.knapsack import Options, best_choices
from ..costs import NetworkCost
from ..genotype import Genotype
from ..space import N_NODES, CellKind, edges_into, get_space

__all__ = ["Budget"]

_UNITS = ("multiply-accumulates", "parameters", "seconds")
_PARAMETERS = ("max_macs", "max_parameters", "max_latency")
_LATENCY = 2
_SECOND = 10**9  # nanoseconds, which latency is counted in
_CORRECTIONS = 5


class Budget:
    """Limits on the multiply-accumulates, the parameters or the latency of a network.

    Parameters
    ----------
    cost : NetworkCost
        With nanoseconds, if latency is limited.
    max_macs, max_parameters : int or None
        Limits; None for none.
    strength : float, default=1.0
        Weight of the term in the loss.
    max_latency : float or None
        Limit in seconds; of all three, two at most.
    measured : callable, optional
        From a genotype to the seconds of its network when it is built.

    Raises
    ------
    ValueError
        If no network of the space keeps the limits; names the smallest cost that there is.
    """

    def __init__(
        self,
        cost: NetworkCost,
        max_macs: int | None = None,
        max_parameters: int | None = None,
        strength: float = 1.0,
        max_latency: float | None = None,
        measured: Callable[[Genotype], float] | None = None,
    ) -> None:
        self.cost, self.strength = cost, strength
        self.max_latency, self.measured = max_latency, measured
        nanoseconds = None if max_latency is None else int(max_latency * _SECOND)
        limits = (max_macs, max_parameters, nanoseconds)
        self._units = [unit for unit, limit in enumerate(limits) if limit is not None]
        if len(self._units) > 2:
            raise ValueError(
                "Cells keep two limits at most; got max_macs, max_parameters and max_latency. "
                "Leave one of them out."
            )
        self._limits = np.array([limits[unit] for unit in self._units], np.int64)
        self._tensors: tuple[Tensor, Tensor] | None = None
        self._check()

    def _check(self) -> None:
        fixed = self.cost.fixed[self._units]
        least = fixed + sum(
            (options.costs.min(0) for options in self._options(None)),
            start=np.zeros(len(self._units), np.int64),
        )
        for unit, limit, smallest in zip(self._units, self._limits, least, strict=True):
            if smallest > limit:
                raise ValueError(
                    f"{_PARAMETERS[unit]}={_amount(unit, limit)} cannot be met: the smallest "
                    f"network of space {self.cost.space!r} at this size has "
                    f"{_amount(unit, smallest)} {_UNITS[unit]}. Raise the "
                    "limit, or take fewer channels or cells (family=Cells(network_channels=..., "
                    "network_cells=...)) or a smaller image_size."
                )
        if len(self._units) == 2 and self._solve(None) is None:
            first, second = self._units
            fewest = self._least(first, second)
            kept, broken = (
                f"{_PARAMETERS[unit]}={_amount(unit, limit)}"
                for unit, limit in zip(self._units, self._limits, strict=True)
            )
            raise ValueError(
                f"{kept} and {broken} cannot be met "
                f"together: the smallest network within {_PARAMETERS[first]} has "
                f"{_amount(second, fewest)} {_UNITS[second]}. Raise one of them."
            )

    def penalty(self, weights: tuple[Tensor, Tensor]) -> Tensor:
        """Return the term of the loss: by how much the expected cost exceeds each limit.

        Parameters
        ----------
        weights : tuple of two torch.Tensor of shape (14, k)
            Operation weights of the normal and the reduction cell.

        Returns
        -------
        torch.Tensor of shape ()
            ``strength`` times the sum of max(0, expected cost / limit - 1).
        """
        expected = self.expected_cost(weights)
        excesses = [
            (expected[unit] / float(limit) - 1).clamp(min=0)
            for unit, limit in zip(self._units, self._limits, strict=True)
        ]
        return self.strength * torch.stack(excesses).sum()

    def expected_cost(self, weights: tuple[Tensor, Tensor]) -> Tensor:
        """Expected cost in each unit, of shape (units,); differentiable."""
        masks, costs = self._on(weights[0])
        kept = torch.stack(weights) * masks
        kept = kept / kept.sum(2, keepdim=True).clamp(min=torch.finfo(kept.dtype).tiny)
        edges = costs[:-1].view(*kept.shape, costs.shape[1])
        return (kept[..., None] * edges).sum((0, 1, 2)) + costs[-1]

    def _on(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return masks of operations other than none, and costs, of which the last row is fixed."""
        if self._tensors is None or self._tensors[0].device != like.device:
            space = get_space(self.cost.space)
            shape = (2, *self.cost.edges[0].shape[:2])
            masks, share = np.zeros(shape), np.zeros((*shape[:2], 1, 1))
            for kind in CellKind:
                for edge, names in enumerate(space.edges(kind)):
                    masks[kind, edge, : len(names)] = [name != "none" for name in names]
            for node in range(N_NODES):
                edges = edges_into(node)
                share[:, edges] = 2 / len(edges)
            rows = (np.stack(self.cost.edges) * share).reshape(-1, len(self.cost.fixed))
            costs = np.concatenate([rows, self.cost.fixed[None]])
            self._tensors = (
                torch.from_numpy(masks).to(like, non_blocking=True),
                torch.from_numpy(costs).to(like, non_blocking=True),
            )
        return self._tensors

    def derive(self, weights: tuple[Tensor, Tensor]) -> Genotype:
        """Return the genotype of the highest sum of operation weights within the limits.

        Latency is that of its parts. If its network is slower when it is built, the limit for the
        parts is lowered in proportion, and another genotype is taken.

        Parameters
        ----------
        weights : tuple of two torch.Tensor of shape (14, k)

        Warns
        -----
        UserWarning
            If no network was found that keeps the limit on latency when it is built.
        """
        scores = [w.detach().double().cpu().numpy() for w in weights]
        genotype = self._best(scores)
        if self.measured is None or self.max_latency is None:
            return genotype
        limits, place = self._limits.copy(), self._units.index(_LATENCY)
        for _ in range(_CORRECTIONS):
            seconds = self.measured(genotype)
            if seconds <= self.max_latency:
                return genotype
            limits[place] = min(limits[place], self.cost.of(genotype)[_LATENCY])
            limits[place] *= self.max_latency / seconds
            faster = self._solve(scores, limits)
            if faster is None:
                break
            genotype = faster
        else:
            seconds = self.measured(genotype)
        if seconds > self.max_latency:
            warnings.warn(
                f"The network takes {seconds:.3g} seconds when it is built, more than max_latency="
                f"{self.max_latency:g}: its parts, measured alone, are faster.",
                UserWarning,
                stacklevel=2,
            )
        return genotype

    def _least(self, limited: int, unit: int) -> int:
        """Smallest cost in a unit within the limit of another alone."""
        scores = [-edges[..., unit].astype(float) for edges in self.cost.edges]
        other = copy.copy(self)
        place = self._units.index(limited)
        other._units, other._limits = [limited], self._limits[place : place + 1]
        return self.cost.of(other._best(scores))[unit]

    def _best(self, scores: Sequence[np.ndarray]) -> Genotype:
        found = self._solve(scores)
        if found is None:
            raise RuntimeError("The limits were checked, yet no genotype keeps them.")
        return found

    def _options(self, scores: Sequence[np.ndarray] | None) -> list[Options]:
        """For each node of the two cells, all pairs of edges with operations."""
        groups = []
        for kind in CellKind:
            names = get_space(self.cost.space).edges(kind)
            costs = self.cost.edges[kind][..., self._units]
            score = np.zeros(costs.shape[:2]) if scores is None else scores[kind]
            for node in range(N_NODES):
                single = [
                    [
                        (costs[edge, i], score[edge, i], (name, state))
                        for i, name in enumerate(names[edge])
                        if name != "none"
                    ]
                    for state, edge in enumerate(edges_into(node))
                ]
                pairs = [
                    (a[0] + b[0], a[1] + b[1], (a[2], b[2]))
                    for one, other in itertools.combinations(single, 2)
                    for a in one
                    for b in other
                ]
                groups.append(
                    Options(
                        np.array([pair[0] for pair in pairs]).reshape(len(pairs), -1),
                        np.array([pair[1] for pair in pairs]),
                        [pair[2] for pair in pairs],
                    )
                )
        return groups

    def _solve(
        self, scores: Sequence[np.ndarray] | None, limits: np.ndarray | None = None
    ) -> Genotype | None:
        room = (self._limits if limits is None else limits) - self.cost.fixed[self._units]
        nodes = best_choices(self._options(scores), room)
        if nodes is None:
            return None
        return Genotype(self.cost.space, tuple(nodes[:N_NODES]), tuple(nodes[N_NODES:]))


def _amount(unit: int, value: int) -> str:
    """A cost for people."""
    return f"{value / _SECOND:.3g}" if unit == _LATENCY else str(value)
