"""Who teaches the members of a supernet, and what they are told.

A distillation turns a batch and the architectures of a step into one loss for each of them, one
after another, so that the memory of a step is that of one member.

References
----------
.. [1] D. Wang et al., "AlphaNet: Improved Training of Supernets with Alpha-Divergence", ICML 2021:
   the adaptive divergence, equations 4 to 8.
.. [2] L. Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", CVPR
   2022: teacher and student see the same view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .protocols import Architecture, PathSupernet

__all__ = [
    "Distillation",
    "Divergence",
    "FromLabels",
    "FromTeacher",
    "adaptive_divergence",
    "divergence",
    "kl_divergence",
]

A = TypeVar("A", bound=Architecture)
A_contra = TypeVar("A_contra", bound=Architecture, contravariant=True)

Divergence = Literal["kl", "adaptive"]


class Distillation(Protocol[A_contra]):
    """Yields the losses of a step's architectures."""

    def losses(
        self,
        supernet: PathSupernet[Any],
        images: Tensor,
        targets: Tensor,
        architectures: Sequence[A_contra],
    ) -> Iterator[Tensor]:
        """Yield a loss for each architecture, in their order.

        Parameters
        ----------
        supernet : PathSupernet
        images : torch.Tensor of shape (n, channels, h, w)
        targets : torch.Tensor of n rows
            What the images come with: labels, or a teacher's features.
        architectures : sequence of Architecture
        """


@dataclass(frozen=True)
class FromLabels(Generic[A]):
    """No distillation: every architecture learns from the labels.

    Attributes
    ----------
    label_smoothing : float
        Share of a label that is spread over all classes that there are for the image.
    class_weight : torch.Tensor of shape (n_classes,) or None
    dataset_of_class : torch.Tensor of shape (n_classes,), int64, or None
        Number of the dataset that each class belongs to, where there are several: an image's loss
        looks at the scores of its own dataset's classes only.
    observe : callable or None
        Called with those scores and the labels of every batch.
    """

    label_smoothing: float = 0.0
    class_weight: Tensor | None = None
    dataset_of_class: Tensor | None = None
    observe: Callable[[Tensor, Tensor], None] | None = None

    def losses(
        self,
        supernet: PathSupernet[A],
        images: Tensor,
        targets: Tensor,
        architectures: Sequence[A],
    ) -> Iterator[Tensor]:
        """Yield a loss for each architecture; targets are labels of shape (n,)."""
        for architecture in architectures:
            scores = self.own_scores(supernet(images, architecture).float(), targets)
            if self.observe is not None:
                self.observe(scores.detach(), targets)
            if self.dataset_of_class is None:
                yield F.cross_entropy(
                    scores,
                    targets,
                    weight=self.class_weight,
                    label_smoothing=self.label_smoothing,
                )
            else:
                loss = F.cross_entropy(scores, targets, weight=self.class_weight)
                yield loss + self.label_smoothing * (self._spread(scores) - loss)

    def own_scores(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Scores that count for images of these labels: others are minus infinity."""
        if self.dataset_of_class is None:
            return scores
        foreign = self.dataset_of_class[None, :] != self.dataset_of_class[labels][:, None]
        return scores.masked_fill(foreign, -torch.inf)

    def _spread(self, scores: Tensor) -> Tensor:
        """Mean loss of the classes that each image has."""
        own = ~scores.isinf()
        losses = -F.log_softmax(scores, 1).where(own, 0.0)
        return (losses.sum(1) / own.sum(1)).mean()


@dataclass(frozen=True)
class FromTeacher(Generic[A]):
    """All architectures learn the pooled features of a teacher, and what it makes of them.

    The loss of features is the smooth L1 distance in units of each feature's deviation; that of
    scores the divergence of what one classifier, the teacher's, says of both.

    Attributes
    ----------
    weight, bias : torch.Tensor of shape (classes, features) and (classes,)
        The teacher's classifier.
    scale : torch.Tensor of shape (features,)
        Deviations of the teacher's features.
    feature_weight : float
        Weight of the loss of features.
    divergence : {"kl", "adaptive"}
    temperature : float
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor
    feature_weight: float = 1.0
    divergence: Divergence = "kl"
    temperature: float = 2.0

    def losses(
        self,
        supernet: PathSupernet[A],
        images: Tensor,
        targets: Tensor,
        architectures: Sequence[A],
    ) -> Iterator[Tensor]:
        """Yield a loss for each architecture; targets are features of shape (n, features)."""
        taught = F.linear(targets, self.weight, self.bias)
        for architecture in architectures:
            features = supernet.features(images, architecture)
            scores = F.linear(features, self.weight, self.bias)
            distance = F.smooth_l1_loss(features / self.scale, targets / self.scale)
            yield self.feature_weight * distance + divergence(
                scores, taught, self.divergence, self.temperature
            )


def divergence(scores: Tensor, taught: Tensor, kind: Divergence, temperature: float) -> Tensor:
    """Mean divergence of the probabilities of scores from those of a teacher's scores.

    Times the square of the temperature, which leaves gradients at their size.

    Parameters
    ----------
    scores, taught : torch.Tensor of shape (n, classes)
    kind : {"kl", "adaptive"}
    temperature : float
    """
    compute = {"kl": kl_divergence, "adaptive": adaptive_divergence}[kind]
    return compute(scores / temperature, taught / temperature).mean() * temperature**2


def kl_divergence(scores: Tensor, taught: Tensor) -> Tensor:
    """Kullback-Leibler divergence of each row from the teacher's, shape (n,)."""
    return F.kl_div(
        F.log_softmax(scores, 1), F.log_softmax(taught, 1), reduction="none", log_target=True
    ).sum(1)


def adaptive_divergence(
    scores: Tensor, taught: Tensor, alphas: tuple[float, float] = (-1.0, 1.0), clip: float = 5.0
) -> Tensor:
    """The larger of two alpha divergences of each row from the teacher's, shape (n,).

    With teacher p and student q it is the mean over q of f(p / q), where f(r) is
    (r**alpha - 1) / (alpha * (alpha - 1)), for alpha = 1 r * log(r). A negative alpha is large
    where the student overestimates a class, a positive one where it underestimates.

    Powers of p / q are clipped, in the value and in the gradient, which is that of the paper's
    equation 5: -q * r**alpha / alpha with respect to log q.

    Parameters
    ----------
    scores, taught : torch.Tensor of shape (n, classes)
    alphas : tuple of two float
        Other than 0.
    clip : float
        Largest power.
    """
    if 0 in alphas:
        raise ValueError(f"alphas must differ from 0; got {alphas}.")
    first, second = (_alpha_divergence(scores, taught, alpha, clip) for alpha in alphas)
    return torch.where(first > second, first, second)


def _alpha_divergence(scores: Tensor, taught: Tensor, alpha: float, clip: float) -> Tensor:
    log_q = F.log_softmax(scores, 1)
    log_r = F.log_softmax(taught.detach(), 1) - log_q.detach()
    q = log_q.detach().exp()
    power = (alpha * log_r).exp().clamp(max=clip)
    f = power * log_r if alpha == 1 else (power - 1) / (alpha * (alpha - 1))
    surrogate = -(q * power / alpha * log_q).sum(1)
    return (q * f).sum(1) + surrogate - surrogate.detach()
