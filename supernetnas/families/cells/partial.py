"""A cell supernet whose operations see a share of the channels only.

Partial channel connections of PC-DARTS (Xu et al., "PC-DARTS: Partial Channel Connections for
Memory-Efficient Architecture Search", ICLR 2020, section 3.2), which DrNAS uses, too: on each edge
the operations run on the first ``1/K`` of the channels, the others bypass them (through a 2x2 max
pooling where the edge halves the image), both are concatenated and the channels shuffled, so that
the next operations see others. With edge weights (section 3.3 there), each edge is multiplied by
the softmax of its beta over the incoming edges of its node.

All edges of a node share one shuffle here, which is the same function: it is linear. What leaves a
cell is not shuffled, in contrast to the paper's: a convolution of 1x1 or the classifier comes next,
so the functions are the same, but the channels have the order that weights of an ordinary supernet
expect, and come back in it.

Where K does not divide the channels, the operations get the nearest whole number of them; and two
at least, since a reduction needs two halves. For K = 4 that means from 8 channels on.

Weights come from and go back to an ordinary `CellSupernet`, so that zoos, their files and what
inherits from them know nothing of partial channels. Its stem, its cells' inputs and its classifier
are taken as they are; of each operation the leading channels of every tensor are. Going back, the
leading channels are replaced by what was trained.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial as bound

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...training.seeds import seeded_modules
from ..module_types import ModuleListOf
from .kernels import recomputed
from .modules import SupernetCell
from .operations import FactorizedReduce, make_operation
from .space import EDGE_SOURCES, N_NODES, CellKind, edge_stride, edges_into
from .supernet import CellSupernet

__all__ = ["PartialCell", "PartialSupernet", "active_channels", "channel_shuffle"]

PRUNED = -1e4
"""Alpha of an operation that was pruned, in the supernet that `PartialSupernet.full` returns."""


def active_channels(channels: int, partial: int) -> int:
    """Channels that the operations see: ``channels / partial``, whole, and at least two."""
    return min(channels, max(2, round(channels / partial)))


def channel_shuffle(channels: int, groups: int) -> Tensor:
    """Positions that the shuffled channels come from, of shape (channels,), int64.

    The channels are written row by row in ``groups`` rows and read column by column; a last row
    may be incomplete.
    """
    columns = -(-channels // groups)
    return (torch.arange(channels) % columns).argsort(stable=True)


class PartialCell(nn.Module):
    """A cell of a `PartialSupernet`.

    Parameters
    ----------
    cell : SupernetCell
        Whose inputs this cell takes over, and whose operations' leading channels.
    names : tuple of tuple of str
        Operations of each edge.
    kind : CellKind
    partial : int
        The paper's K: operations see one in so many channels.
    """

    shuffle: Tensor

    def __init__(
        self, cell: SupernetCell, names: tuple[tuple[str, ...], ...], kind: CellKind, partial: int
    ) -> None:
        super().__init__()
        self.input0, self.input1 = cell.input0, cell.input1
        self.kind, self.names = kind, names
        self.channels = cell.input1[1].out_channels
        self.narrow(partial)
        with torch.no_grad():
            for wide, places, narrow in self._pairs(cell):
                narrow.copy_(wide[places])

    def narrow(self, partial: int) -> None:
        """Build new operations for another K."""
        self.partial = partial
        self.active = active_channels(self.channels, partial)
        like = self.input1[1].weight
        with seeded_modules(0):  # the initial values are overwritten
            self.edges = ModuleListOf(
                ModuleListOf(
                    make_operation(name, self.active, edge_stride(self.kind, state), affine=False)
                    for name in names
                )
                for names, state in zip(self.names, EDGE_SOURCES, strict=True)
            ).to(like.device, like.dtype)
        self.register_buffer(
            "shuffle", channel_shuffle(self.channels, partial).to(like.device), persistent=False
        )

    def _pairs(self, cell: SupernetCell) -> Iterator[tuple[Tensor, tuple, Tensor]]:
        """Tensors of an ordinary cell's operations, what of each is used, and the partial one."""
        wide = cell.edges.state_dict(keep_vars=True)
        for name, narrow in self.edges.state_dict(keep_vars=True).items():
            edge, index, part, *_ = name.split(".")
            places: tuple[slice | Tensor, ...] = tuple(slice(n) for n in narrow.shape)
            operation = self.edges[int(edge)][int(index)]
            if isinstance(operation, FactorizedReduce) and part == "bn" and narrow.ndim:
                # It follows two convolutions, and the leading channels of both are used.
                half = len(narrow) // 2
                odd = self.channels // 2 + torch.arange(len(narrow) - half)
                places = (torch.cat([torch.arange(half), odd]).to(narrow.device),)
            yield wide[name], places, narrow

    def write_back(self, cell: SupernetCell) -> None:
        """Replace the leading channels of an ordinary cell's operations by this cell's."""
        for wide, places, narrow in self._pairs(cell):
            wide[places] = narrow

    def forward(
        self,
        before_last: Tensor,
        last: Tensor,
        weights: Tensor,
        edge_weights: Tensor | None,
        kept: list[list[int]],
    ) -> Tensor:
        states, outputs = [self.input0(before_last), self.input1(last)], list[Tensor]()
        # An edge whose operations all weigh nothing is off, and so is what bypasses them.
        scales = (weights.sum(1) != 0).to(weights.dtype)
        if edge_weights is not None:
            scales = scales * edge_weights
        for node in range(N_NODES):
            terms = []
            for state, edge in enumerate(edges_into(node)):
                x = states[state]
                seen, rest = x[:, : self.active], x[:, self.active :]
                mixed = [
                    weights[edge, index] * self.edges[edge][index](seen) for index in kept[edge]
                ]
                term = sum(mixed[1:], start=mixed[0])
                if rest.shape[1]:
                    if edge_stride(self.kind, state) == 2:
                        rest = F.max_pool2d(rest, 2, ceil_mode=True)
                    term = torch.cat([term, rest], dim=1)
                terms.append(scales[edge] * term)
            outputs.append(sum(terms[1:], start=terms[0]))
            states.append(outputs[-1][:, self.shuffle])
        return torch.cat(outputs, dim=1)


