"""Where networks run."""

from __future__ import annotations

import warnings
from typing import TypeVar

import torch
from torch import nn

__all__ = ["autocast", "available_device", "placed", "resolve_device", "resolve_precision"]

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


def resolve_precision(precision: str, device: torch.device) -> str:
    """Turn a parameter into the precision that networks are trained in.

    Parameters
    ----------
    precision : {"auto", "float32", "bfloat16"}
        "auto" is bfloat16 on a GPU that has it, and float32 elsewhere: CPUs have no fast
        bfloat16 kernels for the gradients of depthwise convolutions.
    device : torch.device

    Returns
    -------
    {"float32", "bfloat16"}
    """
    if precision != "auto":
        return precision
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if fast else "float32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Context in which convolutions and linear layers compute in a precision.

    Parameters, gradients, optimizer states and the statistics of batch norms stay in float32, as
    do softmax and losses.

    Parameters
    ----------
    device : torch.device
    precision : {"float32", "bfloat16"}
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


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
