"""onnxruntime's pools and reductions of quantized integers (com.microsoft). They have no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.contrib.quantized import dequantized, quantized, require
from qonnx_torch.ops.standard._requantize import centred, requantized
from qonnx_torch.ops.standard.pool import average_pool, max_pool

__all__: list[str] = []

_CONTRIB = "com.microsoft"


@operator("QLinearAveragePool", domain=_CONTRIB, required=("kernel_shape",))
def qlinear_average_pool(
    X: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor | None = None,
    y_scale: Tensor | None = None,
    y_zero_point: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    channels_last: int = 0,
    count_include_pad: int = 0,
    kernel_shape: Sequence[int] = (),
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Returns QuantizeLinear(AveragePool(DequantizeLinear(X))).

    Args:
        X: (N, C, D1, ...), or (N, D1, ..., C) with channels_last; 8 bits.
        x_scale: 0-d, as the other parameters.
        x_zero_point: see x_scale.
        y_scale: see x_scale.
        y_zero_point: see x_scale.
        auto_pad: and the other attributes, as in AveragePool.
        ceil_mode: see auto_pad.
        channels_last: whether X, and the result, have the channels as last dimension.
        count_include_pad: see auto_pad.
        kernel_shape: see auto_pad.
        pads: see auto_pad.
        strides: see auto_pad.

    Source: onnxruntime 1.32, com.microsoft QLinearAveragePool-1.
    """
    (y_scale,) = require("QLinearAveragePool", y_scale=y_scale)
    X = X.movedim(-1, 1) if channels_last else X
    mean = average_pool(
        dequantized(X, x_scale, x_zero_point),
        auto_pad=auto_pad,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    y = quantized(mean, y_scale, y_zero_point, X)
    return y.movedim(1, -1) if channels_last else y


@operator("QLinearGlobalAveragePool", domain=_CONTRIB)
def qlinear_global_average_pool(
    X: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    *,
    channels_last: int = 0,
) -> Tensor:
    """Returns the mean of each channel: saturate(round(n * (x_scale / (y_scale * count))) + y_zero_point).

    n is the exact sum of X - x_zero_point. Args: X is (N, C, D1, ...), or (N, D1, ..., C) with channels_last.
    Source: onnxruntime 1.32, com.microsoft QLinearGlobalAveragePool-1.
    """
    spatial = list(range(1, X.dim() - 1)) if channels_last else list(range(2, X.dim()))
    total = centred(X, x_zero_point, torch.int32).sum(spatial, keepdim=True, dtype=torch.int32)
    count = torch.ones((), dtype=torch.float32, device=X.device)
    for dim in spatial:
        count = count * X.shape[dim]
    return requantized(total, x_scale.reshape(()) / (y_scale.reshape(()) * count), y_zero_point, X.dtype)


@operator("QLinearReduceMean", domain=_CONTRIB, required=("axes", "keepdims"))
def qlinear_reduce_mean(
    data: Tensor,
    data_scale: Tensor,
    data_zero_point: Tensor | None = None,
    reduced_scale: Tensor | None = None,
    reduced_zero_point: Tensor | None = None,
    *,
    axes: Sequence[int] = (),
    keepdims: int = 1,
) -> Tensor:
    """Returns QuantizeLinear(ReduceMean(DequantizeLinear(data))).

    Source: onnxruntime 1.32, com.microsoft QLinearReduceMean-1, which has no kernel there.
    """
    (reduced_scale,) = require("QLinearReduceMean", reduced_scale=reduced_scale)
    values = dequantized(data, data_scale, data_zero_point)
    mean = values.mean(list(axes) or list(range(values.dim())), keepdim=bool(keepdims))
    return quantized(mean, reduced_scale, reduced_zero_point, data)


@operator("ReduceSumInteger", domain=_CONTRIB, required=("axes", "keepdims"))
def reduce_sum_integer(data: Tensor, *, axes: Sequence[int] = (), keepdims: int = 1) -> Tensor:
    """Returns the sum of integers of 8 bits as int32, or as uint32 of unsigned ones.

    Source: onnxruntime 1.32, com.microsoft ReduceSumInteger-1, which has no kernel there.
    """
    dims = list(axes) or list(range(data.dim()))
    total = data.sum(dims, keepdim=bool(keepdims), dtype=torch.int64).to(torch.int32)
    return total.view(torch.uint32) if data.dtype == torch.uint8 else total


@operator("NhwcMaxPool", domain=_CONTRIB, required=("kernel_shape",))
def nhwc_max_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int] = (),
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Returns MaxPool of integers (N, D1, ..., C). Source: onnxruntime 1.32, com.microsoft NhwcMaxPool-1."""
    options: dict[str, Any] = {"auto_pad": auto_pad, "ceil_mode": ceil_mode, "dilations": dilations}
    y: Tensor = max_pool(x.movedim(-1, 1), kernel_shape=kernel_shape, pads=pads, strides=strides, **options)
    return y.movedim(1, -1)
