"""From a source's supernet to the target's: algorithm 2, step 8, of the supernet transfer paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..training.seeds import seeded_modules
from .base import Family, NetworkInput

__all__ = ["starting_supernet"]


def starting_supernet(
    family: Family,
    seen: NetworkInput,
    n_classes: int,
    seed: int,
    source: tuple[Any, Mapping[str, Tensor]] | None = None,
) -> Any:
    """Build the supernet that a search starts from.

    Parameters
    ----------
    family : Family
    seen : NetworkInput
        What the target's networks see.
    n_classes : int
        The target's.
    seed : int
        Of the random weights: all of them, or those of the new classifier.
    source : tuple of Config and mapping of str to torch.Tensor, optional
        The configuration of a source and its state dict, without classifier, whose weights and
        alphas to take over; by default the supernet has random ones.

    Returns
    -------
    torch.nn.Module
    """
    if source is None:
        with seeded_modules(seed):
            return family.supernet(family.config(seen, n_classes))
    config, state = source
    with seeded_modules(seed):
        supernet = family.supernet(family.adapted(config, seen, n_classes))
    family.take_over(supernet, config, state)
    return supernet
