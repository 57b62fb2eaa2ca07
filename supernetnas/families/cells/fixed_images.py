"""Class scores of a batch of images as a function of the operation weights alone.

An attack on the operation weights evaluates the supernet many times on one batch. Until the first
operation weight nothing changes meanwhile: not the stem, and not the candidate operations on states
that come from the stem alone, which are 8 of the 14 edges of the first cell and 4 of the second.
They are computed once, and a node's sum over them is one product of a vector and a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .fused import State, fused_cell, input_state, weighted
from .operations import Noise, Zero
from .space import N_NODES

if TYPE_CHECKING:
    from .supernet import CellSupernet, SupernetCell

__all__ = ["CellConstants", "FixedImages"]


class CellConstants:
    """What a cell computes of inputs that do not change.

    Parameters
    ----------
    cell : SupernetCell
    before_last : State
        Output of the cell before the last, constant.
    last : State or None
        Output of the last cell, if it is constant, too.

    Attributes
    ----------
    states : list of State
        The cell's states that are constant: its first input, or both.
    """

    def __init__(self, cell: SupernetCell, before_last: State, last: State | None) -> None:
        self.states = [input_state(cell.input0, before_last)]
        if last is not None:
            self.states.append(input_state(cell.input1, last))
        self._entries: list[list[tuple[int, int]]] = []
        self._outputs: list[Tensor | None] = []
        self._shape = torch.Size()
        edge = 0
        for node in range(N_NODES):
            entries = [
                (edge + state, index)
                for state in range(len(self.states))
                for index, operation in enumerate(cell.edges[edge + state])
                if self.holds(state, operation) and not isinstance(operation, Zero)
            ]
            outputs = [
                weighted(cell.edges[row][index], self.states[row - edge]).permute(0, 2, 3, 1)
                for row, index in entries
            ]
            self._entries.append(entries)
            self._outputs.append(torch.stack(outputs).flatten(1) if outputs else None)
            self._shape = outputs[0].shape if outputs else self._shape
            edge += node + 2

    def holds(self, state: int, operation: torch.nn.Module) -> bool:
        """Whether an operation on a state is part of `total`; noise is drawn anew each time."""
        return state < len(self.states) and not isinstance(operation, Noise)

    def total(self, node: int, rows: list[tuple[Tensor, ...]]) -> Tensor | None:
        """Sum of a node's constant operations, each times its weight in ``rows``.

        Returns
        -------
        torch.Tensor of shape (n, c, h, w), or None where there is no such operation
        """
        outputs = self._outputs[node]
        if outputs is None:
            return None
        weights = torch.stack([rows[edge][index] for edge, index in self._entries[node]])
        total = weights.to(outputs.dtype)[None] @ outputs
        return total.view(self._shape).permute(0, 3, 1, 2)


class FixedImages:
    """Class scores of fixed images.

    To be used while nothing but the operation weights changes and running statistics rest.

    Parameters
    ----------
    supernet : CellSupernet
    images : torch.Tensor of shape (n, input_channels, h, w)
        Standardised images, float.
    """

    @torch.no_grad()
    def __init__(self, supernet: CellSupernet, images: Tensor) -> None:
        self._supernet = supernet
        self._stem = stem = State(supernet.stem(images))
        inputs = [(stem, stem), (stem, None)]
        self._constants = [
            CellConstants(cell, *states)
            for cell, states in zip(supernet.cells, inputs, strict=False)
        ]

    def __call__(self, weights: tuple[Tensor, Tensor]) -> Tensor:
        """Class scores under operation weights, of shape (n, n_classes)."""
        supernet, before_last, last = self._supernet, self._stem, self._stem
        for cell, reduction, constants in self._cells():
            result = fused_cell(cell, before_last, last, weights[int(reduction)], constants)
            before_last, last = last, result
        return supernet.classifier(last.value.mean(dim=(2, 3)))

    def _cells(self) -> Iterator[tuple[SupernetCell, bool, CellConstants | None]]:
        return zip_longest(self._supernet.cells, self._supernet.reductions, self._constants)
