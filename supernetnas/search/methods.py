"""The methods of the search by name: the values of ``search_method``."""

from __future__ import annotations

from dataclasses import replace

from .bilevel import BilevelSearch, SearchSettings
from .dirichlet import DirichletSearch
from .gumbel import GumbelSearch
from .partial import PartialChannelSearch
from .random_search import RandomArchitecture, RandomSearch
from .second_order import SecondOrderSearch
from .stopping import EigenvalueRise, Settled

__all__ = ["SEARCH_METHODS", "STOPPING_RULES", "make_search"]

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

STOPPING_RULES = {
    "plateau": lambda: None,
    "settled": Settled,
    "eigenvalue": EigenvalueRise,
}
"""Factory of each rule that ends a search; None is the plateau that every search has."""


def make_search(
    method: str, stopping: str, *args, settings: SearchSettings, **kwargs
) -> BilevelSearch:
    """Build the search of a method.

    Parameters
    ----------
    method : str
        A key of `SEARCH_METHODS`.
    stopping : str
        A key of `STOPPING_RULES`.
    *args, settings, **kwargs
        Of `BilevelSearch`. The settings' perturbation counts for "sdarts" alone.
    """
    if method == "darts":
        settings = replace(settings, perturbation="none")
    rule = STOPPING_RULES[stopping]()
    return SEARCH_METHODS[method](*args, settings=settings, stopping=rule, **kwargs)
