"""Training of members on a target's images: one, which then teaches the others.

Batch norms keep the statistics of the pretraining: those of a few hundred images are worse. Each
member has its own, and its own classifier.

Of the largest, the first stages can stay as they are, see `kept_views`. It teaches after its own
training, and patiently: teacher and taught see the same views, and the labels count little (Beyer
et al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022). Those that
are taught are trained together, in place, since they share their weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...search.distillation import divergence
from ...training.execution import fast_inference
from ..layers import Dropout
from .layers import at_size
from .space import ElasticArchitecture
from .supernet import ElasticSupernet

__all__ = ["FineTuning", "Lesson", "Taught"]

_OF_LABELS = 0.2  # of the loss of what is taught


class FineTuning(nn.Module):
    """The first of some members of a supernet, as it is trained.

    Parameters
    ----------
    supernet : ElasticSupernet
        Trained in place; gets the members' classifiers, and them as its front.
    members : sequence of ElasticArchitecture
        The first is trained, and can teach the others.
    heads : sequence of tuple of torch.Tensor
        Weight and bias that the classifier of each member but the first begins with. That of the
        first begins with zeros, which ends better than a fitted one.
    deviation : torch.Tensor of shape (features,)
        Of the first member's features, in units of which others learn them.
    n_frozen : int
        Stages of the largest that stay as they are, and the stem with them.
    dropout : float
        Of the pooled features.
    pretrained : bool
        Whether the weights are those of a source. Batch norms then keep their statistics; else they
        follow the images.
    keeps_first : bool
        Whether the first is wanted for itself, and not only to teach.
    """

    def __init__(
        self,
        supernet: ElasticSupernet,
        members: Sequence[ElasticArchitecture],
        heads: Sequence[tuple[Tensor, Tensor]],
        deviation: Tensor,
        *,
        n_frozen: int = 0,
        dropout: float = 0.0,
        pretrained: bool = True,
        keeps_first: bool = True,
    ) -> None:
        super().__init__()
        self.supernet, self.members, self.n_frozen = supernet, tuple(members), n_frozen
        self.fixed_statistics, self.keeps_first = pretrained, keeps_first
        self.cached = False  # whether it is given what `look` returns, not images
        self.dropout = Dropout(dropout)
        self.deviation: Tensor
        self.register_buffer("deviation", deviation, persistent=False)
        new = (
            torch.zeros_like(supernet.classifier.weight),
            torch.zeros_like(supernet.classifier.bias),
        )
        supernet.take_heads(self.members, [new, *heads])
        supernet.requires_grad_(False)
        supernet.heads[0].requires_grad_(True)
        _train_weights(supernet, [self.members[0]], n_frozen)

    def train(self, mode: bool = True) -> FineTuning:
        """Set the mode; of batch norms only where their statistics follow the images."""
        super().train(mode)
        if self.fixed_statistics:
            self.supernet.eval()
        return self

    def fresh_parameters(self) -> list[nn.Parameter]:
        """Return those of the classifier, where nothing else is new."""
        return list(self.supernet.heads[0].parameters()) if self.fixed_statistics else []

    def look(self, images: Tensor) -> list[Tensor]:
        """Return the activations of the stages that stay as they are, which can be kept."""
        images = at_size(images, self.members[0].size)
        return [self.supernet.largest.up_to(self.n_frozen, images)]

    def batch(self, seen: list[Tensor]) -> Tensor:
        """Return what `forward` takes, of what `look` returned."""
        return seen[0]

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of the first member."""
        if self.cached:
            features = self.supernet.largest.after(self.n_frozen, images)
        else:
            features = self.supernet.features(images, self.members[0])
        return self.supernet.heads[0](self.dropout(features)).float()


@dataclass(frozen=True)
class Lesson:
    """What those that are taught need of a batch.

    Attributes
    ----------
    features : torch.Tensor of shape (b, features)
        Of the teacher.
    given : dict of (bool, int) to torch.Tensor
        Images of a size, or what the stages that are kept of the whole network make of them.
    """

    features: Tensor
    given: dict[tuple[bool, int], Tensor]

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.features.device


