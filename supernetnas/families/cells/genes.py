"""The genotypes of a space as genes: what samplers, mutations and crosses work on.

Every node has three: which two states it reads, and for the first and for the second of them the
operation of the edge. So a change of one gene moves the inputs of a node or an operation, and
whatever genes are combined give a genotype.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import combinations, product

import numpy as np

from ...search.knapsack import Options, best_choices
from ...search.limits import Limits
from .costs import NetworkCost
from .genotype import Genotype, Node
from .space import N_NODES, CellKind, edge_index, edges_into, get_space

__all__ = ["GenotypeSpace"]

_PLACES = [(kind, node) for kind in CellKind for node in range(N_NODES)]
_PAIRS = [list(combinations(range(node + 2), 2)) for node in range(N_NODES)]


class GenotypeSpace:
    """All genotypes that a search of a space can end with.

    Where the edges into a node offer different numbers of operations, the gene of an operation has
    as many choices as the most, several of which may stand for one operation of an edge with fewer.

    Parameters
    ----------
    cost : NetworkCost
        Of the networks of the space.

    Attributes
    ----------
    genes : tuple of int
        How many choices each gene has: of the four nodes of the normal cell, then of the reduction
        cell.

    Examples
    --------
    >>> from supernetnas.families.cells.costs import network_cost
    >>> space = GenotypeSpace(network_cost("s2", 4, 3, (3, 8, 8), 10))
    >>> space.genes[:6]
    (1, 2, 2, 3, 2, 2)
    >>> space.decode((0, 1, 0) * 8).normal[0]
    (('sep_conv_3x3', 0), ('skip_connect', 1))
    """

    def __init__(self, cost: NetworkCost) -> None:
        self.cost = cost
        space, genes = get_space(cost.space), list[int]()
        self._offers = {
            (kind, edge): [name for name in dict.fromkeys(names) if name != "none"]
            for kind in CellKind
            for edge, names in enumerate(space.edges(kind))
        }
        for kind, node in _PLACES:
            most = max(len(self._offers[kind, edge]) for edge in edges_into(node))
            genes += [len(_PAIRS[node]), most, most]
        self.genes = tuple(genes)

    def encode(self, architecture: Genotype) -> tuple[int, ...]:
        """Return the genes of a genotype.

        Raises
        ------
        ValueError
            If it is of another space, or a node has not two edges.
        """
        if architecture.space != self.cost.space:
            raise ValueError(
                f"The genotype is of space {architecture.space!r}, not {self.cost.space!r}."
            )
        genes = []
        for place, (kind, node) in enumerate(_PLACES):
            edges = sorted(architecture.nodes(kind)[node], key=lambda edge: edge[1])
            if len(edges) != 2:
                raise ValueError(
                    f"Every node of a genotype has two edges; node {node} of {kind.key} has "
                    f"{len(edges)}."
                )
            genes.append(_PAIRS[node].index((edges[0][1], edges[1][1])))
            for name, state in edges:
                offer, most = self._offers[kind, edge_index(node, state)], self.genes[3 * place + 1]
                genes.append(-(-offer.index(name) * most // len(offer)))  # the first that means it
        return tuple(genes)

    def decode(self, genes: Sequence[int]) -> Genotype:
        """Return the genotype of genes."""
        nodes = []
        for place, (kind, node) in enumerate(_PLACES):
            pair, *operations = genes[3 * place : 3 * place + 3]
            edges, most = [], self.genes[3 * place + 1]
            for state, gene in zip(_PAIRS[node][pair], operations, strict=True):
                offer = self._offers[kind, edge_index(node, state)]
                edges.append((offer[gene * len(offer) // most], state))
            nodes.append(tuple(edges))
        return self._genotype(nodes)

    @cached_property
    def smallest(self) -> Genotype:
        """The genotype of the fewest multiply-accumulates, then of the fewest parameters."""
        return self._genotype([min(self._options(*place))[1] for place in _PLACES])

    @cached_property
    def largest(self) -> Genotype:
        """The genotype of the most multiply-accumulates, then of the most parameters."""
        return self._genotype([max(self._options(*place))[1] for place in _PLACES])

    def cheapest(self, limits: Limits) -> Genotype:
        """Return the genotype of the fewest multiply-accumulates within limits on both.

        Where parameters alone are limited, it is the one of the fewest parameters.

        Raises
        ------
        ValueError
            If there is none; names the smallest costs.
        """
        given = (limits.max_macs, limits.max_parameters)
        units = [unit for unit, limit in enumerate(given) if limit is not None]
        if not units:
            return self.smallest
        groups, least = [], self.cost.fixed[:2].copy()
        for place in _PLACES:
            costs, nodes = zip(*self._options(*place), strict=True)
            counted = np.array(costs, np.int64)
            groups.append(Options(counted[:, units], -counted[:, units[0]].astype(float), nodes))
            least += counted.min(axis=0)
        room = np.array([given[unit] for unit in units], np.int64) - self.cost.fixed[units]
        found = best_choices(groups, room)
        if found is None:
            raise ValueError(
                f"No network of space {self.cost.space!r} at this size keeps max_macs={given[0]} "
                f"and max_parameters={given[1]}: the cheapest have {least[0]:,} "
                f"multiply-accumulates, and {least[1]:,} parameters. Raise the limits."
            )
        return self._genotype(found)

    def _options(self, kind: CellKind, node: int) -> Iterator[tuple[tuple[int, int], Node]]:
        """Yield all that a node can be, with its multiply-accumulates and parameters."""
        names = get_space(self.cost.space).edges(kind)
        for states in _PAIRS[node]:
            edges = [edge_index(node, state) for state in states]
            for chosen in product(*(self._offers[kind, edge] for edge in edges)):
                macs, parameters = 0, 0
                for edge, name in zip(edges, chosen, strict=True):
                    own = self.cost.edges[kind][edge, names[edge].index(name)]
                    macs, parameters = macs + int(own[0]), parameters + int(own[1])
                yield (macs, parameters), tuple(zip(chosen, states, strict=True))

    def _genotype(self, nodes: Sequence[Node]) -> Genotype:
        return Genotype(self.cost.space, tuple(nodes[:N_NODES]), tuple(nodes[N_NODES:]))
