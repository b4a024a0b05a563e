"""Elementwise compositions that keep their input for the backward, and recompute what lies between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qonnx_torch.ops.quantizers.blocks import (
    functions_apply,
    gradient_blocks,
    is_large,
    map_blocks,
    plain_cpu,
    tied,
)
from qonnx_torch.ops.quantizers.numerics import result_dtype

__all__ = ["recomputed"]


def recomputed(function: Callable[..., Tensor], x: Tensor, *parameters: Tensor) -> Tensor:
    """Returns function(x, *parameters); the backward computes it again, with autograd.

    In eager mode on the CPU both go through large tensors in pieces that stay in the processor's cache.

    Args:
        function: elementwise; differentiable by autograd.
        x: gives the result its shape, dtype and memory format.
        parameters: broadcastable to x; the first is the scale.
    """
    if not functions_apply():
        return function(x, *parameters)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *parameters)):
        result: Tensor = _Recomputed.apply(function, x, *parameters)  # type: ignore[no-untyped-call]
        return result
    return _forward(function, x, *parameters)


def _forward(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    x, scale, *_ = inputs
    if plain_cpu(*inputs) and is_large(x) and result_dtype(x, scale) == x.dtype:
        return map_blocks(lambda *pieces, out: out.copy_(function(*pieces)), *inputs)
    return function(*inputs)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        ctx.function = function
        return _forward(function, *inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs: tuple[Tensor, ...] = ctx.saved_tensors
        needs = ctx.needs_input_grad[1:]

        def gradients(grad: Tensor, *inputs: Tensor) -> tuple[Tensor | None, ...]:
            create_graph = torch.is_grad_enabled()
            with torch.enable_grad():
                leaves = inputs
                if not create_graph:
                    leaves = tuple(t.detach().requires_grad_(n) for t, n in zip(inputs, needs, strict=True))
                wanted = [t for t, needed in zip(leaves, needs, strict=True) if needed]
                found = torch.autograd.grad(
                    ctx.function(*leaves), wanted, grad, create_graph=create_graph, materialize_grads=True
                )
            results = iter(found)
            return tuple(next(results) if needed else None for needed in needs)

        # Of an x that is broadcast, autograd gives a sum, and a piece of the result needs each summand.
        per_element = inputs[0].shape == grad.shape
        if per_element and plain_cpu(grad, *inputs) and not torch.is_grad_enabled():
            return None, *gradient_blocks(gradients, grad, inputs, needs)
        x, *parameters = inputs
        return None, *gradients(grad, tied(x, grad), *parameters)
