"""Several processes that train one supernet, each on its part of every batch.

The processes are those of torchrun, or of a default process group that the caller made. All of
them draw the same batches and perturbations from equal generators, compute the gradients on their
part of a batch, and average them, in one all-reduce per step, before the same optimizer step.
These are the semantics of DistributedDataParallel; its hooks are not used because the search asks
for some gradients at a time (`torch.autograd.grad`) and never fills all of them.

A batch is that of a single process, divided into equal parts; up to ``size - 1`` of the shuffled
images sit out an epoch. So neither the number of steps nor the learning rate depends on the number
of processes, and a checkpoint goes on with another number. Augmentations and the noise of
`noise` operations are drawn by each process for itself. Batch norm sees the images of its process;
on GPUs `torch.nn.SyncBatchNorm` takes its place, which sees those of all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["ALONE", "Processes", "is_first", "process_group"]

_TIMEOUT = timedelta(days=7)
"""How long processes wait for the slowest; torchrun ends them all if one dies."""


class Processes:
    """This process among those that train together.

    Parameters
    ----------
    rank, size : int
        Number of this process, and how many there are.
    device : torch.device
        Where collective operations take place.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | str = "cpu") -> None:
        self.rank, self.size, self.device = rank, size, torch.device(device)

    def own_part(self, order: Tensor) -> Tensor:
        """Every ``size``-th of shuffled indices; as many for each process, so some may be left."""
        n_divided = len(order) - len(order) % self.size
        return order[self.rank : n_divided : self.size].contiguous()

    def own_generator(self, common: torch.Generator) -> torch.Generator:
        """Return a generator with draws of its own, and keep the common ones equal."""
        if self.size == 1:
            return common
        seed = torch.randint(2**48, (), generator=common, device=common.device)
        return torch.Generator().manual_seed(int(seed) * self.size + self.rank)

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up the tensors of all processes."""
        if self.size == 1:
            return tensor
        total = tensor.detach().clone(memory_format=torch.contiguous_format).to(self.device)
        dist.all_reduce(total)
        return total.to(tensor.device)

    def mean(self, tensor: Tensor) -> Tensor:
        """Average the tensors of all processes."""
        return self.sum(tensor) / self.size

    def average(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Average gradients over the processes, in one collective operation.

        Parameters
        ----------
        gradients : sequence of torch.Tensor or None
            None at the same places in every process.
        """
        given = [gradient for gradient in gradients if gradient is not None]
        if self.size == 1 or not given:
            return list(gradients)
        flat = self.mean(torch.cat([gradient.reshape(-1) for gradient in given]))
        parts = iter(flat.split([gradient.numel() for gradient in given]))
        return [None if g is None else next(parts).view(g.shape) for g in gradients]

    def average_statistics(self, module: nn.Module) -> None:
        """Give the running statistics of all batch norms their mean over the processes."""
        if self.size == 1:
            return
        buffers = [b for b in module.buffers() if b.is_floating_point()]
        for buffer, mean in zip(buffers, self.average(buffers), strict=True):
            if mean is not None:
                buffer.copy_(mean)

    def equalise(self, module: nn.Module) -> None:
        """Give all processes the parameters and statistics of the first."""
        if self.size == 1:
            return
        for tensor in module.state_dict().values():
            copy = tensor.detach().clone(memory_format=torch.contiguous_format).to(self.device)
            dist.broadcast(copy, src=0)
            tensor.copy_(copy)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return bool(flag) if self.size == 1 else bool(self.sum(torch.tensor(int(flag))) > 0)

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.any(False)

    def check_enough(self, *counts: int) -> None:
        """Refuse data of which a process would get less than the two images of a batch norm."""
        if self.size > 1 and min(counts) < 2 * self.size:
            raise ValueError(
                f"{self.size} processes need at least {2 * self.size} images to train weights and "
                f"as many to train alphas; there are {' and '.join(map(str, counts))}."
            )

    def check_same(self, number: int, what: str) -> None:
        """Refuse to go on if a number is not the same in all processes."""
        if self.size == 1:
            return
        numbers = torch.zeros(self.size, dtype=torch.int64)
        numbers[self.rank] = number
        of_all = self.sum(numbers).tolist()
        if len(set(of_all)) > 1:
            raise RuntimeError(
                f"The processes differ in {what}: {of_all}. They must see the same files: use a "
                "folder that all machines share."
            )


ALONE = Processes()
"""A process that trains by itself."""


@contextmanager
def process_group(device: torch.device) -> Iterator[Processes]:
    """Find the processes to train with, and join them.

    Parameters
    ----------
    device : torch.device
        Where this process trains. "cuda" without a number is the GPU of torchrun's local rank.

    Yields
    ------
    Processes
        Those of the default process group, if there is one; else those that torchrun started,
        joined with NCCL if each has a GPU of its own and with gloo otherwise; else `ALONE`.
    """
    if not dist.is_available() or (not dist.is_initialized() and not _under_torchrun()):
        yield ALONE
        return
    joined = not dist.is_initialized()
    if joined:
        _join(device)
    try:
        where = device if dist.get_backend() == "nccl" else "cpu"
        yield Processes(dist.get_rank(), dist.get_world_size(), where)
    finally:
        if joined:
            dist.destroy_process_group()


def is_first() -> bool:
    """Whether this process is the one that reports, where torchrun started several."""
    return not dist.is_available() or not _under_torchrun() or os.environ["RANK"] == "0"


def _under_torchrun() -> bool:
    return dist.is_torchelastic_launched() and int(os.environ.get("WORLD_SIZE", 1)) > 1


def _join(device: torch.device) -> None:
    backend = "gloo"
    if device.type == "cuda":
        n_gpus, local_rank = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", 0))
        if device.index is None:
            torch.cuda.set_device(local_rank % n_gpus)
        if device.index is None and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) <= n_gpus:
            backend = "nccl"
    dist.init_process_group(backend, timeout=_TIMEOUT)
