"""Training of members on a target's images: the largest alone, or several together, in place.

Batch norms keep the statistics of the pretraining: those of a few hundred images are worse. Each
member has its own, and its own classifier. Where several are trained, the largest teaches the
others in every step (Yu et al., "BigNAS", ECCV 2020, section 3.1); it has its own weights, all
others share theirs.

Of the largest alone, the first stages can stay as they are. Their activations are then computed
once, for a few views of each image.
"""

from __future__ import annotations

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

__all__ = ["FineTuning", "StageActivations"]

_BATCH = 64


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
    """Members of a supernet as they are trained together.

    Parameters
    ----------
    supernet : ElasticSupernet
        Trained in place; gets the members' classifiers, and them as its front.
    members : sequence of ElasticArchitecture
        The first learns from the labels alone and teaches the others.
    heads : sequence of tuple of torch.Tensor
        Weight and bias that each member's classifier begins with.
    deviation : torch.Tensor of shape (features,)
        Of the first member's features, in units of which others learn them.
    n_frozen : int
        Stages of the largest that stay as they are, and the stem with them.
    dropout : float
        Of the pooled features.
    fixed_statistics : bool
        Whether batch norms keep their statistics; else they follow the images.
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
        fixed_statistics: bool = True,
    ) -> None:
        super().__init__()
        self.supernet, self.members, self.n_frozen = supernet, tuple(members), n_frozen
        self.fixed_statistics = fixed_statistics
        self.cached = False  # whether it is given activations of the frozen stages, not images
        self.dropout = Dropout(dropout)
        self.deviation: Tensor
        self.register_buffer("deviation", deviation, persistent=False)
        supernet.take_heads(self.members, heads)
        supernet.requires_grad_(False)
        supernet.heads.requires_grad_(True)
        largest = supernet.largest
        if any(supernet.config.space.is_whole(member) for member in self.members):
            largest.requires_grad_(True)
            if n_frozen:
                for module in (largest.stem, largest.stem_norm, largest.stages[:n_frozen]):
                    module.requires_grad_(False)
        if not all(supernet.config.space.is_whole(member) for member in self.members):
            for parameter in supernet.shared_parameters():
                parameter.requires_grad_(True)

    def train(self, mode: bool = True) -> FineTuning:
        """Set the mode; of batch norms only where their statistics follow the images."""
        super().train(mode)
        if self.fixed_statistics:
            self.supernet.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of the first member."""
        return self._scores(0, self._features(images, self.members[0]))

    def training_loss(
        self, images: Tensor, labels: Tensor, criterion: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Loss of a batch, and the class scores of the first member.

        The first member's loss is that of the labels. Each other one's is half of that and half
        of the divergence from the first one's probabilities, and the distance to its features.
        """
        features = self._features(images, self.members[0])
        scores = self._scores(0, features)
        loss = criterion(scores, labels)
        with torch.no_grad():  # the teacher drops nothing
            taught = self.supernet.heads[0](features).float()
            seen = features / self.deviation
        for index, member in enumerate(self.members[1:], start=1):
            features = self._features(images, member)
            own = self._scores(index, features)
            loss = loss + (criterion(own, labels) + divergence(own, taught, "kl", 1.0)) / 2
            loss = loss + F.smooth_l1_loss(features / self.deviation, seen)
        return loss, scores

    def _features(self, images: Tensor, member: ElasticArchitecture) -> Tensor:
        if self.cached:
            return self.supernet.largest.after(self.n_frozen, images)
        return self.supernet.features(images, member)

    def _scores(self, index: int, features: Tensor) -> Tensor:
        return self.supernet.heads[index](self.dropout(features)).float()
