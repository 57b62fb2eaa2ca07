"""Class scores of a batch of images as a function of the operation weights alone.

An attack on the operation weights evaluates the supernet many times on one batch. Until the first
operation weight nothing changes meanwhile: not the stem, and not the candidate operations on states
that come from the stem alone, which are 8 of the 14 edges of the first cell and 4 of the second.
They are computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor, nn

from ..module_types import ModuleListOf
from .constants import CellConstants
from .fused import fused_cell
from .kernels import State
from .modules import SupernetCell
from .space import CellKind

__all__ = ["FixedImages"]


class FixedImages:
    """Class scores of fixed images.

    To be used while nothing but the operation weights changes and running statistics rest.

    Parameters
    ----------
    cells : torch.nn.ModuleList of SupernetCell
        Those of a supernet.
    kinds : sequence of CellKind
        Kind of each.
    classifier : torch.nn.Module
        From pooled features to class scores.
    stem : torch.Tensor of shape (n, c, h, w)
        What the supernet's stem makes of the images.
    """

    @torch.no_grad()
    def __init__(
        self,
        cells: ModuleListOf[SupernetCell],
        kinds: Sequence[CellKind],
        classifier: nn.Module,
        stem: Tensor,
    ) -> None:
        self._cells, self._kinds, self._classifier = cells, kinds, classifier
        self._stem = State(stem)
        inputs = [(self._stem, self._stem), (self._stem, None)]
        self._constants = [
            CellConstants(cell, *states) for cell, states in zip(cells, inputs, strict=False)
        ]

    def __call__(self, weights: tuple[Tensor, Tensor]) -> Tensor:
        """Class scores under operation weights, of shape (n, n_classes)."""
        before_last = last = self._stem
        for cell, kind, constants in zip_longest(self._cells, self._kinds, self._constants):
            before_last, last = last, fused_cell(cell, before_last, last, weights[kind], constants)
        return self._classifier(last.value.mean(dim=(2, 3)))
