"""What to do when a training step finds too little memory."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

import torch

__all__ = ["explained_memory_error", "explained_shortage"]


@contextlib.contextmanager
def explained_memory_error(batch_size: int, checkpointing: bool) -> Iterator[None]:
    """Turn an allocation that fails into a MemoryError that says what to do.

    Parameters
    ----------
    batch_size : int
        Of the training that runs inside.
    checkpointing : bool
        Whether gradient checkpointing is on already.
    """
    remedies = []
    if batch_size > 2:
        remedies.append(f"batch_size={max(batch_size // 2, 2)}")
    if not checkpointing:
        remedies.append("precision=Execution(checkpointing=True)")
    remedies.append("a smaller image_size")
    doing, remedy = f"train on batches of {batch_size} images", f"Try {' or '.join(remedies)}."
    with explained_shortage(doing, remedy):
        yield


@contextlib.contextmanager
def explained_shortage(doing: str, remedy: str) -> Iterator[None]:
    """Turn an allocation that fails into a MemoryError; a decorator, too.

    Parameters
    ----------
    doing : str
        What memory is too little for, as an infinitive.
    remedy : str
        A sentence.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        detail = (str(error) or "no detail").splitlines()[0]
        raise MemoryError(f"There is too little memory to {doing}. {remedy} ({detail})") from error


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # A CPU allocation that fails is a plain RuntimeError, and so is one for a thread's stack.
    text = str(error)
    return any(
        part in text
        for part in ("DefaultCPUAllocator", "not enough memory", "can't start new thread")
    )
