"""Where networks run."""

from __future__ import annotations

import warnings
from typing import TypeVar

import torch
from torch import nn

__all__ = ["available_device", "placed", "resolve_device"]

M = TypeVar("M", bound=nn.Module)


def resolve_device(device: str | torch.device) -> torch.device:
    """Turn a parameter into a device that is there.

    Parameters
    ----------
    device : str or torch.device
        "auto" is the first NVIDIA GPU, or the CPU without one.

    Raises
    ------
    ValueError
        If it is neither the CPU nor a GPU that torch finds.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        resolved = None
    if resolved is None or resolved.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N'; got {device!r}.")
    if resolved.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(
                f"device={device!r} was asked for, but torch finds no CUDA GPU. "
                "Use device='auto' or 'cpu'."
            )
        if (resolved.index or 0) >= torch.cuda.device_count():
            raise ValueError(
                f"device={device!r} does not exist; the number of GPUs is "
                f"{torch.cuda.device_count()}."
            )
    return resolved


def placed(
    module: M,
    device: str | torch.device,
    layout: torch.memory_format = torch.channels_last,
) -> M:
    """Move a module to a device, its kernels in a memory format; returns it."""
    # torch documents the memory format but leaves it out of its annotations.
    return module.to(device, memory_format=layout)  # type: ignore[call-overload]


def available_device(device: str) -> str:
    """Return ``device`` if it is there, else "cpu" with a warning."""
    try:
        return str(resolve_device(device))
    except ValueError:
        warnings.warn(
            f"The classifier was fitted on {device!r}, which is not here; it predicts on the CPU.",
            UserWarning,
            stacklevel=3,
        )
        return "cpu"
