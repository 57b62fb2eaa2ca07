"""What the networks of a space of cells cost: the sum of what their parts do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ...search.costs import count_macs, count_parameters
from .genotype import Genotype
from .modules import cell_inputs, cell_layout, make_stem
from .operations import make_operation
from .space import EDGE_SOURCES, N_EDGES, N_NODES, CellKind, edge_index, edge_stride, get_space

__all__ = ["NetworkCost", "Part", "network_cost", "network_parts", "summed_parts"]


@dataclass(frozen=True)
class NetworkCost:
    """What the networks of a space cost at one size, in some units.

    Units are multiply-accumulates for one image, parameters and, where it was measured, nanoseconds
    of a batch.

    Attributes
    ----------
    space : str
        Name of the search space.
    fixed : ndarray of shape (units,), int64
        Of everything but the edges.
    edges : tuple of two ndarray of shape (14, k, units), int64
        Of each operation on each edge of the normal and of the reduction cell, summed over all
        cells of the kind; zero past an edge's own operations.
    """

    space: str
    fixed: np.ndarray
    edges: tuple[np.ndarray, np.ndarray]

    def of(self, genotype: Genotype) -> tuple[int, ...]:
        """Cost of the network of a genotype in each unit."""
        total = self.fixed.copy()
        for kind, costs in zip(CellKind, self.edges, strict=True):
            names = get_space(self.space).edges(kind)
            for position, node in enumerate(genotype.nodes(kind)):
                for name, state in node:
                    edge = edge_index(position, state)
                    total += costs[edge, names[edge].index(name)]
        return tuple(int(value) for value in total)


class Part(NamedTuple):
    """A module that the networks of a space can have.

    Attributes
    ----------
    module : torch.nn.Module
        One for all places where it is the same.
    shape : tuple of int
        Of its input, without that of the batch.
    place : tuple of int or None
        Kind of cell, edge, and position of the operation; None for what every network has.
    """

    module: nn.Module
    shape: tuple[int, ...]
    place: tuple[int, int, int] | None


def network_parts(
    space: str,
    init_channels: int,
    n_cells: int,
    input_shape: tuple[int, int, int],
    n_classes: int,
) -> Iterator[Part]:
    """Yield every part that a discrete network of a space can have; see `network_cost`."""
    offers = get_space(space)
    yield Part(make_stem(input_shape[0], init_channels), input_shape, None)
    size_before = size = input_shape[1:]
    for before, last, channels, kind, kind_last in cell_layout(init_channels, n_cells):
        inputs = cell_inputs(before, last, channels, kind_last, affine=True)
        yield Part(inputs[0], (before, *size_before), None)
        yield Part(inputs[1], (last, *size), None)
        halved = kind == CellKind.REDUCTION
        inner = (-(-size[0] // 2), -(-size[1] // 2)) if halved else size
        cache: dict[tuple[str, bool], nn.Module] = {}
        for edge, (names, state) in enumerate(zip(offers.edges(kind), EDGE_SOURCES, strict=True)):
            outer = state < 2
            for index, name in enumerate(names):
                if (name, outer) not in cache:
                    stride = edge_stride(kind, state)
                    cache[name, outer] = make_operation(name, channels, stride, affine=True)
                shape = (channels, *(size if outer else inner))
                yield Part(cache[name, outer], shape, (kind, edge, index))
        size_before, size = size, inner
    yield Part(nn.Linear(N_NODES * channels, n_classes), (N_NODES * channels,), None)


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
        As in `supernetnas.families.cells.config.NetworkConfig`.
    input_shape : tuple of int (channels, height, width)

    Returns
    -------
    NetworkCost
    """
    with torch.device("meta"):  # without memory, whatever the sizes of a stranger's source
        parts = [*network_parts(space, init_channels, n_cells, input_shape, n_classes)]
        costs = {module: _cost(module, shape) for module, shape, _ in parts}
    return summed_parts(space, parts, costs)


def summed_parts(
    space: str, parts: Sequence[Part], costs: Mapping[nn.Module, np.ndarray]
) -> NetworkCost:
    """Add up what parts cost, by the places where they are."""
    units = len(costs[parts[0].module])
    fixed = np.zeros(units, np.int64)
    edges = np.zeros((len(CellKind), N_EDGES, get_space(space).width, units), np.int64)
    for module, _, place in parts:
        if place is None:
            fixed += costs[module]
        else:
            edges[place] += costs[module]
    return NetworkCost(space, fixed, (edges[0], edges[1]))


def _cost(module: nn.Module, input_shape: tuple[int, ...]) -> np.ndarray:
    parameters = count_parameters(module)
    macs = count_macs(module, input_shape) if parameters else 0
    return np.array([macs, parameters], np.int64)
