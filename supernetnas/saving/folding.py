"""The form of a trained network that predicts fastest, kept beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

__all__ = ["for_predictions"]


def for_predictions(network: nn.Module, fold: Callable[[Any], nn.Module]) -> nn.Module:
    """Return the form of a network for predictions, made anew only if its values have changed.

    It is kept beside the network, not in it, so that nothing that is saved or counted changes.

    Parameters
    ----------
    network : torch.nn.Module
        One in training mode, or with hooks, has no such form and is returned itself.
    fold : callable
        Makes the form, as `supernetnas.families.base.Family.folded` does.
    """
    if network.training:
        return network
    if any(module._forward_hooks or module._forward_pre_hooks for module in network.modules()):
        return network
    # Not state_dict, which takes a tenth of the time of one small image.
    tensors = [
        tensor
        for module in network.modules()
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None
    ]
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    versions: list[tuple[float, int]] = [
        (t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors
    ]
    # What is written through `data` or a NumPy view counts no version.
    versions.append((float(nn.utils.get_total_norm(floats, norm_type=1.0)), 0))
    if network not in _FOLDED or _FOLDED[network][0] != versions:
        # The tensors are held, so that no new ones can have the addresses of old ones.
        folded = fold(network)
        if folded is network:  # kept beside itself it would never be freed
            return network
        _FOLDED[network] = versions, tensors, folded
    return _FOLDED[network][2]


_FOLDED: WeakKeyDictionary[nn.Module, tuple[list, list[Tensor], nn.Module]] = WeakKeyDictionary()
