"""The differentiable supernet of a cell space, with its alphas.

The macro-architecture is that of DARTS (Liu et al., 2019): a 3x3 stem of three times the initial
channels, a stack of cells of which those at one and two thirds of the depth are reduction cells
that halve the image and double the channels, global average pooling, a linear classifier. Every
edge of a cell computes all its candidate operations and sums them with the softmax of its alphas
(equation 2 there, equation 1 of the supernet transfer paper).

Unlike in the DARTS code the alphas are parameters: they are saved with the weights, and
`CellSupernet.weight_parameters` leaves them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from ..devices import placed
from ..module_types import ModuleListOf
from ..spaces.cells import N_EDGES, N_NODES, SearchSpace, get_space
from ..spaces.genotype import Genotype
from ..spaces.operations import FactorizedReduce, Noise, ReLUConvBN, make_operation
from .fixed_images import FixedImages
from .fused import State, checkpointed, compiled_cell, count_batch, fused_cell
from .merged import Statistics, can_merge, merged_cell

__all__ = ["CellSupernet", "SupernetConfig", "cell_layout", "check_sizes"]

MAX_SIZES = {
    "init_channels": 4096,
    "n_cells": 100,
    "image_size": 4096,
    "input_channels": 65_536,
    "n_classes": 100_000,
}
"""Greatest sizes of a network: far above what is of use, and what a stored one may claim."""


def check_sizes(**sizes: int) -> None:
    """Refuse sizes of a network that are no integers from 1 to `MAX_SIZES`, or odd channels.

    Raises
    ------
    ValueError
        Naming the size, what it may be, and what it is.
    """
    for name, value in sizes.items():
        if type(value) is not int or not 1 <= value <= MAX_SIZES[name]:
            raise ValueError(
                f"{name} must be an integer from 1 to {MAX_SIZES[name]}; got {value!r:.80}."
            )
        if name == "init_channels" and value % 2:
            raise ValueError(f"init_channels must be even; got {value}.")


@dataclass(frozen=True)
class SupernetConfig:
    """Everything that is needed to build a supernet's module again.

    Attributes
    ----------
    space : str
        Name of the search space.
    init_channels : int
        Channels of the first cells; each reduction doubles them.
    n_cells : int
        Number of cells, two of which reduce; a single cell reduces, too.
    image_size : tuple of int
        Height and width in pixels that the supernet was or will be trained at. It runs at any
        other size.
    input_channels : int
        Channels of an image.
    n_classes : int
        Outputs of the classifier.
    """

    space: str = "s1"
    init_channels: int = 16
    n_cells: int = 5
    image_size: tuple[int, int] = (32, 32)
    input_channels: int = 3
    n_classes: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", tuple(self.image_size))
        get_space(self.space)
        check_sizes(
            init_channels=self.init_channels,
            n_cells=self.n_cells,
            input_channels=self.input_channels,
            n_classes=self.n_classes,
        )
        if len(self.image_size) != 2:
            raise ValueError(f"image_size must be height and width; got {self.image_size!r:.80}.")
        for side in self.image_size:
            check_sizes(image_size=side)

    def to_dict(self) -> dict:
        """Return plain values, for JSON."""
        return {**asdict(self), "image_size": list(self.image_size)}

    @classmethod
    def from_dict(cls, data: dict) -> SupernetConfig:
        """Rebuild what `to_dict` returned."""
        return cls(**{**data, "image_size": tuple(data["image_size"])})


def cell_layout(init_channels: int, n_cells: int) -> Iterator[tuple[int, int, int, bool, bool]]:
    """Walk over the cells of a network.

    Yields
    ------
    channels_before_last, channels_last : int
        Channels of the cell's two inputs.
    channels : int
        Channels of the cell's nodes; its output has four times as many.
    reduction, reduction_last : bool
        Whether this cell, and whether the cell before it, halves the image.
    """
    reductions = {n_cells // 3, 2 * n_cells // 3}
    before_last = last = 3 * init_channels
    channels, reduction_last = init_channels, False
    for index in range(n_cells):
        reduction = index in reductions
        if reduction:
            channels *= 2
        yield before_last, last, channels, reduction, reduction_last
        before_last, last, reduction_last = last, N_NODES * channels, reduction


def cell_inputs(
    channels_before_last: int, channels_last: int, channels: int, reduction_last: bool, affine: bool
) -> tuple[FactorizedReduce | ReLUConvBN, ReLUConvBN]:
    """Build the two modules that bring a cell's inputs to its channels and to one size."""
    first = FactorizedReduce if reduction_last else ReLUConvBN
    return first(channels_before_last, channels, affine), ReLUConvBN(
        channels_last, channels, affine
    )


