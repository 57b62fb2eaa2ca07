"""What the stored tensors of a network must be: names, shapes, dtypes and values.

Names and shapes follow from a configuration without building its network: of all cells that are
alike only one is made, on torch's meta device, which has neither memory nor random numbers. So a
configuration from a stranger costs little before it is compared with the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from .files import FileError, TensorSpec
from .network import Network, NetworkCell, NetworkConfig
from .spaces.cells import N_NODES, get_space
from .supernets.cell import CellSupernet, SupernetCell, SupernetConfig, cell_layout

__all__ = ["HEAD", "check_values", "network_specs", "supernet_specs"]

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
    make_cell: Callable[[tuple[int, int, int, bool, bool]], nn.Module],
) -> dict[str, TensorSpec]:
    """Take what is no cell from a network of one cell, and the cells from one of each kind."""
    specs = {name: spec for name, spec in _of(of_one_cell).items() if not name.startswith("cells.")}
    kinds: dict[tuple[int, int, int, bool, bool], dict[str, TensorSpec]] = {}
    for index, row in enumerate(cell_layout(init_channels, n_cells)):
        if row not in kinds:
            kinds[row] = _of(make_cell(row))
        specs |= {f"cells.{index}.{name}": spec for name, spec in kinds[row].items()}
    return specs


def _of(module: nn.Module) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(
            tuple(tensor.shape), ("float32",) if tensor.is_floating_point() else ("int64",)
        )
        for name, tensor in module.state_dict().items()
    }


def check_values(arrays: Mapping[str, np.ndarray], *, name: str) -> None:
    """Refuse tensors with numbers that no training leaves.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        By the names of a network's state dict.
    name : str
        What to call them in errors.

    Raises
    ------
    FileError
        If numbers are not finite, or variances or counts of batches are negative.
    """
    for tensor, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise FileError(f"{name} has numbers in {tensor!r} that are not finite.")
        if tensor.endswith(("running_var", "num_batches_tracked")) and (array < 0).any():
            raise FileError(f"{name} has negative numbers in {tensor!r}, which counts or squares.")
