"""Limits on what the network of a fit may cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..parameters import ParameterError, Real, Whole, check_parameter

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Latency", "Limits"]


@dataclass(frozen=True)
class Latency:
    """A limit on the time of a network, and how it is measured.

    Attributes
    ----------
    seconds : float or None
        Most that a batch may take; None is no limit, where latency is only to be small.
    batch_size : int
        Images in it.
    repeats : int
        Runs after a warm-up, of which the median counts.
    measure : callable or None
        What returns the seconds of a network, given it and the shape (n, channels, height, width)
        of a batch: for other devices than that of the fit. None measures on that device, with the
        threads that torch has.

    Examples
    --------
    >>> Latency(0.02, measure=lambda network, shape: 0.01).seconds
    0.02
    """

    seconds: float | None = None
    batch_size: int = 1
    repeats: int = 20
    measure: Callable[[nn.Module, tuple[int, ...]], float] | None = None

    @property
    def identity(self) -> str:
        """What tells it from others; two callables of one name are the same."""
        name = getattr(self.measure, "__qualname__", type(self.measure).__qualname__)
        return f"Latency({self.seconds}, {self.batch_size}, {self.repeats}, {name})"

    def check(self) -> None:
        """Refuse values that may not be, with a `ParameterError`."""
        if self.seconds is not None:
            check_parameter("Latency", "seconds", self.seconds, Real())
        check_parameter("Latency", "batch_size", self.batch_size, Whole(1))
        check_parameter("Latency", "repeats", self.repeats, Whole(1))
        if self.measure is not None and not callable(self.measure):
            raise ParameterError(
                "The 'measure' parameter of Latency must be a callable that returns the seconds of "
                f"a network and a shape of images, or None. Got {self.measure!r} instead."
            )


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
    device : str
        Where latency is measured.
    """

    max_macs: int | None = None
    max_parameters: int | None = None
    max_latency: Latency | None = None
    device: str = "cpu"

    def __bool__(self) -> bool:
        """Whether there is any limit."""
        most = None if self.max_latency is None else self.max_latency.seconds
        return any(limit is not None for limit in (self.max_macs, self.max_parameters, most))

    def keep(self, macs: int, parameters: int) -> bool:
        """Whether what costs so much is within the limits, apart from its latency."""
        return (self.max_macs is None or macs <= self.max_macs) and (
            self.max_parameters is None or parameters <= self.max_parameters
        )

    def __str__(self) -> str:
        """Return the limits that there are, as a user writes them."""
        most = None if self.max_latency is None else self.max_latency.seconds
        limits = {
            "max_macs": self.max_macs,
            "max_parameters": self.max_parameters,
            "max_latency": most,
        }
        given = [f"{name}={value}" for name, value in limits.items() if value is not None]
        return ", ".join(given) or "no limits"
