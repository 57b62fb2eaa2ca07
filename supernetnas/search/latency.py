"""How long networks take, as measured where they run.

Multiply-accumulates say little of it: in the experiments of Zhang et al. (CVPR 2024, section 10 of
the supplement) their rank correlation with the latency was 0.3. Measuring every architecture of a
search takes long, so their parts are measured once, each alone; the sum over the parts of an
architecture, times how much longer whole networks take than their parts, predicts it. What a search
returns is built and measured as a whole.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from .limits import Latency
from .protocols import Architecture, Evolvable, Step

__all__ = [
    "LatencyModel",
    "check_unit",
    "measured_seconds",
    "parts_seconds",
    "time_in_turn",
]

A = TypeVar("A", bound=Architecture)

_WARMUP = 3  # runs that do not count
_WHOLE = 4  # networks that say how much longer they take than their parts
_IMPLAUSIBLE = 100  # times what the largest network takes, a limit is one in another unit


def time_in_turn(calls: Sequence[Callable[[], Any]], repeats: int = 20) -> list[float]:
    """Median seconds of each call.

    They are made in turn, there and back, so that a machine that becomes slower or faster meanwhile
    favours none. Waits for a GPU around each.
    """
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(_WARMUP + repeats):
        places = range(len(calls))
        for place in places if turn % 2 else reversed(places):
            wait()
            start = perf_counter()
            calls[place]()
            wait()
            seconds[place].append(perf_counter() - start)
    return [median(times[_WARMUP:]) for times in seconds]


def measured_seconds(
    networks: Sequence[nn.Module], shape: tuple[int, ...], latency: Latency, device: torch.device
) -> list[float]:
    """Seconds of a batch of each network, in evaluation mode.

    Parameters
    ----------
    networks : sequence of torch.nn.Module
        Left in evaluation mode.
    shape : tuple of int (channels, height, width)
    latency : Latency
        How it is measured.
    device : torch.device
        Of the networks.

    Raises
    ------
    ValueError
        If the callable of the latency fails, or returns no time.
    """
    batch = (latency.batch_size, *shape)
    for network in networks:
        network.eval()
    if latency.measure is not None:
        return [_asked(latency.measure, network, batch) for network in networks]
    images = _images(latency.batch_size, shape, device)
    calls = [partial(network, images) for network in networks]
    with torch.inference_mode():
        return time_in_turn(calls, latency.repeats)


def parts_seconds(
    parts: Mapping[nn.Module, tuple[int, ...]], latency: Latency, device: torch.device
) -> dict[nn.Module, float]:
    """Seconds of a batch of each part of networks, in turn, in evaluation mode.

    Parameters
    ----------
    parts : mapping of torch.nn.Module to tuple of int
        Shape of the input, without that of the batch.
    latency : Latency
        How it is measured.
    device : torch.device
        Of the parts.

    Raises
    ------
    ValueError
        If the callable of the latency fails, or returns no time.
    """
    if latency.measure is not None:
        return {m: measured_seconds([m], shape, latency, device)[0] for m, shape in parts.items()}
    calls = [
        partial(module.eval(), _images(latency.batch_size, shape, device))
        for module, shape in parts.items()
    ]
    with torch.inference_mode():
        return dict(zip(parts, time_in_turn(calls, latency.repeats), strict=True))


def _asked(measure: Callable[..., Any], network: nn.Module, batch: tuple[int, ...]) -> float:
    try:
        seconds = measure(network, batch)
    except Exception as error:
        raise ValueError(
            f"The measure of max_latency failed for a batch of shape {batch}: "
            f"{type(error).__name__}: {error}"
        ) from error
    plain = isinstance(seconds, numbers.Real) and not isinstance(seconds, bool)
    if not plain or not 0 < float(seconds) < math.inf:
        raise ValueError(
            "The measure of max_latency must return the seconds that a network takes, a positive "
            f"number; for a batch of shape {batch} it returned {seconds!r:.80}."
        )
    return float(seconds)


def check_unit(latency: Latency, seconds: float) -> None:
    """Refuse a limit that is so far beyond a large network's latency that its unit is another."""
    if latency.seconds is not None and latency.seconds > _IMPLAUSIBLE * seconds:
        raise ValueError(
            f"max_latency={latency.seconds:g} is no limit: it is in seconds, and a large network "
            f"takes {seconds:.3g}. Two milliseconds are 0.002."
        )


