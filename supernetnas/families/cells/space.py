"""Cell search spaces: which operations compete on which edge.

A cell has two inputs (states 0 and 1, the outputs of the two cells before it) and four
intermediate nodes (states 2 to 5); node ``i`` has an edge from each of the ``i + 2`` states before
it, which makes 14 edges, listed node by node and by rising input state. Its output is the
concatenation of the four nodes.

S1 to S4 are those of RobustDARTS (Zela et al., 2020, section 3), which SmoothDARTS and the supernet
transfer paper use. ``darts`` is the space of DARTS with its ``none``, ``darts_no_none`` the same
without (RobustDARTS' and SmoothDARTS' versions of S5).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import combinations

from .operations import OPERATIONS

__all__ = [
    "EDGE_SOURCES",
    "N_EDGES",
    "N_NODES",
    "CellKind",
    "SearchSpace",
    "available_spaces",
    "edge_index",
    "edge_stride",
    "edges_into",
    "get_space",
    "register_space",
]

N_NODES = 4

EDGE_SOURCES = tuple(state for node in range(N_NODES) for state in range(node + 2))
"""State that each edge reads."""

N_EDGES = len(EDGE_SOURCES)

Edges = tuple[tuple[str, ...], ...]


class CellKind(IntEnum):
    """The two kinds of cells; as a number, the position in pairs of what each kind has."""

    NORMAL = 0
    REDUCTION = 1

    @property
    def key(self) -> str:
        """The kind's name in genotypes, tensors and files."""
        return "reduce" if self is CellKind.REDUCTION else "normal"


def edge_index(node: int, state: int) -> int:
    """Position among a cell's edges of the one from ``state`` into ``node``, both from 0."""
    return node * (node + 3) // 2 + state


def edges_into(node: int) -> range:
    """Positions of a node's edges, by rising state."""
    return range(edge_index(node, 0), edge_index(node + 1, 0))


def edge_stride(kind: CellKind, state: int) -> int:
    """Stride of what is done to ``state``: a reduction cell halves its two inputs."""
    return 2 if kind == CellKind.REDUCTION and state < 2 else 1


@dataclass(frozen=True)
class SearchSpace:
    """A space of cells, as data.

    Attributes
    ----------
    name : str
        The name it is registered under.
    normal, reduce : tuple of tuple of str
        For each of the 14 edges of a normal and of a reduction cell, the names of the candidate
        operations in the order of their alphas. Edges may offer different numbers of operations.
    """

    name: str
    normal: Edges
    reduce: Edges

    def __post_init__(self) -> None:
        for kind in CellKind:
            edges = self.edges(kind)
            if len(edges) != N_EDGES:
                raise ValueError(
                    f"A cell has {N_EDGES} edges; {kind.key} of space {self.name!r} has "
                    f"{len(edges)}."
                )
            for index, operations in enumerate(edges):
                unknown = [name for name in operations if name not in OPERATIONS]
                if unknown or not operations or len(set(operations)) < len(operations):
                    raise ValueError(
                        f"Edge {index} of {kind.key} of space {self.name!r} must list different "
                        f"known operations; got {operations!r}. Known are {', '.join(OPERATIONS)}."
                    )
                if set(operations) == {"none"}:
                    raise ValueError(
                        f"Edge {index} of {kind.key} of space {self.name!r} offers nothing but "
                        "'none'."
                    )

    @property
    def width(self) -> int:
        """The largest number of operations that an edge offers."""
        return max(len(names) for names in self.normal + self.reduce)

    @property
    def n_architectures(self) -> int:
        """How many genotypes a search can end with: two edges into each node, an operation each."""
        count = 1
        for kind in CellKind:
            choices = [len({*names} - {"none"}) for names in self.edges(kind)]
            for node in range(N_NODES):
                into = [choices[edge] for edge in edges_into(node)]
                count *= sum(one * other for one, other in combinations(into, 2))
        return count

    def edges(self, kind: CellKind) -> Edges:
        """Candidate operations per edge of a kind of cell."""
        return self.reduce if CellKind(kind) == CellKind.REDUCTION else self.normal


_SPACES: dict[str, SearchSpace] = {}


def register_space(space: SearchSpace) -> SearchSpace:
    """Make ``space`` available by its name; a name is given once."""
    if _SPACES.setdefault(space.name, space) != space:
        raise ValueError(f"Another search space is registered as {space.name!r}.")
    return space


def available_spaces() -> list[str]:
    """Names of the registered spaces."""
    return sorted(_SPACES)


def get_space(name: str) -> SearchSpace:
    """Return the space registered as ``name``; ValueError with the known names otherwise."""
    if name not in _SPACES:
        raise ValueError(f"Unknown search space {name!r}; known are {available_spaces()}.")
    return _SPACES[name]


_SKIP, _MAX, _AVG = "skip_connect", "max_pool_3x3", "avg_pool_3x3"
_SEP3, _SEP5, _DIL3, _DIL5 = "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"

register_space(
    SearchSpace(
        "s1",
        normal=(
            *((_SKIP, _DIL3), (_SKIP, _DIL5)),
            *((_SKIP, _DIL5), (_SKIP, _SEP3), (_SKIP, _DIL3)),
            *((_MAX, _SKIP), (_SKIP, _SEP3), (_SKIP, _SEP3), (_SKIP, _DIL3)),
            *((_SKIP, _SEP3), (_MAX, _SKIP), (_SKIP, _DIL3), (_DIL3, _DIL5), (_DIL3, _DIL5)),
        ),
        reduce=(
            *((_MAX, _AVG), (_MAX, _DIL3)),
            *((_MAX, _AVG), (_MAX, _AVG), (_SKIP, _DIL5)),
            *((_MAX, _AVG), (_MAX, _SEP3), (_SKIP, _DIL3), (_SKIP, _DIL5)),
            *((_MAX, _AVG), (_MAX, _AVG), (_SKIP, _DIL5), (_SKIP, _DIL5), (_SKIP, _DIL5)),
        ),
    )
)


def _same_on_every_edge(name: str, operations: tuple[str, ...]) -> SearchSpace:
    edges = (operations,) * N_EDGES
    return register_space(SearchSpace(name, normal=edges, reduce=edges))


_DARTS = ("none", _MAX, _AVG, _SKIP, _SEP3, _SEP5, _DIL3, _DIL5)

_same_on_every_edge("s2", (_SKIP, _SEP3))
_same_on_every_edge("s3", ("none", _SKIP, _SEP3))
_same_on_every_edge("s4", ("noise", _SEP3))
_same_on_every_edge("darts", _DARTS)
_same_on_every_edge("darts_no_none", _DARTS[1:])
