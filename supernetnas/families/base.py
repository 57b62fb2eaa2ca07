"""A family of supernets: everything that is particular to one kind, behind one face.

A fit, a zoo and a saved classifier ask the family; none of them names one. A family is registered
by its name, and imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ..images.augmentation import StandardisedImages
from ..parameters import ParameterError, Parameters
from ..search.limits import Limits
from ..search.loop import SearchLoop
from ..search.method import SearchMethod
from ..search.protocols import Architecture
from ..storage.formats import TensorSpec
from ..training.batches import LabelledImages
from ..training.devices import placed
from ..training.distributed import ALONE, Processes
from ..training.execution import Execution
from ..training.history import HistoryRow
from ..training.seeds import seeded_modules

__all__ = [
    "Config",
    "Family",
    "NetworkInput",
    "Pretrained",
    "available_families",
    "get_family",
]


@dataclass(frozen=True)
class NetworkInput:
    """What a network of a family wants to see.

    Attributes
    ----------
    size : tuple of int
        Height and width in pixels.
    channels : int
    mean, std : tuple of float or None
        Of each channel, by which images are standardised, in units of the range of their values;
        None is that of the images themselves.
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


class Pretrained(Protocol):
    """A pretraining, while it goes on and at its end.

    Attributes
    ----------
    supernet : torch.nn.Module
    history : list of HistoryRow
        A row for each epoch so far.
    epoch, epochs : int
        Epochs so far, and at most.
    """

    supernet: Any
    history: list[HistoryRow]

    @property
    def epoch(self) -> int: ...

    @property
    def epochs(self) -> int: ...

    def searched_supernet(self) -> Any:
        """Return the supernet as zoos keep it."""


