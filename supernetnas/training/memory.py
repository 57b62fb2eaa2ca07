"""What to do when a training step finds too little memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["explained_memory_error"]


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
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        remedies = []
        if batch_size > 2:
            remedies.append(f"batch_size={max(batch_size // 2, 2)}")
        if not checkpointing:
            remedies.append("gradient_checkpointing=True")
        remedies.append("a smaller image_size")
        detail = (str(error) or "no detail").splitlines()[0]
        raise MemoryError(
            f"There is too little memory to train on batches of {batch_size} images. Try "
            f"{' or '.join(remedies)}. ({detail})"
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # A CPU allocation that fails is a plain RuntimeError.
    text = str(error)
    return "DefaultCPUAllocator" in text or "not enough memory" in text
