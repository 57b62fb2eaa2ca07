"""What a cell of a supernet computes of inputs that do not change.

A node's sum over the operations on such inputs is one product of a vector, the operation weights,
and a matrix, what the operations return.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .kernels import State, input_state, weighted
from .modules import SupernetCell
from .operations import Noise, Zero
from .space import N_NODES, edges_into

__all__ = ["CellConstants"]


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
        for node in range(N_NODES):
            entries, outputs = [], []
            held = zip(edges_into(node), self.states, strict=False)
            for position, (edge, state) in enumerate(held):
                for index, operation in enumerate(cell.edges[edge]):
                    if self.holds(position, operation) and not isinstance(operation, Zero):
                        entries.append((edge, index))
                        outputs.append(weighted(operation, state).permute(0, 2, 3, 1))
            self._entries.append(entries)
            self._outputs.append(torch.stack(outputs).flatten(1) if outputs else None)
            self._shape = outputs[0].shape if outputs else self._shape

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
