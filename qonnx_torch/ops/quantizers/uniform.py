"""The uniform quantizer (Quant/IntQuant): which of its forms computes a call, and its hand-written gradient.

One meaning, three forms, equal bit for bit in the result and in the gradient of x:

- `composed_quant`: plain operations with straight-through roundings, differentiated by autograd itself. It
  does all that autograd does: torch.func, forward-mode AD, second derivatives, mixed dtypes.
- a `torch.autograd.Function` whose backward recomputes from x, in plain operations: for compilers, which fuse
  it into one kernel each way, and for every device.
- the same in pieces that stay in the processor's cache (`uniform_blocks`): eager mode on the CPU.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from qonnx_torch.ops.quantizers import uniform_blocks
from qonnx_torch.ops.quantizers.blocks import functions_apply, plain_cpu, tied
from qonnx_torch.ops.quantizers.gradients import (
    binarize,
    carry_gradient,
    clamp,
    gradient_factor,
    scaled_gradient,
)
from qonnx_torch.ops.quantizers.numerics import integer_bounds, promote, result_dtype, shift, unshift
from qonnx_torch.ops.quantizers.rounding import ROUNDING_MODES, gradients_flow, straight_through
from qonnx_torch.ops.quantizers.uniform_blocks import Bound, Form, Gradients

__all__ = ["bounded_quant", "composed_quant", "uniform_quant"]


def uniform_quant(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    bit_width: Tensor,
    *,
    signed: bool,
    narrow: bool,
    rounding_mode: str,
    one_bit: bool | None,
    gradient: str = "ste",
    elements: int | None = None,
) -> Tensor:
    """Returns x quantized; `qonnx_torch.ops.quant` describes the arguments. Chooses the form."""
    plain = plain_cpu(x, scale, zero_point, bit_width) and bit_width.numel() == 1
    bits = bit_width.item() if plain else None
    learned = bit_width.requires_grad and torch.is_grad_enabled()
    if not signed:
        one_bit = False
    elif one_bit is None and bits is not None and not (learned and bits == 1):
        one_bit = bits == 1  # a learned 1 stays in the graph, as it does where its value is not known

    low: Bound
    high: Bound
    if one_bit:
        low, high = -1.0, 1.0
    elif bits is not None and not learned:
        low, high = _bounds(bits, bit_width.dtype, signed, narrow)
    else:
        low, high = integer_bounds(bit_width, signed=signed, narrow=narrow)

    if one_bit is None or bit_width.dim() > x.dim():
        one = bit_width == 1 if one_bit is None else one_bit
        step = scale if elements is None else scaled_gradient(scale, high, elements)
        return composed_quant(x, step, zero_point, low, high, one, rounding_mode, gradient)
    return bounded_quant(x, scale, zero_point, low, high, Form(rounding_mode, one_bit, gradient, elements))


def bounded_quant(
    x: Tensor, scale: Tensor, zero_point: Tensor, low: Bound, high: Bound, form: Form
) -> Tensor:
    """Returns x quantized to the integers from low to high, which are numbers or broadcast with x."""
    carrier = promote(x, scale)
    if promote(x, scale, zero_point) != carrier or not functions_apply():
        step = scale if form.elements is None else scaled_gradient(scale, high, form.elements)
        return composed_quant(x, step, zero_point, low, high, form.one_bit, form.rounding_mode, form.gradient)
    arguments = (x, scale.to(carrier), zero_point.to(carrier), low, high, form)
    if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in arguments):
        result: Tensor = _UniformQuant.apply(*arguments)  # type: ignore[no-untyped-call]
    else:
        result = _forward(*arguments)
    return result.to(result_dtype(x, scale))


@lru_cache(maxsize=256)
def _bounds(bits: float, dtype: torch.dtype, signed: bool, narrow: bool) -> tuple[float, float]:
    low, high = integer_bounds(torch.tensor(bits, dtype=dtype), signed=signed, narrow=narrow)
    return float(low), float(high)


def composed_quant(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    low: Bound,
    high: Bound,
    one_bit: bool | Tensor,
    rounding_mode: str,
    gradient: str,
) -> Tensor:
    """Returns x quantized, in operations that autograd and torch.func differentiate themselves.

    Args:
        x: any shape.
        scale: broadcastable to x, like zero_point; in any dtypes, which promote as NumPy's do.
        zero_point: see scale.
        low: the smallest integer, and high the largest; tensors where they have gradients.
        high: see low.
        one_bit: whether the quantizer is the signed one of one bit; a tensor where that is to be looked up.
        rounding_mode: canonical name.
        gradient: `ste`, `pass`, `lsq` or `pact`.
    """
    y = shift(x, scale, zero_point)
    low, high = (
        b if isinstance(b, Tensor) else torch.tensor(b, dtype=torch.float64, device=x.device)
        for b in (low, high)
    )
    q = ROUNDING_MODES[rounding_mode](clamp(y, low, high).detach())
    q = carry_gradient(y, q, low, high, rounding_mode=rounding_mode, gradient=gradient)
    if isinstance(one_bit, Tensor):
        q = torch.where(one_bit, binarize(y, 1.0, gradient), q)
    elif one_bit:
        q = binarize(y, 1.0, gradient)
    result = unshift(q, scale, zero_point).to(result_dtype(x, scale))
    if gradient == "pact" and one_bit is not True and gradients_flow():
        clipped = torch.where(y < low, unshift(low, scale, zero_point).to(x.dtype), x)
        clipped = torch.where(y >= high, unshift(high, scale, zero_point).to(x.dtype), clipped)
        result = straight_through(clipped.to(result.dtype), result)
    return result


def _forward(x: Tensor, scale: Tensor, zero_point: Tensor, low: Bound, high: Bound, form: Form) -> Tensor:
    """Returns the quantizer's value, without a gradient, in the dtype of scale and zero_point."""
    x = x.to(scale.dtype)
    if plain_cpu(x, scale, zero_point) and _are_numbers(low, high):
        return uniform_blocks.forward(x, scale, zero_point, low, high, form)
    y = x / scale + zero_point
    return (_integers(y, low, high, form) - zero_point) * scale


