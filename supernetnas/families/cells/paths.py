"""Single paths of a cell supernet: one operation at most on each edge, and no other computed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from .fused import checkpointed
from .genotype import Genotype
from .kernels import State, count_batch, dense_cat, input_state, weighted
from .modules import SupernetCell
from .space import N_EDGES, N_NODES, CellKind, edge_index, edges_into
from .supernet import CellSupernet

__all__ = ["Choices", "choices_of", "path_features", "path_scores"]

Choices = Sequence[Sequence[int | None]]
"""For the normal and the reduction cell, the operation on each of the 14 edges; None for none."""


def choices_of(genotype: Genotype, supernet: CellSupernet) -> Choices:
    """Positions of a genotype's operations among those of a supernet's edges."""
    result = []
    for kind in CellKind:
        chosen: list[int | None] = [None] * N_EDGES
        for node, edges in enumerate(genotype.nodes(kind)):
            for name, state in edges:
                edge = edge_index(node, state)
                chosen[edge] = supernet.space.edges(kind)[edge].index(name)
        result.append(chosen)
    return tuple(result)


def path_scores(
    supernet: CellSupernet,
    images: Tensor,
    choices: Choices,
    weights: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Class scores, of shape (n, n_classes); parameters as in `path_features`."""
    return supernet.classifier(path_features(supernet, images, choices, weights))


def path_features(
    supernet: CellSupernet,
    images: Tensor,
    choices: Choices,
    weights: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Pooled features when each edge has its chosen operation alone.

    Parameters
    ----------
    supernet : CellSupernet
    images : torch.Tensor of shape (n, input_channels, h, w)
        Standardised.
    choices : tuple of two sequences of int or None
        Operation of each edge of the normal and of the reduction cell; each node must have one.
    weights : tuple of two torch.Tensor of shape (14, k), optional
        Operation weights, of which those of the chosen operations count; 1 by default.

    Returns
    -------
    torch.Tensor of shape (n, 4 * channels of the last cell)
    """
    before_last = last = State(supernet.stem(images))
    for cell, kind in zip(supernet.cells, supernet.kinds, strict=True):
        of_kind = () if weights is None else (weights[kind],)
        run = partial(_cell, choices[kind])
        if supernet.execution.checkpointing:
            run = partial(checkpointed, run)
        before_last, last = last, run(cell, before_last, last, *of_kind)
    return last.value.mean(dim=(2, 3))


def _cell(
    chosen: Sequence[int | None],
    cell: SupernetCell,
    before_last: State,
    last: State,
    weights: Tensor | None = None,
) -> State:
    states = [input_state(cell.input0, before_last), input_state(cell.input1, last)]
    used: list[nn.Module] = [cell.input0, cell.input1]
    for node in range(N_NODES):
        terms = []
        for edge, state in zip(edges_into(node), states, strict=True):
            index = chosen[edge]
            if index is not None:
                used.append(cell.edges[edge][index])
                weight = None if weights is None else weights[edge, index]
                terms.append(weighted(used[-1], state, weight))
        states.append(State(sum(terms[1:], start=terms[0])))
    count_batch(*used)
    return State(dense_cat(*(state.value for state in states[2:])))
