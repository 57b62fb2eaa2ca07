"""What can be searched: candidate operations, cell spaces, discrete architectures."""

from .cells import SearchSpace, available_spaces, get_space, register_space
from .genotype import Genotype
from .operations import OPERATIONS, make_operation

__all__ = [
    "OPERATIONS",
    "Genotype",
    "SearchSpace",
    "available_spaces",
    "get_space",
    "make_operation",
    "register_space",
]
