"""Single paths: layers in a row, of each of which one of a few blocks is chosen."""

from .config import PathConfig, PathNetworkConfig
from .costs import PathCosts
from .network import PathNetwork
from .space import PathArchitecture, PathSpace
from .supernet import PathSupernet

__all__ = [
    "PathArchitecture",
    "PathConfig",
    "PathCosts",
    "PathNetwork",
    "PathNetworkConfig",
    "PathSpace",
    "PathSupernet",
]
