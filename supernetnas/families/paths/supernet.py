"""All paths of a space, as one module.

The supernet of Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling"
(ECCV 2020). A path is an argument, never a state: nothing is switched on or off. Its batch norms
are shared by all paths that have the block, so their running statistics are those of none; what
compares paths recalibrates them first.

Deviations from the authors' code: images are standardised, not raw values in the order blue, green,
red; the pooling takes maps of any size; and strides, see `space`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ...parameters import ParameterError
from ...search.costs import Costs
from ...search.limits import Limits
from ...search.protocols import Step
from ...training.devices import placed
from ...training.execution import FLOAT32, Execution
from ...training.seeds import seeded_modules
from ..module_types import ModuleListOf
from .blocks import make_block, make_last, make_stem
from .config import PathConfig, PathNetworkConfig
from .costs import PathCosts
from .network import PathNetwork, take_parameters
from .space import PathArchitecture, PathSpace

__all__ = ["PathSupernet", "inherit_path"]


class PathSupernet(nn.Module):
    """Every block of every layer, of which a path runs one of each.

    There is no whole: where no architecture is given, it is the smallest, of kernels of 3 alone,
    which is the plain ShuffleNetV2, or MobileNetV2 with expansions of 3.

    Parameters
    ----------
    config : PathConfig
        What to build.

    Attributes
    ----------
    stem, last : torch.nn.Sequential
        What all paths begin and end with, down to pooled features.
    layers : torch.nn.ModuleList of torch.nn.ModuleDict
        The blocks of each layer by name.
    classifier : torch.nn.Linear
        Without a bias.
    """

    def __init__(self, config: PathConfig) -> None:
        super().__init__()
        self.config = config
        space, size = config.space, config.image_size
        self._costs = PathCosts(space, size, config.input_channels, config.n_classes)
        self.stem = make_stem(space, config.input_channels, space.strides(size)[0], affine=False)
        rows = list(space.layers(size))
        self.layers: ModuleListOf[nn.ModuleDict] = ModuleListOf(
            nn.ModuleDict(
                {name: make_block(space, name, layer, affine=False) for name in space.choices}
            )
            for layer in rows
        )
        self.last = make_last(space, rows[-1].outputs, affine=False)
        self.classifier = nn.Linear(space.features, config.n_classes, bias=False)

    @property
    def space(self) -> PathSpace:
        """All its paths."""
        return self.config.space

    def space_for(self, shape: tuple[int, ...]) -> PathSpace:
        """Return all its paths, whatever the images."""
        return self.config.space

    def features(self, images: Tensor, architecture: PathArchitecture | None = None) -> Tensor:
        """Pooled features of a path, of shape (n, features).

        Parameters
        ----------
        images : torch.Tensor of shape (n, input_channels, h, w)
            Standardised.
        architecture : PathArchitecture, optional
            By default the smallest.

        Raises
        ------
        ValueError
            If the architecture is not of the space.
        """
        x = self.stem(images)
        for block in self._blocks(architecture):
            x = block(x)
        return self.last(x)

    def forward(self, images: Tensor, architecture: PathArchitecture | None = None) -> Tensor:
        """Class scores of a path, see `features`."""
        return self.classifier(self.features(images, architecture))

    def steps(self, architecture: PathArchitecture) -> Sequence[Step]:
        """Return the parts of a path, of which the last is the classifier of its features."""
        names = [name for stage in architecture.stages for name in stage]
        blocks = zip(names, self._blocks(architecture), strict=True)
        return [
            Step("stem", self.stem),
            *(Step((place, name), block) for place, (name, block) in enumerate(blocks)),
            Step("last", self.last),
            Step("classifier", self.classifier),
        ]

    def weight_parameters(self) -> Iterator[nn.Parameter]:
        """Everything that is trained."""
        return self.parameters()

    def place(self, device: torch.device, execution: Execution = FLOAT32) -> PathSupernet:
        """Move to a device; paths compute in the precision of whoever runs them.

        Raises
        ------
        ParameterError
            If they are to be compiled or computed again, which they cannot.
        """
        self.check_execution(execution)
        self.execution = execution.on(device)
        return placed(self, device)

    @staticmethod
    def check_execution(execution: Execution) -> None:
        """Refuse, with a ParameterError, to be compiled, captured or computed again."""
        if execution.compile or execution.checkpointing:
            raise ParameterError(
                "Single paths are neither compiled nor captured, nor do they compute again what "
                f"they need twice; got {execution}. Leave compile and checkpointing out."
            )

    def costs(self, architecture: PathArchitecture) -> Costs:
        """Multiply-accumulates for one image, and parameters, of a path's network."""
        return self._costs.of(architecture)

    def cheapest(self, limits: Limits) -> PathArchitecture:
        """Return the path of the lowest cost within limits; ValueError if there is none."""
        return self._costs.cheapest(limits)

    def network(self, architecture: PathArchitecture, *, dropout: float = 0.0) -> PathNetwork:
        """Return a path as a plain network with a copy of its weights and statistics."""
        with seeded_modules(0):
            network = PathNetwork(self.network_config(architecture, dropout))
        device = self.classifier.weight
        network.to(device.device, device.dtype)
        inherit_path(network, self)
        return network.train(self.training)

    def network_config(self, architecture: PathArchitecture, dropout: float) -> PathNetworkConfig:
        """Return the configuration of a path's network."""
        config = self.config
        return PathNetworkConfig(
            *(config.space, architecture, config.image_size),
            *(config.input_channels, config.n_classes, dropout),
        )

    def _blocks(self, architecture: PathArchitecture | None) -> list[nn.Module]:
        if architecture is None:
            architecture = self.space.smallest
        self.space.check(architecture)
        names = [name for stage in architecture.stages for name in stage]
        return [layer[name] for layer, name in zip(self.layers, names, strict=True)]


def inherit_path(network: PathNetwork, supernet: PathSupernet) -> float:
    """Copy a supernet's weights into the network of one of its paths.

    Scales and offsets of batch norms are new: a supernet has none.

    Returns
    -------
    float
        Share of the network's parameters, batch norms aside, that were inherited: all.
    """
    count = take_parameters(network.stem, supernet.stem)
    for block, donor in zip(
        network.layers, supernet._blocks(network.config.architecture), strict=True
    ):
        count += take_parameters(block, donor)
    count += take_parameters(network.last, supernet.last)
    count += take_parameters(network.classifier, supernet.classifier)
    norms = {
        parameter
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d)
        for parameter in module.parameters()
    }
    return count / sum(p.numel() for p in network.parameters() if p not in norms)
