"""The bipolar quantizer and its hand-written gradient, in the forms of `ops.quantizers.uniform`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qonnx_torch.ops.quantizers.blocks import functions_apply, gradient_blocks, map_blocks, plain_cpu, tied
from qonnx_torch.ops.quantizers.gradients import binarize
from qonnx_torch.ops.quantizers.numerics import promote, result_dtype

__all__ = ["bipolar_quant"]


def bipolar_quant(x: Tensor, scale: Tensor, *, gradient: str = "pass") -> Tensor:
    """Returns +scale where x >= 0, else -scale; `qonnx_torch.ops.bipolar_quant` describes the arguments."""
    carrier = promote(x, scale)
    unit = scale.to(carrier)
    if not functions_apply():
        result = binarize(x.to(carrier), unit, gradient) * unit
    elif torch.is_grad_enabled() and (x.requires_grad or unit.requires_grad):
        result = _Bipolar.apply(x, unit, gradient)  # type: ignore[no-untyped-call]
    else:
        result = _forward(x, unit)
    return result.to(result_dtype(x, scale))


def _forward(x: Tensor, scale: Tensor) -> Tensor:
    x = x.to(scale.dtype)
    if plain_cpu(x, scale):
        # The comparison writes 1 and 0 as floats: booleans are several times slower.
        return map_blocks(
            lambda x, s, out: torch.ge(x.expand_as(out), 0, out=out).mul_(2).sub_(1).mul_(s), x, scale
        )
    return torch.where(x >= 0, scale, -scale)


class _Bipolar(torch.autograd.Function):
    """The quantizer with its gradient; keeps x in its own dtype, and computes in that of scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, gradient: str) -> Tensor:
        needs_x = gradient != "pass" or ctx.needs_input_grad[1]
        ctx.save_for_backward(x if needs_x else None, scale)
        ctx.shape, ctx.dtype = x.shape, x.dtype
        ctx.gradient = gradient
        return _forward(x, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        if x is None:
            dx, ds = (grad * scale).sum_to_size(ctx.shape), None
        else:
            dx, ds = _backward(grad, x.to(scale.dtype), scale, ctx.gradient, ctx.needs_input_grad[:2])
        return None if dx is None else dx.to(ctx.dtype), ds, None


def _backward(
    grad: Tensor, x: Tensor, scale: Tensor, gradient: str, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Returns the gradients of x and scale, or None where they are not needed."""
    if torch.is_grad_enabled():  # a second derivative will be asked for
        wanted = [t for t, needed in zip((x, scale), needs, strict=True) if needed]
        result = binarize(x, scale, gradient) * scale
        found = iter(torch.autograd.grad(result, wanted, grad, create_graph=True))
        return tuple(next(found) if needed else None for needed in needs)

    clipped = gradient != "pass"
    if plain_cpu(grad, x, scale):

        def of_piece(grad: Tensor, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
            return _gradients_of_piece(grad, x, scale, clipped=clipped)

        return gradient_blocks(of_piece, grad, (x, scale), needs)
    dx, ds = _gradients(grad, tied(x, grad), scale, clipped=clipped)
    return dx.sum_to_size(x.shape), ds.sum_to_size(scale.shape) if needs[1] else None


def _gradients(grad: Tensor, x: Tensor, scale: Tensor, *, clipped: bool) -> tuple[Tensor, Tensor]:
    """Returns d/dx and d/dscale per element: scale and the sign; clipped, 0 and twice the sign outside.

    Clipped, the value is sign(clamp(x, -scale, scale)) scale: outside, the bound too carries the scale.
    """
    dx = grad * scale
    ds = torch.where(x >= 0, grad, -grad)
    if not clipped:
        return dx, ds
    below, above = x < -scale, x > scale
    outside = torch.where(above, dx, 0) - torch.where(below, dx, 0)
    return torch.where(below | above, 0, dx), ds + outside


def _gradients_of_piece(grad: Tensor, x: Tensor, scale: Tensor, *, clipped: bool) -> tuple[Tensor, Tensor]:
    """Returns what `_gradients` returns, with comparisons that write 1 and 0 as floats."""
    x, dx = x.expand_as(grad), grad * scale
    ds = torch.ge(x, 0, out=torch.empty_like(dx)).mul_(2).sub_(1).mul_(grad)
    if clipped:
        below = torch.lt(x, -scale, out=torch.empty_like(dx)).mul_(dx)
        above = torch.gt(x, scale, out=torch.empty_like(dx)).mul_(dx)
        ds.add_(above).sub_(below)
        dx.sub_(above).sub_(below)
    return dx, ds
