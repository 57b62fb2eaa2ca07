"""Optimal transport between two weighted sets of rows: the linear program and the entropic problem.

Up to some thousand rows POT's network simplex solves the linear program exactly, in less time than
Sinkhorn iterations take at a regularisation that would come close. Between equally many rows of
equal weight it is an assignment problem, which scipy solves faster.

The entropic problem is wanted at regularisations down to some 1e-5 of the typical cost, where
Sinkhorn iterations do not converge in any reasonable number: mass has to find its way through a
graph that is nearly a tree. There its semi-dual is maximised by Newton's method, which solves for
the whole graph at once [1]_, under a regularisation that is halved again and again. The potentials
are nearly linear in it, so each problem starts from their extrapolation.

References
----------
.. [1] C. Brauer, C. Clason, D. Lorenz, B. Wirth, "A Sinkhorn-Newton method for entropic optimal
   transport", 2017.
"""

from __future__ import annotations

import warnings

import numpy as np
import ot
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import linear_sum_assignment
from sklearn.exceptions import ConvergenceWarning

__all__ = ["entropic", "exact"]

_LP_ITERATIONS = 10_000_000
_EQUAL = 1e-12  # relative difference of weights that comes of rounding
_NEWTON_STEPS = 300  # at one regularisation
_MARGINAL_TOLERANCE = 1e-7  # largest L1 error of a marginal


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
    if len(a) == len(b) and max(np.ptp(a), np.ptp(b)) <= _EQUAL / len(a):
        # Equal weights: an optimal vertex is a permutation, which is found in half the time.
        rows, columns = linear_sum_assignment(costs)
        plan = np.zeros_like(costs)
        plan[rows, columns] = 1 / len(a)
        return float(costs[rows, columns].mean()), plan
    plan, log = ot.emd(a, b, costs, numItermax=_LP_ITERATIONS, log=True)
    if log["warning"] is not None:
        raise RuntimeError(f"The transport problem was not solved: {log['warning']}")
    return log["cost"], plan


def entropic(
    a: np.ndarray, b: np.ndarray, costs: np.ndarray, reg: float
) -> tuple[float, np.ndarray]:
    """Optimal value of ``<plan, costs> + reg KL(plan | a x b)``, and the plan.

    Parameters
    ----------
    a, b : ndarray of shape (n,) and (m,)
        Weights that sum to 1.
    costs : ndarray of shape (n, m)
    reg : float
        In units of the costs.

    Warns
    -----
    ConvergenceWarning
        If the marginals are not met to an L1 error of 1e-7.
    """
    if len(a) < len(b):  # the system of Newton's method has the size of the second marginal
        value, plan = entropic(b, a, np.ascontiguousarray(costs.T), reg)
        return value, plan.T
    eps = max(reg, float(costs.max()))
    potential, previous, previous_eps = np.zeros(len(b)), None, eps
    while True:
        last = eps <= reg
        tolerance = _MARGINAL_TOLERANCE if last else 1e-3
        value, plan, solution = _newton(a, b, costs, eps, potential, tolerance)
        if last:
            break
        next_eps = max(eps / 2, reg)
        potential = solution
        if previous is not None:
            potential = solution + (next_eps - eps) / (eps - previous_eps) * (solution - previous)
        previous, previous_eps, eps = solution, eps, next_eps
    error = np.abs(plan.sum(axis=0) - b).sum()  # rows are exact
    if not error <= _MARGINAL_TOLERANCE:
        warnings.warn(
            f"The entropic transport problem did not converge at reg={reg:g}: a marginal is off by "
            f"{error:.1e}. Use a larger reg, or reg=None for the exact problem.",
            ConvergenceWarning,
            stacklevel=5,
        )
    return float(value), plan


def _newton(
    a: np.ndarray,
    b: np.ndarray,
    costs: np.ndarray,
    eps: float,
    potential: np.ndarray,
    tolerance: float,
) -> tuple[float, np.ndarray, np.ndarray]:
    """Maximise the semi-dual by damped Newton steps; value, plan and potential."""
    value, plan = _semi_dual(a, b, costs, eps, potential)
    damping = 1e-6
    diagonal = np.diag_indices(len(b))
    for _ in range(_NEWTON_STEPS):
        columns = plan.sum(axis=0)
        gradient = b - columns
        if np.abs(gradient).sum() <= tolerance:
            break
        root = plan / np.sqrt(a)[:, np.newaxis]
        hessian = np.outer(b, b) - root.T @ root  # with a value for constants, which have none
        hessian[diagonal] += columns
        while damping < 1e8:
            damped = hessian.copy()
            damped[diagonal] += damping * np.maximum(b, columns)
            try:
                step = eps * cho_solve(cho_factor(damped, overwrite_a=True), gradient)
            except LinAlgError:
                damping *= 10
                continue
            trial = _semi_dual(a, b, costs, eps, potential + step)
            if trial[0] >= value + 1e-4 * (gradient @ step) - 1e-13 * abs(value):
                break
            damping *= 10
        else:
            break
        potential, (value, plan) = potential + step, trial
        damping = max(damping / 5, 1e-12)
    return value, plan, potential


def _semi_dual(
    a: np.ndarray, b: np.ndarray, costs: np.ndarray, eps: float, potential: np.ndarray
) -> tuple[float, np.ndarray]:
    """Value of the semi-dual at the second potential, and the plan, whose row sums are `a`."""
    plan = potential - costs
    plan /= eps
    plan += np.log(b)
    largest = plan.max(axis=1)
    plan -= largest[:, np.newaxis]
    np.exp(plan, out=plan)
    sums = plan.sum(axis=1)
    plan *= (a / sums)[:, np.newaxis]
    return b @ potential - eps * (a @ (largest + np.log(sums))), plan
