"""Training steps that a GPU replays as one graph.

A step of a search launches thousands of small kernels, and on a fast GPU launching them takes
longer than running them. A CUDA graph is recorded once and then launched as a whole. It repeats
what it has recorded on the same memory: whatever changes from step to step has to be in tensors
that are written before, and nothing in a step may depend on values on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CapturedStep", "Recorder"]

Argument = Tensor | float | None
Results = tuple[Tensor, ...]

_WARM_UP = 3  # steps before the recording, in which libraries choose kernels and states are made


class Recorder:
    """Records functions as CUDA graphs, which share their memory.

    Parameters
    ----------
    device : torch.device
        A GPU.
    generators : sequence of torch.Generator
        On the device: what the functions draw from, besides the global one. Replays go on drawing.

    Raises
    ------
    ValueError
        If the device is no GPU.
    """

    def __init__(self, device: torch.device, generators: Sequence[torch.Generator]) -> None:
        if device.type != "cuda":
            raise ValueError(f"Steps are captured as graphs on a GPU only, not on {device}.")
        self._generators = generators
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm(self, function: Callable[[], Results]) -> Results:
        """Run a function on the stream that it will be recorded on."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            results = function()
        current.wait_stream(self._stream)
        return results

    def record(self, function: Callable[[], Results]) -> tuple[Callable[[], None], Results]:
        """Record a function without running it; returns what runs it, and where results will be."""
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        results: Results = ()
        failures: list[Exception] = []
        try:
            with (
                torch.cuda.stream(self._stream),  # which is left even if the recording cannot end
                torch.cuda.graph(
                    graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                ),
            ):
                try:
                    results = function()
                except Exception as error:
                    failures.append(error)
                    raise
        except Exception:
            if failures:  # what ended the recording, not that it was ended
                raise failures[0] from None
            raise
        return graph.replay, results


@dataclass
class _Recording:
    """A step for arguments of certain shapes."""

    arguments: tuple[Tensor | None, ...]
    calls: int = 0
    replay: Callable[[], None] | None = None
    results: Results = ()


class CapturedStep:
    """A step that runs as ever a few times, is recorded, and is replayed from then on.

    There is a recording for each combination of shapes, of which batches whose sizes differ by one
    give few. All calls are real steps: nothing is computed for the recording's sake.

    Parameters
    ----------
    step : callable
        Takes tensors or None, changes state in place and returns a tuple of tensors. It must not
        read a value of a tensor, nor keep one of its tensors for a later call.
    device : torch.device
        Where all its tensors are.
    recorder : Recorder
    """

    def __init__(
        self, step: Callable[..., Results], device: torch.device, recorder: Recorder
    ) -> None:
        self._step, self._device, self._recorder = step, device, recorder
        self._recordings: dict[tuple, _Recording] = {}

    def __call__(self, *arguments: Argument) -> Results:
        """Run the step.

        Parameters
        ----------
        *arguments : torch.Tensor, float or None
            What the step takes; a number becomes a tensor of shape ().

        Returns
        -------
        tuple of torch.Tensor
        """
        key = tuple(a.shape if isinstance(a, Tensor) else type(a) for a in arguments)
        if key not in self._recordings:
            self._recordings[key] = _Recording(tuple(map(self._own, arguments)))
        recording = self._recordings[key]
        for own, given in zip(recording.arguments, arguments, strict=True):
            if own is None or given is None:
                continue
            if isinstance(given, Tensor):
                own.copy_(given, non_blocking=True)
            else:
                own.fill_(given)

        def run() -> Results:
            return self._step(*recording.arguments)

        if recording.calls < _WARM_UP:
            recording.calls += 1
            return self._recorder.warm(run)
        if recording.replay is None:
            recording.replay, recording.results = self._recorder.record(run)
        recording.replay()
        # The memory of the results belongs to the next step.
        return tuple(result.clone() for result in recording.results)

    def _own(self, argument: Argument) -> Tensor | None:
        if argument is None:
            return None
        if isinstance(argument, Tensor):
            return torch.empty_like(argument, device=self._device)
        # What fused optimizers read a learning rate as, whatever the default type is.
        return torch.zeros((), dtype=torch.float32, device=self._device)
