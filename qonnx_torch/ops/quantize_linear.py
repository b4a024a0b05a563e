"""ONNX's own quantization operators."""

from __future__ import annotations

import torch
from torch import Tensor

from qonnx_torch.dtypes import torch_dtype
from qonnx_torch.errors import UnsupportedModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.rounding import round_to_integer

__all__: list[str] = []


def _along(parameter: Tensor, x: Tensor, axis: int) -> Tensor:
    """Returns a per-axis parameter (n,) in a shape that broadcasts along that axis of x."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    view = [1] * x.dim()
    view[axis] = -1
    return parameter.reshape(view)


def _refuse_blocks(operator_name: str, block_size: int) -> None:
    if block_size:
        raise UnsupportedModelError(f"{operator_name} with block_size {block_size} is not supported")


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
    """Returns saturate(round(x / y_scale) + y_zero_point) as integers; rounds half to even.

    Args:
        x: any shape, floating.
        y_scale: 0-d, or (n,) along `axis`.
        y_zero_point: like y_scale; its dtype is the result's (uint8 where absent).
        axis: of per-axis parameters.
        block_size: not supported.
        output_dtype: ONNX element type of the result where y_zero_point is absent.
        precision: only for float8 and float4.
        saturate: only for float8.

    Raises: UnsupportedModelError for block_size or a float8 result. Source: ONNX QuantizeLinear-13.
    """
    _refuse_blocks("QuantizeLinear", block_size)
    if y_zero_point is not None:
        dtype = y_zero_point.dtype
    else:
        dtype = torch_dtype(output_dtype) if output_dtype else torch.uint8
    if dtype.is_floating_point:
        raise UnsupportedModelError(f"QuantizeLinear to {dtype} is not supported")
    limits = torch.iinfo(dtype)
    y = round_to_integer(x / _along(y_scale, x, axis), "ROUND")
    if y_zero_point is not None:
        y = y + _along(y_zero_point, x, axis).to(y.dtype)
    return torch.clamp(y, limits.min, limits.max).to(dtype)


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
    """Returns (x - x_zero_point) * x_scale in x_scale's dtype.

    Args:
        x: any shape, integer.
        x_scale: 0-d, or (n,) along `axis`.
        x_zero_point: like x_scale; 0 where absent.
        axis: of per-axis parameters.
        block_size: not supported.
        output_dtype: ONNX element type of the result, instead of x_scale's.

    Raises: UnsupportedModelError for block_size. Source: ONNX DequantizeLinear-13.
    """
    _refuse_blocks("DequantizeLinear", block_size)
    y = x.to(torch.int64)
    if x_zero_point is not None:
        y = y - _along(x_zero_point, x, axis).to(torch.int64)
    result = y.to(x_scale.dtype) * _along(x_scale, x, axis)
    return result.to(torch_dtype(output_dtype)) if output_dtype else result
