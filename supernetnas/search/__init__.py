"""How a supernet is searched, and how an architecture is derived from it."""

from .bilevel import BilevelSearch, SearchSettings
from .derivation import PerturbationDerivation
from .diagnostics import SearchCollapseWarning
from .dirichlet import DirichletSearch
from .gumbel import GumbelSearch
from .methods import DERIVATIONS, SEARCH_METHODS, STOPPING_RULES, derive, make_search
from .partial import PartialChannelSearch
from .perturbation import adversarial_perturbation, random_perturbation, to_simplex
from .random_search import RandomArchitecture, RandomSearch, random_genotype
from .second_order import SecondOrderSearch
from .stopping import EigenvalueRise, Plateau, Settled

__all__ = [
    "DERIVATIONS",
    "SEARCH_METHODS",
    "STOPPING_RULES",
    "BilevelSearch",
    "DirichletSearch",
    "EigenvalueRise",
    "GumbelSearch",
    "PartialChannelSearch",
    "PerturbationDerivation",
    "Plateau",
    "RandomArchitecture",
    "RandomSearch",
    "SearchCollapseWarning",
    "SearchSettings",
    "SecondOrderSearch",
    "Settled",
    "adversarial_perturbation",
    "derive",
    "make_search",
    "random_genotype",
    "random_perturbation",
    "to_simplex",
]
