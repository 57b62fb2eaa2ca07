"""Training of members on a target's images: one, which then teaches the others.

Batch norms keep the statistics of the pretraining: those of a few hundred images are worse. Each
member has its own, and its own classifier.

Of the largest, the first stages can stay as they are. Their activations are then computed once, for
a few views of each image. It teaches after its own training, and patiently: teacher and taught see
the same views, in more epochs, and the labels count little (Beyer et al., "Knowledge distillation:
A good teacher is patient and consistent", CVPR 2022). Those that are taught are trained together,
in place, since they share their weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...images.augmentation import StandardisedImages
from ...search.distillation import divergence
from ...training.execution import fast_inference
from ..layers import Dropout
from .network import Trunk
from .space import ElasticArchitecture
from .supernet import ElasticSupernet

__all__ = ["FineTuning", "StageActivations", "Taught"]

_BATCH = 64
_OF_LABELS = 0.2  # of the loss of what is taught


class StageActivations:
    """Views of images as the first stages of a network see them, computed once.

    Parameters
    ----------
    trunk : Trunk
        Its stages must not change any more.
    images : StandardisedImages
    n_stages : int
    n_views : int
        Augmented views of each image.
    generator : torch.Generator
        Of the augmentation.

    Attributes
    ----------
    shape : tuple of int
        Of the activations of an image.
    index_device : torch.device
    """

    def __init__(
        self,
        trunk: Trunk,
        images: StandardisedImages,
        n_stages: int,
        n_views: int,
        generator: torch.Generator,
    ) -> None:
        self.index_device = images.index_device
        # Of each image its views one after another: any of them is a row.
        found: Tensor | None = None
        for view in range(n_views):
            for batch in torch.arange(len(images), device=self.index_device).split(_BATCH):
                x = images.augmented(batch, generator)
                with torch.no_grad(), fast_inference(x.device).autocast(x.device):
                    x = trunk.up_to(n_stages, x)
                if found is None:
                    shape = (len(images), n_views, x.shape[2], x.shape[3], x.shape[1])
                    found = torch.empty(shape, dtype=torch.bfloat16, device=x.device)
                found[batch.to(x.device), view] = x.permute(0, 2, 3, 1).to(torch.bfloat16)
        assert found is not None
        self._activations, self.n_views = found, n_views
        height, width, channels = found.shape[2:]
        self.shape = (channels, height, width)

    def __len__(self) -> int:
        return len(self._activations)

    def clean(self, index: Tensor) -> Tensor:
        """The first view of each image at an index of shape (b,)."""
        return self._at(index, torch.zeros_like(index))

    def augmented(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """A view of each image at an index, drawn at random; shape (b, *shape), channels_last."""
        view = torch.randint(
            self.n_views, (len(index),), generator=generator, device=generator.device
        )
        return self._at(index, view)

    def _at(self, index: Tensor, view: Tensor) -> Tensor:
        device = self._activations.device
        return self._activations[index.to(device), view.to(device)].float().permute(0, 3, 1, 2)


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
        self.cached = False  # whether it is given activations of the frozen stages, not images
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

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of the first member."""
        if self.cached:
            features = self.supernet.largest.after(self.n_frozen, images)
        else:
            features = self.supernet.features(images, self.members[0])
        return self.supernet.heads[0](self.dropout(features)).float()


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
        self.fixed_statistics = first.fixed_statistics
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

    def training_loss(
        self, images: Tensor, labels: Tensor, criterion: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Loss of a batch, and the class scores of the first of those that are taught.

        The loss of each is a mean of that of the labels, which count little, and of the divergence
        from the teacher's probabilities; and the distance to the teacher's features besides.
        """
        with torch.no_grad():
            with fast_inference(images.device).autocast(images.device):
                features = self.teacher(images).float()
            taught = self.teacher_head(features).float()
            seen = features / self.deviation
        total, first = images.new_zeros(()), None
        for member in self.students:
            features = self.supernet.features(images, member)
            scores = self._scores(member, features)
            first = scores if first is None else first
            told = divergence(scores, taught, "kl", 1.0)
            total = total + _OF_LABELS * criterion(scores, labels) + (1 - _OF_LABELS) * told
            total = total + F.smooth_l1_loss(features / self.deviation, seen)
        assert first is not None
        return total, first

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
