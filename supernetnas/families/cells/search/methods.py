"""The methods of the search by name: the values of ``search_method``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ....search.random_search import RandomArchitecture, RandomSearch
from ....search.stopping import EigenvalueRise, Settled
from ....training.batches import LabelledImages, Stopwatch
from ..genotype import Genotype
from ..supernet import CellSupernet
from .bilevel import BilevelSearch, SearchSettings
from .derivation import PerturbationDerivation
from .diagnostics import warn_of_collapse
from .dirichlet import DirichletSearch
from .gumbel import GumbelSearch
from .partial_channels import PartialChannelSearch
from .second_order import SecondOrderSearch

__all__ = ["DERIVATIONS", "SEARCH_METHODS", "STOPPING_RULES", "derive", "make_search"]

SEARCH_METHODS: dict[str, type[BilevelSearch]] = {
    "sdarts": BilevelSearch,
    "darts": BilevelSearch,
    "darts2": SecondOrderSearch,
    "pc_darts": PartialChannelSearch,
    "drnas": DirichletSearch,
    "gdas": GumbelSearch,
    "random": RandomArchitecture,
    "random_search": RandomSearch,
}
"""Class of each method. "darts" is "sdarts" without its perturbation."""

STOPPING_RULES: dict[str, Callable[[], Settled | EigenvalueRise | None]] = {
    "plateau": lambda: None,
    "settled": Settled,
    "eigenvalue": EigenvalueRise,
}
"""Factory of each rule that ends a search; None is the plateau that every search has."""


DERIVATIONS = ("argmax", "perturbation")
"""How an architecture is chosen from a searched supernet."""


def derive(
    search: BilevelSearch,
    derivation: str,
    tuning_epochs: int = 1,
    stopwatch: Stopwatch | None = None,
) -> Genotype:
    """Choose the architecture.

    Parameters
    ----------
    search : BilevelSearch
        After its run.
    derivation : str
        One of `DERIVATIONS`. The random methods, which leave no alphas to derive from, have their
        own way whatever it says.
    tuning_epochs : int, default=1
        Of `PerturbationDerivation`.
    stopwatch : Stopwatch, optional
        Cuts a derivation that measures architectures short.

    Warns
    -----
    SearchCollapseWarning
        If the search has filled the normal cell with skip connections and they are kept.
    """
    if isinstance(search, RandomArchitecture | RandomSearch):
        return search.derive(stopwatch)
    if derivation == "perturbation":
        return PerturbationDerivation(search, tuning_epochs).run(stopwatch)
    genotype = search.derive(stopwatch)
    warn_of_collapse(search.supernet, genotype)
    return genotype


def make_search(
    method: str,
    stopping: str,
    supernet: CellSupernet,
    train: LabelledImages,
    validation: LabelledImages,
    *,
    settings: SearchSettings,
    **kwargs,
) -> BilevelSearch:
    """Build the search of a method.

    Parameters
    ----------
    method : str
        A key of `SEARCH_METHODS`.
    stopping : str
        A key of `STOPPING_RULES`.
    supernet, train, validation, settings, **kwargs
        Of `BilevelSearch`. The settings' perturbation counts for "sdarts" alone.
    """
    if method != "sdarts":
        settings = replace(settings, perturbation="none")
    rule = STOPPING_RULES[stopping]()
    return SEARCH_METHODS[method](
        supernet, train, validation, settings=settings, stopping=rule, **kwargs
    )
