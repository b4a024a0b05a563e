"""The uniform quantizer in ONNX's order: QuantizeLinear to integers, then DequantizeLinear.

QONNX's Quant adds the zero point and then rounds; QuantizeLinear rounds and then adds it. For an odd zero
point all ties go the other way, and a sum that is rounded in floating point may cross a tie for any. So:

    (round(clamp(x / scale, low - zero_point, high - zero_point))) * scale

which is a uniform quantizer without a zero point whose bounds are shifted (clamping to integers and rounding
commute). It has the gradients of `ops.quantizers.gradients`; the zero point gets those of the bounds.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.ops.quantizers.blocks import plain_cpu
from qonnx_torch.ops.quantizers.gradients import (
    carry_gradient,
    clamp,
    clamp_from_the_bounds_on,
    scaled_gradient,
)
from qonnx_torch.ops.quantizers.rounding import gradients_flow, straight_through
from qonnx_torch.ops.quantizers.uniform import bounded_quant
from qonnx_torch.ops.quantizers.uniform_blocks import Bound, Form

__all__ = ["in_blocks", "out_of_blocks", "quantize_dequantize_linear"]


def quantize_dequantize_linear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    *,
    low: int,
    high: int,
    gradient: str = "ste",
    elements: int | None = None,
) -> Tensor:
    """Returns x quantized and dequantized in ONNX's order; the parameters broadcast to x.

    `qonnx_torch.ops.quantize_dequantize_linear` describes the arguments.
    """
    carrier = torch.float64 if torch.float64 in (x.dtype, scale.dtype) else torch.float32
    shift = zero_point.to(carrier)
    lowest: Bound
    highest: Bound
    if zero_point.numel() == 1 and not zero_point.requires_grad and plain_cpu(x, scale, zero_point):
        lowest, highest = low - shift.item(), high - shift.item()
    else:
        lowest, highest = low - shift, high - shift
    if scale.dtype in (torch.float16, torch.bfloat16):
        return _in_half_precision(x, scale, lowest, highest, gradient, elements)
    # -0.0, which q - zero turns into +0.0: an integer has no negative zero.
    zero = -torch.abs(shift.detach() * 0)
    return bounded_quant(x, scale, zero, lowest, highest, Form("ROUND", False, gradient, elements))


def _in_half_precision(
    x: Tensor, scale: Tensor, low: Bound, high: Bound, gradient: str, elements: int | None
) -> Tensor:
    """Returns the same for a scale of half precision, in which ONNX divides; all else is in float32."""
    low, high = (torch.as_tensor(b, dtype=torch.float32, device=x.device) for b in (low, high))
    if elements is not None:
        scale = scaled_gradient(scale, high, elements)
    y = (x.to(scale.dtype) / scale).to(torch.float32)
    q = torch.round(clamp(y.detach(), low, high)) + 0.0
    q = carry_gradient(y, q, low, high, rounding_mode="ROUND", gradient=gradient)
    step = scale.to(torch.float32)
    result = q * step
    if gradient == "pact" and gradients_flow():
        inside = (y > low) & (y < high)
        clipped = torch.where(inside, x.to(torch.float32), clamp_from_the_bounds_on(y, low, high) * step)
        result = straight_through(clipped, result)
    return result.to(scale.dtype)


def in_blocks(x: Tensor, axis: int, block_size: int) -> Tensor:
    """Returns x (..., D, ...) as (..., ceil(D / block_size), block_size, ...), zeros behind what is there.

    Args:
        x: any shape.
        axis: the dimension of size D; may be negative.
        block_size: 0 leaves x as it is.
    """
    if not block_size:
        return x
    axis %= x.dim()
    missing = -x.shape[axis] % block_size
    if missing:
        x = F.pad(x, (*[0, 0] * (x.dim() - 1 - axis), 0, missing))
    blocks: Tensor = x.unflatten(axis, (-1, block_size))
    return blocks


def out_of_blocks(y: Tensor, x: Tensor, axis: int, block_size: int) -> Tensor:
    """Returns the inverse of `in_blocks` applied to y: the shape of x."""
    if not block_size:
        return y
    axis %= x.dim()
    return y.flatten(axis, axis + 1).narrow(axis, 0, x.shape[axis])
