"""GDAS: each forward pass runs one operation per edge, drawn by the alphas.

Dong and Yang, "Searching for A Robust Neural Architecture in Four GPU Hours" (CVPR 2019), section
3.2. With Gumbel noise ``o = -log(-log(u))`` for every operation of every edge,

    h~ = softmax((log softmax(alpha) + o) / tau),    h = one_hot(argmax h~)

which draws each operation with its softmax weight (equations 3 and 4). Only the drawn operations
run. The gradient takes ``h`` for ``h~`` (straight-through) and, as the paper has it, comes back
through the drawn operations alone. The temperature ``tau`` falls linearly from 10 to 0.1 over the
epochs. Both the alpha step and the weight step draw, once for all cells of a kind.

The validation accuracy of an epoch is that of the most probable operations on all edges, so that it
does not depend on a draw. Which operations run is decided on the host: on a GPU each forward
pass waits once for the alphas.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..paths import Choices
from .bilevel import BilevelSearch

__all__ = ["GumbelSearch", "gumbel_sample", "temperature"]


def temperature(epoch: int, n_epochs: int, ends: tuple[float, float] = (10.0, 0.1)) -> float:
    """Temperature of an epoch (from 0): linear, the first and the last epoch have the ends."""
    first, last = ends
    return first + (last - first) * epoch / max(n_epochs - 1, 1)


def gumbel_sample(
    alphas: Tensor, mask: Tensor, tau: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw an operation for each edge.

    Parameters
    ----------
    alphas, mask : torch.Tensor of shape (edges, k)
        Architecture weights, and which entries are operations.
    tau : float
        Temperature; of the gradient only.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    weights : torch.Tensor of shape (edges, k)
        One-hot, with the gradient of the softmax at temperature ``tau``.
    drawn : torch.Tensor of shape (edges,), int64
        Which operations.
    """
    # -log of an exponential draw is Gumbel; the least positive number stands for zero.
    draws = torch.empty(alphas.shape, dtype=torch.float64).exponential_(generator=generator)
    noise = -draws.clamp(min=torch.finfo(torch.float64).tiny).log().to(alphas)
    log_p = alphas.masked_fill(~mask, -torch.inf).log_softmax(1)
    soft = ((log_p + noise) / tau).softmax(1)
    drawn = soft.detach().argmax(1)
    hard = torch.nn.functional.one_hot(drawn, alphas.shape[1]).to(soft.dtype)
    return hard + (soft - soft.detach()), drawn


class GumbelSearch(BilevelSearch):
    """GDAS.

    Attributes
    ----------
    temperatures : tuple of float
        Of the first and the last epoch.
    """

    capturable = False
    temperatures = (10.0, 0.1)

    def alpha_scores(self, images: Tensor) -> Tensor:
        """Scores of drawn operations, with gradients of the alphas."""
        weights, choices = self._draw()
        return self.path_scores(images, choices, weights)

    def weight_scores(self, images: Tensor, labels: Tensor, radius: float | Tensor = 0.0) -> Tensor:
        """Scores of drawn operations."""
        with torch.no_grad():
            _, choices = self._draw()
        return self.path_scores(images, choices)

    def evaluation_scores(self, images: Tensor) -> Tensor:
        """Scores of the most probable operations."""
        choices = tuple(w.argmax(1).tolist() for w in self.supernet.operation_weights())
        return self.path_scores(images, choices)

    def _draw(self) -> tuple[tuple[Tensor, Tensor], Choices]:
        tau = temperature(self.epoch, self.settings.epochs, self.temperatures)
        supernet = self.supernet
        samples = [
            gumbel_sample(alphas, mask, tau, self.generator)
            for alphas, mask in zip(
                (supernet.alphas_normal, supernet.alphas_reduce),
                supernet.operation_masks(),
                strict=True,
            )
        ]
        weights, drawn = zip(*samples, strict=True)
        return weights, tuple(index.tolist() for index in drawn)
