"""The discrete network of a genotype.

The network that a search ends with (DARTS, section 2.4): the same stack of cells, each node with
the edges of the genotype only, batch norms with scale and offset, pools without. It inherits the
supernet's weights wherever a cell at the same place carries the same operation, so that retraining
starts from what the search has learnt (step 14 of algorithm 2 of the supernet transfer paper).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ...training.execution import FLOAT32
from ..layers import Dropout
from ..module_types import ModuleListOf
from .config import NetworkConfig
from .fused import checkpointed, compiled_cell, fused_network_cell
from .kernels import State, count_batch
from .modules import NetworkCell, cell_layout, make_stem
from .space import N_NODES, CellKind, edge_index
from .supernet import CellSupernet

__all__ = ["Network", "inherit_weights"]


class Network(nn.Module):
    """A discrete network.

    Parameters
    ----------
    config : NetworkConfig
        What to build.

    Attributes
    ----------
    fused : bool
        As in `supernetnas.families.cells.supernet.CellSupernet`: the faster form of the same
        function.
    execution : Execution
        How the cells of that form run; float32, and neither compiled nor computed again, by
        default.
    fresh_classifier : bool
        Whether the classifier begins at random, and only it; then it learns faster.
    """

    fused = True
    execution = FLOAT32
    fresh_classifier = False

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = make_stem(config.input_channels, config.init_channels)
        layout = list(cell_layout(config.init_channels, config.n_cells))
        self.cells = ModuleListOf(NetworkCell(config.genotype, *row) for row in layout)
        self.kinds = [kind for *_, kind, _ in layout]
        self.dropout = Dropout(config.dropout)
        self.classifier = nn.Linear(N_NODES * layout[-1][2], config.n_classes)

    def features(self, x: Tensor) -> Tensor:
        """Pooled features before the classifier, of shape (n, features)."""
        if not self.fused:
            before_last = last = self.stem(x)
            for cell in self.cells:
                before_last, last = last, cell(before_last, last)
            return last.mean(dim=(2, 3))
        before_last = last = State(self.stem(x))
        run = compiled_cell if self.execution.compiled else fused_network_cell
        if self.execution.checkpointing:
            run = partial(checkpointed, run)
        for cell in self.cells:
            before_last, last = last, run(cell, before_last, last)
        count_batch(self.cells)
        return last.value.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of standardised images of shape (n, input_channels, h, w)."""
        return self.classifier(self.dropout(self.features(x)))

    def fresh_parameters(self) -> list[nn.Parameter]:
        """Return those of a classifier that begins at random."""
        return list(self.classifier.parameters()) if self.fresh_classifier else []


@torch.no_grad()
def inherit_weights(network: Network, supernet: CellSupernet) -> float:
    """Copy a supernet's weights into a discrete network wherever they fit.

    Stem, classifier and the operations of the genotype's edges are taken over. A network of more
    cells than the supernet has repeats, between two reductions, the supernet's cells of the same
    resolution; a tensor whose shape differs keeps its initial value. The scale and offset of the
    cells' batch norms are new: a supernet has none there. Running statistics are to be recalibrated
    afterwards.

    Parameters
    ----------
    network : Network
        Changed in place.
    supernet : CellSupernet
        The searched supernet.

    Returns
    -------
    float
        Share of the network's parameters (batch norms aside) that were inherited.
    """
    inherited = _copy(network.classifier, supernet.classifier) + _copy(network.stem, supernet.stem)
    for index, donor in enumerate(_donors(network.kinds, supernet.kinds)):
        cell, source = network.cells[index], supernet.cells[donor]
        inherited += _copy(cell.input0, source.input0) + _copy(cell.input1, source.input1)
        edges = iter(cell.edges)
        offers = supernet.space.edges(supernet.kinds[donor])
        for position, node in enumerate(cell.nodes):
            for name, state in node:
                target, edge = next(edges), edge_index(position, state)
                if name in offers[edge]:
                    inherited += _copy(target, source.edges[edge][offers[edge].index(name)])
    total = sum(
        p.numel()
        for module in network.modules()
        if not isinstance(module, nn.BatchNorm2d)
        for p in module.parameters(recurse=False)
    )
    return inherited / total


def _copy(target: nn.Module, source: nn.Module) -> int:
    """Copy parameters of equal name and shape; returns how many values, batch norms aside."""
    available = dict(source.named_parameters())
    norms = {
        f"{name}.{kind}"
        for name, module in target.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for kind in ("weight", "bias")
    }
    count = 0
    for name, parameter in target.named_parameters():
        donor = available.get(name)
        if donor is not None and donor.shape == parameter.shape:
            parameter.copy_(donor)
            count += 0 if name in norms else parameter.numel()
    return count


def _donors(target: list[CellKind], source: list[CellKind]) -> list[int]:
    """For each cell of a network, the index of the supernet's cell that it inherits from.

    Reduction cells inherit from reduction cells, in order. The normal cells of one resolution
    inherit from the supernet's normal cells of that resolution, which repeat from the last on; a
    resolution at which the supernet has none takes the nearest normal cell.
    """

    def stages(kinds: list[CellKind]) -> list[tuple[int, CellKind]]:
        stage, result = 0, []
        for kind in kinds:
            stage += kind == CellKind.REDUCTION
            result.append((stage, kind))
        return result

    offers: dict[tuple[int, CellKind], list[int]] = {}
    for index, key in enumerate(stages(source)):
        offers.setdefault(key, []).append(index)
    used: dict[tuple[int, CellKind], int] = {}
    donors = []
    for key in stages(target):
        stage, kind = key
        nearest = min(
            (k for k in offers if k[1] == kind),
            key=lambda k: abs(k[0] - stage),
            default=next(iter(offers)),
        )
        position = used.get(key, 0)
        used[key] = position + 1
        choices = offers[nearest]
        donors.append(choices[min(position, len(choices) - 1)])
    return donors
