"""A discrete architecture, as data."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .operations import OPERATIONS
from .space import N_NODES, CellKind, SearchSpace, edge_index, get_space

__all__ = ["Genotype", "random_genotype"]

Node = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Genotype:
    """The two cells of a discrete network.

    Attributes
    ----------
    space : str
        Name of the search space that it comes from.
    normal, reduce : tuple of tuple of (str, int)
        For each of the four intermediate nodes its incoming edges, as pairs of an operation's name
        and the state it reads: 0 and 1 are the outputs of the cell before the last and of the
        last cell, 2 to 5 the nodes.

    Examples
    --------
    >>> edges = ((("skip_connect", 0), ("sep_conv_3x3", 1)),) * 4
    >>> genotype = Genotype("s2", edges, edges)
    >>> Genotype.from_dict(genotype.to_dict()) == genotype
    True
    """

    space: str
    normal: tuple[Node, ...]
    reduce: tuple[Node, ...]

    def __post_init__(self) -> None:
        for kind in CellKind:
            nodes = self.nodes(kind)
            if len(nodes) != N_NODES:
                raise ValueError(f"A cell has {N_NODES} nodes; {kind.key} has {len(nodes)}.")
            for position, node in enumerate(nodes):
                for operation, state in node:
                    if operation not in OPERATIONS or not 0 <= state < position + 2:
                        raise ValueError(
                            f"Node {position} of {kind.key} cannot have the edge "
                            f"({operation!r:.80}, {state!r:.80})."
                        )
                if len({state for _, state in node}) < len(node):
                    raise ValueError(
                        f"Node {position} of {kind.key} has two edges from the same state."
                    )

    def nodes(self, kind: CellKind) -> tuple[Node, ...]:
        """Nodes of a kind of cell."""
        return self.reduce if CellKind(kind) == CellKind.REDUCTION else self.normal

    def edges(self) -> frozenset[tuple[CellKind, int, str, int]]:
        """Kind of cell, node, operation and state of every edge."""
        return frozenset(
            (kind, node, operation, state)
            for kind in CellKind
            for node, edges in enumerate(self.nodes(kind))
            for operation, state in edges
        )

    def n_edges_beyond(self, other: Genotype) -> int:
        """How many edges the other genotype lacks."""
        return len(self.edges() - other.edges())

    def count(self, operation: str) -> int:
        """How many edges of the two cells carry ``operation``."""
        return sum(name == operation for node in self.normal + self.reduce for name, _ in node)

    def to_dict(self) -> dict:
        """Return lists and strings only, for JSON."""
        return {
            "space": self.space,
            **{
                kind.key: [[list(edge) for edge in node] for node in self.nodes(kind)]
                for kind in CellKind
            },
        }

    @classmethod
    def from_dict(cls, data: dict) -> Genotype:
        """Rebuild what `to_dict` returned.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it is not one of a known space.
        """
        get_space(data["space"])
        cells = [
            tuple(tuple((op, state) for op, state in node) for node in data[kind.key])
            for kind in CellKind
        ]
        states = [state for nodes in cells for node in nodes for _, state in node]
        if any(type(state) is not int for state in states):
            raise TypeError("The states of a genotype are integers.")
        return cls(data["space"], *cells)

    def __str__(self) -> str:
        cells = []
        for kind in CellKind:
            nodes = (
                " + ".join(f"{operation}({state})" for operation, state in node) or "empty"
                for node in self.nodes(kind)
            )
            cells.append(f"{kind.key}: " + " | ".join(nodes))
        return f"{self.space} [{'; '.join(cells)}]"


def random_genotype(space: SearchSpace, generator: torch.Generator) -> Genotype:
    """Draw uniformly from the architectures that a search of the space can end with."""

    def below(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    cells = []
    for kind in CellKind:
        edges, nodes = space.edges(kind), []
        for node in range(N_NODES):
            states = torch.randperm(node + 2, generator=generator)[:2].sort().values.tolist()
            kept = []
            for state in states:
                names = [name for name in edges[edge_index(node, state)] if name != "none"]
                kept.append((names[below(len(names))], state))
            nodes.append(tuple(kept))
        cells.append(tuple(nodes))
    return Genotype(space.name, *cells)
