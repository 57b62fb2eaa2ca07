"""Limits on what the network of a fit may cost."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    max_macs: int | None = None
    max_parameters: int | None = None

    def __bool__(self) -> bool:
        """Whether there is any limit."""
        return self.max_macs is not None or self.max_parameters is not None

    def keep(self, macs: int, parameters: int) -> bool:
        """Whether what costs so much is within the limits."""
        return (self.max_macs is None or macs <= self.max_macs) and (
            self.max_parameters is None or parameters <= self.max_parameters
        )