def _are_numbers(*bounds: Bound) -> bool:
    return all(not isinstance(b, Tensor) or b.numel() == 1 for b in bounds)


def _integers(y: Tensor, low: Bound, high: Bound, form: Form) -> Tensor:
    if form.one_bit:
        return torch.where(y >= 0, 1.0, -1.0).to(y.dtype)
    return ROUNDING_MODES[form.rounding_mode](clamp(y, low, high))


class _UniformQuant(torch.autograd.Function):
    """The quantizer with the gradients of `ops.quantizers.gradients`; keeps x, and no other large tensor.

    x is kept in its own dtype, and computed with in that of scale, which zero_point shares.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, low: Bound, high: Bound, form: Form
    ) -> Tensor:
        kept: list[Tensor | None] = [x, scale, zero_point]
        ctx.bounds = None
        if isinstance(low, Tensor) and isinstance(high, Tensor):
            kept += [low, high]
        else:
            ctx.bounds = (low, high)
        if form.gradient == "pass" and not ctx.needs_input_grad[1]:
            kept[0] = None  # nothing of x is needed
        ctx.save_for_backward(*kept)
        ctx.shape, ctx.dtype = x.shape, x.dtype
        ctx.form = form
        return _forward(x, scale, zero_point, low, high, form)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero_point, *bounds = ctx.saved_tensors
        low, high = ctx.bounds or bounds
        needs = ctx.needs_input_grad[:5]
        plain = plain_cpu(grad, scale, zero_point) and _are_numbers(low, high)
        if x is None:
            in_blocks = plain and not torch.is_grad_enabled()
            dx = uniform_blocks.pass_through(grad, scale) if in_blocks else grad * scale / scale
            others = zip((zero_point, low, high), needs[2:], strict=True)
            zeros = (torch.zeros_like(t) if needed else None for t, needed in others)
            return dx.sum_to_size(ctx.shape).to(ctx.dtype), None, *zeros, None
        arguments = (grad, x.to(scale.dtype), scale, zero_point, low, high, ctx.form, needs)
        if torch.is_grad_enabled():  # a second derivative will be asked for
            dx, ds, *rest = _composed_backward(*arguments)
        else:
            dx, ds, *rest = uniform_blocks.backward(*arguments) if plain else _backward(*arguments)
            if ds is not None and ctx.form.elements is not None:
                ds = ds * gradient_factor(high, ctx.form.elements, scale)
        return None if dx is None else dx.to(ctx.dtype), ds, *rest, None


def _backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    low: Bound,
    high: Bound,
    form: Form,
    needs: tuple[bool, ...],
) -> Gradients:
    """Returns the gradients of x, scale, zero_point, low and high, or None where they are not needed.

    With v = q - zero_point and w = x / scale inside of the range, 0 outside: d/dscale = v - w. The zero point
    moves a value outside by -scale, the bound that cuts it by scale. `pact` leaves the rounding out.
    """
    x = tied(x, grad)
    quotient = x / scale
    y = quotient + zero_point
    below, above = _outside(y, low, high, form)
    cut = below | above
    scaled = grad * scale
    dx = torch.where(cut, 0, grad) if form.clips_only else torch.where(cut, 0, scaled) / scale
    value = (clamp(y, low, high) if form.clips_only else _integers(y, low, high, form)) - zero_point
    per_element = (
        dx,
        grad * (value - torch.where(cut, 0, value if form.clips_only else quotient)),
        torch.where(cut, -scaled, 0),
        torch.where(below, scaled, 0),
        torch.where(above, scaled, 0),
    )
    inputs = (x, scale, zero_point, low, high)
    return tuple(
        d.sum_to_size(t.shape) if needed and isinstance(t, Tensor) else None
        for d, t, needed in zip(per_element, inputs, needs, strict=True)
    )


def _outside(y: Tensor, low: Bound, high: Bound, form: Form) -> tuple[Tensor, Tensor]:
    """Returns where the gradient is cut, below and above of the range."""
    if form.gradient == "pass":
        nowhere = torch.zeros_like(y, dtype=torch.bool)
        return nowhere, nowhere
    if form.one_bit:
        return y < low, y > high
    if form.rounds_before_cutting:
        y = ROUNDING_MODES[form.rounding_mode](y)
    return (
        y <= low if form.gradient == "lsq" else y < low,
        y > high if form.gradient == "ste" else y >= high,
    )


def _composed_backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    low: Bound,
    high: Bound,
    form: Form,
    needs: tuple[bool, ...],
) -> Gradients:
    """Returns what `_backward` returns, itself differentiable: the gradients of the composed form."""
    inputs = (x, scale, zero_point, low, high)
    wanted = [t for t, needed in zip(inputs, needs, strict=True) if needed and isinstance(t, Tensor)]
    step = scale if form.elements is None else scaled_gradient(scale, high, form.elements)
    y = composed_quant(x, step, zero_point, low, high, form.one_bit, form.rounding_mode, form.gradient)
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True, materialize_grads=True))
    return tuple(next(found) if needed else None for needed in needs)
