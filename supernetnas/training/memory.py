"""Memory of a training step: how much it keeps, and what to do when there is too little."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["explained_memory_error", "saved_bytes"]


def saved_bytes(function: Callable[[], Any]) -> int:
    """Bytes that a forward pass keeps for its backward pass.

    Parameters
    ----------
    function : callable
        Runs the forward pass.

    Returns
    -------
    int
        Of all storages that are kept, each counted once; parameters, which are there in any case,
        do not count.
    """
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage  # held, so that no address is given out twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    del result
    return sum(storage.nbytes() for storage in kept.values())


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
