"""The supernet's cell in few large kernels: the same function, for devices where launches count.

A GPU runs the small operations of a cell faster than they can be launched one by one. Here the
operations that can run at the same time run as one. A cell has four waves: the two inputs, which
feed all four nodes, then the first, second and third node. In a wave

- the depthwise convolutions of all operations that read one state are one convolution with several
  kernels per channel, 3x3 kernels padded with zeros to 5x5 where both occur;
- the pointwise convolutions are one grouped convolution, and their batch norms one batch norm, of
  which an operation's weight is the scale where the operation ends with it;
- each pooling of a state is computed once;
- the sums over operations and edges are one product of a small matrix, which holds the operation
  weights, with what there is to sum.

Batch norms run without running statistics; these are updated together after the last cell.
`SupernetCell.forward` is the definition here, too, and the tests hold this to it. On a CPU
`supernetnas.families.cells.fused` is faster: there memory traffic counts and not launches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kernels import State, diagonal_phases, input_state, pooling
from .modules import SupernetCell
from .operations import DilatedConv, FactorizedReduce, Pool, SeparableConv, Zero
from .space import N_NODES, edge_index

__all__ = ["Statistics", "can_merge", "merged_cell"]


class Statistics:
    """Batch statistics of a forward pass, with which running statistics are updated at its end."""

    def __init__(self) -> None:
        self._norms: list[list[nn.BatchNorm2d]] = []
        self._means: list[Tensor] = []
        self._inverse_deviations: list[Tensor] = []
        self._corrections: list[float] = []

    def batch_norm(
        self, norms: list[list[nn.BatchNorm2d]], x: Tensor, scale: Tensor | None
    ) -> Tensor:
        """Normalise blocks of channels by a batch norm each.

        Parameters
        ----------
        norms : list of list of torch.nn.BatchNorm2d
            For each block the batch norms without scale that see it; in training more than one for
            a pooling that several edges share.
        x : torch.Tensor of shape (n, blocks * c, h, w)
        scale : torch.Tensor of shape (blocks * c,), optional
        """
        first = norms[0][0]
        if not first.training:
            mean = torch.cat([bn.running_mean for (bn,) in norms])
            variance = torch.cat([bn.running_var for (bn,) in norms])
            return F.batch_norm(x, mean, variance, scale, None, False, 0.0, first.eps)
        result, mean, inverse = torch.native_batch_norm(
            x, scale, None, None, None, True, 0.0, first.eps
        )
        if first.momentum:
            n = x.numel() // x.shape[1]
            self._norms += norms
            self._means.append(mean.detach())
            self._inverse_deviations.append(inverse.detach())
            self._corrections += [n / max(n - 1, 1)] * len(norms)
        return result

    @torch.no_grad()
    def update(self) -> None:
        """Move the running statistics towards those of the batch."""
        if not self._norms:
            return
        sizes = [bn.num_features for bn, *_ in self._norms]
        momentum, eps = self._norms[0][0].momentum, self._norms[0][0].eps
        means = torch.cat(self._means).split(sizes)
        inverse = torch.cat(self._inverse_deviations)
        variances = inverse.square_().reciprocal_().sub_(eps).clamp_(min=0).split(sizes)
        variances = torch._foreach_mul(variances, self._corrections)
        pairs = [(bn, i) for i, norms in enumerate(self._norms) for bn in norms]
        torch._foreach_lerp_(
            [bn.running_mean for bn, _ in pairs], [means[i] for _, i in pairs], momentum
        )
        torch._foreach_lerp_(
            [bn.running_var for bn, _ in pairs], [variances[i] for _, i in pairs], momentum
        )


# An operation of the kind it is listed under, row of the node it feeds, entry of its weight.
_Job = tuple[Any, int, int]


@dataclass
class _Wave:
    """What runs together: the edges out of one state, or out of the two inputs.

    Operations are listed by state; of those with a depthwise convolution 3x3 comes first.
    """

    states: list[int]
    n_nodes: int
    separable: list[list[SeparableConv]]
    dilated: list[list[DilatedConv]]
    reduced: list[list[FactorizedReduce]]
    pools: list[tuple[int, list[Pool]]] = field(default_factory=list)  # position of state, twins
    skipped: list[int] = field(default_factory=list)  # positions of states


class _Plan:
    """How a cell is computed, and which weights go where.

    Poolings of one state share their batch statistics (``twins``), but not the running statistics,
    which differ as soon as searches along single paths have passed by some of them.
    """

    def __init__(self, cell: SupernetCell, width: int, device: torch.device, twins: bool) -> None:
        zero, one = len(cell.edges) * width, len(cell.edges) * width + 1
        self.waves: list[_Wave] = []
        self.groups: list[tuple[int, int, int]] = []
        # Depthwise convolutions in the order of their use: 3x3, 3x3 beside 5x5, and 5x5.
        self.plain: list[nn.Conv2d] = []
        self.padded: list[nn.Conv2d] = []
        self.large: list[nn.Conv2d] = []
        self.pointwise: list[nn.Conv2d] = []
        self.pointwise_sizes: list[int] = []
        self.scale_sizes: list[int] = []
        self.matrix_sizes: list[int] = []
        scales: list[int] = []
        matrices: list[int] = []
        for states in ([0, 1], [2], [3], [4]):
            first = max(states[0] - 1, 0)
            jobs = _jobs(cell, states, first, width)
            separable, dilated, reduced = (
                [[job[0] for job in of_state] for of_state in jobs[kind]]
                for kind in (SeparableConv, DilatedConv, FactorizedReduce)
            )
            wave = _Wave(states, N_NODES - first, separable, dilated, reduced)
            self._add_convolutions(wave)
            rows: dict[type, list[_Job]] = {k: [j for of in v for j in of] for k, v in jobs.items()}
            entries = {kind: [entry for *_, entry in found] for kind, found in rows.items()}
            # The first batch norm ends dilated convolutions but is within separable ones.
            for block in (
                [one] * len(rows[SeparableConv]) + entries[DilatedConv],
                entries[SeparableConv],
                entries[FactorizedReduce],
            ):
                scales += block
                self.scale_sizes.append(len(block))
            # What is summed, in the order in which `_wave` puts it together.
            columns = [
                {node: one}
                for kind in (SeparableConv, DilatedConv, FactorizedReduce)
                for _, node, _ in rows[kind]
            ]
            for position, of_state in enumerate(jobs[Pool]):
                groups: dict[type | Pool, list[_Job]] = defaultdict(list)
                for job in of_state:
                    groups[type(job[0].pool) if twins else job[0]].append(job)
                for alike in groups.values():
                    wave.pools.append((position, [job[0] for job in alike]))
                    columns.append({node: entry for _, node, entry in alike})
            for position, of_state in enumerate(jobs[nn.Identity]):
                if of_state:
                    wave.skipped.append(position)
                    columns.append({node: entry for _, node, entry in of_state})
            matrices += [c.get(row, zero) for row in range(wave.n_nodes) for c in columns]
            self.matrix_sizes.append(wave.n_nodes * len(columns))
            self.waves.append(wave)
        self.n_scales = len(scales)
        self.entries = torch.tensor(scales + matrices, device=device)

    def _add_convolutions(self, wave: _Wave) -> None:
        first = [
            *([op[1] for op in of_state] for of_state in wave.separable),
            *([op.depthwise for op in of_state] for of_state in wave.dilated),
        ]
        second = [[op[5] for op in of_state] for of_state in wave.separable]
        mixed = len({conv.kernel_size for of_state in second for conv in of_state}) > 1
        for convs in first:
            self._add_group(convs, len({conv.kernel_size for conv in convs}) > 1)
        for convs in second:
            self._add_group(convs, mixed)
        separable = [op for of_state in wave.separable for op in of_state]
        dilated = [op for of_state in wave.dilated for op in of_state]
        ones = [op[2] for op in separable] + [op.pointwise for op in dilated]
        twos = [op[6] for op in separable]
        for convs in (ones, twos):
            self.pointwise += convs
            self.pointwise_sizes.append(sum(conv.out_channels for conv in convs))

    def _add_group(self, convs: list[nn.Conv2d], pad: bool) -> None:
        small = [conv for conv in convs if conv.kernel_size[0] == 3]
        large = [conv for conv in convs if conv.kernel_size[0] == 5]
        (self.padded if pad else self.plain).extend(small)
        self.large += large
        self.groups.append((0, len(small), len(large)) if pad else (len(small), 0, len(large)))

    def kernels(self) -> Iterator[list[Tensor]]:
        """Yield for each group its depthwise kernels, (n, c, 1, k, k), in one or two pieces."""
        stacks = [
            torch.stack([conv.weight for conv in convs]) if convs else None
            for convs in (self.plain, self.padded, self.large)
        ]
        if stacks[1] is not None:
            stacks[1] = F.pad(stacks[1], (1, 1, 1, 1))
        parts = [
            iter(()) if stack is None else iter(stack.split([g[i] for g in self.groups if g[i]]))
            for i, stack in enumerate(stacks)
        ]
        for group in self.groups:
            yield [next(part) for part, size in zip(parts, group, strict=True) if size]


def _jobs(
    cell: SupernetCell, states: list[int], first_node: int, width: int
) -> dict[type, list[list[_Job]]]:
    """Operations of a wave by kind and state."""
    jobs: dict[type, list[list[_Job]]] = {kind: [[] for _ in states] for kind in _MERGED}
    for position, state in enumerate(states):
        for node in range(first_node, N_NODES):
            edge = edge_index(node, state)
            for index, operation in enumerate(cell.edges[edge]):
                job = operation, node - first_node, edge * width + index
                jobs[type(operation)][position].append(job)
        jobs[SeparableConv][position].sort(key=lambda job: job[0][1].kernel_size)
        jobs[DilatedConv][position].sort(key=lambda job: job[0].depthwise.kernel_size)
    return jobs


_MERGED = (SeparableConv, DilatedConv, FactorizedReduce, Pool, nn.Identity, Zero)
_PLANS: WeakKeyDictionary[nn.Module, dict[tuple, _Plan]] = WeakKeyDictionary()


def can_merge(cell: SupernetCell) -> bool:
    """Whether all operations of a cell are of the kinds that are known here.

    Batch norms that share statistics among processes are not: they compute them by themselves.
    """
    known = all(type(operation) in _MERGED for edge in cell.edges for operation in edge)
    return known and not isinstance(cell.input1[-1], nn.SyncBatchNorm)


def _plan(cell: SupernetCell, weights: Tensor) -> _Plan:
    plans = _PLANS.setdefault(cell, {})
    # By the mode of a batch norm: a recalibration trains them within a cell in evaluation mode.
    key = (weights.shape[1], weights.device, cell.input1[-1].training)
    if key not in plans:
        plans[key] = _Plan(cell, *key)
    return plans[key]


def merged_cell(
    cell: SupernetCell, before_last: State, last: State, weights: Tensor, statistics: Statistics
) -> State:
    """Compute ``cell(before_last.value, last.value, weights)``.

    Parameters
    ----------
    cell : SupernetCell
        One that `can_merge` accepts.
    before_last, last : State
        Outputs of the two cells before, of shape (n, c, h, w).
    weights : torch.Tensor of shape (14, k)
        Operation weights.
    statistics : Statistics
        Of the forward pass; to be updated after its last cell.

    Returns
    -------
    State
        The four nodes concatenated.
    """
    plan = _plan(cell, weights)
    inputs = (cell.input0, before_last), (cell.input1, last)
    states = [input_state(module, value).value for module, value in inputs]
    channels = states[0].shape[1]
    constants = torch.arange(2, dtype=weights.dtype, device=weights.device)
    chosen = torch.cat([weights.flatten(), constants]).index_select(0, plan.entries)
    scales, matrices = chosen.split([plan.n_scales, len(plan.entries) - plan.n_scales])
    scales = scales.float() if scales.dtype == torch.bfloat16 else scales
    scales = scales[:, None].expand(-1, channels).reshape(-1)
    parts = _Parts(
        plan.kernels(),
        _split([conv.weight for conv in plan.pointwise], plan.pointwise_sizes),
        iter(scales.split([n * channels for n in plan.scale_sizes])),
        iter(matrices.split(plan.matrix_sizes)),
    )
    totals: Tensor | None = None
    for wave in plan.waves:
        own = states if len(wave.states) == 2 else states[-1:]
        sums = _wave(wave, own, parts, statistics)
        totals = sums if totals is None else totals + sums
        nodes = totals.split([1, wave.n_nodes - 1], dim=1) if wave.n_nodes > 1 else (totals, None)
        states.append(nodes[0].squeeze(1))
        totals = nodes[1]
    return State(torch.cat(states[2:], dim=1))


def _split(tensors: list[Tensor], sizes: list[int]) -> Iterator[Tensor]:
    return iter(torch.cat(tensors).split(sizes) if tensors else [None] * len(sizes))


@dataclass
class _Parts:
    """Packed weights of a cell, in the order of their use."""

    kernels: Iterator[list[Tensor]]
    pointwise: Iterator[Tensor]
    scales: Iterator[Tensor]
    matrices: Iterator[Tensor]


def _wave(wave: _Wave, states: list[Tensor], parts: _Parts, statistics: Statistics) -> Tensor:
    """Sums of a wave's operations over the nodes they feed, of shape (n, nodes, c, h, w)."""
    n, channels = states[0].shape[:2]
    separable = [op for of_state in wave.separable for op in of_state]
    dilated = [op for of_state in wave.dilated for op in of_state]
    reduced = [op for of_state in wave.reduced for op in of_state]
    stride = _stride(wave)
    relus = [F.relu(state) for state in states] if separable or dilated or reduced else []
    phases = [diagonal_phases(x) for x in relus] if stride == 2 and relus else []

    first = []
    for x, operations in zip(relus or states, wave.separable, strict=True):
        kernels = next(parts.kernels)
        if operations:
            first.append(_depthwise(x, kernels, stride, 1))
    for position, of_state in enumerate(wave.dilated):
        kernels = next(parts.kernels)
        if of_state:
            x = phases[position][0] if phases else relus[position]
            first.append(_depthwise(x, kernels, 1, 1 if phases else 2))
    second = [piece for _ in wave.separable for piece in next(parts.kernels)]
    pointwise = next(parts.pointwise), next(parts.pointwise)
    scales = [next(parts.scales) for _ in range(3)]

    blocks: list[Tensor] = []
    if first:
        # From (n, c, operations, h, w) to one block of channels per operation.
        hidden = torch.cat(first, dim=2).transpose(1, 2).flatten(1, 2)
        hidden = F.conv2d(hidden, pointwise[0], groups=len(separable) + len(dilated))
        norms = [[op[3]] for op in separable] + [[op.bn] for op in dilated]
        hidden = statistics.batch_norm(norms, hidden, scales[0])
        if separable:
            inner = hidden
            if dilated:
                inner, hidden = hidden.split(
                    [len(separable) * channels, len(dilated) * channels], 1
                )
            kernel = torch.cat(second).flatten(0, 1)
            inner = F.conv2d(
                F.relu(inner), kernel, padding=kernel.shape[-1] // 2, groups=len(kernel)
            )
            inner = F.conv2d(inner, pointwise[1], groups=len(separable))
            blocks.append(statistics.batch_norm([[op[7]] for op in separable], inner, scales[1]))
        if dilated:
            blocks.append(hidden)
    if reduced:
        halves = [
            _reductions(even, odd, operations)
            for (even, odd), operations in zip(phases, wave.reduced, strict=True)
            if operations
        ]
        hidden = torch.cat(halves, dim=1) if len(halves) > 1 else halves[0]
        blocks.append(statistics.batch_norm([[op.bn] for op in reduced], hidden, scales[2]))
    if wave.pools:
        results: dict[tuple[int, type], Tensor] = {}
        keys = [(at, type(twins[0].pool)) for at, twins in wave.pools]
        for (at, twins), key in zip(wave.pools, keys, strict=True):
            if key not in results:
                results[key] = pooling(twins[0].pool, states[at])
        norms = [[pool.bn for pool in twins] for _, twins in wave.pools]
        pooled = torch.cat([results[key] for key in keys], dim=1)
        blocks.append(statistics.batch_norm(norms, pooled, None))
    blocks += [states[position] for position in wave.skipped]

    height, width = blocks[0].shape[-2:]
    everything = torch.cat(blocks, dim=1) if len(blocks) > 1 else blocks[0]
    everything = everything.reshape(n, -1, channels * height * width)
    matrix = next(parts.matrices).view(wave.n_nodes, -1).to(everything.dtype)
    sums = torch.bmm(matrix.expand(n, -1, -1), everything)
    return sums.view(n, wave.n_nodes, channels, height, width)