class Taught(nn.Module):
    """All members but the first, as they are trained by it.

    A member that has all weights of the first, the largest, and only smaller images, goes on from
    what the first has learned, in the same weights: the stages that the first has kept are kept
    again. The first is then trained with it, by what it was before, or is no longer one of the
    members, since they are the same in the supernet.

    Parameters
    ----------
    first : FineTuning
        After its training.
    """

    def __init__(self, first: FineTuning) -> None:
        super().__init__()
        self.supernet, self.dropout = first.supernet, first.dropout
        self.fixed_statistics, self.n_frozen = first.fixed_statistics, first.n_frozen
        self.deviation: Tensor
        self.register_buffer("deviation", first.deviation, persistent=False)
        supernet, is_whole = self.supernet, self.supernet.config.space.is_whole
        self.teacher = copy.deepcopy(supernet.largest)
        self.teacher_head = copy.deepcopy(supernet.heads[0])
        self.students, self.members = first.members[1:], first.members
        heads = [
            self.teacher_head if is_whole(member) else head
            for member, head in zip(first.members, supernet.heads, strict=True)
        ]
        if any(is_whole(member) for member in self.students):
            if first.keeps_first:
                self.students = self.members
            else:
                self.members, heads = self.students, heads[1:]
        self.given = list(dict.fromkeys(map(self._given, self.students)))
        supernet.take_heads(self.members, [(h.weight.detach(), h.bias.detach()) for h in heads])
        self.requires_grad_(False)
        _train_weights(supernet, self.students, first.n_frozen)
        for member in self.students:
            self._head(member).requires_grad_(True)

    def train(self, mode: bool = True) -> Taught:
        """Set the mode; of batch norms only where their statistics follow the images."""
        super().train(mode)
        self.teacher.eval()
        if self.fixed_statistics:
            self.supernet.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of the first of those that are taught."""
        member = self.students[0]
        return self._scores(member, self.supernet.features(images, member))

    def look(self, images: Tensor) -> list[Tensor]:
        """Return the teacher's features, and what those that are taught are given; see `Lesson`."""
        teacher, n_frozen, kept, seen = self.teacher, self.n_frozen, None, []
        for whole, size in self.given:
            given = at_size(images, size)
            if whole:
                of_all = given is images
                given = teacher.up_to(n_frozen, given)
                kept = given if of_all else kept
            seen.append(given)
        if kept is None:
            kept = teacher.up_to(n_frozen, images)
        return [teacher.after(n_frozen, kept), *seen]

    def batch(self, seen: list[Tensor]) -> Lesson:
        """Return what `training_loss` takes, of what `look` returned."""
        return Lesson(seen[0], dict(zip(self.given, seen[1:], strict=True)))

    def training_loss(
        self, images: Tensor | Lesson, labels: Tensor, criterion: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Loss of a batch, and the class scores of the first of those that are taught.

        The loss of each is a mean of that of the labels, which count little, and of the divergence
        from the teacher's probabilities; and the distance to the teacher's features besides.
        """
        lesson = images if isinstance(images, Lesson) else self._lesson(images)
        with torch.no_grad():
            taught = self.teacher_head(lesson.features).float()
            seen = lesson.features / self.deviation
        total, first = seen.new_zeros(()), None
        for member in self.students:
            whole, size = self._given(member)
            x = lesson.given[whole, size]
            if whole:
                features = self.supernet.largest.after(self.n_frozen, x)
            else:
                features = self.supernet.features(x, member)
            scores = self._scores(member, features)
            first = scores if first is None else first
            told = divergence(scores, taught, "kl", 1.0)
            total = total + _OF_LABELS * criterion(scores, labels) + (1 - _OF_LABELS) * told
            total = total + F.smooth_l1_loss(features / self.deviation, seen)
        assert first is not None
        return total, first

    @torch.no_grad()
    def _lesson(self, images: Tensor) -> Lesson:
        with fast_inference(images.device).autocast(images.device):
            seen = self.look(images)
        return self.batch([tensor.float() for tensor in seen])

    def _given(self, member: ElasticArchitecture) -> tuple[bool, int]:
        """Whether a member is given activations of stages that are kept, and the size."""
        whole = self.supernet.config.space.is_whole(member)
        return whole and bool(self.n_frozen), member.size

    def _head(self, member: ElasticArchitecture) -> nn.Linear:
        return self.supernet.heads[self.members.index(member)]

    def _scores(self, member: ElasticArchitecture, features: Tensor) -> Tensor:
        return self._head(member)(self.dropout(features)).float()


def _train_weights(
    supernet: ElasticSupernet, members: Sequence[ElasticArchitecture], n_frozen: int
) -> None:
    """Let the weights of members be trained: those of the largest, or those that others share.

    Of the largest, the first stages are not, nor is the stem if there are any.
    """
    whole, largest = {*map(supernet.config.space.is_whole, members)}, supernet.largest
    if True in whole:
        largest.requires_grad_(True)
        if n_frozen:
            for module in (largest.stem, largest.stem_norm, largest.stages[:n_frozen]):
                module.requires_grad_(False)
    if False in whole:
        for parameter in supernet.shared_parameters():
            parameter.requires_grad_(True)
