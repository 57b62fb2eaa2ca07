"""Random initial weights that leave torch's global random state as it was."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

__all__ = ["seeded_modules"]


_BUILD_LOCK = threading.RLock()


@contextlib.contextmanager
def seeded_modules(seed: int) -> Iterator[None]:
    """Initialise modules from ``seed`` and leave the global random state of torch as it was.

    Weight initialisation knows no other source than the global generator, so the state is forked
    around it; a lock keeps threads that build networks at the same time from mixing their draws.
    """
    with _BUILD_LOCK, torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        yield
