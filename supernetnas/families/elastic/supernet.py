"""A network that contains smaller ones.

The largest member has weights of its own: trained along with the others it would lose what it was
pretrained for. All other members share a second set of weights, of which each has a part (see
`layers`). What a member computes is what the plain network of its architecture computes with that
part, because it is that network which is run.

Batch norm is per member: the statistics of one member's activations are wrong for another's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...images.augmentation import StandardisedImages
from ...parameters import ParameterError
from ...search.limits import Limits
from ...search.protocols import Step
from ...training.batch_norm import recalibrate_batch_norm
from ...training.devices import placed
from ...training.execution import FLOAT32, Execution
from ...training.seeds import seeded_modules
from ..layers import Pooled
from ..module_types import ModuleListOf
from .costs import Costs, member_costs
from .layers import KernelTransform, Resized, Statistics, at_size, prefix
from .network import Network, NetworkConfig, Trunk
from .space import MIN_SIDE, Backbone, ElasticArchitecture, ElasticSpace

__all__ = ["ElasticConfig", "ElasticSupernet"]


@dataclass(frozen=True)
class ElasticConfig:
    """Everything that is needed to build an elastic supernet again.

    Attributes
    ----------
    space : ElasticSpace
    input_channels, n_classes : int
    members : tuple of ElasticArchitecture
        Those whose batch-norm statistics are kept with the weights.
    front : tuple of ElasticArchitecture
        Members, or the whole at some sizes, that have a classifier of their own.
    published : bool
        Whether the largest member is EfficientNet-Lite0 as it was published, whose weights are not
        stored with those that the others share.
    """

    family: ClassVar[str] = "elastic"

    space: ElasticSpace
    input_channels: int
    n_classes: int
    members: tuple[ElasticArchitecture, ...] = ()
    front: tuple[ElasticArchitecture, ...] = ()
    published: bool = False

    def __post_init__(self) -> None:
        for name in ("input_channels", "n_classes"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be a positive whole number; got {getattr(self, name)!r}."
                )
        for member in self.members:
            self.space.check(member)
            if self.space.is_whole(member):
                raise ValueError(
                    f"The whole network has statistics of its own; leave {member} out of members."
                )
        for member in self.front:
            self.space.check(member)
            if not self.space.is_whole(member) and member not in self.members:
                raise ValueError(f"There are no statistics for {member} of the front.")
        if any(len(set(m)) < len(m) for m in (self.members, self.front)):
            raise ValueError("A member occurs twice.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "space": self.space.to_dict(),
            "input_channels": self.input_channels,
            "n_classes": self.n_classes,
            "members": [member.to_dict() for member in self.members],
            "front": [member.to_dict() for member in self.front],
            "published": self.published,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ElasticConfig:
        """Rebuild what `to_dict` returned, or JSON made of it."""
        members, front = (
            tuple(ElasticArchitecture.from_dict(member) for member in data.get(name, ()))
            for name in ("members", "front")
        )
        return cls(
            ElasticSpace.from_dict(data["space"]),
            data["input_channels"],
            data["n_classes"],
            members,
            front,
            bool(data.get("published", False)),
        )


class ElasticSupernet(nn.Module):
    """All members of an elastic space, as one module.

    Parameters
    ----------
    config : ElasticConfig
        What to build.

    Attributes
    ----------
    largest : Trunk
        The whole backbone with its own weights and statistics.
    shared : Trunk
        The weights that all other members share. Its running statistics are not used.
    transforms : torch.nn.ModuleDict of KernelTransform
        By stage, place in it, and side of the smaller kernel.
    statistics : torch.nn.ModuleList of Statistics
        In the order of the config's members.
    classifier : torch.nn.Linear
        From the pooled features, which all members have in common.
    heads : torch.nn.ModuleList of torch.nn.Linear
        The classifiers of the front, in its order.
    """

    def __init__(self, config: ElasticConfig) -> None:
        super().__init__()
        self.config = config
        space, channels = config.space, config.input_channels
        self.largest = Trunk(space.backbone, space.largest, channels)
        self.shared = Trunk(space.backbone, space.largest, channels)
        self.transforms = nn.ModuleDict(
            {
                f"{index}_{place}_{kernel}": KernelTransform(kernel)
                for index, stage in enumerate(space.backbone.stages)
                for place in range(stage.repeats)
                for kernel in space.kernel_choices(index)
                if kernel < stage.kernel
            }
        )
        self.statistics = ModuleListOf(
            Statistics(self._plain_trunk(member)) for member in config.members
        )
        self.classifier = nn.Linear(space.backbone.features, config.n_classes)
        self.heads = ModuleListOf(
            nn.Linear(space.backbone.features, config.n_classes) for _ in config.front
        )

    def features(self, images: Tensor, architecture: ElasticArchitecture | None = None) -> Tensor:
        """Pooled features of a member, of shape (n, features).

        In training mode batch norms take the statistics of the batch, and the running statistics
        of a member that the config lists follow them. In evaluation mode the running ones are
        taken, as is right where other images than those of the pretraining train the weights.

        Parameters
        ----------
        images : torch.Tensor of shape (n, input_channels, h, w)
            Standardised; sides of at least 8 pixels. Resized to the architecture's size.
        architecture : ElasticArchitecture, optional
            By default the largest member, for images as large as they are.

        Raises
        ------
        ValueError
            If the architecture is not of the space, or in evaluation mode has no statistics.
        """
        if architecture is None:
            return self.largest(images)
        self.config.space.check(architecture)
        images = at_size(images, architecture.size)
        if self.config.space.is_whole(architecture):
            return self.largest(images)
        trunk = self._plain_trunk(architecture).train(self.training)
        return functional_call(
            trunk, {**self.slices(architecture), **self._running(architecture)}, (images,)
        )

    def forward(self, images: Tensor, architecture: ElasticArchitecture | None = None) -> Tensor:
        """Class scores of a member, see `features`."""
        return self.classifier(self.features(images, architecture))

    def slices(self, architecture: ElasticArchitecture) -> dict[str, Tensor]:
        """Weights of a member other than the largest, under the names of its `Trunk`.

        They are views of the shared weights or functions of them: gradients reach those.
        """
        whole = dict(self.shared.named_parameters())
        weights = {}
        for name, wanted in self._plain_trunk(architecture).named_parameters():
            weight = whole[name]
            if wanted.ndim == 4 and wanted.shape[-1] < weight.shape[-1]:
                _, stage, place, *_ = name.split(".")
                weight = self.transforms[f"{stage}_{place}_{wanted.shape[-1]}"](
                    weight[: wanted.shape[0]]
                )
            weights[name] = prefix(weight, wanted.shape)
        return weights

    def space_for(self, shape: tuple[int, ...]) -> ElasticSpace:
        """Return the members that see no more pixels than images of a shape have, unless all do."""
        return self.config.space.up_to(min(shape[-2:]))

    def cheapest(self, limits: Limits) -> ElasticArchitecture:
        """Return the smallest member; ValueError if it does not keep the limits."""
        smallest = self.config.space.smallest
        if not limits.keep(*(costs := self.costs(smallest))):
            raise ValueError(
                f"No member of the supernet keeps the limits: the smallest has {costs.macs:,} "
                f"multiply-accumulates and {costs.parameters:,} parameters; the limits are "
                f"max_macs={limits.max_macs} and max_parameters={limits.max_parameters}."
            )
        return smallest

    @torch.no_grad()
    def steps(self, architecture: ElasticArchitecture) -> list[Step]:
        """Return the parts of a member, which have its weights, and statistics of nothing yet."""
        space, channels = self.config.space, self.config.input_channels
        space.check(architecture)
        trunk = _empty_trunk(space.backbone, architecture.at(MIN_SIDE), channels)
        whole = space.is_whole(architecture)
        weights = dict(self.largest.named_parameters()) if whole else self.slices(architecture)
        fresh = Statistics(trunk).to(self.classifier.weight).buffers_by_name()
        trunk.load_state_dict({**weights, **fresh}, assign=True)
        size = architecture.size
        return [
            Step((size, whole), Resized(size)),
            Step((size, "stem"), nn.Sequential(trunk.stem, trunk.stem_norm, nn.ReLU6())),
            *(
                Step((size, stage, place, architecture.stages[stage][place]), block)
                for stage, layers in enumerate(trunk.stages)
                for place, block in enumerate(layers)
            ),
            Step((size, "head"), nn.Sequential(trunk.head, trunk.head_norm, nn.ReLU6(), Pooled())),
            Step("classifier", self.classifier),
        ]

    def take_heads(
        self,
        front: Sequence[ElasticArchitecture],
        heads: Sequence[tuple[Tensor, Tensor]],
    ) -> None:
        """Give members classifiers of their own, of a weight and a bias each."""
        self.config = replace(self.config, front=tuple(front))
        self.heads = ModuleListOf()
        for weight, bias in heads:
            with seeded_modules(0):
                head = nn.Linear(weight.shape[1], weight.shape[0])
            head.load_state_dict({"weight": weight, "bias": bias})
            self.heads.append(head.to(self.classifier.weight))

    def place(self, device: torch.device, execution: Execution = FLOAT32) -> ElasticSupernet:
        """Move to a device; members run in the precision of whoever trains them.

        Raises
        ------
        ParameterError
            If they are to be compiled or computed again, which they cannot.
        """
        self.check_execution(execution)
        return placed(self, device)

    @staticmethod
    def check_execution(execution: Execution) -> None:
        """Refuse, with a ParameterError, to be compiled or computed again."""
        if execution.compiled or execution.checkpointing:
            raise ParameterError(
                "Elastic networks are neither compiled nor do they compute again what they need "
                f"twice; got {execution}. Leave compile and checkpointing out."
            )

    def weight_parameters(self) -> Iterator[nn.Parameter]:
        """Everything that is trained."""
        return self.parameters()

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """What all members but the largest share."""
        yield from self.shared.parameters()
        yield from self.transforms.parameters()

    def shared_state(self) -> dict[str, Tensor]:
        """Return what is to be kept of a supernet whose largest member is published elsewhere.

        Weights that members share, and the statistics of those that the config lists.
        """
        return {
            **{f"shared.{name}": p.detach() for name, p in self.shared.named_parameters()},
            **{f"transforms.{name}": t for name, t in self.transforms.state_dict().items()},
            **{f"statistics.{name}": t for name, t in self.statistics.state_dict().items()},
        }

    @torch.no_grad()
    def load_shared_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `shared_state` returned, in any precision.

        Raises
        ------
        ValueError
            If names or shapes are others, as of a supernet with another config.
        """
        own = self.shared_state()
        wrong = own.keys() ^ state.keys() or {k for k in own if own[k].shape != state[k].shape}
        if wrong:
            raise ValueError(
                f"The weights are of a supernet with another config: {len(wrong)} tensors are "
                f"missing, too many or of another shape, such as {min(wrong)!r}."
            )
        for name, tensor in own.items():
            tensor.copy_(state[name])

    def costs(self, architecture: ElasticArchitecture) -> Costs:
        """Multiply-accumulates and parameters of a member's network."""
        self.config.space.check(architecture)
        return member_costs(
            self.config.space.backbone,
            architecture,
            input_channels=self.config.input_channels,
            n_classes=self.config.n_classes,
        )

    @torch.no_grad()
    def network(self, architecture: ElasticArchitecture, *, dropout: float = 0.0) -> Network:
        """Return a member as a plain network with a copy of its weights.

        Its batch norms have the member's statistics, if the config lists it or it is the largest;
        else those of a new network, to be recalibrated.
        """
        self.config.space.check(architecture)
        config = NetworkConfig(
            self.config.space.backbone,
            architecture,
            self.config.input_channels,
            self.config.n_classes,
            dropout,
        )
        with seeded_modules(0):
            network = Network(config)
        if self.config.space.is_whole(architecture):
            state = self.largest.state_dict()
        else:
            state = {**network.trunk.state_dict(), **self.slices(architecture)}
            if architecture in self.config.members:
                state.update(self._running(architecture))
        network.to(self.classifier.weight.device, self.classifier.weight.dtype)
        network.trunk.load_state_dict(state)
        head = self.classifier
        if architecture in self.config.front:
            head = self.heads[self.config.front.index(architecture)]
        network.classifier.load_state_dict(head.state_dict())
        return network.train(self.training)

    def recalibrate(
        self,
        images: StandardisedImages,
        members: Iterable[ElasticArchitecture] | None = None,
        *,
        generator: torch.Generator,
        batch_size: int = 64,
        max_batches: int = 20,
    ) -> None:
        """Give members the statistics of their activations on images, and nothing of older ones.

        Parameters
        ----------
        images : StandardisedImages
            Those of the pretraining: a few hundred of a target are too few.
        members : iterable of ElasticArchitecture, optional
            Of those that the config lists; by default all.
        generator : torch.Generator
            Draws the images; every member sees the same.
        batch_size, max_batches : int
            How many images.
        """
        start = generator.get_state()
        for member in self.config.members if members is None else members:
            if member not in self.config.members:
                raise ValueError(
                    f"The supernet keeps no statistics for {member}. Build it with this member "
                    "in config.members, or recalibrate the plain network of `network(...)`."
                )
            network = self.network(member)
            generator.set_state(start)
            recalibrate_batch_norm(
                network,
                images,
                batch_size=batch_size,
                max_batches=max_batches,
                generator=generator,
            )
            self.statistics[self.config.members.index(member)].take(network.trunk)

    def add_member(
        self,
        architecture: ElasticArchitecture,
        images: StandardisedImages,
        generator: torch.Generator,
    ) -> None:
        """Keep the statistics that a further member has on images."""
        self.config = replace(self.config, members=(*self.config.members, architecture))
        statistics = Statistics(self._plain_trunk(architecture)).to(self.classifier.weight)
        self.statistics.append(statistics)
        self.recalibrate(images, [architecture], generator=generator)

    def _plain_trunk(self, architecture: ElasticArchitecture) -> Trunk:
        return _trunks.get(
            self.config.space.backbone, architecture.at(MIN_SIDE), self.config.input_channels
        )

    def _running(self, architecture: ElasticArchitecture) -> dict[str, Tensor]:
        """Running statistics of a member, under the names of its `Trunk`."""
        if architecture in self.config.members:
            index = self.config.members.index(architecture)
            return self.statistics[index].buffers_by_name()
        if not self.training:
            raise ValueError(
                f"The supernet keeps no batch-norm statistics for {architecture}. Build it with "
                "this member in config.members and recalibrate it."
            )
        trunk = self._plain_trunk(architecture)
        return Statistics(trunk).to(self.classifier.weight).buffers_by_name()


class _Trunks(threading.local):
    """Trunks without memory, into which the weights of members are put to run them.

    Of each thread its own: while a member runs, its weights are the trunk's.
    """

    def __init__(self) -> None:
        self.get = lru_cache(maxsize=128)(_empty_trunk)


def _empty_trunk(
    backbone: Backbone, architecture: ElasticArchitecture, input_channels: int
) -> Trunk:
    with torch.device("meta"), seeded_modules(0):
        return Trunk(backbone, architecture, input_channels)


_trunks = _Trunks()
