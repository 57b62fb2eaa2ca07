"""What tells how a search goes: whether its genotype settles, and whether it collapses.

A differentiable search that collapses fills the normal cell with skip connections, since they speed
up the training of the supernet and not because they classify well (Zela et al., "Understanding and
Robustifying Differentiable Architecture Search", ICLR 2020, section 3; Liang et al., "DARTS+",
2019).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from ..genotype import Genotype
from ..space import N_NODES, CellKind, edge_index
from ..supernet import CellSupernet

__all__ = [
    "SearchCollapseWarning",
    "genotype_agreement",
    "warn_of_collapse",
]

_SKIP = "skip_connect"
_MOST = 6  # of the eight edges of a normal cell
_LEAD = 0.05


class SearchCollapseWarning(UserWarning):
    """The normal cell that a search has decided for is mostly skip connections."""


def genotype_agreement(genotype: Genotype, earlier: Sequence[Genotype], window: int = 5) -> float:
    """Share of a genotype's edges that the genotypes of the last epochs have, too.

    Parameters
    ----------
    genotype : Genotype
    earlier : sequence of Genotype
        At least one; the last ``window`` of them count.
    window : int, default=5

    Returns
    -------
    float
        Mean over these genotypes of the share of edges, each an operation from a state to a node,
        in common; 1 if nothing has changed.
    """
    n_edges = len(genotype.edges())
    shares = [1 - genotype.n_edges_beyond(other) / n_edges for other in earlier[-window:]]
    return sum(shares) / len(shares)


def warn_of_collapse(
    supernet: CellSupernet, genotype: Genotype, *, within_budget: bool = False
) -> None:
    """Warn if the search has decided for a normal cell that is mostly skip connections.

    At least six of the eight edges of the normal cell must be skip connections, and on these edges
    the weight of the skip connection must exceed that of the best other operation by 0.05 on
    average: where the alphas have hardly moved from chance there is no decision to warn of.

    Parameters
    ----------
    supernet : CellSupernet
    genotype : Genotype
    within_budget : bool, default=False
        Whether the genotype had to keep a limit, which skip connections help to keep.

    Warns
    -----
    SearchCollapseWarning
    """
    if CellKind.NORMAL not in supernet.kinds:
        return
    weights = supernet.operation_weights()[CellKind.NORMAL].detach().cpu().tolist()
    names = supernet.space.normal
    leads = []
    for node, edges in enumerate(genotype.normal):
        for name, state in edges:
            if name == _SKIP:
                edge = edge_index(node, state)
                of = dict(zip(names[edge], weights[edge], strict=False))
                others = [w for other, w in of.items() if other not in (_SKIP, "none")]
                leads.append(of[_SKIP] - max(others, default=0.0))
    if len(leads) >= _MOST and sum(leads) / len(leads) >= _LEAD:
        advice = (
            "Raise max_macs or max_parameters, which skip connections help to keep, or search for "
            "fewer epochs or with another search."
            if within_budget
            else "Search for fewer epochs, with another search, or derive the architecture "
            "with its derivation='perturbation'; its stopping='eigenvalue' guards searches of more "
            "than 22 epochs."
        )
        warnings.warn(
            f"The search has collapsed: {len(leads)} of the {2 * N_NODES} edges of its normal cell "
            f"are skip connections, which train fast and classify badly. {advice}",
            SearchCollapseWarning,
            stacklevel=6,  # the caller of `fit`
        )