class SupernetCell(nn.Module):
    """A cell with all candidate operations on every edge.

    ``forward`` takes the two inputs and the operation weights, a tensor of shape
    (14, most operations of an edge), and returns the four nodes concatenated.
    """

    def __init__(
        self,
        operations: tuple[tuple[str, ...], ...],
        channels_before_last: int,
        channels_last: int,
        channels: int,
        reduction: bool,
        reduction_last: bool,
    ) -> None:
        super().__init__()
        self.input0, self.input1 = cell_inputs(
            channels_before_last, channels_last, channels, reduction_last, affine=False
        )
        sources = [state for node in range(N_NODES) for state in range(node + 2)]
        self.edges = ModuleListOf(
            ModuleListOf(
                make_operation(name, channels, 2 if reduction and state < 2 else 1, affine=False)
                for name in names
            )
            for names, state in zip(operations, sources, strict=True)
        )

    def forward(self, before_last: Tensor, last: Tensor, weights: Tensor) -> Tensor:
        states = [self.input0(before_last), self.input1(last)]
        edge = 0
        for _ in range(N_NODES):
            terms = []
            for state in states:
                for index, operation in enumerate(self.edges[edge]):
                    terms.append(weights[edge, index] * operation(state))
                edge += 1
            states.append(_sum(terms))
        return torch.cat(states[2:], dim=1)