class Family(Parameters):
    """One kind of supernet. Its parameters are the sizes of one that starts from random weights.

    Attributes
    ----------
    name : str
        That it is registered under.
    architecture_name : str
        What people call an architecture of the family.
    unsearched_name : str
        What people call the one that `unsearched` returns.
    head : str
        How the names of the tensors begin that depend on the classes.
    exact : tuple of str
        How the last parts of the names of tensors begin that are never stored in half precision.
    keeps_statistics : bool
        Whether batch norms keep the statistics of the pretraining; else they are given the
        target's.
    searches : mapping of str to callable
        What makes each search method, by name.
    default_search : str
        What "auto" stands for.
    searching_search : str
        What "auto" stands for where a fit has to search: from random weights, or to compare sources
        by their searches.
    learns_labels : bool
        Whether a supernet is pretrained, by `pretraining_search`, to tell the classes of a dataset,
        or of several together; else there is one alone, of `pretrain_on_images`, which learns from
        the images of all datasets without their labels.
    pretraining_side : int
        Side that images are resized to for a pretraining, in pixels, by default.
    origin : mapping of str to str
        Provenance of published weights that every pretraining starts from.
    """

    name: ClassVar[str]
    architecture_name: ClassVar[str]
    unsearched_name: ClassVar[str]
    head: ClassVar[str]
    exact: ClassVar[tuple[str, ...]] = ("running_",)
    keeps_statistics: ClassVar[bool] = False
    searches: ClassVar[Mapping[str, Any]]
    default_search: ClassVar[str]
    searching_search: ClassVar[str]
    learns_labels: ClassVar[bool] = True
    pretraining_side: ClassVar[int] = 32
    origin: ClassVar[Mapping[str, str]] = {}

    def method(self, search: str | SearchMethod, *, searching: bool = False) -> SearchMethod:
        """Return the search method that a name stands for, or the given one.

        Parameters
        ----------
        search : str or SearchMethod
        searching : bool
            Whether the fit has to search.

        Raises
        ------
        ParameterError
            If the family has no such method.
        """
        makers = dict(self.searches)
        if isinstance(search, SearchMethod):
            if not self.has_search(search):
                raise ParameterError(
                    f"search={search!r} does not search supernets of the family {self.name!r}; it "
                    f"has {', '.join(map(repr, makers))}."
                )
            return search
        if search == "auto":
            search = self.searching_search if searching else self.default_search
        if search not in makers:
            raise ParameterError(
                f"The 'search' parameter must be one of {', '.join(map(repr, ('auto', *makers)))} "
                f"or an object such as {makers[self.searching_search]()!r}. Got {search!r} instead."
            )
        return makers[search]()

    def has_search(self, search: str | SearchMethod) -> bool:
        """Whether a search method, or what its name stands for, is one of the family's."""
        if isinstance(search, SearchMethod):  # families may call different methods the same
            own, known = (
                {type(make()) for family in families for make in family.searches.values()}
                for families in ([self], map(get_family, available_families()))
            )
            nearest = next((kind for kind in type(search).__mro__ if kind in own | known), None)
            return nearest in own  # what is derived from one's method may be another's
        return search == "auto" or search in self.searches

    def check_execution(self, execution: Execution) -> None:
        """Refuse, with a ParameterError, what supernets of the family cannot be run like."""

    def execution(self, execution: Execution, device: torch.device) -> Execution:
        """Return how networks are run on a device, where it is left open: see `Execution.on`."""
        return execution.on(device)

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

    def inputs_within(
        self, seen: NetworkInput, config: Any, n_classes: int, limits: Limits
    ) -> list[NetworkInput]:
        """List what networks within limits may see, where the user leaves it open, largest first.

        By default what they see without limits.

        Parameters
        ----------
        seen : NetworkInput
            That they see without limits.
        config : Config
            Of the supernet to start from.
        n_classes : int
            The target's.
        limits : Limits

        Raises
        ------
        ValueError
            If no network keeps the limits; names the smallest costs.
        """
        return [seen]

    def suited_input(
        self, inputs: Sequence[NetworkInput], supernet: Any, limits: Limits
    ) -> NetworkInput:
        """Return the best of several inputs that `inputs_within` has listed, for a supernet."""
        return inputs[0]

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

    def fits(self, config: Any, seen: NetworkInput, n_classes: int) -> bool:
        """Whether a supernet of a configuration can have been searched for a target."""
        return config == self.adapted(config, seen, n_classes)

    def take_over(self, supernet: Any, config: Any, state: Mapping[str, Tensor]) -> None:
        """Give a supernet of random weights those of a source.

        Parameters
        ----------
        supernet : torch.nn.Module
            Built from what `adapted` returned; keeps its head.
        config : Config
            The source's own.
        state : mapping of str to torch.Tensor
            The source's tensors, without a head.
        """
        raise NotImplementedError

    def stored(self, supernet: Any) -> tuple[Any, Mapping[str, Tensor]]:
        """Return configuration and state by which a zoo keeps a pretrained supernet."""
        return supernet.config, supernet.state_dict()

    def check_pretraining(self) -> None:
        """Refuse parameters without a meaning for a pretraining, and find what it needs.

        Raises
        ------
        ParameterError, ImportError
            Before any work.
        """

    def pretraining_config(self, seen: NetworkInput) -> Any:
        """Return the configuration of a supernet that is pretrained, for one class."""
        return self.config(seen, 1)

    def pretraining_settings(self) -> Any:
        """Return the numbers of a pretraining.

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

    def pretrain_on_images(
        self,
        images: StandardisedImages,
        seen: NetworkInput,
        folder: Path,
        *,
        settings: Any,
        seed: int,
        device: torch.device,
        start: tuple[Any, Mapping[str, Tensor]] | None = None,
        on_epoch: Callable[[Any], bool | None] | None = None,
        processes: Processes = ALONE,
    ) -> Pretrained:
        """Pretrain a supernet on images without labels; see ``learns_labels``.

        Parameters
        ----------
        images : StandardisedImages
            Of all datasets, on the device, as the supernet is to see them.
        seen : NetworkInput
            What the supernet sees.
        folder : Path
            For checkpoints and whatever else a training that was interrupted goes on from.
        settings : object
            What `pretraining_settings` returned, perhaps with other numbers.
        seed : int
            Of every random draw.
        device : torch.device
        start : tuple of Config and mapping of str to torch.Tensor, optional
            Configuration and state of a source to start from.
        on_epoch : callable, optional
            Called with the pretraining after each epoch; True ends it.
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

    def evolvable(self, supernet: Any, seen: NetworkInput, n_classes: int) -> Any:
        """Return a supernet as a `supernetnas.search.protocols.Evolvable` of the same weights.

        By default the supernet is one.
        """
        return supernet

    def probed(self, supernet: Any, budget: Any, seen: NetworkInput) -> nn.Module:
        """Return a module whose ``features`` say what a supernet is worth for a target.

        Parameters
        ----------
        supernet : torch.nn.Module
            Just transferred.
        budget : object or None
            What `budget` returned.
        seen : NetworkInput
        """
        return supernet

    def probes_tell(self, budget: Any) -> bool:
        """Whether features before training say what a network within a budget will be worth.

        By default they do.
        """
        return True

    def unsearched(self, supernet: Any, budget: Any, seen: NetworkInput) -> Architecture:
        """Return the architecture that a fit's is compared with: what there was before a search.

        Parameters are those of `probed`.
        """
        raise NotImplementedError

    def difference(self, before: Any, after: Any) -> str:
        """Say for people how an architecture differs from another; empty where it does not."""
        raise NotImplementedError

    def among(self, config: Any) -> str:
        """Say for people what a search of a supernet chooses from."""
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

    def retraining(self, pretrained: bool) -> dict[str, Any]:
        """Return numbers of the retraining, by the names of `RetrainSettings` and "dropout".

        Parameters
        ----------
        pretrained : bool
            Whether the supernet had the weights of a source.
        """
        raise NotImplementedError

    def learner(
        self, search: Any, architecture: Any, *, dropout: float, seed: int, pretrained: bool
    ) -> tuple[nn.Module, float]:
        """Return the module that is retrained, and the share of weights that it inherited.

        By default it is the network of the architecture.

        Parameters
        ----------
        search : Search
            Which has ended.
        architecture : Architecture
        dropout : float
        seed : int
            Of weights that are not inherited.
        pretrained : bool
            Whether the supernet had the weights of a source.
        """
        supernet = search.searched_supernet()
        config = self.network_config(architecture, supernet, dropout)
        with seeded_modules(seed):
            network = self.network(config)
        device = next(iter(supernet.weight_parameters())).device
        return placed(network, device), self.inherit(network, supernet)

    def training_data(
        self, module: Any, train: LabelledImages, generator: torch.Generator
    ) -> LabelledImages:
        """Return what a learner is trained on: the images, or something made of them."""
        return train

    def trained(self, module: Any, architecture: Any) -> Any:
        """Return the network of an architecture from the learner, in evaluation mode."""
        return module

    def teaches(self, module: Any) -> bool:
        """Whether a learner, once it is trained, is to teach other networks."""
        return False

    def trains(self, module: Any, architecture: Any) -> bool:
        """Whether what a learner trains is the network of an architecture, or has it among it."""
        return True

    def patience(self, learner: Any) -> float:
        """Return how many times as many epochs as the teacher had what it taught is trained for.

        Parameters
        ----------
        learner : torch.nn.Module
            What `taught` returned.
        """
        return 1.0

    def planned(
        self, supernet: Any, budget: Any, seen: NetworkInput, method: SearchMethod, n_epochs: int
    ) -> dict[str, tuple[int, nn.Module]]:
        """Return the stages after a search, their epochs and what each is about to train.

        So that their time can be estimated before the search.

        Parameters
        ----------
        supernet : torch.nn.Module
        budget : object or None
            What `budget` returned.
        seen : NetworkInput
        method : SearchMethod
        n_epochs : int
            Of the retraining.
        """
        return {"retrain": (n_epochs, self.probed(supernet, budget, seen))}

    def taught(self, module: Any) -> Any:
        """Return the module of the networks that a trained learner teaches, to be trained next."""
        raise NotImplementedError

    def front(self, module: Any, search: Any) -> list[dict[str, Any]]:
        """Describe the networks that a learner has trained, if there may be several."""
        return []

    def member(self, config: Any, state: Mapping[str, Tensor], architecture: Any) -> Any:
        """Return one of the networks of a front, from the supernet that was trained."""
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


_MODULES = {
    "cells": ("supernetnas.families.cells.family", "Cells"),
    "elastic": ("supernetnas.families.elastic.family", "Elastic"),
    "paths": ("supernetnas.families.paths.family", "Paths"),
}


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
