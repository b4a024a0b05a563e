"""The uniform quantizer and its gradient on the CPU in eager mode: piece by piece, in place.

Each piece goes through the whole chain while it lies in the processor's cache. Comparisons write floats
(booleans are several times slower there), and the range of a gradient is an open interval of floats, so that
one fused operation, the backward of hardtanh, cuts it out.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from qonnx_torch.ops.quantizers.blocks import gradient_blocks, map_blocks
from qonnx_torch.ops.quantizers.gradients import clamp
from qonnx_torch.ops.quantizers.rounding import round_in_place

__all__ = ["Bound", "Form", "Gradients", "backward", "forward", "pass_through"]

Bound = Tensor | float
Gradients = tuple[Tensor | None, ...]


class Form(NamedTuple):
    """What is known of a uniform quantizer before its values are."""

    rounding_mode: str
    one_bit: bool
    gradient: str
    elements: int | None

    @property
    def rounds_before_cutting(self) -> bool:
        """Whether the rounded value decides where the gradient ends."""
        return self.gradient == "ste" and not self.one_bit

    @property
    def clips_only(self) -> bool:
        """Whether the gradient is that of the clipping, without the rounding."""
        return self.gradient == "pact" and not self.one_bit


_HARDTANH_BACKWARD = torch.ops.aten.hardtanh_backward
_NO_TENSOR = torch.zeros((), dtype=torch.float64)

# Where the processor's min and max order signed zeros (64-bit Arm), clamping by them would lose -0.0.
_CLAMP_KEEPS_SIGNED_ZERO = bool(torch.full((67,), -0.0).clamp_(0.0, 1.0).signbit().all())


def forward(x: Tensor, scale: Tensor, zero_point: Tensor, low: Bound, high: Bound, form: Form) -> Tensor:
    """Returns the quantizer's value: the shape of x broadcast with the parameters, the memory format of x."""
    low, high = float(low), float(high)

    def of_piece(x: Tensor, scale: Tensor, zero_point: Tensor, *, out: Tensor) -> Tensor:
        torch.div(x.expand_as(out), scale, out=out).add_(zero_point)
        return _to_integers_(out, low, high, form).sub_(zero_point).mul_(scale)

    return map_blocks(of_piece, x, scale, zero_point)


def _to_integers_(y: Tensor, low: float, high: float, form: Form) -> Tensor:
    if form.one_bit:
        return y.ge_(0).mul_(2).sub_(1)
    return round_in_place(_clamp_(y, low, high), form.rounding_mode)


def _clamp_(y: Tensor, low: float, high: float) -> Tensor:
    if low == 0 and not _CLAMP_KEEPS_SIGNED_ZERO:
        return y.copy_(clamp(y, y.new_tensor(low), y.new_tensor(high)))
    return y.clamp_(low, high)


@lru_cache(maxsize=256)
def _open_interval(low: float, high: float, form: Form, dtype: torch.dtype) -> tuple[float, float]:
    """Returns the floats next to those of which the gradient is kept, on either side.

    `ste` keeps [low, high] (of the rounded value), `lsq` (low, high), `pact` [low, high), `pass` all; one
    bit keeps [low, high] of the value itself.
    """
    if form.gradient == "pass":
        return -math.inf, math.inf
    lower, upper = torch.tensor([low, high], dtype=dtype)
    if form.one_bit or form.gradient != "lsq":
        lower = torch.nextafter(lower, torch.full_like(lower, -math.inf))
    if form.one_bit or form.gradient == "ste":
        upper = torch.nextafter(upper, torch.full_like(upper, math.inf))
    return float(lower), float(upper)


def backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    low: Bound,
    high: Bound,
    form: Form,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Returns the gradients of x, scale, zero_point, low and high, or None where they are not needed."""
    ends = (float(low), float(high))
    bounds = [t if isinstance(t, Tensor) else _NO_TENSOR for t in (low, high)]
    lower, upper = _open_interval(*ends, form, x.dtype)

    def of_piece(grad: Tensor, x: Tensor, scale: Tensor, zero_point: Tensor, *_: Tensor) -> Gradients:
        quotient = x / scale
        y = quotient + zero_point
        dx = ds = dz = below = above = None
        value = _value(y.clone(), zero_point, ends, form) if needs[1] else y
        if form.rounds_before_cutting:
            round_in_place(y, form.rounding_mode)
        scaled = grad * scale
        if needs[0]:
            dx = _cut(grad, y) if form.clips_only else _cut(scaled, y).div_(scale)
        if needs[1]:
            ds = value.sub_(_cut(value if form.clips_only else quotient, y)).mul_(grad)
        if any(needs[2:]):
            below = torch.le(y, lower, out=quotient).mul_(scaled)
            above = y.ge_(upper).mul_(scaled)
            dz = torch.add(below, above).neg_()
        return dx, ds, dz, below, above

    def _cut(value: Tensor, y: Tensor) -> Tensor:
        """Returns value where y is in the open interval, else 0."""
        return value if form.gradient == "pass" else _HARDTANH_BACKWARD(value, y, lower, upper)

    return gradient_blocks(of_piece, grad, (x, scale, zero_point, *bounds), needs)


def pass_through(grad: Tensor, scale: Tensor) -> Tensor:
    """Returns (grad * scale) / scale, rounded twice as autograd rounds it."""
    return map_blocks(lambda grad, scale, out: torch.mul(grad, scale, out=out).div_(scale), grad, scale)


def _value(y: Tensor, zero_point: Tensor, ends: tuple[float, float], form: Form) -> Tensor:
    """Turns y into what the scale multiplies, as far as the gradient knows."""
    q = _clamp_(y, *ends) if form.clips_only else _to_integers_(y, *ends, form)
    return q.sub_(zero_point)
