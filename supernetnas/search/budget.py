"""Limits on what the derived network may cost.

During the search the alpha step's loss gets a term that pushes the expected cost of the derived
network below the limit; at derivation the limit is a guarantee: among all genotypes of the space
that keep it, the one of the highest score is found, exactly.

The score of a genotype is the sum of the operation weights of its edges. Without a limit its
maximum is the genotype of DARTS (section 2.4): two edges per node, on each its best operation. With
one, choosing a pair of edges with operations for each of the eight nodes is a multiple-choice
knapsack problem; dynamic programming over the nodes, which keeps every combination that no other
beats in cost and score (Nemhauser and Ullmann, "Discrete Dynamic Programming and Capital
Allocation", 1969), solves it.

The expectation takes each node's edges to be kept with equal probability, two of all, and an
edge's operations with their weights, ``none`` left out. This is an approximation: which edges are
kept depends on the weights, too, but not in a differentiable way.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from ..cost import count_macs, count_parameters
from ..spaces.cells import N_NODES, get_space
from ..spaces.genotype import Genotype
from ..spaces.operations import make_operation
from ..supernets.cell import cell_inputs, cell_layout

__all__ = ["Budget", "NetworkCost", "network_cost"]

_UNITS = ("multiply-accumulates", "parameters")
_PARAMETERS = ("max_macs", "max_parameters")


@dataclass(frozen=True)
class NetworkCost:
    """What the networks of a space cost at one size.

    Attributes
    ----------
    space : str
        Name of the search space.
    fixed : ndarray of shape (2,), int64
        Multiply-accumulates for one image, and parameters, of everything but the edges.
    edges : tuple of two ndarray of shape (14, k, 2), int64
        The same of each operation on each edge of the normal and of the reduction cell, summed
        over all cells of the kind; zero past an edge's own operations.
    """

    space: str
    fixed: np.ndarray
    edges: tuple[np.ndarray, np.ndarray]

    def of(self, genotype: Genotype) -> tuple[int, int]:
        """Multiply-accumulates and parameters of the network of a genotype."""
        total = self.fixed.copy()
        for reduction, costs in zip((False, True), self.edges, strict=True):
            names = get_space(self.space).edges(reduction)
            for position, node in enumerate(genotype.nodes(reduction)):
                for name, state in node:
                    edge = position * (position + 3) // 2 + state
                    total += costs[edge, names[edge].index(name)]
        return int(total[0]), int(total[1])


@lru_cache(maxsize=64)
def network_cost(
    space: str,
    init_channels: int,
    n_cells: int,
    input_shape: tuple[int, int, int],
    n_classes: int,
) -> NetworkCost:
    """Measure every part that a discrete network of a space can have.

    Parameters
    ----------
    space : str
        Name of the search space.
    init_channels, n_cells, n_classes : int
        As in `supernetnas.network.NetworkConfig`.
    input_shape : tuple of int (channels, height, width)

    Returns
    -------
    NetworkCost
    """
    spaces = get_space(space)
    width = max(len(names) for names in spaces.normal + spaces.reduce)
    edges = np.zeros((2, 3 * N_NODES + 2, width, 2), np.int64)
    stem = 3 * init_channels
    with torch.device("meta"):  # without memory, whatever the sizes of a stranger's source
        fixed = _cost(
            nn.Sequential(
                nn.Conv2d(input_shape[0], stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem)
            ),
            input_shape,
        )
        size_before = size = input_shape[1:]
        for before, last, channels, reduction, reduction_last in cell_layout(
            init_channels, n_cells
        ):
            inputs = cell_inputs(before, last, channels, reduction_last, affine=True)
            fixed += _cost(inputs[0], (before, *size_before)) + _cost(inputs[1], (last, *size))
            inner = (-(-size[0] // 2), -(-size[1] // 2)) if reduction else size
            cache: dict[tuple[str, bool], np.ndarray] = {}
            states = [state for node in range(N_NODES) for state in range(node + 2)]
            for edge, (names, state) in enumerate(
                zip(spaces.edges(reduction), states, strict=True)
            ):
                outer = state < 2
                for index, name in enumerate(names):
                    if (name, outer) not in cache:
                        operation = make_operation(
                            name, channels, 2 if reduction and outer else 1, affine=True
                        )
                        cache[name, outer] = _cost(
                            operation, (channels, *(size if outer else inner))
                        )
                    edges[int(reduction), edge, index] += cache[name, outer]
            size_before, size = size, inner
        fixed += _cost(nn.Linear(N_NODES * channels, n_classes), (N_NODES * channels,))
    return NetworkCost(space, fixed, (edges[0], edges[1]))


def _cost(module: nn.Module, input_shape: tuple[int, ...]) -> np.ndarray:
    parameters = count_parameters(module)
    macs = count_macs(module, input_shape) if parameters else 0
    return np.array([macs, parameters], np.int64)


class Budget:
    """A limit on the multiply-accumulates, the parameters, or both of a network.

    Parameters
    ----------
    cost : NetworkCost
    max_macs, max_parameters : int or None
        Limits; None for none.
    strength : float, default=1.0
        Weight of the term in the loss.

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
    ) -> None:
        self.cost, self.strength = cost, strength
        limits = (max_macs, max_parameters)
        self._units = [unit for unit, limit in enumerate(limits) if limit is not None]
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
                    f"{_PARAMETERS[unit]}={limit} cannot be met: the smallest network of space "
                    f"{self.cost.space!r} at this size has {smallest} {_UNITS[unit]}. Raise the "
                    "limit, or take fewer channels or cells (retrain_channels, retrain_cells) or "
                    "a smaller image_size."
                )
        if len(self._units) == 2 and self._solve(None) is None:
            fewest = Budget(self.cost, max_macs=int(self._limits[0]))._fewest_parameters()
            raise ValueError(
                f"max_macs={self._limits[0]} and max_parameters={self._limits[1]} cannot be met "
                f"together: the smallest network within max_macs has {fewest} parameters. Raise "
                "one of them."
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
        """Expected multiply-accumulates and parameters, of shape (2,); differentiable."""
        masks, costs = self._on(weights[0])
        kept = torch.stack(weights) * masks
        kept = kept / kept.sum(2, keepdim=True).clamp(min=torch.finfo(kept.dtype).tiny)
        return (kept[..., None] * costs[:-1].view(*kept.shape, 2)).sum((0, 1, 2)) + costs[-1]

    def _on(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return masks of operations other than none, and costs, of which the last row is fixed."""
        if self._tensors is None or self._tensors[0].device != like.device:
            spaces = get_space(self.cost.space)
            shape = (2, *self.cost.edges[0].shape[:2])
            masks, share = np.zeros(shape), np.zeros((*shape[:2], 1, 1))
            for kind, edges in enumerate((spaces.normal, spaces.reduce)):
                for edge, names in enumerate(edges):
                    masks[kind, edge, : len(names)] = [name != "none" for name in names]
            for node in range(N_NODES):
                first = node * (node + 3) // 2
                share[:, first : first + node + 2] = 2 / (node + 2)
            rows = (np.stack(self.cost.edges) * share).reshape(-1, 2)
            costs = np.concatenate([rows, self.cost.fixed[None]])
            self._tensors = (
                torch.from_numpy(masks).to(like, non_blocking=True),
                torch.from_numpy(costs).to(like, non_blocking=True),
            )
        return self._tensors

    def derive(self, weights: tuple[Tensor, Tensor]) -> Genotype:
        """Return the genotype of the highest sum of operation weights within the limits.

        Parameters
        ----------
        weights : tuple of two torch.Tensor of shape (14, k)
        """
        return self._best([w.detach().double().cpu().numpy() for w in weights])

    def _fewest_parameters(self) -> int:
        costs = [-edges[..., 1].astype(float) for edges in self.cost.edges]
        return self.cost.of(self._best(costs))[1]

    def _best(self, scores: Sequence[np.ndarray]) -> Genotype:
        found = self._solve(scores)
        if found is None:
            raise RuntimeError("The limits were checked, yet no genotype keeps them.")
        return found

    def _options(self, scores: Sequence[np.ndarray] | None) -> list[_Options]:
        """For each node of the two cells, all pairs of edges with operations."""
        spaces, groups = get_space(self.cost.space), []
        for kind, edges in enumerate((spaces.normal, spaces.reduce)):
            costs = self.cost.edges[kind][..., self._units]
            score = np.zeros(costs.shape[:2]) if scores is None else scores[kind]
            for node in range(N_NODES):
                first = node * (node + 3) // 2
                single = [
                    [
                        (costs[edge, i], score[edge, i], (name, edge - first))
                        for i, name in enumerate(edges[edge])
                        if name != "none"
                    ]
                    for edge in range(first, first + node + 2)
                ]
                pairs = [
                    (a[0] + b[0], a[1] + b[1], (a[2], b[2]))
                    for one, other in itertools.combinations(single, 2)
                    for a in one
                    for b in other
                ]
                groups.append(
                    _Options(
                        np.array([pair[0] for pair in pairs]).reshape(len(pairs), -1),
                        np.array([pair[1] for pair in pairs]),
                        [pair[2] for pair in pairs],
                    )
                )
        return groups

    def _solve(self, scores: Sequence[np.ndarray] | None) -> Genotype | None:
        groups = self._options(scores)
        least = [group.costs.min(0) for group in groups]
        room = self._limits - self.cost.fixed[self._units]
        costs, values = np.zeros((1, len(self._units)), np.int64), np.zeros(1)
        chosen: list[tuple[np.ndarray, np.ndarray]] = []
        for number, group in enumerate(groups):
            own = _undominated(group.costs, group.values)
            total = (costs[:, None] + group.costs[own]).reshape(-1, len(self._units))
            value = (values[:, None] + group.values[own]).reshape(-1)
            left = room - sum(least[number + 1 :], start=np.zeros_like(room))
            fitting = np.flatnonzero((total <= left).all(1))
            kept = fitting[_undominated(total[fitting], value[fitting])]
            costs, values = total[kept], value[kept]
            chosen.append((kept // len(own), own[kept % len(own)]))
            if not len(kept):
                return None
        position, nodes = int(values.argmax()), []
        for group, (previous, option) in zip(reversed(groups), reversed(chosen), strict=True):
            nodes.append(group.choices[option[position]])
            position = int(previous[position])
        nodes.reverse()
        return Genotype(self.cost.space, tuple(nodes[:N_NODES]), tuple(nodes[N_NODES:]))


@dataclass(frozen=True)
class _Options:
    """What one node may be: costs (n, units), values (n,), and pairs of (operation, state)."""

    costs: np.ndarray
    values: np.ndarray
    choices: list[tuple]


def _undominated(costs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Indices of the points that no other beats: nowhere dearer, and of no lower value."""
    if not len(values):
        return np.zeros(0, np.int64)
    # Equal points keep their order, and so the lower index, as in the rule without limits.
    order = np.lexsort((-values, *costs.T[::-1]))
    if costs.shape[1] < 2:
        best = np.maximum.accumulate(values[order])
        return order[np.concatenate([[True], best[1:] > best[:-1]])]
    kept: list[int] = []
    # Second cost, and best value up to it; both rising.
    stairs: list[float] = []
    heights: list[float] = []
    for index in order.tolist():
        second, value = costs[index, 1], values[index]
        place = bisect_right(stairs, second)
        if place and heights[place - 1] >= value:
            continue
        end = place
        while end < len(stairs) and heights[end] <= value:
            end += 1
        stairs[place:end], heights[place:end] = [second], [value]
        kept.append(index)
    return np.array(kept, np.int64)
