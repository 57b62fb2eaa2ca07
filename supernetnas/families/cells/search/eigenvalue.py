"""The dominant eigenvalue of the Hessian of the validation loss with respect to the alphas.

What RobustDARTS watches (Zela et al., ICLR 2020, section 3.2). The matrix itself is not needed: the
Lanczos iteration asks for its products with vectors, and each is one more backward pass through the
gradient. The alphas are so few that the iteration keeps all its vectors orthogonal and converges
within some twenty products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from ....training.batches import frozen_batch_norm, held_constant

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


def largest_eigenvalue(
    product: Callable[[np.ndarray], np.ndarray],
    n: int,
    *,
    max_products: int = 40,
    tolerance: float = 1e-4,
) -> float:
    """Largest eigenvalue of a symmetric matrix by the Lanczos iteration.

    Parameters
    ----------
    product : callable
        Maps a vector of shape (n,), float64, to its product with the matrix.
    n : int
        Rows of the matrix.
    max_products : int, default=40
    tolerance : float, default=1e-4
        Relative change of the estimate from one product to the next at which the iteration ends,
        twice in a row.

    Returns
    -------
    float
        A lower bound of the largest eigenvalue, exact if ``max_products`` is at least n.
    """
    # A fixed start: the result is a function of the matrix alone.
    vector = np.random.default_rng(0).standard_normal(n)
    basis = [vector / np.linalg.norm(vector)]
    image = product(basis[0])
    diagonal, beside, estimate, quiet = [basis[0] @ image], [], basis[0] @ image, 0
    scale = np.linalg.norm(image)
    while len(basis) < min(n, max_products) and quiet < 2:
        residual = image
        for _ in range(2):  # once leaves rounding errors
            for other in basis:
                residual = residual - (other @ residual) * other
        length = np.linalg.norm(residual)
        if length <= 1e-10 * scale:
            break  # the vectors so far span all that the start reaches
        basis.append(residual / length)
        image = product(basis[-1])
        beside.append(length)
        diagonal.append(basis[-1] @ image)
        tridiagonal = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
        last, estimate = estimate, np.linalg.eigvalsh(tridiagonal)[-1]
        quiet = quiet + 1 if abs(estimate - last) <= tolerance * abs(estimate) else 0
    return float(estimate)
