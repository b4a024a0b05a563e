"""The minifloat quantizer (FloatQuant).

Gradients, with y = x / scale, step = 2^max(floor(log2 |y|) - m, 1 - bias - m) and q = round(y / step) step:

- `ste`: roundings, also the floor of the exponent, are taken as the identity, so that the step follows y:
  d/dx is 1 + (q - y) / y = q / y above the subnormals, 1 among them, 0 where |q| exceeds the largest value.
  Inside, the scale gets next to nothing, since y and the step move together. Brevitas' FloatQuant with
  TensorClamp.
- `pass`: the same without the 0. Brevitas' TensorClampSte.
- `lsq`: the step is a constant, and the gradient that of clamp(y, -largest, largest), zero from the bounds
  on: d/dx is 1 inside, d/dscale is q - y inside and +-largest outside; what LSQ does to integers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qonnx_torch.ops.quantizers.gradients import clamp_from_the_bounds_on
from qonnx_torch.ops.quantizers.numerics import promote, result_dtype
from qonnx_torch.ops.quantizers.recomputed import recomputed
from qonnx_torch.ops.quantizers.rounding import gradients_flow, round_to_integer, straight_through

__all__ = ["float_quant", "largest_float"]


def float_quant(
    x: Tensor,
    scale: Tensor,
    exponent_bit_width: Tensor,
    mantissa_bit_width: Tensor,
    exponent_bias: Tensor,
    max_val: Tensor,
    *,
    has_inf: bool,
    has_nan: bool,
    saturation: bool,
    rounding_mode: str,
    gradient: str = "ste",
) -> Tensor:
    """Returns x on the minifloat grid; `qonnx_torch.ops.float_quant` describes the arguments."""

    def compute(
        x: Tensor, scale: Tensor, exponent_bits: Tensor, mantissa_bits: Tensor, bias: Tensor, limit: Tensor
    ) -> Tensor:
        carrier = promote(x, scale)
        y = x.to(carrier) / scale.to(carrier)
        step = _step(y, mantissa_bits, bias, follows=gradient != "lsq")

        carrier = promote(y, step)
        y, step = y.to(carrier), step.to(carrier)
        q = step * round_to_integer(y / step, rounding_mode)

        largest = torch.minimum(largest_float(exponent_bits, mantissa_bits, bias), limit).to(torch.float64)
        q64 = q.to(torch.float64)
        result = _limit(y.to(torch.float64), q64, largest, gradient)
        if not saturation:
            infinite = torch.copysign(torch.full_like(result, torch.inf), result) if has_inf else torch.nan
            result = torch.where(torch.abs(q64.detach()) > largest, infinite, result)
        return (result * scale.to(torch.float64)).to(result_dtype(x, scale))

    return recomputed(compute, x, scale, exponent_bit_width, mantissa_bit_width, exponent_bias, max_val)


def _step(y: Tensor, mantissa_bits: Tensor, bias: Tensor, *, follows: bool) -> Tensor:
    """Returns 2^max(floor(log2 |y|) - m, 1 - bias - m); `follows`: with the gradient of the exponent."""
    # log2 is taken in float64 and rounded to the carrier: then floor() errs where the reference's correctly
    # rounded float32 log2 errs (just below powers of two), whatever log2 the device or compiler has.
    tiny = torch.finfo(y.dtype).tiny
    magnitude = torch.abs(y.detach()) + tiny
    exponent = torch.floor(torch.log2(magnitude.to(torch.float64)).to(y.dtype))
    if follows and gradients_flow():
        exponent = straight_through(torch.log2(torch.abs(y) + tiny), exponent)
    carrier = promote(exponent, bias, mantissa_bits)
    bias, mantissa_bits = bias.to(carrier), mantissa_bits.to(carrier)
    place, lowest = exponent.to(carrier) - mantissa_bits, 1.0 - bias - mantissa_bits
    # Not maximum(), which gives either side half of the gradient where they are equal.
    return torch.exp2(torch.where(place < lowest, lowest, place))


def _limit(y: Tensor, q: Tensor, largest: Tensor, gradient: str) -> Tensor:
    """Returns q limited to +-largest, with the gradient of a name."""
    limited = torch.clamp(q, -largest, largest)
    if gradient == "pass":
        return straight_through(q, limited)
    if gradient == "lsq":
        return straight_through(clamp_from_the_bounds_on(y, -largest, largest), limited)
    return limited


def largest_float(exponent_bit_width: Tensor, mantissa_bit_width: Tensor, exponent_bias: Tensor) -> Tensor:
    """Returns (2 - 2^-m) * 2^(2^e - 1 - bias), the largest value when no code is kept for inf or NaN.

    The reference adds the bits of the largest mantissa one by one: a fractional m counts as the next integer.
    """
    exponent = torch.pow(2.0, exponent_bit_width) - 1.0 - exponent_bias
    bits = torch.ceil(mantissa_bit_width.to(torch.float64))
    return (2.0 - torch.pow(2.0, -bits)) * torch.exp2(exponent.to(torch.float64))
