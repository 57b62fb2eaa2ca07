"""Limits on what the network of a fit may cost."""

from __future__ import annotations

from dataclasses import dataclass

from .latency import Latency

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """What a network may cost at most; None is no limit.

    Attributes
    ----------
    max_macs : int or None
        Multiply-accumulates for one image.
    max_parameters : int or None
        Trainable values.
    max_latency : Latency or None
        Seconds, and how they are measured.
    """

    max_macs: int | None = None
    max_parameters: int | None = None
    max_latency: Latency | None = None

    def __bool__(self) -> bool:
        """Whether there is any limit."""
        most = None if self.max_latency is None else self.max_latency.seconds
        return any(limit is not None for limit in (self.max_macs, self.max_parameters, most))

    def keep(self, macs: int, parameters: int) -> bool:
        """Whether what costs so much is within the limits, apart from its latency."""
        return (self.max_macs is None or macs <= self.max_macs) and (
            self.max_parameters is None or parameters <= self.max_parameters
        )
