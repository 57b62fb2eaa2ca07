"""The operations of a cell for less work: the same functions, gradients and statistics.

An operation's own `forward` is the definition. What follows shares what operations on one state
have in common and avoids what is slow on CPUs. Each rewrite is exact up to rounding, and the tests
hold it to the definition in double precision:

- one ReLU of a state serves every operation that starts with one;
- one pooling of a state, with its batch norm without scale, serves every edge that pools it;
- an operation's weight becomes the scale of its last batch norm, instead of one more product;
- the gradient of a concatenation is handed on in dense chunks: batch norm is an order of magnitude
  slower on a strided one;
- the input gradient of a depthwise convolution is a depthwise convolution with the flipped kernel,
  and the kernel gradient of a dilated one that of an undilated one on the four phases of the image;
  CPU libraries have no fast kernels for either gradient of dilated depthwise convolutions;
- taps of a kernel that are farther out than the image is large meet nothing but padding, and are
  left out: what is 5x5 at dilation 2 is 3x3 on 4x4 pixels, and a factor per channel on 2x2.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...training.batch_norm import frozen_batch_norm
from ...training.depthwise import kernel_gradient
from .operations import DilatedConv, FactorizedReduce, Noise, Pool, ReLUConvBN, SeparableConv

__all__ = [
    "State",
    "count_batch",
    "dense_cat",
    "depthwise_conv",
    "diagonal_phases",
    "input_state",
    "pooling",
    "recomputed",
    "weighted",
]


_PoolKey = tuple[type[nn.Module], int | tuple[int, int]]  # kind and stride


class State:
    """A state of a cell, with what several edges may want of it, computed once."""

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self._relu: Tensor | None = None
        self._pools: dict[_PoolKey, Tensor] = {}
        self._normalised: dict[_PoolKey, tuple[Tensor, nn.BatchNorm2d, list[Tensor]]] = {}

    @property
    def relu(self) -> Tensor:
        if self._relu is None:
            self._relu = F.relu(self.value)
        return self._relu

    def pooled(self, pool: Pool) -> Tensor:
        """Normalised pooling of this state; each twin of ``pool`` keeps its running statistics."""
        key, bn = (type(pool.pool), pool.pool.stride), pool.bn
        if key not in self._pools:
            self._pools[key] = pooling(pool.pool, self.value)
        if not (isinstance(bn, nn.BatchNorm2d) and bn.training):
            return _batch_norm(bn, self._pools[key])
        if key not in self._normalised:
            before = [bn.running_mean.clone(), bn.running_var.clone()]
            self._normalised[key] = _batch_norm(bn, self._pools[key]), bn, before
            return self._normalised[key][0]
        result, first, before = self._normalised[key]
        if first is not bn:
            # What the batch added to the first's moving averages it adds to its twin's.
            pairs = (bn.running_mean, first.running_mean), (bn.running_var, first.running_var)
            for (own, after), old in zip(pairs, before, strict=True):
                own.mul_(1 - bn.momentum).add_(after - (1 - bn.momentum) * old)
        return result


# The blocks that are computed here and not by their own `forward`, which would count.
_COUNTED = (DilatedConv, FactorizedReduce, Pool, ReLUConvBN, SeparableConv)


def count_batch(*modules: nn.Module) -> None:
    """Count a batch in every batch norm in training; the fused cells leave that to the end."""
    counters = [
        bn.num_batches_tracked
        for outer in modules
        for block in outer.modules()
        if isinstance(block, _COUNTED)
        for bn in block.children()
        if isinstance(bn, nn.BatchNorm2d) and bn.training
    ]
    if counters:
        torch._foreach_add_(counters, 1)


def recomputed(module: nn.Module, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Compute ``function(*tensors)``, and once more in the backward pass.

    The second time leaves the running statistics of ``module``, which the function runs, alone.
    Modules that draw noise would draw another: they are computed once, as ever.
    """
    draws = any(isinstance(part, Noise) for part in module.modules())
    if draws or not torch.is_grad_enabled():
        return function(*tensors)
    return checkpoint(
        *(function, *tensors),
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (contextlib.nullcontext(), frozen_batch_norm(module)),
    )


def input_state(module: FactorizedReduce | ReLUConvBN, state: State) -> State:
    """Bring an output of a cell before to the channels and the size of this one."""
    if isinstance(module, FactorizedReduce):
        return State(_batch_norm(module.bn, _factorized(module, state.relu)))
    _, conv, bn = module
    return State(_batch_norm(bn, conv(state.relu)))


def _times(weight: Tensor | None, x: Tensor) -> Tensor:
    return x if weight is None else weight * x