class PartialSupernet(CellSupernet):
    """A supernet with partial channel connections.

    Parameters
    ----------
    supernet : CellSupernet
        Where weights and alphas come from; it is left as it is.
    partial : int
        K: the operations see one in K channels.
    betas : tuple of two torch.Tensor of shape (14,), optional
        Initial edge weights, before the softmax; None for a supernet without edge weights.

    Attributes
    ----------
    betas_normal, betas_reduce : torch.nn.Parameter of shape (14,)
        Only with edge weights.
    """

    # Whatever reads the cells of a supernet is overridden here, or is satisfied with these.
    cells: ModuleListOf[PartialCell]  # type: ignore[assignment]
    betas_normal: nn.Parameter
    betas_reduce: nn.Parameter
    fused = False

    def __init__(
        self, supernet: CellSupernet, partial: int, betas: tuple[Tensor, Tensor] | None = None
    ) -> None:
        nn.Module.__init__(self)
        self._origin = [copy.deepcopy(supernet)]  # in a list: no module of this one
        source = copy.deepcopy(supernet)
        self.config, self.kinds = source.config, source.kinds
        self.execution = source.execution
        self.stem, self.classifier = source.stem, source.classifier
        self.cells = ModuleListOf(
            PartialCell(cell, source.space.edges(kind), kind, partial)
            for cell, kind in zip(source.cells, source.kinds, strict=True)
        )
        for kind in CellKind:
            self.register_buffer(f"mask_{kind.key}", source.mask(kind).clone(), persistent=False)
            self.register_parameter(f"alphas_{kind.key}", source.alphas(kind))
        self.has_betas = betas is not None
        for kind, beta in zip(CellKind, betas or (), strict=False):
            parameter = nn.Parameter(beta.to(self.alphas_normal))
            self.register_parameter(f"betas_{kind.key}", parameter)
        self.mask_operations(*self.operation_masks())

    def mask_operations(self, normal: Tensor, reduce: Tensor) -> None:
        """Set which operations are left, as `operation_masks` returns it."""
        self.mask_normal.copy_(normal)
        self.mask_reduce.copy_(reduce)
        # Kept as numbers, so that a forward pass does not wait for the device.
        self._kept = [
            [[index for index, kept in enumerate(row) if kept] for row in mask.tolist()]
            for mask in (normal, reduce)
        ]

    @property
    def partial(self) -> int:
        """The paper's K: operations see one in so many channels."""
        return self.cells[0].partial

    def alpha_parameters(self) -> list[nn.Parameter]:
        """Architecture weights: the alphas, and the betas where there are any."""
        betas = [self.betas_normal, self.betas_reduce] if self.has_betas else []
        return [*super().alpha_parameters(), *betas]

    def weight_parameters(self) -> list[nn.Parameter]:
        """Model weights: every parameter but the architecture's."""
        return [
            parameter
            for name, parameter in self.named_parameters()
            if not name.startswith(("alphas_", "betas_"))
        ]

    def edge_weights(self) -> tuple[Tensor | None, Tensor | None]:
        """Softmax of the betas over the incoming edges of each node, of shape (14,)."""
        if not self.has_betas:
            return None, None
        sizes = [len(edges_into(node)) for node in range(N_NODES)]
        normal, reduce = (
            torch.cat([part.softmax(0) for part in betas.split(sizes)])
            for betas in (self.betas_normal, self.betas_reduce)
        )
        return normal, reduce

    def decision_weights(self) -> tuple[Tensor, Tensor]:
        """Operation weights times the weight of their edge."""
        normal, reduce = (
            weights if edges is None else weights * edges[:, None]
            for weights, edges in zip(self.operation_weights(), self.edge_weights(), strict=True)
        )
        return normal, reduce

    def features(self, x: Tensor, weights: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """As in `CellSupernet`; ``weights`` are those of the operations, before the edges'."""
        weights = self.operation_weights() if weights is None else weights
        edges = self.edge_weights()
        before_last = last = self.stem(x)
        for cell, kind in zip(self.cells, self.kinds, strict=True):
            run = bound(cell, edge_weights=edges[kind], kept=self._kept[kind])
            if self.execution.checkpointing:
                run = bound(recomputed, cell, run)
            before_last, last = last, run(before_last, last, weights[kind])
        return last.mean(dim=(2, 3))

    @torch.no_grad()
    def prune(self, n_kept: int) -> None:
        """Keep the ``n_kept`` operations of each edge with the largest alphas, of those left.

        As in DrNAS, but that the alpha of an operation that goes is set to zero once and masked: it
        is not computed any more, and nothing looks at its alpha. ``none`` may be kept, but not
        alone.
        """
        for kind in CellKind:
            alphas, mask = self.alphas(kind), self.mask(kind)
            for edge, names in enumerate(self.space.edges(kind)):
                ranked = sorted(
                    (i for i in range(len(names)) if mask[edge, i]),
                    key=alphas[edge].tolist().__getitem__,
                    reverse=True,
                )
                kept = ranked[:n_kept]
                if {names[i] for i in kept} == {"none"} and len(ranked) > n_kept:
                    kept[-1] = ranked[n_kept]
                for index in ranked:
                    if index not in kept:
                        mask[edge, index] = False
                        alphas[edge, index] = 0.0
        self.mask_operations(*self.operation_masks())

    def widen(self, partial: int, generator: torch.Generator) -> None:
        """Give the operations more channels, for a smaller K.

        Net2WiderNet (Chen, Goodfellow and Shlens, ICLR 2016, section 2.3): a new channel copies one
        drawn from the old ones, and the weights of a channel that was copied are shared out over
        its copies, so that the operation does to repeated channels what it did to single ones.
        """
        for cell in self.cells:
            old, edges = cell.active, cell.edges
            cell.narrow(partial)
            extra = torch.randint(old, (cell.active - old,), generator=generator)
            origin = torch.cat([torch.arange(old), extra])
            for wider, narrower in zip(cell.edges, edges, strict=True):
                for new, operation in zip(wider, narrower, strict=True):
                    _widen(new, operation, origin, old)

    @torch.no_grad()
    def full(self) -> CellSupernet:
        """Build an ordinary supernet with what was trained in its leading channels.

        Operations that were pruned have an alpha that gives them no weight. Betas are left out.
        """
        result = copy.deepcopy(self._origin[0])
        for name in ("stem", "classifier"):
            setattr(result, name, copy.deepcopy(getattr(self, name)))
        for cell, partial in zip(result.cells, self.cells, strict=True):
            cell.input0, cell.input1 = copy.deepcopy((partial.input0, partial.input1))
            partial.write_back(cell)
        for kind in CellKind:
            alphas = result.alphas(kind)
            alphas.copy_(self.alphas(kind))
            alphas[result.mask(kind) & ~self.mask(kind)] = PRUNED
        return result


@torch.no_grad()
def _widen(new: nn.Module, old: nn.Module, origin: Tensor, n_old: int) -> None:
    """Fill an operation from a narrower one.

    ``origin`` has for each new channel the old one that it repeats. The outputs of a factorized
    reduction are two halves, each of which repeats its own.
    """
    rows = {"": origin}
    if isinstance(old, FactorizedReduce):
        even = _repeated(n_old // 2, len(origin) // 2, origin)
        odd = _repeated(n_old - n_old // 2, len(origin) - len(origin) // 2, origin)
        rows = {"conv_even.": even, "conv_odd.": odd, "bn.": torch.cat([even, odd + n_old // 2])}
    copies = torch.bincount(origin)[origin]
    target = new.state_dict(keep_vars=True)
    for name, tensor in old.state_dict().items():
        if tensor.ndim:
            (of,) = (index for prefix, index in rows.items() if name.startswith(prefix))
            tensor = tensor[of.to(tensor.device)]
        if tensor.ndim == 4 and tensor.shape[1] > 1:  # one input channel is a depthwise kernel's
            shares = copies.to(tensor).view(1, -1, 1, 1)
            tensor = tensor[:, origin.to(tensor.device)] / shares
        target[name].copy_(tensor)


def _repeated(n_old: int, n_new: int, origin: Tensor) -> Tensor:
    """The first ``n_old`` positions, and drawn ones up to ``n_new``."""
    drawn = origin[len(origin) - (n_new - n_old) :] % n_old if n_new > n_old else origin[:0]
    return torch.cat([torch.arange(n_old), drawn])
