"""Optimal transport between two weighted sets of rows: the linear program and the entropic problem.

Up to some thousand rows the network simplex of POT is exact, and faster than Sinkhorn iterations at
a regularisation that would come close.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import ot
from sklearn.exceptions import ConvergenceWarning

__all__ = ["entropic", "exact"]

_LP_ITERATIONS = 10_000_000
_SINKHORN_ITERATIONS = 20_000
_SINKHORN_TOLERANCE = 1e-4  # largest L1 error of a marginal


def exact(a: np.ndarray, b: np.ndarray, costs: np.ndarray) -> tuple[float, np.ndarray]:
    """Optimal value and plan of the linear program.

    Parameters
    ----------
    a, b : ndarray of shape (n,) and (m,)
        Weights that sum to 1.
    costs : ndarray of shape (n, m)

    Raises
    ------
    RuntimeError
        If the optimum is not reached, for which POT warns as well.
    """
    plan, log = ot.emd(a, b, costs, numItermax=_LP_ITERATIONS, log=True)
    if log["warning"] is not None:
        raise RuntimeError(f"The transport problem was not solved: {log['warning']}")
    return log["cost"], plan


def entropic(
    a: np.ndarray, b: np.ndarray, costs: np.ndarray, reg: float
) -> tuple[float, np.ndarray]:
    """Optimal value of ``<plan, costs> + reg KL(plan | a x b)``, and the plan.

    Stabilised Sinkhorn iterations of POT under an annealed regularisation: each solution is the
    start of the next problem, at half the regularisation. Started cold at a small one, they would
    underflow.
    """
    eps = max(reg, float(costs.max()))
    potentials = None
    while True:
        last = eps <= reg
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the marginals are judged below
            plan, log = ot.bregman.sinkhorn_stabilized(
                a,
                b,
                costs,
                eps,
                numItermax=_SINKHORN_ITERATIONS if last else 100,
                stopThr=_SINKHORN_TOLERANCE / math.sqrt(len(b)) if last else 1e-3,
                warmstart=potentials,
                log=True,
            )
        potentials = log["alpha"], log["beta"]
        if last:
            break
        eps = max(eps / 2, reg)
    error = max(np.abs(plan.sum(axis=1) - a).sum(), np.abs(plan.sum(axis=0) - b).sum())
    if not error <= _SINKHORN_TOLERANCE:
        warnings.warn(
            f"The entropic transport problem did not converge at reg={reg:g}: a marginal is off by "
            f"{error:.1e}. Use a larger reg, or reg=None for the exact problem.",
            ConvergenceWarning,
            stacklevel=4,
        )
    # The dual value: its error is of second order in that of the marginals.
    alpha, beta = potentials
    value = a @ (alpha - reg * np.log(a)) + b @ (beta - reg * np.log(b))
    return float(value), plan
