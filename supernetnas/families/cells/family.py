"""The cells as a family."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...parameters import NOTHING, AnyOf, Constraint, Instance, ParameterError, Whole
from ...search.latency import check_unit
from ...search.limits import Limits
from ...storage.counting import counted, roughly
from ...storage.formats import TensorSpec
from ...training.batches import LabelledImages
from ...training.distributed import ALONE, Processes
from ...training.seeds import seeded_modules
from ..base import Family, NetworkInput
from ..layers import take_over
from .config import MAX_SIZES, NetworkConfig, SupernetConfig
from .costs import network_cost
from .folding import folded
from .genotype import Genotype
from .latency import latency_table
from .members import CellMembers
from .network import Network, inherit_weights
from .search.bilevel import BilevelSearch
from .search.budget import Budget
from .search.methods import SEARCHES
from .search.weight_training import SearchSettings
from .space import CellKind, available_spaces, edge_index, get_space
from .stored_states import network_specs, supernet_specs
from .supernet import CellSupernet

__all__ = ["Cells"]

_SMALLEST, _LARGEST = 8, 32  # side of an image under "auto"
_SIDE = 4  # which sides are multiples of
_STEM = "stem.0.weight"


class Cells(Family):
    """Supernets of cells, with every operation on every edge (DARTS, S1 to S4).

    Parameters
    ----------
    space : name of a search space, default="s1"
        Of a supernet that starts from random weights: "s1" to "s4", "darts", "darts_no_none", or
        one of `register_space`. A source brings its own.
    init_channels : even int >= 2 and <= 4096, default=16
        Channels of its first cells; a source brings its own.
    n_cells : int >= 1 and <= 100, default=5
        Its cells; a source brings its own.
    network_channels : even int >= 2 and <= 4096 or None, default=None
        Initial channels of the final network; None for those of the supernet. Where shapes
        differ, weights start anew.
    network_cells : int >= 1 and <= 100 or None, default=None
        Cells of the final network; None for those of the supernet. More repeat the supernet's.
    """

    name = "cells"
    architecture_name = "genotype"
    unsearched_name = "the genotype"
    head = "classifier."
    exact = ("alphas_", "running_")
    searches = SEARCHES
    default_search = "none"
    searching_search = "sdarts"
    constraints: ClassVar[Mapping[str, Constraint]] = {
        "space": Instance(str, "name of a search space"),
        "init_channels": Whole(2, MAX_SIZES["init_channels"], even=True),
        "n_cells": Whole(1, MAX_SIZES["n_cells"]),
        "network_channels": AnyOf(Whole(2, MAX_SIZES["init_channels"], even=True), NOTHING),
        "network_cells": AnyOf(Whole(1, MAX_SIZES["n_cells"]), NOTHING),
    }

    def __init__(
        self,
        space="s1",
        init_channels=16,
        n_cells=5,
        *,
        network_channels=None,
        network_cells=None,
    ):
        self.space = space
        self.init_channels = init_channels
        self.n_cells = n_cells
        self.network_channels = network_channels
        self.network_cells = network_cells

    def check(self) -> None:
        """Refuse parameters that may not be."""
        super().check()
        if self.space not in available_spaces():
            raise ParameterError(
                f"The 'space' parameter of Cells must be one of {', '.join(available_spaces())}. "
                f"Got {self.space!r} instead."
            )

    def input(
        self,
        typical_size: tuple[int, int],
        channels: int,
        image_size: Any,
        config: SupernetConfig | None = None,
    ) -> NetworkInput:
        """Say what the network is to see: the images' own size within 8 to 32 pixels a side."""
        if image_size == "auto":
            sides = [min(max(side, _SMALLEST), _LARGEST) for side in typical_size]
            height, width = (-(-side // _SIDE) * _SIDE for side in sides)
        else:
            height, width = np.broadcast_to(image_size, 2).tolist()
        return NetworkInput((height, width), channels)

    def inputs_within(
        self, seen: NetworkInput, config: SupernetConfig, n_classes: int, limits: Limits
    ) -> list[NetworkInput]:
        """List the inputs of fewer pixels, too, at which some genotype keeps ``max_macs``."""
        if limits.max_macs is None:
            return [seen]
        limits = replace(limits, max_latency=None)  # is measured at the size that is chosen
        found, errors = [], []
        for each in (seen, *_smaller(seen)):
            try:
                self.budget(config, each, n_classes, limits)
            except ValueError as error:
                errors.append(error)
            else:
                found.append(each)
        if not found:
            raise errors[-1]
        return found

    def suited_input(
        self, inputs: Sequence[NetworkInput], supernet: CellSupernet, limits: Limits
    ) -> NetworkInput:
        """Return the one of most pixels at which the supernet's own genotype keeps ``max_macs``.

        Operations that a limit replaces cost more accuracy than pixels do: "cells eighth" in
        `benchmarks/peers.py`.
        """
        others = Limits(max_parameters=limits.max_parameters)  # are the same at all sizes
        config = supernet.config
        budget = self.budget(config, inputs[0], config.n_classes, others)
        genotype = self.unsearched(supernet, budget, inputs[0])
        for each in inputs:
            cost = network_cost(config.space, *self._sizes(config), each.shape, config.n_classes)
            if limits.keep(*cost.of(genotype)):
                return each
        return inputs[-1]

    def config(self, seen: NetworkInput, n_classes: int) -> SupernetConfig:
        """Return the configuration of a supernet that starts from random weights."""
        return SupernetConfig(
            *(self.space, int(self.init_channels), int(self.n_cells)),
            *(seen.size, seen.channels, n_classes),
        )

    def read_config(self, data: Mapping[str, Any]) -> SupernetConfig:
        """Rebuild a supernet's configuration; ValueError if it is none."""
        return SupernetConfig.from_dict(dict(data))

    def adapted(self, config: SupernetConfig, seen: NetworkInput, n_classes: int) -> SupernetConfig:
        """Return a source's configuration with the input and the classes of a target."""
        return replace(
            config, image_size=seen.size, input_channels=seen.channels, n_classes=n_classes
        )

    def supernet(self, config: SupernetConfig) -> CellSupernet:
        """Build a supernet, of random weights."""
        return CellSupernet(config)

    def take_over(
        self, supernet: CellSupernet, config: SupernetConfig, state: Mapping[str, Tensor]
    ) -> None:
        """Give a supernet a source's weights and alphas."""
        take_over(supernet, state, _STEM, self.head)

    def retraining(self, pretrained: bool) -> dict[str, Any]:
        """Return the numbers of the retraining."""
        return {"epochs": 30 if pretrained else 15, "learning_rate": 0.03, "dropout": 0.0}

    def pretraining_settings(self) -> SearchSettings:
        """Return the numbers of a search that pretrains a supernet."""
        return SearchSettings(
            learning_rate=0.1, alpha_learning_rate=1e-2, weight_steps_per_alpha_step=2
        )

    def pretraining_search(
        self,
        supernet: CellSupernet,
        train: LabelledImages,
        validation: LabelledImages,
        settings: SearchSettings,
        generator: torch.Generator,
        *,
        dataset_of_class: Tensor | None = None,
        processes: Processes = ALONE,
    ) -> BilevelSearch:
        """Return a search of alphas and weights in turn."""
        return BilevelSearch(
            *(supernet, train, validation, settings, generator),
            processes=processes,
            dataset_of_class=dataset_of_class,
        )

    def budget(
        self, config: SupernetConfig, seen: NetworkInput, n_classes: int, limits: Limits
    ) -> Budget | None:
        """Return the budget of the network; ValueError if none keeps the limits."""
        if not limits:
            return None
        sizes = (config.space, *self._sizes(config), seen.shape, n_classes)
        latency = limits.max_latency
        if latency is None or latency.seconds is None:
            return Budget(network_cost(*sizes), limits.max_macs, limits.max_parameters)
        table = latency_table(*sizes, latency, torch.device(limits.device), torch.get_num_threads())
        check_unit(latency, table.typical)
        return Budget(
            table.cost,
            limits.max_macs,
            limits.max_parameters,
            max_latency=latency.seconds,
            measured=table.seconds,
        )

    def evolvable(self, supernet: CellSupernet, seen: NetworkInput, n_classes: int) -> CellMembers:
        """Return the genotypes of a supernet as its members, with what their networks cost."""
        config = supernet.config
        cost = network_cost(config.space, *self._sizes(config), seen.shape, n_classes)
        return CellMembers(
            supernet, cost, lambda genotype: self.network_config(genotype, supernet, 0.0)
        )

    def probed(self, supernet: CellSupernet, budget: Budget | None, seen: NetworkInput) -> Network:
        """Return the network that the alphas stand for, which costs a fraction of the supernet."""
        genotype = self.unsearched(supernet, budget, seen)
        with seeded_modules(0):
            network = Network(self.network_config(genotype, supernet, 0.0))
        inherit_weights(network, supernet)
        return network

    def unsearched(
        self, supernet: CellSupernet, budget: Budget | None, seen: NetworkInput
    ) -> Genotype:
        """Return the genotype that the alphas stand for."""
        if budget is None:
            return supernet.genotype()
        return budget.derive(supernet.operation_weights())

    def difference(self, before: Genotype, after: Genotype) -> str:
        """Say how many edges differ."""
        n_edges = after.n_edges_beyond(before)
        return f"{n_edges} of {len(after.edges())} edges differ" if n_edges else ""

    def among(self, config: SupernetConfig) -> str:
        """Say how many genotypes a space has."""
        n_genotypes = roughly(get_space(config.space).n_architectures)
        return f"{n_genotypes} genotypes of space {config.space}"

    def read_architecture(self, data: Mapping[str, Any]) -> Genotype:
        """Rebuild a genotype; ValueError if it is none."""
        return Genotype.from_dict(dict(data))

    def network_config(
        self, architecture: Genotype, supernet: CellSupernet, dropout: float
    ) -> NetworkConfig:
        """Return the configuration of the network of a genotype."""
        config = supernet.config
        return NetworkConfig(
            architecture, *self._sizes(config), config.input_channels, config.n_classes, dropout
        )

    def read_network_config(self, data: Mapping[str, Any]) -> NetworkConfig:
        """Rebuild a network's configuration; ValueError if it is none."""
        return NetworkConfig.from_dict(dict(data))

    def architecture(self, network_config: NetworkConfig) -> Genotype:
        """Return the genotype of a network."""
        return network_config.genotype

    def network(self, config: NetworkConfig) -> Network:
        """Build a network, of random weights."""
        return Network(config)

    def inherit(self, network: Network, supernet: CellSupernet) -> float:
        """Copy a supernet's weights into a network; returns the share that was inherited."""
        return inherit_weights(network, supernet)

    def learner(
        self, search: Any, architecture: Genotype, *, dropout: float, seed: int, pretrained: bool
    ) -> tuple[Network, float]:
        """Return the network, and the share of weights that it inherited."""
        network: Any
        network, share = super().learner(
            search, architecture, dropout=dropout, seed=seed, pretrained=pretrained
        )
        network.fresh_classifier = pretrained and share == 1 and not search.epoch
        return network, share

    def folded(self, network: Network) -> Network:
        """Return a copy of a network whose batch norms are part of its convolutions."""
        return folded(network)

    def supernet_specs(self, config: SupernetConfig) -> dict[str, TensorSpec]:
        """Return names, shapes and dtypes of a supernet's stored tensors, without its head."""
        return supernet_specs(config)

    def network_specs(self, config: NetworkConfig) -> dict[str, TensorSpec]:
        """Return names, shapes and dtypes of a network's stored tensors."""
        return network_specs(config)

    def check_network(self, network_config: NetworkConfig, supernet_config: SupernetConfig) -> None:
        """Refuse a genotype with operations that the supernet's space does not offer there."""
        genotype, space = network_config.genotype, get_space(supernet_config.space)
        if genotype.space != space.name:
            raise ValueError(f"the genotype is of space {genotype.space}, not {space.name}")
        for kind in CellKind:
            for position, node in enumerate(genotype.nodes(kind)):
                for operation, state in node:
                    if operation not in space.edges(kind)[edge_index(position, state)]:
                        raise ValueError(
                            f"the genotype has {operation} where space {space.name} does not"
                        )

    def unused(self, config: SupernetConfig) -> list[str]:
        """Say which of the chosen sizes a source's supernet does not have."""
        defaults, said = Cells(), []
        for name in ("space", "init_channels", "n_cells"):
            value, found = getattr(self, name), getattr(config, name)
            if value not in (getattr(defaults, name), found):
                said.append(f"{name}={value!r} is not used: its supernet has {found!r}.")
        return said

    def describe(self, config: SupernetConfig) -> dict[str, str]:
        """Describe a supernet for people."""
        height, width = config.image_size
        return {
            "search space": config.space,
            "supernet": f"{config.init_channels} channels, {config.n_cells} cells",
            "input": f"{height}x{width} pixels, {counted(config.input_channels, 'channel')}",
        }

    def tags(self, config: SupernetConfig) -> list[str]:
        """Return a tag of the search space."""
        return [f"search-space-{config.space}"]

    def _sizes(self, config: SupernetConfig) -> tuple[int, int]:
        """Initial channels and cells of the final network."""
        channels = self.network_channels or config.init_channels
        return int(channels), int(self.network_cells or config.n_cells)


def _smaller(seen: NetworkInput) -> Iterator[NetworkInput]:
    """Inputs of fewer pixels, the largest first, of the same shape but for rounding."""
    longest = max(seen.size)
    least = max(longest // 2, _SMALLEST)
    for side in range((longest - 1) // _SIDE * _SIDE, least - 1, -_SIDE):
        height, width = (
            max(-(-of * side // (longest * _SIDE)) * _SIDE, _SMALLEST) for of in seen.size
        )
        yield replace(seen, size=(height, width))
