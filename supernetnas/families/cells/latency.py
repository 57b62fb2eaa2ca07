"""How long the networks of a space of cells take, from the times of their parts."""

from __future__ import annotations

from functools import lru_cache
from statistics import median

import numpy as np
import torch

from ...search.latency import measured_seconds, parts_seconds
from ...search.limits import Latency
from ...training.devices import placed
from ...training.seeds import seeded_modules
from .config import NetworkConfig
from .costs import NetworkCost, network_cost, network_parts, summed_parts
from .genotype import Genotype, random_genotype
from .network import Network
from .space import get_space

__all__ = ["LatencyTable", "latency_table"]

_SECOND = 10**9  # nanoseconds
_WHOLE = 4  # networks that say how much longer they take than their parts


class LatencyTable:
    """Measured parts of the networks of a space, and what whole networks take.

    Parameters
    ----------
    space, init_channels, n_cells, input_shape, n_classes
        Of `network_cost`.
    latency : Latency
        How it is measured.
    device : torch.device

    Attributes
    ----------
    cost : NetworkCost
        In all units; the nanoseconds of parts are multiplied by what whole networks take longer.
    typical : float
        Seconds of a random network.
    """

    def __init__(
        self,
        space: str,
        init_channels: int,
        n_cells: int,
        input_shape: tuple[int, int, int],
        n_classes: int,
        latency: Latency,
        device: torch.device,
    ) -> None:
        self.sizes, self.shape, self.n_classes = (init_channels, n_cells), input_shape, n_classes
        self.latency, self.device = latency, device
        with seeded_modules(0):
            parts = [*network_parts(space, init_channels, n_cells, input_shape, n_classes)]
        shapes = {placed(part.module, device): part.shape for part in parts}
        seconds = parts_seconds(shapes, latency, device)
        nanoseconds = {
            module: np.array([round(time * _SECOND)], np.int64) for module, time in seconds.items()
        }
        times = summed_parts(space, parts, nanoseconds)
        generator = torch.Generator().manual_seed(0)
        genotypes = [random_genotype(get_space(space), generator) for _ in range(_WHOLE)]
        whole = [self.seconds(genotype) for genotype in genotypes]
        self.typical = median(whole)
        factor = median(
            seconds * _SECOND / times.of(genotype)[0]
            for seconds, genotype in zip(whole, genotypes, strict=True)
        )
        counted = network_cost(space, init_channels, n_cells, input_shape, n_classes)

        def joined(counts: np.ndarray, nanoseconds: np.ndarray) -> np.ndarray:
            corrected = np.ceil(nanoseconds * factor).astype(np.int64)
            return np.concatenate([counts, corrected], axis=-1)

        self.cost = NetworkCost(
            space,
            joined(counted.fixed, times.fixed),
            (joined(counted.edges[0], times.edges[0]), joined(counted.edges[1], times.edges[1])),
        )

    def seconds(self, genotype: Genotype) -> float:
        """Seconds of a batch of the network of a genotype, which is built."""
        config = NetworkConfig(genotype, *self.sizes, self.shape[0], self.n_classes, 0.0)
        with seeded_modules(0):
            network = placed(Network(config), self.device)
        return measured_seconds([network], self.shape, self.latency, self.device)[0]


@lru_cache(maxsize=16)
def latency_table(
    space: str,
    init_channels: int,
    n_cells: int,
    input_shape: tuple[int, int, int],
    n_classes: int,
    latency: Latency,
    device: torch.device,
    threads: int,
) -> LatencyTable:
    """Return the table of a space, which is measured once for a device and a number of threads."""
    sizes = (init_channels, n_cells)
    return LatencyTable(space, *sizes, input_shape, n_classes, latency, device)
