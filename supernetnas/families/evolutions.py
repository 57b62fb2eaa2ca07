"""Evolution and Supernet Shifting in numbers that suit a few hundred images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..search.evolution import Evolution
from ..search.method import SearchMethod
from ..search.shifting import Shifting

__all__ = ["EVOLUTIONS"]

_SMALL: dict[str, Any] = {
    "population": 16,
    "mutations": 8,
    "crossovers": 8,
    "n_recalibration": 192,
}

EVOLUTIONS: dict[str, Callable[[], SearchMethod]] = {
    "evolution": partial(Evolution, 5, **_SMALL),
    "shifting": partial(Shifting, 5, **_SMALL, parents=16, n_images=64),
}
"""Both by name."""
