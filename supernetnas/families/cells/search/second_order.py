"""Second-order DARTS: the alpha step looks one weight step ahead.

Liu et al., "DARTS: Differentiable Architecture Search" (ICLR 2019), section 2.3: the gradient of
the validation loss at the weights ``w' = w - xi * (momentum * buffer + grad L_train(w) + decay *
w)`` that the next weight step would give (equation 7),

    grad_alpha L_val(w', alpha) - xi * grad^2_{alpha, w} L_train(w, alpha) grad_w' L_val(w', alpha)

whose matrix-vector product is a difference of two gradients at ``w + R v`` and ``w - R v`` for
``v = grad_w' L_val`` and ``R = 0.01 / |v|`` (equation 8). ``xi`` is the current learning rate.

Two deviations from the authors' code. All four passes leave the running statistics of the batch
norms as they are, where the original mixes those of the shifted weights in. The training images of
the look-ahead are those of the weight step that follows, under an augmentation of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ....training.batch_norm import frozen_batch_norm
from ....training.steps import held_constant
from .bilevel import BilevelSearch

__all__ = ["SecondOrderSearch", "unrolled_gradients"]


class SecondOrderSearch(BilevelSearch):
    """DARTS with the second-order approximation of the alphas' gradient.

    The step ahead is never perturbed, whatever the settings say of the weight steps, and never in
    bfloat16: the finite difference would be lost in its rounding.

    Attributes
    ----------
    difference : float
        Length of the step ``R v`` of the finite difference.
    """

    capturable = False  # the noise of its passes is set back on the host
    difference = 0.01

    def alpha_gradients(self, index: Tensor, train_index: Tensor) -> Sequence[Tensor | None]:
        """As in `BilevelSearch`, differentiated through the weight step."""
        images = self.validation.images.augmented(index, self._draws)
        train_images = self.train.images.augmented(train_index, self._draws)
        labels, train_labels = self.validation.labels_at(index), self.train.labels_at(train_index)
        (group,) = self.weight_optimizer.param_groups
        weights = self.supernet.weight_parameters()
        states = [self.weight_optimizer.state.get(weight, {}) for weight in weights]
        noise = self._noise.get_state()

        def train_loss() -> Tensor:
            # Under one noise: the finite difference would be one of noises.
            self._noise.set_state(noise)
            return self._loss(self.supernet(train_images), train_labels)

        with frozen_batch_norm(self.supernet):
            return unrolled_gradients(
                train_loss,
                lambda: self._loss(self.supernet(images), labels),
                weights,
                self.supernet.alpha_parameters(),
                [state.get("momentum_buffer") for state in states],
                learning_rate=group["lr"],
                momentum=group["momentum"],
                weight_decay=group["weight_decay"],
                difference=self.difference,
            )


def unrolled_gradients(
    train_loss: Callable[[], Tensor],
    validation_loss: Callable[[], Tensor],
    weights: Sequence[Tensor],
    alphas: Sequence[Tensor],
    buffers: Sequence[Tensor | None],
    *,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    difference: float = 0.01,
) -> list[Tensor]:
    """Gradient of the validation loss after one weight step, by finite differences.

    Parameters
    ----------
    train_loss, validation_loss : callable
        Compute a scalar loss of the current values of ``weights`` and ``alphas``.
    weights, alphas : sequence of torch.Tensor
        Leaves. The weights are changed during the call, and restored.
    buffers : sequence of torch.Tensor or None
        Momentum of each weight; None before its first step.
    learning_rate, momentum, weight_decay : float
        Of the weight step.
    difference : float, default=0.01
        Norm of the step of the finite difference.

    Returns
    -------
    list of torch.Tensor
        One for each of ``alphas``.
    """

    def gradients(loss: Callable[[], Tensor], of: Sequence[Tensor]) -> list[Tensor]:
        return list(torch.autograd.grad(loss(), of, allow_unused=True, materialize_grads=True))

    saved = [weight.detach().clone() for weight in weights]
    steps = gradients(train_loss, weights)
    try:
        with torch.no_grad():
            for weight, step, buffer in zip(weights, steps, buffers, strict=True):
                step = step + weight_decay * weight
                if buffer is not None:
                    step = step + momentum * buffer
                weight.sub_(learning_rate * step)
        found = gradients(validation_loss, [*alphas, *weights])
        direct, direction = found[: len(alphas)], found[len(alphas) :]
        norm = torch.nn.utils.get_total_norm(direction)
        radius = difference / norm.clamp(min=torch.finfo(norm.dtype).tiny)
        mixed = []
        for sign in (1, -1):
            with torch.no_grad():
                for weight, old, v in zip(weights, saved, direction, strict=True):
                    weight.copy_(old + sign * radius * v)
            with held_constant(weights):
                mixed.append(gradients(train_loss, alphas))
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, saved, strict=True):
                weight.copy_(old)
    return [
        first - learning_rate * (plus - minus) / (2 * radius)
        for first, plus, minus in zip(direct, *mixed, strict=True)
    ]
