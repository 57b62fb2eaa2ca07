"""The differentiable supernet of a cell space, with its alphas.

The macro-architecture is that of DARTS (Liu et al., 2019): the stem and the stack of cells of
`supernetnas.families.cells.modules`, global average pooling, a linear classifier. Every edge of a
cell computes all its candidate operations and sums them with the softmax of its alphas (equation 2
there, equation 1 of the supernet transfer paper).

Unlike in the DARTS code the alphas are parameters: they are saved with the weights, and
`CellSupernet.weight_parameters` leaves them out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ...training.devices import placed
from ...training.execution import FLOAT32, Execution
from ..module_types import ModuleListOf
from .config import SupernetConfig
from .fixed_images import FixedImages
from .fused import checkpointed, compiled_cell, fused_cell
from .genotype import Genotype
from .kernels import State, count_batch
from .merged import Statistics, can_merge, merged_cell
from .modules import SupernetCell, cell_layout, make_stem
from .operations import Noise
from .space import N_EDGES, N_NODES, CellKind, SearchSpace, edges_into, get_space

__all__ = ["CellSupernet"]


class CellSupernet(nn.Module):
    """A supernet of a cell space: weights for every operation, and alphas.

    Parameters
    ----------
    config : SupernetConfig
        What to build.

    Attributes
    ----------
    alphas_normal, alphas_reduce : torch.nn.Parameter of shape (14, k)
        Architecture weights of the edges of the normal and of the reduction cells, before the
        softmax; k is the largest number of operations that an edge of the space offers. Entries
        past an edge's own operations are unused.
    cells : torch.nn.ModuleList
    kinds : list of CellKind
        Kind of each cell.
    classifier : torch.nn.Linear
    fused : bool
        Whether `forward` runs the rewritten cells of `supernetnas.families.cells.fused` (the
        default) or the plain definition. Both give the same.
    merged : bool or None
        Which of two rewrites: the one that launches few kernels, for GPUs, or the one that moves
        little memory, for CPUs. None (the default) chooses by the device of the images.
    execution : Execution
        How the rewritten cells run: whether they are compiled, or computed again in the backward
        pass. `place` sets it; float32 and neither of the two by default.
    """

    alphas_normal: nn.Parameter
    alphas_reduce: nn.Parameter
    mask_normal: Tensor
    mask_reduce: Tensor
    fused = True
    merged: bool | None = None
    execution = FLOAT32

    def __init__(self, config: SupernetConfig) -> None:
        super().__init__()
        self.config = config
        space = get_space(config.space)
        self.stem = make_stem(config.input_channels, config.init_channels)
        self.cells: ModuleListOf[SupernetCell] = ModuleListOf()
        self.kinds: list[CellKind] = []
        for before, last, channels, kind, kind_last in cell_layout(
            config.init_channels, config.n_cells
        ):
            edges = space.edges(kind)
            self.cells.append(SupernetCell(edges, before, last, channels, kind, kind_last))
            self.kinds.append(kind)
        self.classifier = nn.Linear(N_NODES * channels, config.n_classes)
        width = space.width
        for kind in CellKind:
            mask = torch.tensor(
                [[i < len(names) for i in range(width)] for names in space.edges(kind)]
            )
            self.register_buffer(f"mask_{kind.key}", mask, persistent=False)
            alphas = 1e-3 * torch.randn(N_EDGES, width)
            self.register_parameter(f"alphas_{kind.key}", nn.Parameter(alphas))

    @property
    def space(self) -> SearchSpace:
        """The search space."""
        return get_space(self.config.space)

    def alphas(self, kind: CellKind) -> nn.Parameter:
        """Architecture weights of a kind of cell."""
        return getattr(self, f"alphas_{kind.key}")

    def mask(self, kind: CellKind) -> Tensor:
        """Which entries of the alphas of a kind of cell are operations, bool."""
        return getattr(self, f"mask_{kind.key}")

    def alpha_parameters(self) -> list[nn.Parameter]:
        """Architecture weights ``A``."""
        return [self.alphas_normal, self.alphas_reduce]

    def weight_parameters(self) -> list[nn.Parameter]:
        """Model weights ``w``: every parameter but the alphas."""
        return [p for name, p in self.named_parameters() if not name.startswith("alphas_")]

    def operation_weights(self) -> tuple[Tensor, Tensor]:
        """Softmax of the alphas over the operations of each edge; rows sum to one."""
        normal, reduce = (
            alphas.masked_fill(~mask, -torch.inf).softmax(dim=1)
            for alphas, mask in zip(
                (self.alphas_normal, self.alphas_reduce), self.operation_masks(), strict=True
            )
        )
        return normal, reduce

    def decision_weights(self) -> tuple[Tensor, Tensor]:
        """What `genotype` compares: here the operation weights."""
        return self.operation_weights()

    def operation_masks(self) -> tuple[Tensor, Tensor]:
        """For the normal and the reduction cell, which entries of the alphas are operations."""
        return self.mask_normal, self.mask_reduce

    def features(self, x: Tensor, weights: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Pooled features before the classifier.

        Parameters
        ----------
        x : torch.Tensor of shape (n, input_channels, h, w)
            Standardised images, float.
        weights : tuple of two torch.Tensor of shape (14, k), optional
            Operation weights to use instead of the softmax of the alphas.

        Returns
        -------
        torch.Tensor of shape (n, 4 * channels of the last cell)
        """
        weights = self.operation_weights() if weights is None else weights
        if not self.fused:
            before_last = last = self.stem(x)
            for cell, kind in zip(self.cells, self.kinds, strict=True):
                before_last, last = last, cell(before_last, last, weights[kind])
            return last.mean(dim=(2, 3))
        statistics, run = Statistics(), compiled_cell if self.execution.compiled else fused_cell
        if self._merges(x.device):
            run, x = partial(merged_cell, statistics=statistics), x.contiguous()
        before_last = last = State(self.stem(x))
        if self.execution.checkpointing:
            run = partial(checkpointed, run)
        for cell, kind in zip(self.cells, self.kinds, strict=True):
            before_last, last = last, run(cell, before_last, last, weights[kind])
        statistics.update()
        count_batch(self.cells)
        return last.value.mean(dim=(2, 3))

    def forward(self, x: Tensor, weights: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Class scores, of shape (n, n_classes); parameters as in `features`."""
        return self.classifier(self.features(x, weights))

    def scores_of(self, images: Tensor) -> Callable[[tuple[Tensor, Tensor]], Tensor]:
        """Class scores of fixed images as a function of the operation weights.

        To be used while nothing else changes and running statistics rest. What does not depend on
        operation weights is computed once, on the path for CPUs.

        Parameters
        ----------
        images : torch.Tensor of shape (n, input_channels, h, w)
            Standardised images, float.

        Returns
        -------
        callable
            Takes operation weights, as `forward` does.
        """
        execution = self.execution
        plain = not self.fused or execution.compiled or execution.checkpointing
        if plain or self._merges(images.device):
            return partial(self, images)
        with torch.no_grad():
            stem = self.stem(images)
        return FixedImages(self.cells, self.kinds, self.classifier, stem)

    def genotype(self) -> Genotype:
        """Derive the discrete architecture from the alphas.

        The rule of DARTS (section 2.4): softmax over all operations of an edge, ``none`` included;
        each node keeps the two incoming edges whose best operation other than ``none`` has the
        largest weight, and on each of them that operation. Ties go to the lower index.
        """
        cells = []
        for weights, kind in zip(self.decision_weights(), CellKind, strict=True):
            weights, edges = weights.detach().cpu(), self.space.edges(kind)
            nodes = []
            for node in range(N_NODES):
                best = []
                for state, edge in enumerate(edges_into(node)):
                    score, name = max(
                        (
                            (weights[edge, index].item(), name)
                            for index, name in enumerate(edges[edge])
                            if name != "none"
                        ),
                        key=lambda pair: pair[0],
                    )
                    best.append((score, name, state))
                kept = sorted(best, key=lambda item: -item[0])[:2]
                nodes.append(tuple((name, state) for _, name, state in sorted(kept, key=_state)))
            cells.append(tuple(nodes))
        return Genotype(self.config.space, *cells)

    def place(self, device: torch.device, execution: Execution = FLOAT32) -> CellSupernet:
        """Move to a device, in the memory format in which the cells run there; returns itself.

        Parameters
        ----------
        device : torch.device
        execution : Execution
            How the supernet runs there.
        """
        self.execution = execution.on(device)
        layout = torch.contiguous_format if self._merges(device) else torch.channels_last
        return placed(self, device, layout)

    def _merges(self, device: torch.device) -> bool:
        wanted = device.type == "cuda" if self.merged is None else self.merged
        return wanted and not self.execution.compiled and all(map(can_merge, self.cells))

    def seed_noise(self, generator: torch.Generator | None) -> None:
        """Let every ``noise`` operation draw from ``generator``."""
        for module in self.modules():
            if isinstance(module, Noise):
                module.generator = generator

    def alpha_entropy(self) -> float:
        """Mean entropy of the operation weights of an edge, as a share of the largest possible.

        1 is undecided, 0 is discrete. Edges with one operation do not count.
        """
        shares = []
        for weights, mask in zip(self.operation_weights(), self.operation_masks(), strict=True):
            count = mask.sum(1)
            entropy = -torch.xlogy(weights, weights).sum(1).detach()
            shares.append((entropy / count.log())[count > 1])
        of_edges = torch.cat(shares)
        return float(of_edges.mean()) if len(of_edges) else 0.0


def _state(item: tuple[float, str, int]) -> int:
    return item[2]
