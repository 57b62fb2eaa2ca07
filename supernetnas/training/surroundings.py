"""What torch computes under, whatever the program around has set.

A default dtype or device, a gradient mode or an autocast of the caller's would change how networks
are built and what they compute, or keep them from being trained. Public functions that build, train
or apply networks therefore run under their own, and leave the caller's as they were.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["own_surroundings"]

_PROCESS = os.getpid()


@contextlib.contextmanager
def own_surroundings() -> Iterator[None]:
    """Compute in float32, on the CPU unless told otherwise, with gradients, without autocast.

    In a process that was forked after this module was imported, on one thread: the threads that
    OpenMP had in the parent are missing there, and it would wait for them for ever.

    All of these are settings of a thread, changed for this one alone, but for the default dtype,
    which is one for the process: where it is not float32, it is until the last thread leaves.
    """
    import torch  # here, so that what computes with NumPy can be imported without it

    with contextlib.ExitStack() as stack:
        stack.enter_context(_default_dtype)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if os.getpid() != _PROCESS and (n_threads := torch.get_num_threads()) > 1:
            torch.set_num_threads(1)
            stack.callback(torch.set_num_threads, n_threads)
        yield


class _DefaultDtype:
    """Makes float32 the default from the first entry, of any thread, to the last exit."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._theirs: torch.dtype | None = None

    def __enter__(self) -> None:
        import torch

        with self._lock:
            if not self._inside and (dtype := torch.get_default_dtype()) != torch.float32:
                self._theirs = dtype
                torch.set_default_dtype(torch.float32)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        import torch

        with self._lock:
            self._inside -= 1
            if not self._inside and self._theirs is not None:
                torch.set_default_dtype(self._theirs)
                self._theirs = None


_default_dtype = _DefaultDtype()
