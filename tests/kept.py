"""How much a forward pass keeps."""

import torch


def saved_bytes(function):
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
    kept = {}

    def pack(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage  # held, so that no address is given out twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    del result
    return sum(storage.nbytes() for storage in kept.values())
