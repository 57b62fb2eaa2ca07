"""How a supernet is searched."""

from .bilevel import BilevelSearch, SearchSettings
from .perturbation import adversarial_perturbation, random_perturbation, to_simplex
from .stopping import Plateau

__all__ = [
    "BilevelSearch",
    "Plateau",
    "SearchSettings",
    "adversarial_perturbation",
    "random_perturbation",
    "to_simplex",
]
