"""The dominant eigenvalue of the Hessian of the validation loss with respect to the alphas.

What RobustDARTS watches (Zela et al., ICLR 2020, section 3.2). The matrix itself is not needed:
ARPACK's Lanczos iteration asks for its products with vectors, some twenty, and each is one more
backward pass through the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh

from ....training.batch_norm import frozen_batch_norm
from ....training.steps import held_constant

if TYPE_CHECKING:
    from .bilevel import BilevelSearch

__all__ = ["dominant_eigenvalue", "largest_eigenvalue"]


def dominant_eigenvalue(search: BilevelSearch) -> float:
    """Largest eigenvalue, with its sign, on a fixed batch of validation images.

    The supernet runs its plain definition, which can be differentiated twice, under the statistics
    of the batch; its running statistics stay.

    Parameters
    ----------
    search : BilevelSearch
        Left as it is.
    """
    supernet, validation = search.supernet, search.validation
    order = torch.randperm(len(validation), generator=torch.Generator().manual_seed(0))
    index = order[: search.settings.batch_size]
    alphas = [supernet.alphas_normal, supernet.alphas_reduce]
    fused, training = supernet.fused, supernet.training
    supernet.fused = False
    supernet.train()
    try:
        constant = held_constant(supernet.weight_parameters())
        with frozen_batch_norm(supernet), search.fixed_noise(), constant:
            scores = supernet(validation.images.clean(index))
            loss = search._loss(scores, validation.labels_at(index))
            gradients = torch.autograd.grad(
                loss, alphas, create_graph=True, allow_unused=True, materialize_grads=True
            )
            gradient = torch.cat([g.flatten() for g in gradients])

            def product(vector: np.ndarray) -> np.ndarray:
                v = torch.from_numpy(vector).to(gradient)
                parts = torch.autograd.grad(
                    gradient, alphas, v, retain_graph=True, materialize_grads=True
                )
                return torch.cat([p.flatten() for p in parts]).double().cpu().numpy()

            return largest_eigenvalue(product, gradient.numel())
    finally:
        supernet.fused = fused
        supernet.train(training)


def largest_eigenvalue(product: Callable[[np.ndarray], np.ndarray], n: int) -> float:
    """Largest eigenvalue of a symmetric matrix.

    Parameters
    ----------
    product : callable
        Maps a vector of shape (n,), float64, to its product with the matrix.
    n : int
        Rows of the matrix, more than 8.

    Returns
    -------
    float
        Within some 1e-3 of it, next to the size of the matrix.
    """
    # A fixed start: the result is a function of the matrix alone.
    start = np.random.default_rng(0).standard_normal(n)
    # ARPACK begins within the range of the matrix, where it would not see an eigenvalue of zero
    # above negative ones. With the shift, which is no eigenvalue, the range is the whole space.
    shift = 2 * np.linalg.norm(product(start)) / np.linalg.norm(start)
    if shift == 0:
        return 0.0
    (eigenvalue,) = eigsh(
        LinearOperator((n, n), matvec=lambda v: product(v) + shift * v, dtype=np.float64),
        k=1,
        which="LA",
        ncv=8,
        tol=1e-2,
        v0=start,
        return_eigenvectors=False,
    )
    return float(eigenvalue - shift)
