"""Whole cells for less work, on CPUs: the same function, gradients and statistics.

`SupernetCell.forward` and `NetworkCell.forward` are the definitions; they compute every operation
from its input on. Here operations run as `supernetnas.families.cells.kernels` rewrites them, sums
over edges and operations run in place, and a cell can be compiled, or computed again in the
backward pass. The tests hold all of it to the definitions in double precision.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .constants import CellConstants
from .kernels import State, dense_cat, input_state, recomputed, weighted
from .modules import NetworkCell, SupernetCell
from .operations import Pool, Zero
from .space import N_NODES, edges_into

__all__ = ["checkpointed", "compiled_cell", "fused_cell", "fused_network_cell"]


def fused_cell(
    cell: SupernetCell,
    before_last: State,
    last: State,
    weights: Tensor,
    constants: CellConstants | None = None,
) -> State:
    """Compute ``cell(before_last.value, last.value, weights)``.

    Parameters
    ----------
    cell : SupernetCell
    before_last, last : State
        Outputs of the two cells before, of shape (n, c, h, w).
    weights : torch.Tensor of shape (14, k)
        Operation weights.
    constants : CellConstants, optional
        Of the same cell and inputs: what need not be computed again.

    Returns
    -------
    State
        The four nodes concatenated.
    """
    states = list(constants.states) if constants is not None else []
    for module, value in [(cell.input0, before_last), (cell.input1, last)][len(states) :]:
        states.append(input_state(module, value))
    rows = [row.unbind() for row in weights.unbind()]
    for node in range(N_NODES):
        total: Tensor | None = None
        for position, (edge, state) in enumerate(zip(edges_into(node), states, strict=True)):
            for weight, operation in zip(rows[edge], cell.edges[edge], strict=False):
                held = constants is not None and constants.holds(position, operation)
                if held or isinstance(operation, Zero):
                    continue
                total = _plus_weighted(total, operation, state, weight)
        held_total = None if constants is None else constants.total(node, rows)
        if held_total is not None:
            total = held_total if total is None else total.add_(held_total)
        if total is None:
            raise RuntimeError("A node of a cell has no operation other than 'none'.")
        states.append(State(total))
    return State(dense_cat(*(state.value for state in states[2:])))


def fused_network_cell(cell: NetworkCell, before_last: State, last: State) -> State:
    """Compute ``cell(before_last.value, last.value)`` for a cell of a discrete network."""
    states = [input_state(cell.input0, before_last), input_state(cell.input1, last)]
    edges = iter(cell.edges)
    for node in cell.nodes:
        terms = [weighted(next(edges), states[state]) for _, state in node]
        states.append(State(sum(terms[1:], start=terms[0])))
    return State(dense_cat(*(state.value for state in states[2:])))


def compiled_cell(cell: nn.Module, before_last: State, last: State, *weights: Tensor) -> State:
    """Compute the fused form of a cell, compiled.

    Cells of the same structure share what was compiled, and the number of images is a variable of
    it, so that a stack of cells compiles a few times and then no more. Nothing is shared between
    two cells: each computes the ReLU of its inputs.
    """
    inputs = before_last.value, last.value
    for value in inputs:
        torch._dynamo.maybe_mark_dynamic(value, 0)
    return State(_compiled(cell)(cell, *inputs, *weights))


def _compiled(cell: nn.Module) -> Callable[..., Tensor]:
    if cell not in _STRUCTURES:
        _STRUCTURES[cell] = repr(cell)
    # Momentum is a constant of what is compiled; `frozen_batch_norm` changes it.
    momenta = {m.momentum for m in cell.modules() if isinstance(m, nn.BatchNorm2d)}
    key = _STRUCTURES[cell], *sorted(momenta)
    if key not in _COMPILED:
        # A function of its own: torch compiles one function a few times and then no more.
        code = _run.__code__.replace(co_name=f"cell_{len(_COMPILED)}")
        function = FunctionType(code, _run.__globals__, argdefs=_run.__defaults__)
        _COMPILED[key] = torch.compile(function, backend=_BACKEND)
    return _COMPILED[key]


def _run(cell: nn.Module, before_last: Tensor, last: Tensor, *weights: Tensor) -> Tensor:
    function: Callable[..., State] = fused_cell if weights else fused_network_cell
    return function(cell, State(before_last), State(last), *weights).value


_STRUCTURES: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_COMPILED: dict[tuple, Callable[..., Tensor]] = {}
_BACKEND = "inductor"


def checkpointed(
    run: Callable[..., State], cell: nn.Module, before_last: State, last: State, *weights: Tensor
) -> State:
    """Compute ``run(cell, before_last, last, *weights)`` again in the backward pass.

    Only a cell's inputs are kept meanwhile; see `recomputed`.
    """

    def function(before_last: Tensor, last: Tensor, *weights: Tensor) -> Tensor:
        return run(cell, State(before_last), State(last), *weights).value

    return State(recomputed(cell, function, before_last.value, last.value, *weights))


def _plus_weighted(
    total: Tensor | None, operation: nn.Module, state: State, weight: Tensor
) -> Tensor:
    """Return ``total + weight * operation(state.value)``; changes ``total``."""
    if total is not None and isinstance(operation, Pool):
        return _plus_times(total, state.pooled(operation), weight)
    if total is not None and isinstance(operation, nn.Identity):
        return _plus_times(total, state.value, weight)
    term = weighted(operation, state, weight)
    return term if total is None else total.add_(term)


def _plus_times(total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return ``total + weight * x``; changes ``total``."""
    if torch.compiler.is_compiling():  # which merges the two by itself
        return total.add_(weight * x)
    weight = weight.to(total.dtype)
    if weight.requires_grad and torch.is_grad_enabled():
        return _PlusTimes.apply(total, x, weight)
    return total.addcmul_(x, weight)


class _PlusTimes(torch.autograd.Function):
    """``total + weight * x`` in place; the gradient of the weight is one pass over two tensors."""

    @staticmethod
    def forward(ctx, total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.mark_dirty(total)
        return total.addcmul_(x, weight)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        dx = weight * gradient if ctx.needs_input_grad[1] else None
        return gradient, dx, _dot(gradient, x)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Sum of the products of two tensors (n, c, h, w)."""
    if x.dtype in (torch.float32, torch.float64):
        for tensors in ((x, y), (x.permute(0, 2, 3, 1), y.permute(0, 2, 3, 1))):
            if all(tensor.is_contiguous() for tensor in tensors):
                return torch.dot(*(tensor.flatten() for tensor in tensors))
    return (x * y).sum()
