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

__all__ = ["PathCosts"]

_NO_LIMIT = 2**60


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
        """Return the architecture of the fewest multiply-accumulates within limits.

        Where parameters alone are limited, it is the one of the fewest parameters.

        Raises
        ------
        ValueError
            If there is none; names the smallest costs.
        """
        counted, fixed = np.array(self.table, dtype=np.int64), np.array(self.fixed)
        most = np.array(
            [
                _NO_LIMIT if limit is None else min(limit, _NO_LIMIT)
                for limit in (limits.max_macs, limits.max_parameters)
            ]
        )
        saved = int(limits.max_macs is None and limits.max_parameters is not None)
        choices = range(len(self.space.choices))
        groups = [Options(row, -row[:, saved].astype(float), choices) for row in counted]
        genes = best_choices(groups, most - fixed)
        if genes is None:
            least = counted.min(axis=1).sum(axis=0) + fixed
            raise ValueError(
                f"No path of the space keeps max_macs={limits.max_macs} and "
                f"max_parameters={limits.max_parameters}: the cheapest have {least[0]:,} "
                f"multiply-accumulates, and {least[1]:,} parameters, for images of "
                f"{'x'.join(map(str, self.image_size))} pixels. Raise the limits, which count one "
                "by one, not in millions; or choose a smaller width, fewer depths or a smaller "
                "image_size."
            )
        return self.space.decode(genes)

    @staticmethod
    def _after(size: tuple[int, int], stride: int) -> tuple[int, int]:
        height, width = size
        return -(-height // stride), -(-width // stride)


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
