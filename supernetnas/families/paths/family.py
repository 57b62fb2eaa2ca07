"""The single paths as a family."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ...parameters import AnyOf, Constraint, OneOf, ParameterError, Real, Whole
from ...search.limits import Limits
from ...search.path_training import PathTrainingSettings
from ...storage.counting import counted, roughly
from ...storage.formats import TensorSpec
from ...training.batches import LabelledImages
from ...training.distributed import ALONE, Processes
from ...training.execution import Execution
from ..base import Family, NetworkInput
from ..layers import take_over
from ..stored_tensors import tensor_specs
from .config import PathConfig, PathNetworkConfig
from .costs import PathCosts
from .folding import folded
from .methods import SEARCHES
from .network import PathNetwork
from .pretraining import PathPretraining
from .space import SPACES, PathArchitecture, PathSpace
from .supernet import PathSupernet, inherit_path

__all__ = ["Depths", "Paths"]

_SMALLEST, _LARGEST = 32, 64  # side of an image under "auto"
_SIDE = 4  # which sides are multiples of
_STEM = "stem.0.weight"


class Depths:
    """How many layers each stage has."""

    def allows(self, value: Any) -> bool:
        """Whether a parameter may have the value."""
        if not isinstance(value, list | tuple):
            return False
        return len(value) > 0 and all(map(Whole(1).allows, value))

    def __str__(self) -> str:
        return "tuple of int >= 1"


class Paths(Family):
    """Supernets of single paths: layers in a row, of each of which one of a few blocks is chosen.

    Parameters
    ----------
    space : {"shufflenetv2", "mobilenetv2"}, default="shufflenetv2"
        Which blocks there are: those of ShuffleNetV2 with kernels of 3, 5 or 7 or shaped like
        Xception's, as in SPOS; or inverted residuals with kernels of 3, 5 or 7 and expansions of 3
        or 6. A source brings its own, and so its width and depths.
    width : float >= 0.125 and <= 8, default=0.5
        By which the channels of the papers are multiplied, whose width is 1.
    depth : float > 0 and <= 8 or tuple of int >= 1, default=0.5
        By which the layers of each stage of the papers are multiplied, 4, 4, 8 and 4 of
        ShuffleNetV2; or the layers of each stage.
    """

    name = "paths"
    architecture_name = "architecture"
    unsearched_name = "the path of the smallest blocks"
    head = "classifier."
    searches = SEARCHES
    default_search = "none"
    searching_search = "evolution"
    constraints: ClassVar[Mapping[str, Constraint]] = {
        "space": OneOf(*SPACES),
        "width": Real(0.125, 8, "both"),
        "depth": AnyOf(Real(0, 8, "high"), Depths()),
    }

    def __init__(self, space="shufflenetv2", width=0.5, depth=0.5):
        self.space = space
        self.width = width
        self.depth = depth

    def check(self) -> None:
        """Refuse parameters that may not be."""
        super().check()
        try:
            self._space()
        except ValueError as error:
            raise ParameterError(f"{error} See the parameters of Paths.") from error

    def check_execution(self, execution: Execution) -> None:
        """Refuse to compile or capture paths, or to compute parts of them again."""
        PathSupernet.check_execution(execution)

    def input(
        self,
        typical_size: tuple[int, int],
        channels: int,
        image_size: Any,
        config: PathConfig | None = None,
    ) -> NetworkInput:
        """Say what the network is to see: the images' own size within 32 to 64 pixels a side."""
        if image_size == "auto":
            sides = [min(max(side, _SMALLEST), _LARGEST) for side in typical_size]
            height, width = (-(-side // _SIDE) * _SIDE for side in sides)
        else:
            height, width = np.broadcast_to(image_size, 2).tolist()
        return NetworkInput((height, width), channels)

    def config(self, seen: NetworkInput, n_classes: int) -> PathConfig:
        """Return the configuration of a supernet that starts from random weights."""
        return PathConfig(self._space(), seen.size, seen.channels, n_classes)

    def read_config(self, data: Mapping[str, Any]) -> PathConfig:
        """Rebuild a supernet's configuration; ValueError if it is none."""
        return PathConfig.from_dict(dict(data))

    def adapted(self, config: PathConfig, seen: NetworkInput, n_classes: int) -> PathConfig:
        """Return a source's configuration with the input and the classes of a target.

        Where the images are larger or smaller, the first convolutions have other strides.
        """
        return replace(
            config, image_size=seen.size, input_channels=seen.channels, n_classes=n_classes
        )

    def supernet(self, config: PathConfig) -> PathSupernet:
        """Build a supernet, of random weights."""
        return PathSupernet(config)

    def take_over(
        self, supernet: PathSupernet, config: PathConfig, state: Mapping[str, Tensor]
    ) -> None:
        """Give a supernet a source's weights."""
        take_over(supernet, state, _STEM, self.head)

    def pretraining_settings(self) -> PathTrainingSettings:
        """Return the numbers of a training along random paths."""
        return PathTrainingSettings(epochs=20, batch_size=64, learning_rate=2e-3, warmup=200)

    def pretraining_search(
        self,
        supernet: PathSupernet,
        train: LabelledImages,
        validation: LabelledImages,
        settings: PathTrainingSettings,
        generator: torch.Generator,
        *,
        dataset_of_class: Tensor | None = None,
        processes: Processes = ALONE,
    ) -> PathPretraining:
        """Return a training of the supernet along random paths."""
        return PathPretraining(
            *(supernet, train, validation, settings, generator),
            dataset_of_class=dataset_of_class,
            processes=processes,
        )

    def budget(
        self, config: PathConfig, seen: NetworkInput, n_classes: int, limits: Limits
    ) -> PathArchitecture | None:
        """Return the cheapest path within limits; ValueError if there is none."""
        if not limits:
            return None
        return PathCosts(config.space, seen.size, seen.channels, n_classes).cheapest(limits)

    def probed(
        self, supernet: PathSupernet, budget: PathArchitecture | None, seen: NetworkInput
    ) -> PathNetwork:
        """Return the network of a path that may be chosen."""
        return supernet.network(self.unsearched(supernet, budget, seen))

    def unsearched(
        self, supernet: PathSupernet, budget: PathArchitecture | None, seen: NetworkInput
    ) -> PathArchitecture:
        """Return the smallest path or, within limits, the cheapest."""
        return supernet.space.smallest if budget is None else budget

    def difference(self, before: PathArchitecture, after: PathArchitecture) -> str:
        """Say how many blocks differ."""
        pairs = [
            pair
            for stages in zip(before.stages, after.stages, strict=True)
            for pair in zip(*stages, strict=True)
        ]
        n_other = sum(one != other for one, other in pairs)
        return f"{n_other} of {len(pairs)} blocks differ" if n_other else ""

    def among(self, config: PathConfig) -> str:
        """Say how many paths a space has."""
        return f"{roughly(math.prod(config.space.genes))} paths of space {config.space.name}"

    def read_architecture(self, data: Mapping[str, Any]) -> PathArchitecture:
        """Rebuild an architecture; ValueError if it is none."""
        return PathArchitecture.from_dict(dict(data))

    def network_config(
        self, architecture: PathArchitecture, supernet: PathSupernet, dropout: float
    ) -> PathNetworkConfig:
        """Return the configuration of the network of an architecture."""
        return supernet.network_config(architecture, dropout)

    def read_network_config(self, data: Mapping[str, Any]) -> PathNetworkConfig:
        """Rebuild a network's configuration; ValueError if it is none."""
        return PathNetworkConfig.from_dict(dict(data))

    def architecture(self, network_config: PathNetworkConfig) -> PathArchitecture:
        """Return the architecture of a network."""
        return network_config.architecture

    def network(self, config: PathNetworkConfig) -> PathNetwork:
        """Build a network, of random weights."""
        return PathNetwork(config)

    def inherit(self, network: PathNetwork, supernet: PathSupernet) -> float:
        """Copy a supernet's weights into a network; returns the share that was inherited."""
        return inherit_path(network, supernet)

    def retraining(self, pretrained: bool) -> dict[str, Any]:
        """Return the numbers of the retraining."""
        return {"epochs": 45 if pretrained else 15, "learning_rate": 0.03, "dropout": 0.1}

    def folded(self, network: PathNetwork) -> nn.Module:
        """Return a copy of a network whose batch norms are part of its convolutions."""
        return folded(network)

    def supernet_specs(self, config: PathConfig) -> dict[str, TensorSpec]:
        """Return names, shapes and dtypes of a supernet's stored tensors, without its head."""
        return _supernet_specs(replace(config, n_classes=1))

    def network_specs(self, config: PathNetworkConfig) -> dict[str, TensorSpec]:
        """Return names, shapes and dtypes of a network's stored tensors."""
        with torch.device("meta"):
            return tensor_specs(PathNetwork(config).state_dict())

    def check_network(self, network_config: PathNetworkConfig, supernet_config: PathConfig) -> None:
        """Refuse a network that is no path of the supernet."""
        supernet_config.space.check(network_config.architecture)
        if (network_config.space, network_config.image_size) != (
            supernet_config.space,
            supernet_config.image_size,
        ):
            raise ValueError("the network is of another space or image size than the supernet")

    def unused(self, config: PathConfig) -> list[str]:
        """Say which of the chosen sizes a source's supernet does not have."""
        defaults, chosen, said = Paths(), self._space(), []
        for name, attribute in (("space", "name"), ("width", "width"), ("depth", "depths")):
            value, found = getattr(chosen, attribute), getattr(config.space, attribute)
            if getattr(self, name) != getattr(defaults, name) and value != found:
                given = getattr(self, name)
                said.append(f"{name}={given!r} is not used: its supernet has {found!r}.")
        return said

    def describe(self, config: PathConfig) -> dict[str, str]:
        """Describe a supernet for people."""
        space, (height, width) = config.space, config.image_size
        return {
            "search space": f"{space.name}, {len(space.choices)} blocks to choose from",
            "supernet": f"width {space.width:g}, {'+'.join(map(str, space.depths))} layers",
            "input": f"{height}x{width} pixels, {counted(config.input_channels, 'channel')}",
        }

    def tags(self, config: PathConfig) -> list[str]:
        """Return a tag of the search space."""
        return [f"search-space-{config.space.name}"]

    def _space(self) -> PathSpace:
        if isinstance(self.depth, list | tuple):
            depths = tuple(map(int, self.depth))
        else:
            depths = tuple(max(1, round(self.depth * n)) for n in SPACES[self.space].depths)
        return PathSpace(str(self.space), float(self.width), depths)


@lru_cache(maxsize=16)
def _supernet_specs(config: PathConfig) -> dict[str, TensorSpec]:
    with torch.device("meta"):
        state = PathSupernet(config).state_dict()
    return tensor_specs({k: t for k, t in state.items() if not k.startswith(Paths.head)})
