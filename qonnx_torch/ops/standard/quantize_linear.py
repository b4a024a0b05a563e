"""ONNX's own quantization operators."""

from __future__ import annotations

import torch
from onnx import TensorProto
from torch import Tensor

from qonnx_torch.dtypes import integer_range, onnx_element_type, torch_dtype
from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.quantizers.rounding import round_to_integer
from qonnx_torch.ops.standard._axes import axis_of
from qonnx_torch.ops.standard.casting import converted

__all__: list[str] = []

_COMPUTING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _along(parameter: Tensor, x: Tensor, axis: int, block_size: int) -> Tensor:
    """Returns a scale or zero point in a shape that broadcasts with x.

    One number stays one; (n,) lies along `axis`; else it has x's dimensions, and each of its elements holds
    for `block_size` of x's along `axis`.
    """
    if parameter.numel() == 1:
        return parameter.reshape(())
    axis = axis_of(axis, x.dim()) if x.dim() > 1 else 0
    if block_size:
        if parameter.dim() != x.dim():
            raise InvalidModelError(
                f"block_size {block_size} needs a scale of x's {x.dim()} dimensions, not {parameter.dim()}"
            )
        return parameter.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    if parameter.dim() != 1:
        raise InvalidModelError(f"a scale of {parameter.dim()} dimensions needs the attribute block_size")
    view = [1] * x.dim()
    view[axis] = -1
    return parameter.reshape(view)


@operator("QuantizeLinear", since_version=10)
def quantize_linear(
    x: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Tensor:
    """Returns saturate(round(x / y_scale) + y_zero_point); rounds half to even.

    Args:
        x: any shape.
        y_scale: 0-d, or (n,) along `axis`, or of x's dimensions with one element per block along `axis`.
        y_zero_point: like y_scale; its type is the result's (uint8 where absent).
        axis: of per-axis and blocked parameters.
        block_size: how many elements along `axis` have one scale; 0 where that is not so.
        output_dtype: ONNX element type of the result, where y_zero_point is absent or does not show it.
        precision: ONNX element type of the division; y_scale's where absent.
        saturate: float8 results: 1 makes what is too large the largest value, 0 infinity or NaN.

    Raises: InvalidModelError where the parameters' shapes do not fit. Source: ONNX QuantizeLinear-28.
    """
    element_type = output_dtype
    if not element_type:
        element_type = TensorProto.UINT8 if y_zero_point is None else onnx_element_type(y_zero_point.dtype)
    if precision:
        dtype = torch_dtype(precision)
    else:
        dtype = next((t.dtype for t in (y_scale, x) if t.dtype in _COMPUTING), torch.float32)
    ratio = x.to(dtype) / _along(y_scale.to(dtype), x, axis, block_size)
    zero = None if y_zero_point is None else _along(y_zero_point, x, axis, block_size)
    if torch_dtype(element_type).is_floating_point:
        y = ratio if zero is None else ratio + zero.to(dtype)
        return converted(y, element_type, bool(saturate))
    y = round_to_integer(ratio, "ROUND")
    if dtype in (torch.float16, torch.bfloat16):
        y = y.to(torch.float32)  # the sum below may need more digits
    if zero is not None:
        y = y + zero.to(y.dtype)
    return torch.clamp(y, *integer_range(element_type)).to(torch_dtype(element_type))


@operator("DequantizeLinear", since_version=10)
def dequantize_linear(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    """Returns (x - x_zero_point) * x_scale in x_scale's type, or another.

    Args:
        x: any shape, of an integer or narrow float type.
        x_scale: 0-d, or (n,) along `axis`, or of x's dimensions with one element per block along `axis`.
        x_zero_point: like x_scale; 0 where absent.
        axis: of per-axis and blocked parameters.
        block_size: how many elements along `axis` have one scale; 0 where that is not so.
        output_dtype: ONNX element type of the result, instead of x_scale's.

    Raises: InvalidModelError where the parameters' shapes do not fit. Source: ONNX DequantizeLinear-28.
    """
    if output_dtype:
        result = torch_dtype(output_dtype)
    else:
        result = x_scale.dtype if x_scale.dtype in _COMPUTING else torch.float32
    # Types of 16 bits do not hold every difference; the product is rounded to them once.
    computing = torch.float32 if result in (torch.float16, torch.bfloat16) else result
    exact = computing if x.is_floating_point() else torch.int64
    y = x.to(exact)
    if x_zero_point is not None:
        y = y - _along(x_zero_point, x, axis, block_size).to(exact)
    scale = _along(x_scale.to(computing), x, axis, block_size)
    return (y.to(computing) * scale).to(result)


@operator("DynamicQuantizeLinear", since_version=11, outputs=3)
def dynamic_quantize_linear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns x as uint8 over the range of its values, which always has 0, with the scale and zero point.

    y_scale = (max(0, max(x)) - min(0, min(x))) / 255, y_zero_point = round(-min(0, min(x)) / y_scale); where
    x is all 0 the range counts as 1. An empty x has the scale 1 and the zero point 0, as in onnxruntime 1.32.
    Source: ONNX DynamicQuantizeLinear-11.
    """
    if not x.numel():
        return x.to(torch.uint8), x.new_ones(()), x.new_zeros((), dtype=torch.uint8)
    high, low = x.amax().clamp(min=0), x.amin().clamp(max=0)
    span = torch.where(high == low, 1, high - low)
    scale = span / 255
    zero = torch.round((-low / scale).clamp(0, 255))
    y = torch.clamp(round_to_integer(x / scale, "ROUND") + zero, 0, 255)
    return y.to(torch.uint8), scale, zero.to(torch.uint8)
