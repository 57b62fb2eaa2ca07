"""Perturbed operation weights for the weight step of SmoothDARTS.

Chen and Hsieh, "Stabilizing Differentiable Architecture Search via Perturbation-based
Regularization" (ICML 2020): equation 1, with a random perturbation (SDARTS-RS, equation 5) or an
adversarial one (SDARTS-ADV, equation 6, by projected gradient ascent of 7 steps). The perturbation
acts on the softmaxed alphas; what leaves the simplex is clamped to [0, 1] and divided by its sum,
as in the authors' code, which is not the Euclidean projection and may leave the ball of radius
epsilon.

One deviation: the attack normalises by the statistics of its batch, as the weight step does, where
the authors' code uses running statistics. After a warm start those are still the source's, and in
any case the attacked loss is then the loss that is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

__all__ = ["adversarial_perturbation", "perturbation_radius", "random_perturbation", "to_simplex"]

Weights = tuple[Tensor, Tensor]


def perturbation_radius(epoch: int, n_epochs: int, radius: tuple[float, float]) -> float:
    """Epsilon of an epoch (from 0): linear from the first radius towards the second.

    The second is the limit that epoch ``n_epochs`` would have; the last epoch stays below it.
    """
    first, last = radius
    return first + (last - first) * epoch / n_epochs


def to_simplex(weights: Tensor, mask: Tensor) -> Tensor:
    """Clamp to [0, 1] and divide each row by its sum.

    Parameters
    ----------
    weights : torch.Tensor of shape (edges, k)
        Operation weights after a perturbation.
    mask : torch.Tensor of shape (edges, k), bool
        Which entries are operations; the others become 0.

    Returns
    -------
    torch.Tensor of shape (edges, k)
        Rows sum to one. A row with nothing above zero becomes 1 at its largest entry.
    """
    winners = weights.masked_fill(~mask, -torch.inf).argmax(1, keepdim=True)
    clamped = weights.clamp(0, 1) * mask
    sums = clamped.sum(1, keepdim=True)
    # Not torch's one_hot, which looks at the values and so waits for the device.
    winner = torch.arange(weights.shape[1], device=weights.device) == winners
    shares = clamped / sums.clamp(min=torch.finfo(sums.dtype).tiny)
    return torch.where(sums > 0, shares, winner.to(weights.dtype))


def _uniform(like: Tensor, radius: float | Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(like.shape, generator=generator, device=generator.device)
    return (2 * drawn.to(like, non_blocking=True) - 1) * radius


def _within(x: Tensor, radius: float | Tensor) -> Tensor:
    return x.clamp(-radius, radius)  # type: ignore[arg-type]  # both are numbers or both tensors


def _weights(tensors: Iterable[Tensor]) -> Weights:
    return tuple(tensors)  # type: ignore[return-value]  # as many as the weights that they are of


def random_perturbation(
    weights: Weights, masks: Weights, radius: float | Tensor, generator: torch.Generator
) -> Weights:
    """Add uniform noise in [-radius, radius] to each operation weight and return to the simplex.

    Parameters
    ----------
    weights, masks : tuple of two torch.Tensor of shape (edges, k)
        Operation weights of the normal and the reduction cell, and which entries are operations.
    radius : float or torch.Tensor of shape ()
        Epsilon.
    generator : torch.Generator
        On the device of the weights there is no transfer.
    """
    return _weights(
        to_simplex(weight + _uniform(weight, radius, generator), mask)
        for weight, mask in zip(weights, masks, strict=True)
    )


def adversarial_perturbation(
    loss: Callable[[Weights], Tensor],
    weights: Weights,
    masks: Weights,
    radius: float | Tensor,
    generator: torch.Generator,
    n_steps: int = 7,
) -> Weights:
    """Raise ``loss`` by projected gradient ascent on the operation weights.

    Starts at a random perturbation and takes ``n_steps`` steps of ``2 * radius / n_steps`` along
    the sign of the gradient; after each the difference to ``weights`` is clamped to
    [-radius, radius] and the result brought back to the simplex. If the loss is then not above
    that of ``weights``, ``weights`` are returned: an attack never lowers the loss.

    Parameters
    ----------
    loss : callable
        Maps operation weights to a scalar loss; must not change any state.
    weights, masks, radius, generator
        As in `random_perturbation`.
    n_steps : int, default=7
    """
    with torch.no_grad():
        clean_loss = loss(weights)
    step = 2 * radius / n_steps
    attacked = random_perturbation(weights, masks, radius, generator)
    for _ in range(n_steps):
        attacked = _weights(weight.detach().requires_grad_() for weight in attacked)
        gradients = torch.autograd.grad(loss(attacked), attacked, materialize_grads=True)
        with torch.no_grad():
            attacked = _weights(
                to_simplex(weight + _within(x + step * g.sign() - weight, radius), mask)
                for weight, mask, x, g in zip(weights, masks, attacked, gradients, strict=True)
            )
    with torch.no_grad():
        worse = loss(attacked) > clean_loss
    return _weights(torch.where(worse, a, w) for a, w in zip(attacked, weights, strict=True))
