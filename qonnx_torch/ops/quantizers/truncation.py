"""Truncation (Trunc, versions 1 and 2): dropping least significant bits of quantized values.

Gradients: every rounding is taken as the identity, also that of the power of two in version 2. `ste` cuts the
gradient where the truncated value leaves the range, `pass` nowhere. Brevitas' TruncIntQuant, with TensorClamp
and TensorClampSte. It rounds before it clamps, QONNX after; the bounds are integers, so the values are the
same, and as in Brevitas the rounded value decides where the gradient ends.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qonnx_torch.ops.quantizers.gradients import carry_gradient, clamp
from qonnx_torch.ops.quantizers.numerics import integer_bounds, promote, result_dtype, shift, unshift
from qonnx_torch.ops.quantizers.recomputed import recomputed
from qonnx_torch.ops.quantizers.rounding import ROUNDING_MODES, round_to_integer

__all__ = ["trunc", "trunc_v1"]


def trunc(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    input_bit_width: Tensor,
    output_scale: Tensor,
    output_bit_width: Tensor,
    *,
    signed: bool,
    narrow: bool,
    rounding_mode: str,
    gradient: str = "ste",
) -> Tensor:
    """Returns x truncated (version 2); `qonnx_torch.ops.trunc` describes the arguments."""

    def compute(x: Tensor, scale: Tensor, zero_point: Tensor, output_scale: Tensor, bits: Tensor) -> Tensor:
        y = round_to_integer(shift(x, scale, zero_point), "ROUND")
        carrier = promote(scale, output_scale)
        ratio = output_scale.to(carrier) / scale.to(carrier)
        step = torch.exp2(round_to_integer(torch.log2(ratio), "ROUND"))
        carrier = promote(y, step)
        y = y.to(carrier) / step.to(carrier)
        low, high = integer_bounds(bits, signed=signed, narrow=narrow)
        q = ROUNDING_MODES[rounding_mode](clamp(y, low, high).detach())
        q = carry_gradient(y, q, low, high, rounding_mode=rounding_mode, gradient=gradient)
        carrier = promote(zero_point, step)
        output_zero_point = zero_point.to(carrier) / step.to(carrier)
        return unshift(q, output_scale, output_zero_point).to(result_dtype(x, scale))

    return recomputed(compute, x, scale, zero_point, output_scale, output_bit_width)


def trunc_v1(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    input_bit_width: Tensor,
    output_bit_width: Tensor,
    *,
    rounding_mode: str,
) -> Tensor:
    """Returns x truncated (version 1); `qonnx_torch.ops.trunc_v1` describes the arguments."""

    def compute(x: Tensor, scale: Tensor, zero_point: Tensor, bits: Tensor, output_bits: Tensor) -> Tensor:
        y = round_to_integer(shift(x, scale, zero_point), "ROUND")
        carrier = promote(bits, output_bits)
        step = torch.pow(2.0, bits.to(carrier) - output_bits.to(carrier))
        carrier = promote(y, step)
        q = round_to_integer(y.to(carrier) / step.to(carrier), rounding_mode)
        return unshift(q, scale, zero_point).to(result_dtype(x, scale))

    return recomputed(compute, x, scale, zero_point, input_bit_width, output_bit_width)
