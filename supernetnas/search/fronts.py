"""Which of several candidates are best in more than one respect.

Non-dominated sorting and crowding distances are those of NSGA-II (Deb et al., "A Fast and Elitist
Multiobjective Genetic Algorithm: NSGA-II", IEEE Transactions on Evolutionary Computation 6, 2002),
as pymoo has them.
"""

from __future__ import annotations

import numpy as np

__all__ = ["by_rank_and_crowding", "import_pymoo", "nearest_to_ideal"]


def import_pymoo() -> None:
    """Import pymoo, or say how to install it."""
    try:
        import pymoo  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Objectives other than accuracy alone need pymoo. Install it with: "
            'pip install "supernetnas[evolution]"'
        ) from error


def by_rank_and_crowding(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort points by the front that they are on, and within it by how lonely they are.

    Equal points keep their order.

    Parameters
    ----------
    points : ndarray of shape (n, objectives)
        The smaller, the better.

    Returns
    -------
    order : ndarray of shape (n,), int64
        Indices, best first.
    ranks : ndarray of shape (n,), int64
        Of each point, the number of its front from 0.
    """
    import_pymoo()
    from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    points = np.asarray(points, dtype=float)
    ranks = np.zeros(len(points), np.int64)
    crowding = np.zeros(len(points))
    for rank, front in enumerate(NonDominatedSorting().do(points)):
        ranks[front] = rank
        crowding[front] = calc_crowding_distance(points[front])
    return np.lexsort((-crowding, ranks)), ranks


def nearest_to_ideal(points: np.ndarray) -> int:
    """Index of the point of a front that is nearest to the best in each objective.

    Each objective is scaled to its range over the points; of equal distances the first counts.
    """
    points = np.asarray(points, dtype=float)
    least, most = points.min(axis=0), points.max(axis=0)
    scaled = (points - least) / np.where(most > least, most - least, 1.0)
    return int(np.square(scaled).sum(axis=1).argmin())