def weighted(operation: nn.Module, state: State, weight: Tensor | None = None) -> Tensor:
    """Return ``weight * operation(state.value)``; with a weight, a new tensor."""
    if isinstance(operation, Pool):
        return _times(weight, state.pooled(operation))
    if isinstance(operation, FactorizedReduce):
        return _batch_norm(operation.bn, _factorized(operation, state.relu), weight)
    if isinstance(operation, SeparableConv):
        _, depthwise1, pointwise1, bn1, _, depthwise2, pointwise2, bn2 = operation
        hidden = _batch_norm(bn1, pointwise1(depthwise_conv(depthwise1, state.relu)))
        hidden = pointwise2(depthwise_conv(depthwise2, F.relu(hidden)))
        return _batch_norm(bn2, hidden, weight)
    if isinstance(operation, DilatedConv):
        x = state.relu[:, :, ::2, ::2] if operation.stride == 2 else state.relu
        hidden = operation.pointwise(depthwise_conv(operation.depthwise, x))
        return _batch_norm(operation.bn, hidden, weight)
    return _times(weight, operation(state.value))


def _factorized(module: FactorizedReduce, x: Tensor) -> Tensor:
    even, odd = diagonal_phases(x)
    return dense_cat(
        F.conv2d(even, module.conv_even.weight, module.conv_even.bias),
        F.conv2d(odd, module.conv_odd.weight, module.conv_odd.bias),
    )


