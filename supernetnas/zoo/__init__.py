"""Pretrained supernets and what is known about them, in a folder."""

from .entries import UnknownSourceError, ZooError
from .zoo import Source, Zoo

__all__ = ["Source", "UnknownSourceError", "Zoo", "ZooError"]
