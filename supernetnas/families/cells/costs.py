"""What the networks of a space of cells cost: the sum of what their parts do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from ...search.costs import count_macs, count_parameters
from .genotype import Genotype
from .modules import cell_inputs, cell_layout, make_stem
from .operations import make_operation
from .space import EDGE_SOURCES, N_EDGES, N_NODES, CellKind, edge_index, edge_stride, get_space

__all__ = ["NetworkCost", "network_cost"]


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
        for kind, costs in zip(CellKind, self.edges, strict=True):
            names = get_space(self.space).edges(kind)
            for position, node in enumerate(genotype.nodes(kind)):
                for name, state in node:
                    edge = edge_index(position, state)
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
        As in `supernetnas.families.cells.config.NetworkConfig`.
    input_shape : tuple of int (channels, height, width)

    Returns
    -------
    NetworkCost
    """
    offers = get_space(space)
    edges = np.zeros((len(CellKind), N_EDGES, offers.width, 2), np.int64)
    with torch.device("meta"):  # without memory, whatever the sizes of a stranger's source
        fixed = _cost(make_stem(input_shape[0], init_channels), input_shape)
        size_before = size = input_shape[1:]
        for before, last, channels, kind, kind_last in cell_layout(init_channels, n_cells):
            inputs = cell_inputs(before, last, channels, kind_last, affine=True)
            fixed += _cost(inputs[0], (before, *size_before)) + _cost(inputs[1], (last, *size))
            halved = kind == CellKind.REDUCTION
            inner = (-(-size[0] // 2), -(-size[1] // 2)) if halved else size
            cache: dict[tuple[str, bool], np.ndarray] = {}
            for edge, (names, state) in enumerate(
                zip(offers.edges(kind), EDGE_SOURCES, strict=True)
            ):
                outer = state < 2
                for index, name in enumerate(names):
                    if (name, outer) not in cache:
                        operation = make_operation(
                            name, channels, edge_stride(kind, state), affine=True
                        )
                        cache[name, outer] = _cost(
                            operation, (channels, *(size if outer else inner))
                        )
                    edges[kind, edge, index] += cache[name, outer]
            size_before, size = size, inner
        fixed += _cost(nn.Linear(N_NODES * channels, n_classes), (N_NODES * channels,))
    return NetworkCost(space, fixed, (edges[0], edges[1]))


def _cost(module: nn.Module, input_shape: tuple[int, ...]) -> np.ndarray:
    parameters = count_parameters(module)
    macs = count_macs(module, input_shape) if parameters else 0
    return np.array([macs, parameters], np.int64)