def _batch_norm(
    bn: nn.BatchNorm2d | nn.Identity, x: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Return ``bn(x)``, or ``weight * bn(x)`` for a batch norm without a scale of its own."""
    if isinstance(bn, nn.Identity):  # folded into the convolution before it
        return x
    if isinstance(bn, nn.SyncBatchNorm):
        return _times(weight, bn(x))
    scale: Tensor
    scale, offset = bn.weight, bn.bias
    if weight is not None:
        # Dense on purpose: an expanded scale gives wrong gradients for channels-last input.
        scale = weight.to(bn.running_mean.dtype).repeat(x.shape[1])
    return F.batch_norm(
        x, bn.running_mean, bn.running_var, scale, offset, bn.training, bn.momentum, bn.eps
    )


def dense_cat(*tensors: Tensor) -> Tensor:
    """Concatenate along the channels; each input gets a dense gradient."""
    return _DenseCat.apply(*tensors)


class _DenseCat(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *tensors: Tensor) -> Tensor:
        ctx.channels = [tensor.shape[1] for tensor in tensors]
        ctx.layout = _layout(tensors[0])
        return torch.cat(tensors, dim=1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, ...]:
        chunks = gradient.split(ctx.channels, dim=1)
        return tuple(chunk.contiguous(memory_format=ctx.layout) for chunk in chunks)


def diagonal_phases(x: Tensor) -> tuple[Tensor, Tensor]:
    """Take the even rows of even columns and the odd rows of odd columns, each dense.

    An odd height or width leaves one odd row or column fewer; zeros take its place.
    """
    return _DiagonalPhases.apply(x)


class _DiagonalPhases(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.shape, layout = x.shape, _layout(x)
        height, width = x.shape[-2:]
        odd = x[:, :, 1::2, 1::2]
        if height % 2 or width % 2:
            odd = F.pad(odd, (0, width % 2, 0, height % 2))
        even = x[:, :, ::2, ::2].contiguous(memory_format=layout)
        return even, odd.contiguous(memory_format=layout)

    @staticmethod
    def backward(ctx, even: Tensor, odd: Tensor) -> Tensor:
        height, width = ctx.shape[-2:]
        gradient = torch.empty(
            ctx.shape, dtype=even.dtype, device=even.device, memory_format=_layout(even)
        ).zero_()
        gradient[:, :, ::2, ::2] = even
        gradient[:, :, 1::2, 1::2] = odd[:, :, : height // 2, : width // 2]
        return gradient


def _layout(x: Tensor) -> torch.memory_format:
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


def pooling(pool: nn.MaxPool2d | nn.AvgPool2d, x: Tensor) -> Tensor:
    """Return ``pool(x)``; the backward pass keeps no input and only short positions of maxima."""
    if torch.compiler.is_compiling() or not (x.requires_grad and torch.is_grad_enabled()):
        return pool(x)
    return _Pooling.apply(x, pool)


class _Pooling(torch.autograd.Function):
    """Max or average pooling of which torch would keep the input, for its shape alone.

    It would keep the positions of maxima as 64-bit numbers, too, twice as large as the maxima.
    """

    @staticmethod
    def forward(ctx, x: Tensor, pool: nn.MaxPool2d | nn.AvgPool2d) -> Tensor:
        ctx.shape, ctx.layout, ctx.average = x.shape, _layout(x), isinstance(pool, nn.AvgPool2d)
        size, stride, padding = ([n, n] for n in (pool.kernel_size, pool.stride, pool.padding))
        if ctx.average:
            ctx.arguments = size, stride, padding, pool.ceil_mode, pool.count_include_pad, None
            return pool(x)
        ctx.arguments = size, stride, padding, [1, 1], pool.ceil_mode
        result, positions = torch.ops.aten.max_pool2d_with_indices(x, *ctx.arguments)
        fits = x.shape[2] * x.shape[3] <= torch.iinfo(torch.int16).max
        ctx.save_for_backward(positions.to(torch.int16 if fits else torch.int32))
        return result

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        like = torch.empty(
            ctx.shape, dtype=gradient.dtype, device=gradient.device, memory_format=ctx.layout
        )
        if ctx.average:
            return torch.ops.aten.avg_pool2d_backward(gradient, like, *ctx.arguments), None
        (positions,) = ctx.saved_tensors
        backward = torch.ops.aten.max_pool2d_with_indices_backward
        return backward(gradient, like, *ctx.arguments, positions.long()), None


def depthwise_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a depthwise convolution of odd kernel and "same" padding, with faster gradients.

    Only stride 1 on a CPU takes the rewritten gradients; everything else is ``conv(x)``.
    """
    if x.device.type != "cpu" or conv.stride != (1, 1):
        return conv(x)
    return _DepthwiseConv.apply(x, conv.weight, conv.padding[0], conv.dilation[0])


class _DepthwiseConv(torch.autograd.Function):
    """Depthwise convolution of stride 1 whose gradients are undilated or forward convolutions."""

    @staticmethod
    def forward(ctx, x: Tensor, kernel: Tensor, padding: int, dilation: int) -> Tensor:
        ctx.kernel_dtype, kernel = kernel.dtype, kernel.to(x.dtype)
        # Taps of the same number of rows and columns on each side can be nothing but padding.
        ctx.cropped = max(0, padding // dilation - (max(x.shape[2:]) - 1) // dilation)
        if ctx.cropped:
            inner = slice(ctx.cropped, kernel.shape[-1] - ctx.cropped)
            kernel = kernel[:, :, inner, inner].contiguous()
            padding -= ctx.cropped * dilation
        ctx.save_for_backward(x, kernel)
        ctx.padding, ctx.dilation = padding, dilation
        if kernel.shape[-1] == 1:
            return x * kernel.view(1, -1, 1, 1)
        return F.conv2d(x, kernel, None, 1, padding, dilation, x.shape[1])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, kernel = ctx.saved_tensors
        padding, dilation = ctx.padding, ctx.dilation
        dx = dkernel = None
        if kernel.shape[-1] == 1:
            if ctx.needs_input_grad[0]:
                dx = gradient * kernel.view(1, -1, 1, 1)
            if ctx.needs_input_grad[1]:
                dkernel = (gradient * x).sum((0, 2, 3), dtype=ctx.kernel_dtype).view_as(kernel)
                dkernel = F.pad(dkernel, (ctx.cropped,) * 4)
            return dx, dkernel, None, None
        if ctx.needs_input_grad[0]:
            flipped = kernel.flip(2, 3)
            dx = F.conv2d(gradient, flipped, None, 1, padding, dilation, x.shape[1])
        if ctx.needs_input_grad[1]:
            if x.dtype == torch.bfloat16:  # which CPUs have no fast kernel of this gradient for
                x, gradient, kernel = x.float(), gradient.float(), kernel.float()
            if dilation == 2 and x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0:
                x, gradient, padding, dilation = _phases(x), _phases(gradient), padding // 2, 1
            if dilation == 1:
                dkernel = kernel_gradient(x, gradient, kernel, 1, padding)
            else:
                dkernel = _dilated_kernel_gradient(x, gradient, kernel, padding, dilation)
            dkernel = dkernel.to(ctx.kernel_dtype)
            if ctx.cropped:
                dkernel = F.pad(dkernel, (ctx.cropped,) * 4)
        return dx, dkernel, None, None


def _phases(x: Tensor) -> Tensor:
    """Split (n, c, h, w) into the four images of every other row and column, (4n, c, h/2, w/2)."""
    n, c, h, w = x.shape
    phases = x.permute(0, 2, 3, 1).reshape(n, h // 2, 2, w // 2, 2, c).permute(2, 4, 0, 1, 3, 5)
    return phases.reshape(4 * n, h // 2, w // 2, c).permute(0, 3, 1, 2)


def _dilated_kernel_gradient(
    x: Tensor, gradient: Tensor, kernel: Tensor, padding: int, dilation: int
) -> Tensor:
    return torch.ops.aten.convolution_backward(
        gradient, x, kernel, None, [1, 1], [padding] * 2, [dilation] * 2,
        False, [0, 0], x.shape[1], [False, True, False],
    )[1]  # fmt: skip
