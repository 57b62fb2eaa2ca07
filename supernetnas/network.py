"""The discrete network of a genotype.

The network that a search ends with (DARTS, section 2.4): the same stack of cells, each node with
the edges of the genotype only, batch norms with scale and offset, pools without. It inherits the
supernet's weights wherever a cell at the same place carries the same operation, so that retraining
starts from what the search has learnt (step 14 of algorithm 2 of the supernet transfer paper).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor, nn

from .module_types import ModuleListOf
from .spaces.cells import N_NODES
from .spaces.genotype import Genotype
from .spaces.operations import make_operation
from .supernets.cell import CellSupernet, cell_inputs, cell_layout, check_sizes
from .supernets.fused import (
    State,
    checkpointed,
    compiled_cell,
    count_batch,
    fused_network_cell,
)

__all__ = ["Network", "NetworkConfig", "inherit_weights"]


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that is needed to build a discrete network's module again.

    Attributes
    ----------
    genotype : Genotype
    init_channels, n_cells, input_channels, n_classes : int
        As in `supernetnas.supernets.SupernetConfig`.
    dropout : float
        Share of the pooled features that are dropped before the classifier in training.
    """

    genotype: Genotype
    init_channels: int
    n_cells: int
    input_channels: int
    n_classes: int
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_sizes(
            init_channels=self.init_channels,
            n_cells=self.n_cells,
            input_channels=self.input_channels,
            n_classes=self.n_classes,
        )
        if not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be a number in [0, 1); got {self.dropout!r:.80}.")

    def to_dict(self) -> dict:
        """Return plain values, for JSON."""
        return {**asdict(self), "genotype": self.genotype.to_dict()}

    @classmethod
    def from_dict(cls, data: dict) -> NetworkConfig:
        """Rebuild what `to_dict` returned."""
        return cls(**{**data, "genotype": Genotype.from_dict(data["genotype"])})


class NetworkCell(nn.Module):
    """A cell with the edges of a genotype."""

    def __init__(
        self,
        genotype: Genotype,
        channels_before_last: int,
        channels_last: int,
        channels: int,
        reduction: bool,
        reduction_last: bool,
    ) -> None:
        super().__init__()
        self.input0, self.input1 = cell_inputs(
            channels_before_last, channels_last, channels, reduction_last, affine=True
        )
        self.nodes = genotype.nodes(reduction)
        self.edges = ModuleListOf(
            make_operation(name, channels, 2 if reduction and state < 2 else 1, affine=True)
            for node in self.nodes
            for name, state in node
        )

    def forward(self, before_last: Tensor, last: Tensor) -> Tensor:
        states = [self.input0(before_last), self.input1(last)]
        edges = iter(self.edges)
        for node in self.nodes:
            states.append(sum(next(edges)(states[state]) for _, state in node))
        return torch.cat(states[2:], dim=1)


class Dropout(nn.Module):
    """Dropout that draws from ``generator``, like `supernetnas.spaces.operations.Noise`."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.share == 0:
            return x
        kept = torch.empty_like(x).bernoulli_(1 - self.share, generator=self.generator)
        return x * kept / (1 - self.share)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "generator": None}


class Network(nn.Module):
    """A discrete network.

    Parameters
    ----------
    config : NetworkConfig
        What to build.

    Attributes
    ----------
    fused : bool
        As in `supernetnas.supernets.CellSupernet`: the faster form of the same function.
    compiled : bool
        Whether the cells of that form are compiled by `torch.compile`; False by default.
    checkpointed : bool
        As in `supernetnas.supernets.CellSupernet`: less memory for more time.
    """

    fused = True
    compiled = False
    checkpointed = False

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        stem_channels = 3 * config.init_channels
        self.stem = nn.Sequential(
            nn.Conv2d(config.input_channels, stem_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(stem_channels),
        )
        layout = list(cell_layout(config.init_channels, config.n_cells))
        self.cells = ModuleListOf(NetworkCell(config.genotype, *row) for row in layout)
        self.reductions = [reduction for *_, reduction, _ in layout]
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
        run = compiled_cell if self.compiled else fused_network_cell
        if self.checkpointed:
            run = partial(checkpointed, run)
        for cell in self.cells:
            before_last, last = last, run(cell, before_last, last)
        count_batch(self.cells)
        return last.value.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of standardised images of shape (n, input_channels, h, w)."""
        return self.classifier(self.dropout(self.features(x)))


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
    for index, donor in enumerate(_donors(network.reductions, supernet.reductions)):
        cell, source = network.cells[index], supernet.cells[donor]
        inherited += _copy(cell.input0, source.input0) + _copy(cell.input1, source.input1)
        edges = iter(cell.edges)
        offers = supernet.space.edges(supernet.reductions[donor])
        for position, node in enumerate(cell.nodes):
            first_edge = position * (position + 3) // 2
            for name, state in node:
                target, edge = next(edges), first_edge + state
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


def _donors(target: list[bool], source: list[bool]) -> list[int]:
    """For each cell of a network, the index of the supernet's cell that it inherits from.

    Reduction cells inherit from reduction cells, in order. The normal cells of one resolution
    inherit from the supernet's normal cells of that resolution, which repeat from the last on; a
    resolution at which the supernet has none takes the nearest normal cell.
    """

    def stages(reductions: list[bool]) -> list[tuple[int, bool]]:
        stage, result = 0, []
        for reduction in reductions:
            stage += reduction
            result.append((stage, reduction))
        return result

    offers: dict[tuple[int, bool], list[int]] = {}
    for index, key in enumerate(stages(source)):
        offers.setdefault(key, []).append(index)
    used: dict[tuple[int, bool], int] = {}
    donors = []
    for key in stages(target):
        stage, reduction = key
        nearest = min(
            (k for k in offers if k[1] == reduction),
            key=lambda k: abs(k[0] - stage),
            default=next(iter(offers)),
        )
        position = used.get(key, 0)
        used[key] = position + 1
        choices = offers[nearest]
        donors.append(choices[min(position, len(choices) - 1)])
    return donors
