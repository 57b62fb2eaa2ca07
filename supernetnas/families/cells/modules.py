"""Where the cells of a stack stand, and the modules of a cell by their plain definition.

The macro-architecture is that of DARTS (Liu et al., 2019): a 3x3 stem of three times the initial
channels, and a stack of cells of which those at one and two thirds of the depth are reduction cells
that halve the image and double the channels. A supernet's cell has every candidate operation on
every edge, a discrete network's those of a genotype.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..module_types import ModuleListOf
from .genotype import Genotype
from .operations import FactorizedReduce, ReLUConvBN, make_operation
from .space import EDGE_SOURCES, N_NODES, CellKind, edge_stride, edges_into

__all__ = ["NetworkCell", "SupernetCell", "cell_inputs", "cell_layout", "make_stem"]


def _stem_channels(init_channels: int) -> int:
    """Channels of the stem's output."""
    return 3 * init_channels


def make_stem(input_channels: int, init_channels: int) -> nn.Sequential:
    """Build what stands before the cells: a convolution and a batch norm."""
    channels = _stem_channels(init_channels)
    return nn.Sequential(
        nn.Conv2d(input_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
    )


def cell_layout(
    init_channels: int, n_cells: int
) -> Iterator[tuple[int, int, int, CellKind, CellKind]]:
    """Walk over the cells of a network.

    Yields
    ------
    channels_before_last, channels_last : int
        Channels of the cell's two inputs.
    channels : int
        Channels of the cell's nodes; its output has four times as many.
    kind, kind_last : CellKind
        Kind of this cell, and of the cell before it; nothing before the first halves the image.
    """
    reductions = {n_cells // 3, 2 * n_cells // 3}
    before_last = last = _stem_channels(init_channels)
    channels, kind_last = init_channels, CellKind.NORMAL
    for index in range(n_cells):
        kind = CellKind.REDUCTION if index in reductions else CellKind.NORMAL
        if kind == CellKind.REDUCTION:
            channels *= 2
        yield before_last, last, channels, kind, kind_last
        before_last, last, kind_last = last, N_NODES * channels, kind


def cell_inputs(
    channels_before_last: int, channels_last: int, channels: int, kind_last: CellKind, affine: bool
) -> tuple[FactorizedReduce | ReLUConvBN, ReLUConvBN]:
    """Build the two modules that bring a cell's inputs to its channels and to one size."""
    first = FactorizedReduce if kind_last == CellKind.REDUCTION else ReLUConvBN
    return first(channels_before_last, channels, affine), ReLUConvBN(
        channels_last, channels, affine
    )


class SupernetCell(nn.Module):
    """A cell with all candidate operations on every edge.

    ``forward`` takes the two inputs and the operation weights, a tensor of shape
    (14, most operations of an edge), and returns the four nodes concatenated.
    """

    def __init__(
        self,
        operations: tuple[tuple[str, ...], ...],
        channels_before_last: int,
        channels_last: int,
        channels: int,
        kind: CellKind,
        kind_last: CellKind,
    ) -> None:
        super().__init__()
        self.input0, self.input1 = cell_inputs(
            channels_before_last, channels_last, channels, kind_last, affine=False
        )
        self.edges = ModuleListOf(
            ModuleListOf(
                make_operation(name, channels, edge_stride(kind, state), affine=False)
                for name in names
            )
            for names, state in zip(operations, EDGE_SOURCES, strict=True)
        )

    def forward(self, before_last: Tensor, last: Tensor, weights: Tensor) -> Tensor:
        states = [self.input0(before_last), self.input1(last)]
        for node in range(N_NODES):
            terms = []
            for edge, state in zip(edges_into(node), states, strict=True):
                for index, operation in enumerate(self.edges[edge]):
                    terms.append(weights[edge, index] * operation(state))
            states.append(_sum(terms))
        return torch.cat(states[2:], dim=1)


class NetworkCell(nn.Module):
    """A cell with the edges of a genotype."""

    def __init__(
        self,
        genotype: Genotype,
        channels_before_last: int,
        channels_last: int,
        channels: int,
        kind: CellKind,
        kind_last: CellKind,
    ) -> None:
        super().__init__()
        self.input0, self.input1 = cell_inputs(
            channels_before_last, channels_last, channels, kind_last, affine=True
        )
        self.nodes = genotype.nodes(kind)
        self.edges = ModuleListOf(
            make_operation(name, channels, edge_stride(kind, state), affine=True)
            for node in self.nodes
            for name, state in node
        )

    def forward(self, before_last: Tensor, last: Tensor) -> Tensor:
        states = [self.input0(before_last), self.input1(last)]
        edges = iter(self.edges)
        for node in self.nodes:
            states.append(sum(next(edges)(states[state]) for _, state in node))
        return torch.cat(states[2:], dim=1)


def _sum(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
