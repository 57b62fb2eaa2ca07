"""How networks run while they are trained: precision, compilation, recomputation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

__all__ = ["FLOAT32", "PRECISIONS", "Execution", "fast_inference"]

PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Execution:
    """How a network runs in training. Predictions are made in float32, without any of it.

    Attributes
    ----------
    precision : {"auto", "float32", "bfloat16"}
        What convolutions and linear layers compute in; parameters, gradients and the statistics of
        batch norms stay in float32. "auto" is bfloat16 on a GPU that has it, and float32 elsewhere,
        unless a family of networks is faster otherwise (see
        `supernetnas.families.base.Family.execution`).
    compile : bool or "graph"
        Whether parts of the network are compiled by `torch.compile`. It takes minutes, so it pays
        in long fits on a GPU only; on a CPU it was measured not to pay at all. "graph" instead
        captures whole training steps as CUDA graphs, which costs seconds and saves the launches of
        thousands of small kernels, see `supernetnas.training.captured`; what decides on the host
        how it goes on runs step by step all the same.
    checkpointing : bool
        Whether parts are computed again in the backward pass: a fraction of the memory for some 1.5
        times the time.

    Examples
    --------
    >>> Execution().on(torch.device("cpu")).precision
    'float32'
    """

    precision: str = "auto"
    compile: bool | str = False
    checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(map(repr, PRECISIONS))}; got "
                f"{self.precision!r}."
            )
        for name in ("compile", "checkpointing"):
            if isinstance(value := getattr(self, name), np.bool_):
                object.__setattr__(self, name, bool(value))
        if not (isinstance(self.compile, bool) or self.compile == "graph"):
            raise TypeError(f"compile must be True, False or 'graph'; got {self.compile!r}.")
        if not isinstance(self.checkpointing, bool):
            raise TypeError(f"checkpointing must be True or False; got {self.checkpointing!r}.")

    @property
    def compiled(self) -> bool:
        """Whether parts of the network are compiled."""
        return self.compile is True

    @property
    def captured(self) -> bool:
        """Whether whole steps are captured as graphs."""
        return self.compile == "graph"

    def on(self, device: torch.device) -> Execution:
        """Return the same with the precision that "auto" is on a device."""
        if self.precision != "auto":
            return self
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return replace(self, precision="bfloat16" if fast else "float32")

    def autocast(self, device: torch.device) -> torch.autocast:
        """Context in which a network computes in the precision."""
        enabled = self.on(device).precision == "bfloat16"
        return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def fast_inference(device: torch.device) -> Execution:
    """How products of matrices are computed fastest, where rounding does not matter much.

    As of the features of frozen networks. In bfloat16 where the processor multiplies in it, which
    takes a third of the time.
    """
    if device.type != "cpu":
        return Execution().on(device)
    # What torch knows of the processor, in versions that say so.
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    fast = known.get("avx512_bf16") or known.get("amx_bf16")
    return Execution("bfloat16" if fast else "float32")


FLOAT32 = Execution("float32")
"""As predictions are made, and whatever has not been placed."""