class LatencyModel(Generic[A]):
    """Predicts the latency of a supernet's members.

    Parameters
    ----------
    supernet : Evolvable
    shape : tuple of int (channels, height, width)
        Of an image.
    latency : Latency
        With a callable, every architecture is measured by it, once.

    Raises
    ------
    ValueError
        If the callable fails, or returns no time; or if the limit is so far beyond the latency of
        the largest architecture that it must be in another unit than seconds.
    """

    def __init__(self, supernet: Evolvable[A], shape: tuple[int, ...], latency: Latency) -> None:
        self.supernet, self.shape, self.latency = supernet, tuple(shape), latency
        self.device = next(iter(supernet.weight_parameters())).device
        self._parts: dict[str, float] = {}  # by the text of their keys, which can be saved
        self._measured: dict[A, float] = {}
        self.factor = 1.0
        self.space = space = supernet.space_for(shape)
        whole = [space.largest, space.smallest]
        if latency.measure is None:
            self._measure_parts([supernet.steps(a) for a in self._neighbours(space.smallest)])
            whole += self._between()
            ratios = [
                seconds / self._summed(architecture)
                for architecture, seconds in zip(whole, self.measured(whole), strict=True)
            ]
            self.factor = median(ratios)
        check_unit(latency, self.measured(whole[:1])[0])

    def __call__(self, architecture: A) -> float:
        """Seconds, as predicted; with a callable, as measured."""
        if self.latency.measure is not None:
            return self.measured([architecture])[0]
        return self.factor * self._summed(architecture)

    def measured(self, architectures: Sequence[A]) -> list[float]:
        """Seconds of built networks; each is measured once."""
        new = [a for a in dict.fromkeys(architectures) if a not in self._measured]
        networks = [self.supernet.network(a) for a in new]
        times = measured_seconds(networks, self.shape, self.latency, self.device)
        self._measured.update(zip(new, times, strict=True))
        return [self._measured[architecture] for architecture in architectures]

    def state(self) -> dict[str, Any]:
        """Return what was measured, as plain values."""
        encode = self.space.encode
        measured = [[list(encode(a)), seconds] for a, seconds in self._measured.items()]
        return {"parts": self._parts, "factor": self.factor, "measured": measured}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Predict by what `state` returned: another measurement would give other times."""
        self._parts, self.factor = dict(state["parts"]), state["factor"]
        self._measured = {self.space.decode(genes): s for genes, s in state["measured"]}

    def _neighbours(self, architecture: A) -> Iterator[A]:
        """Architectures that differ in one gene at most."""
        space = self.space
        genes = list(space.encode(architecture))
        for place, n in enumerate(space.genes):
            for choice in range(n):
                yield space.decode([*genes[:place], choice, *genes[place + 1 :]])

    def _between(self) -> list[A]:
        """Architectures from the smallest to the largest."""
        space = self.space
        first, last = space.encode(space.smallest), space.encode(space.largest)
        shares = [(place + 1) / (_WHOLE - 1) for place in range(_WHOLE - 2)]
        return [
            space.decode([round(a + s * (b - a)) for a, b in zip(first, last, strict=True)])
            for s in shares
        ]

    def _summed(self, architecture: A) -> float:
        """Seconds of all parts of an architecture."""
        steps = self.supernet.steps(architecture)
        if any(repr(step.key) not in self._parts for step in steps):
            self._measure_parts([steps])
        return sum(self._parts[repr(step.key)] for step in steps)

    @torch.no_grad()
    def _measure_parts(self, members: Sequence[Sequence[Step]]) -> None:
        """Measure those parts of members that have not been."""
        calls: dict[str, Callable[[], Tensor]] = {}
        modules = [module for steps in members for _, part in steps for module in part.modules()]
        training = [module for module in modules if module.training]
        for module in training:
            module.training = False
        try:
            for steps in members:
                x = _images(self.latency.batch_size, self.shape, self.device)
                for key, part in steps:
                    if repr(key) not in self._parts:
                        calls.setdefault(repr(key), partial(part, x))
                    x = part(x)
            times = time_in_turn([*calls.values()], self.latency.repeats)
        finally:
            for module in training:
                module.training = True
        self._parts.update(zip(calls, times, strict=True))


def _images(n: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    images = torch.zeros(n, *shape, device=device)
    return images.to(memory_format=torch.channels_last) if images.ndim == 4 else images