def _sum(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


class CellSupernet(nn.Module):
    """A supernet of a cell space: weights for every operation, and alphas.

    Parameters
    ----------
    config : SupernetConfig
        What to build.

    Attributes
    ----------
    alphas_normal, alphas_reduce : torch.nn.Parameter of shape (14, k)
        Architecture weights of the edges of the normal and of the reduction cells, before the
        softmax; k is the largest number of operations that an edge of the space offers. Entries
        past an edge's own operations are unused.
    cells : torch.nn.ModuleList
    classifier : torch.nn.Linear
    fused : bool
        Whether `forward` runs the rewritten cells of `supernetnas.supernets.fused` (the default)
        or the plain definition. Both give the same.
    merged : bool or None
        Which of two rewrites: the one that launches few kernels, for GPUs, or the one that moves
        little memory, for CPUs. None (the default) chooses by the device of the images.
    compiled : bool
        Whether the rewritten cells are compiled by `torch.compile`; False by default.
    checkpointed : bool
        Whether the rewritten cells are computed again in the backward pass instead of keeping what
        they computed: less memory for more time; False by default.
    """

    alphas_normal: nn.Parameter
    alphas_reduce: nn.Parameter
    mask_normal: Tensor
    mask_reduce: Tensor
    fused = True
    merged: bool | None = None
    compiled = False
    checkpointed = False

    def __init__(self, config: SupernetConfig) -> None:
        super().__init__()
        self.config = config
        space = get_space(config.space)
        stem_channels = 3 * config.init_channels
        self.stem = nn.Sequential(
            nn.Conv2d(config.input_channels, stem_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(stem_channels),
        )
        self.cells: ModuleListOf[SupernetCell] = ModuleListOf()
        self.reductions: list[bool] = []
        for before, last, channels, reduction, reduction_last in cell_layout(
            config.init_channels, config.n_cells
        ):
            edges = space.edges(reduction)
            self.cells.append(
                SupernetCell(edges, before, last, channels, reduction, reduction_last)
            )
            self.reductions.append(reduction)
        self.classifier = nn.Linear(N_NODES * channels, config.n_classes)
        width = max(len(names) for names in space.normal + space.reduce)
        for kind in ("normal", "reduce"):
            edges = getattr(space, kind)
            mask = torch.tensor([[i < len(names) for i in range(width)] for names in edges])
            self.register_buffer(f"mask_{kind}", mask, persistent=False)
            alphas = 1e-3 * torch.randn(N_EDGES, width)
            self.register_parameter(f"alphas_{kind}", nn.Parameter(alphas))

    @property
    def space(self) -> SearchSpace:
        """The search space."""
        return get_space(self.config.space)

    def alpha_parameters(self) -> list[nn.Parameter]:
        """Architecture weights ``A``."""
        return [self.alphas_normal, self.alphas_reduce]

    def weight_parameters(self) -> list[nn.Parameter]:
        """Model weights ``w``: every parameter but the alphas."""
        return [p for name, p in self.named_parameters() if not name.startswith("alphas_")]

    def operation_weights(self) -> tuple[Tensor, Tensor]:
        """Softmax of the alphas over the operations of each edge; rows sum to one."""
        normal, reduce = (
            alphas.masked_fill(~mask, -torch.inf).softmax(dim=1)
            for alphas, mask in zip(
                (self.alphas_normal, self.alphas_reduce), self.operation_masks(), strict=True
            )
        )
        return normal, reduce

    def decision_weights(self) -> tuple[Tensor, Tensor]:
        """What `genotype` compares: here the operation weights."""
        return self.operation_weights()

    def operation_masks(self) -> tuple[Tensor, Tensor]:
        """For the normal and the reduction cell, which entries of the alphas are operations."""
        return self.mask_normal, self.mask_reduce

    def features(self, x: Tensor, weights: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Pooled features before the classifier.

        Parameters
        ----------
        x : torch.Tensor of shape (n, input_channels, h, w)
            Standardised images, float.
        weights : tuple of two torch.Tensor of shape (14, k), optional
            Operation weights to use instead of the softmax of the alphas.

        Returns
        -------
        torch.Tensor of shape (n, 4 * channels of the last cell)
        """
        weights = self.operation_weights() if weights is None else weights
        if not self.fused:
            before_last = last = self.stem(x)
            for cell, reduction in zip(self.cells, self.reductions, strict=True):
                before_last, last = last, cell(before_last, last, weights[int(reduction)])
            return last.mean(dim=(2, 3))
        statistics, run = Statistics(), compiled_cell if self.compiled else fused_cell
        if self._merges(x.device):
            run, x = partial(merged_cell, statistics=statistics), x.contiguous()
        before_last = last = State(self.stem(x))
        if self.checkpointed:
            run = partial(checkpointed, run)
        for cell, reduction in zip(self.cells, self.reductions, strict=True):
            before_last, last = last, run(cell, before_last, last, weights[int(reduction)])
        statistics.update()
        count_batch(self.cells)
        return last.value.mean(dim=(2, 3))

    def forward(self, x: Tensor, weights: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Class scores, of shape (n, n_classes); parameters as in `features`."""
        return self.classifier(self.features(x, weights))

    def scores_of(self, images: Tensor) -> Callable[[tuple[Tensor, Tensor]], Tensor]:
        """Class scores of fixed images as a function of the operation weights.

        To be used while nothing else changes and running statistics rest. What does not depend on
        operation weights is computed once, on the path for CPUs.

        Parameters
        ----------
        images : torch.Tensor of shape (n, input_channels, h, w)
            Standardised images, float.

        Returns
        -------
        callable
            Takes operation weights, as `forward` does.
        """
        if not self.fused or self.compiled or self.checkpointed or self._merges(images.device):
            return partial(self, images)
        return FixedImages(self, images)

    def genotype(self) -> Genotype:
        """Derive the discrete architecture from the alphas.

        The rule of DARTS (section 2.4): softmax over all operations of an edge, ``none`` included;
        each node keeps the two incoming edges whose best operation other than ``none`` has the
        largest weight, and on each of them that operation. Ties go to the lower index.
        """
        cells = []
        for weights, reduction in zip(self.decision_weights(), (False, True), strict=True):
            weights, edges = weights.detach().cpu(), self.space.edges(reduction)
            nodes, edge = [], 0
            for node in range(N_NODES):
                best = []
                for state in range(node + 2):
                    score, name = max(
                        (
                            (weights[edge, index].item(), name)
                            for index, name in enumerate(edges[edge])
                            if name != "none"
                        ),
                        key=lambda pair: pair[0],
                    )
                    best.append((score, name, state))
                    edge += 1
                kept = sorted(best, key=lambda item: -item[0])[:2]
                nodes.append(tuple((name, state) for _, name, state in sorted(kept, key=_state)))
            cells.append(tuple(nodes))
        return Genotype(self.config.space, *cells)

    def place(self, device: torch.device) -> CellSupernet:
        """Move to a device, in the memory format in which the cells run there; returns itself."""
        layout = torch.contiguous_format if self._merges(device) else torch.channels_last
        return placed(self, device, layout)

    def _merges(self, device: torch.device) -> bool:
        wanted = device.type == "cuda" if self.merged is None else self.merged
        return wanted and not self.compiled and all(map(can_merge, self.cells))

    def replace_head(self, n_classes: int) -> None:
        """Put a new, randomly initialised classifier of ``n_classes`` outputs."""
        self.config = replace(self.config, n_classes=n_classes)
        old = self.classifier.weight
        self.classifier = nn.Linear(old.shape[1], n_classes, device=old.device, dtype=old.dtype)

    def seed_noise(self, generator: torch.Generator | None) -> None:
        """Let every ``noise`` operation draw from ``generator``."""
        for module in self.modules():
            if isinstance(module, Noise):
                module.generator = generator

    def alpha_entropy(self) -> float:
        """Mean entropy of the operation weights of an edge, as a share of the largest possible.

        1 is undecided, 0 is discrete. Edges with one operation do not count.
        """
        shares = []
        for weights, mask in zip(self.operation_weights(), self.operation_masks(), strict=True):
            count = mask.sum(1)
            entropy = -torch.xlogy(weights, weights).sum(1).detach()
            shares.append((entropy / count.log())[count > 1])
        of_edges = torch.cat(shares)
        return float(of_edges.mean()) if len(of_edges) else 0.0


def _state(item: tuple[float, str, int]) -> int:
    return item[2]
