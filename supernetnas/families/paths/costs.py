"""What paths cost, from tables, without building their networks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...search.costs import Costs
from ...search.knapsack import Options, best_choices
from ...search.limits import Limits
from .space import Layer, PathArchitecture, PathSpace

__all__ = ["PathBudget", "PathCosts"]


@dataclass(frozen=True)
class PathCosts:
    """The costs of all blocks of a space, for images of a size.

    Attributes
    ----------
    space : PathSpace
    image_size : tuple of int
        Height and width.
    input_channels, n_classes : int

    Examples
    --------
    >>> space = PathSpace()
    >>> PathCosts(space, (224, 224), 3, 1000).of(space.smallest)
    Costs(macs=295842496, parameters=3154880)
    """

    space: PathSpace
    image_size: tuple[int, int]
    input_channels: int
    n_classes: int

    @cached_property
    def table(self) -> tuple[tuple[Costs, ...], ...]:
        """Costs of each choice of each layer."""
        rows, size = [], self._after(self.image_size, self.space.strides(self.image_size)[0])
        for layer in self.space.layers(self.image_size):
            smaller = self._after(size, layer.stride)
            rows.append(
                tuple(
                    _summed(_block(self.space.name, choice, layer, size, smaller))
                    for choice in self.space.choices
                )
            )
            size = smaller
        return tuple(rows)

    @cached_property
    def fixed(self) -> Costs:
        """Costs of what all architectures have: stem, last convolution and classifier."""
        space = self.space
        size = self._after(self.image_size, space.strides(self.image_size)[0])
        parts = [_conv(size, self.input_channels, space.stem, kernel=3)]
        if space.lead is not None:
            parts += [_depthwise(size, space.stem), _conv(size, space.stem, space.lead)]
        for layer in space.layers(self.image_size):
            size, outputs = self._after(size, layer.stride), layer.outputs
        parts.append(_conv(size, outputs, space.features))
        parts.append(Costs(*[space.features * self.n_classes] * 2))
        return _summed(parts)

    def of(self, architecture: PathArchitecture) -> Costs:
        """Multiply-accumulates for one image, and parameters, of an architecture's network."""
        genes = self.space.encode(architecture)
        return _summed([self.fixed, *(row[g] for row, g in zip(self.table, genes, strict=True))])

    def cheapest(self, limits: Limits) -> PathArchitecture:
        """Return the architecture of the fewest multiply-accumulates that keeps limits.

        Where nothing but parameters is limited, it is the one of the fewest parameters.

        Raises
        ------
        ValueError
            If there is none; names the smallest costs.
        """
        units = [
            (unit, limit)
            for unit, limit in enumerate((limits.max_macs, limits.max_parameters))
            if limit is not None
        ]
        if not units:
            units = [(0, np.iinfo(np.int64).max // 2)]
        counted, fixed = np.array(self.table, dtype=np.int64), np.array(self.fixed)
        groups = [
            Options(row[:, [unit for unit, _ in units]], -row[:, units[0][0]].astype(float), range(len(row)))
            for row in counted
        ]
        room = np.array([limit - fixed[unit] for unit, limit in units])
        genes = best_choices(groups, room)
        if genes is None:
            least = counted.min(axis=1).sum(axis=0) + fixed
            raise ValueError(
                f"No architecture of the space keeps the limits {limits}: the smallest have "
                f"{least[0]:,} multiply-accumulates, or {least[1]:,} parameters, for images of "
                f"{'x'.join(map(str, self.image_size))} pixels."
            )
        return self.space.decode(genes)

    @staticmethod
    def _after(size: tuple[int, int], stride: int) -> tuple[int, int]:
        height, width = size
        return -(-height // stride), -(-width // stride)


@dataclass(frozen=True)
class PathBudget:
    """Limits on the network of an architecture.

    Attributes
    ----------
    costs : PathCosts
    limits : Limits
    cheapest : PathArchitecture
        One that keeps them.
    """

    costs: PathCosts
    limits: Limits
    cheapest: PathArchitecture

    @classmethod
    def of(cls, costs: PathCosts, limits: Limits) -> PathBudget:
        """Return the budget; ValueError if no architecture keeps the limits."""
        return cls(costs, limits, costs.cheapest(limits))

    def keeps(self, architecture: PathArchitecture) -> bool:
        """Whether an architecture keeps the limits."""
        most = (self.limits.max_macs, self.limits.max_parameters)
        return all(
            limit is None or cost <= limit
            for cost, limit in zip(self.costs.of(architecture), most, strict=True)
        )


def _block(
    name: str, choice: str, layer: Layer, size: tuple[int, int], smaller: tuple[int, int]
) -> list[Costs]:
    """Costs of the convolutions of a block, from images of a size to smaller ones."""
    if name == "mobilenetv2":
        kernel, expansion = map(int, choice.removeprefix("k").split("e"))
        middle = layer.inputs * expansion
        return [
            _conv(size, layer.inputs, middle),
            _depthwise(smaller, middle, kernel),
            _conv(smaller, middle, layer.outputs),
        ]
    inputs = layer.inputs if layer.first else layer.inputs // 2
    middle, outputs = layer.outputs // 2, layer.outputs - inputs
    kernel = 3 if choice == "xception" else int(choice.removeprefix("k"))
    if choice == "xception":
        parts = [
            _depthwise(smaller, inputs),
            _conv(smaller, inputs, middle),
            _depthwise(smaller, middle),
            _conv(smaller, middle, middle),
            _depthwise(smaller, middle),
        ]
    else:
        parts = [_conv(size, inputs, middle), _depthwise(smaller, middle, kernel)]
    parts.append(_conv(smaller, middle, outputs))
    if layer.first:
        parts += [_depthwise(smaller, inputs, kernel), _conv(smaller, inputs, inputs)]
    return parts


def _depthwise(size: tuple[int, int], channels: int, kernel: int = 3) -> Costs:
    return _conv(size, 1, channels, kernel)


def _conv(size: tuple[int, int], inputs: int, outputs: int, kernel: int = 1) -> Costs:
    """Of a convolution with outputs of a size, each of ``inputs`` channels, and its batch norm."""
    weights = inputs * outputs * kernel**2
    return Costs(weights * size[0] * size[1], weights + 2 * outputs)


def _summed(parts: Iterable[Costs]) -> Costs:
    parts = list(parts)
    return Costs(sum(part.macs for part in parts), sum(part.parameters for part in parts))
