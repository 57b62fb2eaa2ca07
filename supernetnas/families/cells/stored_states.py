"""What the stored tensors of a network must be: names, shapes and dtypes.

Names and shapes follow from a configuration without building its network: of all cells that are
alike only one is made, on torch's meta device, which has neither memory nor random numbers. So a
configuration from a stranger costs little before it is compared with the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch
from torch import nn

from ...storage.formats import TensorSpec
from ..stored_tensors import tensor_specs
from .config import NetworkConfig, SupernetConfig
from .modules import NetworkCell, SupernetCell, cell_layout
from .network import Network
from .space import N_NODES, CellKind, get_space
from .supernet import CellSupernet

__all__ = ["HEAD", "network_specs", "supernet_specs"]

HEAD = "classifier."
"""How the names of the classifier's tensors begin, which no supernet is stored with."""


@lru_cache(maxsize=64)
def supernet_specs(config: SupernetConfig) -> dict[str, TensorSpec]:
    """Return the tensors of a supernet, its classifier's not among them.

    Raises
    ------
    RuntimeError, OverflowError
        If its sizes are beyond what torch can count.
    """
    space = get_space(config.space)
    with torch.device("meta"):
        stem = CellSupernet(replace(config, n_cells=1, n_classes=1))
        specs = _specs(
            stem,
            config.init_channels,
            config.n_cells,
            lambda row: SupernetCell(space.edges(row[3]), *row),
        )
    return {name: spec for name, spec in specs.items() if not name.startswith(HEAD)}


@lru_cache(maxsize=64)
def network_specs(config: NetworkConfig) -> dict[str, TensorSpec]:
    """Return the tensors of a discrete network; raises as `supernet_specs`."""
    with torch.device("meta"):
        specs = _specs(
            Network(replace(config, n_cells=1)),
            config.init_channels,
            config.n_cells,
            lambda row: NetworkCell(config.genotype, *row),
        )
    *_, (_, _, channels, _, _) = cell_layout(config.init_channels, config.n_cells)
    weight = specs[f"{HEAD}weight"]
    specs[f"{HEAD}weight"] = weight._replace(shape=(config.n_classes, N_NODES * channels))
    return specs


def _specs(
    of_one_cell: nn.Module,
    init_channels: int,
    n_cells: int,
    make_cell: Callable[[tuple[int, int, int, CellKind, CellKind]], nn.Module],
) -> dict[str, TensorSpec]:
    """Take what is no cell from a network of one cell, and the cells from one of each kind."""
    state = of_one_cell.state_dict()
    specs = tensor_specs({k: t for k, t in state.items() if not k.startswith("cells.")})
    kinds: dict[tuple[int, int, int, CellKind, CellKind], dict[str, TensorSpec]] = {}
    for index, row in enumerate(cell_layout(init_channels, n_cells)):
        if row not in kinds:
            kinds[row] = tensor_specs(make_cell(row).state_dict())
        specs |= {f"cells.{index}.{name}": spec for name, spec in kinds[row].items()}
    return specs
