"""The genotypes of a cell supernet as its members: what evolution and its like choose from.

A member computes its chosen operations alone, as the single paths of
`supernetnas.families.cells.paths` do. Its parts are edges: what two members have in common up to an
edge of a cell is computed once where they are compared, and an operation on an edge is measured
once where latency is limited.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...search.costs import Costs
from ...search.limits import Limits
from ...search.protocols import Step
from ...training.seeds import seeded_modules
from .config import NetworkConfig
from .costs import NetworkCost
from .genes import GenotypeSpace
from .genotype import Genotype
from .modules import SupernetCell
from .network import Network, inherit_weights
from .paths import choices_of, path_features
from .space import N_NODES, edges_into
from .supernet import CellSupernet

__all__ = ["CellMembers"]


class CellMembers(nn.Module):
    """A cell supernet whose genotypes are run one at a time.

    Parameters
    ----------
    supernet : CellSupernet
        Shared, not copied.
    cost : NetworkCost
        Of the networks of its space, at the size that they will have.
    network_config : callable
        Returns the configuration of the network of a genotype.
    """

    def __init__(
        self,
        supernet: CellSupernet,
        cost: NetworkCost,
        network_config: Callable[[Genotype], NetworkConfig],
    ) -> None:
        super().__init__()
        self.supernet, self.space = supernet, GenotypeSpace(cost)
        self._network_config = network_config

    def features(self, images: Tensor, architecture: Genotype | None = None) -> Tensor:
        """Pooled features of a genotype, of shape (n, features); of None, those of the whole.

        Parameters
        ----------
        images : torch.Tensor of shape (n, input_channels, h, w)
            Standardised.
        architecture : Genotype, optional
        """
        if architecture is None:
            return self.supernet.features(images)
        return path_features(self.supernet, images, choices_of(architecture, self.supernet))

    def forward(self, images: Tensor, architecture: Genotype | None = None) -> Tensor:
        """Class scores of a genotype, see `features`."""
        return self.supernet.classifier(self.features(images, architecture))

    def weight_parameters(self) -> list[nn.Parameter]:
        """Everything that is trained: all but the alphas."""
        return self.supernet.weight_parameters()

    def space_for(self, shape: tuple[int, ...]) -> GenotypeSpace:
        """Return all genotypes, whatever the images."""
        return self.space

    def costs(self, architecture: Genotype) -> Costs:
        """Multiply-accumulates for one image, and parameters, of a genotype's network."""
        macs, parameters, *_ = self.space.cost.of(architecture)
        return Costs(macs, parameters)

    def cheapest(self, limits: Limits) -> Genotype:
        """Return the genotype of the lowest cost within limits; ValueError if there is none."""
        return self.space.cheapest(limits)

    def network(self, architecture: Genotype) -> Network:
        """Return the plain network of a genotype, with a copy of the weights that fit."""
        with seeded_modules(0):
            network = Network(self._network_config(architecture))
        like = self.supernet.classifier.weight
        network.to(like.device, like.dtype)
        inherit_weights(network, self.supernet)
        return network.train(self.training)

    def steps(self, architecture: Genotype) -> Sequence[Step]:
        """Return the parts of a genotype, of which the last is the classifier of its features."""
        supernet, steps = self.supernet, [Step("stem", _Stem(self.supernet.stem))]
        choices = choices_of(architecture, supernet)
        for number, (cell, kind) in enumerate(zip(supernet.cells, supernet.kinds, strict=True)):
            steps.append(Step((number, "inputs"), _Inputs(cell)))
            for node in range(N_NODES):
                first = True
                for state, edge in enumerate(edges_into(node)):
                    index = choices[kind][edge]
                    if index is not None:
                        part = _Edge(cell.edges[edge][index], state, first)
                        steps.append(Step((number, edge, index, first), part))
                        first = False
            steps.append(Step((number, "output"), _Output()))
        return [*steps, Step("pool", _Pool()), Step("classifier", supernet.classifier)]


class _Run(NamedTuple):
    """What has been computed of a member: outputs of the last two cells, and states of this one."""

    before_last: Tensor
    last: Tensor
    states: tuple[Tensor, ...] = ()


class _Stem(nn.Module):
    def __init__(self, stem: nn.Module) -> None:
        super().__init__()
        self.stem = stem

    def forward(self, images: Tensor) -> _Run:
        x = self.stem(images)
        return _Run(x, x)


class _Inputs(nn.Module):
    def __init__(self, cell: SupernetCell) -> None:
        super().__init__()
        self.input0, self.input1 = cell.input0, cell.input1

    def forward(self, run: _Run) -> _Run:
        return run._replace(states=(self.input0(run.before_last), self.input1(run.last)))


class _Edge(nn.Module):
    """An operation on a state: it begins a node, or is added to the last one."""

    def __init__(self, operation: nn.Module, state: int, first: bool) -> None:
        super().__init__()
        self.operation, self.state, self.first = operation, state, first

    def forward(self, run: _Run) -> _Run:
        term = self.operation(run.states[self.state])
        if self.first:
            return run._replace(states=(*run.states, term))
        *before, node = run.states
        return run._replace(states=(*before, node + term))


class _Output(nn.Module):
    """The end of a cell: its nodes, side by side."""

    def forward(self, run: _Run) -> _Run:
        return _Run(run.last, torch.cat(run.states[2:], dim=1))


class _Pool(nn.Module):
    def forward(self, run: _Run) -> Tensor:
        return run.last.mean(dim=(2, 3))
