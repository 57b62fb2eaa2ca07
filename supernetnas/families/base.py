"""A family of supernets: everything that is particular to one kind, behind one face.

A fit, a zoo and a saved classifier ask the family; none of them names one. A family is registered
by its name, and imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ..parameters import ParameterError, Parameters
from ..search.limits import Limits
from ..search.loop import SearchLoop
from ..search.method import SearchMethod
from ..search.protocols import Architecture
from ..storage.files import TensorSpec
from ..training.batches import LabelledImages
from ..training.distributed import ALONE, Processes

__all__ = ["Config", "Family", "NetworkInput", "available_families", "get_family"]


@dataclass(frozen=True)
class NetworkInput:
    """What a network of a family wants to see.

    Attributes
    ----------
    size : tuple of int
        Height and width in pixels.
    channels : int
    mean, std : tuple of float or None
        Of each channel, by which images are standardised; None is that of the images themselves.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.channels, *self.size


class Config(Hashable, Protocol):
    """What a module of a family is built from: frozen and hashable.

    Attributes
    ----------
    family : str
        Name of the family.
    n_classes, input_channels : int
    """

    family: ClassVar[str]

    @property
    def n_classes(self) -> int: ...

    @property
    def input_channels(self) -> int: ...

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""


class Family(Parameters):
    """One kind of supernet. Its parameters are the sizes of one that starts from random weights.

    Attributes
    ----------
    name : str
        That it is registered under.
    architecture_name : str
        What people call an architecture of the family.
    head, stem : str
        How the names of the tensors begin that depend on the classes, and the name of the tensor
        that depends on the channels of an image.
    exact : tuple of str
        How the last parts of the names of tensors begin that are never stored in half precision.
    searches : mapping of str to callable
        What makes each search method, by name; the first is what "auto" stands for.
    """

    name: ClassVar[str]
    architecture_name: ClassVar[str]
    head: ClassVar[str]
    stem: ClassVar[str]
    exact: ClassVar[tuple[str, ...]] = ("running_",)
    searches: ClassVar[Mapping[str, Any]]

    def method(self, search: str | SearchMethod) -> SearchMethod:
        """Return the search method that a name stands for, or the given one.

        Raises
        ------
        ParameterError
            If the family has no such method.
        """
        makers = dict(self.searches)
        if isinstance(search, SearchMethod):
            if search.name not in makers:
                raise ParameterError(
                    f"search={search!r} does not search supernets of the family {self.name!r}; it "
                    f"has {', '.join(map(repr, makers))}."
                )
            return search
        if search == "auto":
            return next(iter(makers.values()))()
        if search not in makers:
            raise ParameterError(
                f"The 'search' parameter must be one of {', '.join(map(repr, ('auto', *makers)))} "
                f"or an object such as {next(iter(makers.values()))()!r}. Got {search!r} instead."
            )
        return makers[search]()

    def input(
        self, typical_size: tuple[int, int], channels: int, image_size: Any, config: Any = None
    ) -> NetworkInput:
        """Say what the network is to see.

        Parameters
        ----------
        typical_size : tuple of int
            Height and width of the images at hand.
        channels : int
            Of the images at hand.
        image_size : int, tuple of int or "auto"
            What the user wants.
        config : Config, optional
            Of the supernet to start from; None for one from random weights.
        """
        raise NotImplementedError

    def config(self, seen: NetworkInput, n_classes: int) -> Any:
        """Return the configuration of a supernet that starts from random weights."""
        raise NotImplementedError

    def read_config(self, data: Mapping[str, Any]) -> Any:
        """Rebuild a supernet's configuration from plain values; ValueError if it is none."""
        raise NotImplementedError

    def adapted(self, config: Any, seen: NetworkInput, n_classes: int) -> Any:
        """Return a source's configuration with the input and the classes of a target."""
        raise NotImplementedError

    def supernet(self, config: Any) -> Any:
        """Build a supernet, of random weights that torch's global state decides."""
        raise NotImplementedError

    def warm_up_head(self, supernet: Any) -> None:
        """Prepare a new head for a supernet whose other weights were transferred."""

    def pretraining_settings(self) -> Any:
        """Return the numbers of a search that pretrains a supernet.

        Returns
        -------
        dataclass instance
            With ``epochs``, ``batch_size`` and ``learning_rate``, and what else the family has.
        """
        raise NotImplementedError

    def pretraining_search(
        self,
        supernet: Any,
        train: LabelledImages,
        validation: LabelledImages,
        settings: Any,
        generator: torch.Generator,
        *,
        dataset_of_class: Tensor | None = None,
        processes: Processes = ALONE,
    ) -> SearchLoop:
        """Return the search that pretrains a supernet, not yet begun.

        Parameters
        ----------
        supernet : torch.nn.Module
            On its device.
        train, validation : LabelledImages
        settings : object
            What `pretraining_settings` returned, perhaps with other numbers.
        generator : torch.Generator
            The source of every random draw.
        dataset_of_class : torch.Tensor of shape (n_classes,), int64, optional
            Number of the dataset that each class belongs to; by default there is one dataset.
        processes : Processes, optional
            Those that train together.
        """
        raise NotImplementedError

    def budget(self, config: Any, seen: NetworkInput, n_classes: int, limits: Limits) -> Any:
        """Return what a search method keeps the limits with; None without limits.

        Raises
        ------
        ValueError
            If no network of the supernet keeps them; names the smallest cost.
        """
        raise NotImplementedError

    def read_architecture(self, data: Mapping[str, Any]) -> Architecture:
        """Rebuild an architecture from plain values; ValueError if it is none."""
        raise NotImplementedError

    def network_config(self, architecture: Any, supernet: Any, dropout: float) -> Any:
        """Return the configuration of the network of an architecture of a supernet."""
        raise NotImplementedError

    def read_network_config(self, data: Mapping[str, Any]) -> Any:
        """Rebuild a network's configuration from plain values; ValueError if it is none."""
        raise NotImplementedError

    def architecture(self, network_config: Any) -> Architecture:
        """Return the architecture of a network."""
        raise NotImplementedError

    def network(self, config: Any) -> nn.Module:
        """Build a network, of random weights that torch's global state decides."""
        raise NotImplementedError

    def inherit(self, network: Any, supernet: Any) -> float:
        """Copy a supernet's weights into a network; returns the share that was inherited."""
        raise NotImplementedError

    def folded(self, network: Any) -> nn.Module:
        """Return a copy of a network that predicts the same up to rounding, in fewer steps."""
        return network

    def supernet_specs(self, config: Any) -> dict[str, TensorSpec]:
        """Return names, shapes and dtypes of a supernet's stored tensors, without its head.

        Nothing is built or allocated: a configuration may come from a stranger.
        """
        raise NotImplementedError

    def network_specs(self, config: Any) -> dict[str, TensorSpec]:
        """Return names, shapes and dtypes of a network's stored tensors; as `supernet_specs`."""
        raise NotImplementedError

    def check_network(self, network_config: Any, supernet_config: Any) -> None:
        """Refuse a network that cannot come from a supernet; ValueError says why."""
        raise NotImplementedError

    def unused(self, config: Any) -> list[str]:
        """Say which of the chosen sizes a source's supernet does not have, a sentence each."""
        return []

    def describe(self, config: Any) -> dict[str, str]:
        """Describe a supernet for people: what there is to say of it, by name."""
        raise NotImplementedError

    def tags(self, config: Any) -> list[str]:
        """Return tags of a supernet for the card of a zoo, beside those that all zoos have."""
        return []


_MODULES = {"cells": ("supernetnas.families.cells.family", "Cells")}


def available_families() -> list[str]:
    """Names of the families, the one that "auto" starts from first."""
    return list(_MODULES)


def get_family(name: str | Family) -> Family:
    """Return the family of a name, or the given one.

    Raises
    ------
    ValueError
        If there is none of the name.
    """
    if isinstance(name, Family):
        return name
    if not isinstance(name, str) or name not in _MODULES:
        raise ValueError(f"Unknown family {name!r}; known are {available_families()}.")
    module, kind = _MODULES[name]
    return getattr(import_module(module), kind)()
