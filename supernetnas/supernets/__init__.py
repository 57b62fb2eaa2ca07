"""Weight-sharing networks that hold every architecture of a search space."""

from .cell import CellSupernet, SupernetConfig

__all__ = ["CellSupernet", "SupernetConfig"]
