"""What a module's stored tensors look like, by which a file is checked before it is loaded."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..storage.formats import TensorSpec

__all__ = ["tensor_specs"]


def tensor_specs(state: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    """Return names, shapes and dtypes of the tensors of a state: floats are stored in float32."""
    return {
        name: TensorSpec(
            tuple(tensor.shape), ("float32",) if tensor.is_floating_point() else ("int64",)
        )
        for name, tensor in state.items()
    }