def _depthwise(x: Tensor, kernels: list[Tensor], stride: int, dilation: int) -> Tensor:
    """Apply several kernels per channel: (n, c, h, w) to (n, c, kernels, h, w)."""
    pieces = [piece.transpose(0, 1) for piece in kernels]
    kernel = torch.cat(pieces, dim=1) if len(pieces) > 1 else pieces[0]
    n_kernels, size = kernel.shape[1], kernel.shape[-1]
    result = F.conv2d(
        *(x, kernel.flatten(0, 1), None, stride, dilation * (size // 2), dilation, x.shape[1])
    )
    return result.unflatten(1, (x.shape[1], n_kernels))


def _reductions(even: Tensor, odd: Tensor, operations: list[FactorizedReduce]) -> Tensor:
    """Several factorized reductions of one state, one after the other along the channels."""
    halves = []
    for phase, convs in (
        (even, [op.conv_even.weight for op in operations]),
        (odd, [op.conv_odd.weight for op in operations]),
    ):
        half = F.conv2d(phase, torch.cat(convs) if len(convs) > 1 else convs[0])
        halves.append(half.unflatten(1, (len(operations), -1)))
    return torch.cat(halves, dim=2).flatten(1, 2)


def _stride(wave: _Wave) -> int:
    """Stride of a wave's operations; 1 where none has any."""
    strides = [
        *(op[1].stride[0] for of_state in wave.separable for op in of_state),
        *(op.stride for of_state in wave.dilated for op in of_state),
        *(pool.stride for _, twins in wave.pools for pool in twins),
        *(2 for of_state in wave.reduced for _ in of_state),
    ]
    return strides[0] if strides else 1
