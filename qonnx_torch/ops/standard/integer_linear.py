"""Matrix products and convolutions of quantized integers, with exact sums in 32 bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard._requantize import along, as_int32, centred, product_dtype, requantized
from qonnx_torch.ops.standard.convolution import conv
from qonnx_torch.ops.standard.quantize_linear import (
    dequantize_linear,
    dynamic_quantize_linear,
    quantize_linear,
)

__all__: list[str] = []

_CONTRIB = "com.microsoft"


@operator("MatMulInteger", since_version=10)
def mat_mul_integer(
    A: Tensor, B: Tensor, a_zero_point: Tensor | None = None, b_zero_point: Tensor | None = None
) -> Tensor:
    """Returns (A - a_zero_point) @ (B - b_zero_point) as int32, modulo 2^32.

    Args:
        A: (..., M, K), 8 bits.
        B: (..., K, N), 8 bits.
        a_zero_point: 0-d, (M,) per row, or (..., M, 1).
        b_zero_point: 0-d, (N,) per column, or (..., 1, N).

    Source: ONNX MatMulInteger-10.
    """
    dtype = product_dtype(A, B, A.shape[-1])
    rows = None if A.dim() < 2 else -2
    return as_int32(torch.matmul(centred(A, a_zero_point, dtype, rows), centred(B, b_zero_point, dtype, -1)))


@operator("MatMulInteger16", domain=_CONTRIB)
def mat_mul_integer_16(A: Tensor, B: Tensor) -> Tensor:
    """Returns A @ B of 16 bit integers as int32, modulo 2^32 (uint32 where both are unsigned).

    Source: onnxruntime 1.32, com.microsoft MatMulInteger16-1.
    """
    total = as_int32(torch.matmul(A.to(torch.float64), B.to(torch.float64)))
    unsigned = A.dtype == B.dtype == torch.uint16
    return total.view(torch.uint32) if unsigned else total


@operator("ConvInteger", since_version=10)
def conv_integer(
    x: Tensor,
    w: Tensor,
    x_zero_point: Tensor | None = None,
    w_zero_point: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Returns the convolution of x - x_zero_point with w - w_zero_point as int32, modulo 2^32.

    Args:
        x: (N, C, D1, ...), 8 bits. Padding counts as x_zero_point.
        w: (M, C / group, k1, ...), 8 bits.
        x_zero_point: 0-d.
        w_zero_point: 0-d, or (M,).
        auto_pad: and the other attributes, as in Conv.
        dilations: see auto_pad.
        group: see auto_pad.
        kernel_shape: see auto_pad.
        pads: see auto_pad.
        strides: see auto_pad.

    Source: ONNX ConvInteger-10.
    """
    terms = w[0].numel() if w.shape[0] else 1
    dtype = product_dtype(x, w, terms)
    total: Tensor = conv(
        centred(x, x_zero_point, dtype),
        centred(w, w_zero_point, dtype, 0),
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    return as_int32(total)


@operator("QLinearConv", since_version=10)
def qlinear_conv(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    B: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Returns the convolution of quantized tensors, quantized.

    With n the integers of ConvInteger plus B, modulo 2^32:
    saturate(round(n * (x_scale * w_scale / y_scale)) + y_zero_point), in float32.

    Args:
        x: (N, C, D1, ...), 8 bits.
        x_scale: 0-d, as x_zero_point, y_scale and y_zero_point.
        x_zero_point: see x_scale.
        w: (M, C / group, k1, ...), 8 bits.
        w_scale: 0-d, or (M,), as w_zero_point.
        w_zero_point: see w_scale.
        y_scale: see x_scale.
        y_zero_point: see x_scale; its type is the result's.
        B: (M,), int32, of scale x_scale * w_scale.
        auto_pad: and the other attributes, as in Conv.
        dilations: see auto_pad.
        group: see auto_pad.
        kernel_shape: see auto_pad.
        pads: see auto_pad.
        strides: see auto_pad.

    Source: ONNX QLinearConv-10; the arithmetic after the sum is onnxruntime's.
    """
    total: Tensor = conv_integer(
        x,
        w,
        x_zero_point,
        w_zero_point,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    rank = total.dim()
    if B is not None:
        total = total + along(B, rank, 1)
    scale = x_scale.reshape(()) * along(w_scale, rank, 1) / y_scale.reshape(())
    return requantized(total, scale, y_zero_point, y_zero_point.dtype)


@operator("QLinearConv", domain=_CONTRIB)
def qlinear_conv_contrib(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    B: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    channels_last: int = 0,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Returns QLinearConv, with `channels_last` of x (N, D1, ..., C) and of a result in the same order.

    The weight is (M, C / group, k1, ...) either way. Source: onnxruntime 1.32, com.microsoft QLinearConv-1.
    """
    y: Tensor = qlinear_conv(
        x.movedim(-1, 1) if channels_last else x,
        x_scale,
        x_zero_point,
        w,
        w_scale,
        w_zero_point,
        y_scale,
        y_zero_point,
        B,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    return y.movedim(1, -1) if channels_last else y


@operator("QLinearMatMul", since_version=10)
def qlinear_mat_mul(
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
) -> Tensor:
    """Returns the product of quantized matrices, quantized.

    saturate(round(MatMulInteger * (a_scale * b_scale / y_scale)) + y_zero_point), in float32. Of float8
    types: QuantizeLinear of the product of the dequantized matrices.

    Args:
        a: (..., M, K).
        a_scale: 0-d, (M,) per row, or (..., M, 1); as a_zero_point, y_scale and y_zero_point.
        a_zero_point: see a_scale.
        b: (..., K, N).
        b_scale: 0-d, (N,) per column, or (..., 1, N); as b_zero_point.
        b_zero_point: see b_scale.
        y_scale: see a_scale.
        y_zero_point: see a_scale; its type is the result's.

    Source: ONNX QLinearMatMul-21; the arithmetic after the sum is onnxruntime's.
    """
    rows = None if a.dim() < 2 else -2
    if a.is_floating_point():
        product = torch.matmul(
            dequantize_linear(a, a_scale.to(torch.float32)), dequantize_linear(b, b_scale.to(torch.float32))
        )
        return quantize_linear(product, y_scale.to(torch.float32), y_zero_point)
    total: Tensor = mat_mul_integer(a, b, a_zero_point, b_zero_point)
    rank = total.dim()
    scales = (along(a_scale, a.dim(), rows), along(b_scale, b.dim(), -1), along(y_scale, rank, rows))
    of_a, of_b, of_y = (s.to(torch.float32) for s in scales)
    zero = along(y_zero_point, rank, rows)
    return requantized(total, of_a * of_b / of_y, zero, y_zero_point.dtype)


@operator("MatMulIntegerToFloat", domain=_CONTRIB)
def mat_mul_integer_to_float(
    A: Tensor,
    B: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    a_zero_point: Tensor | None = None,
    b_zero_point: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Returns MatMulInteger * (a_scale * b_scale) + bias.

    Args:
        A: (..., M, K), 8 bits.
        B: (..., K, N), 8 bits.
        a_scale: 0-d, as a_zero_point.
        b_scale: 0-d, or (N,), as b_zero_point.
        a_zero_point: see a_scale.
        b_zero_point: see b_scale.
        bias: (N,).

    Source: onnxruntime 1.32, com.microsoft MatMulIntegerToFloat-1.
    """
    total: Tensor = mat_mul_integer(A, B, a_zero_point, b_zero_point)
    scale = along(a_scale, 1, None) * along(b_scale, total.dim(), -1)
    dtype = torch.promote_types(scale.dtype, torch.float32)
    y = total.to(dtype) * scale.to(dtype)
    y = y if bias is None else y + bias
    return y.to(a_scale.dtype)


@operator("DynamicQuantizeMatMul", domain=_CONTRIB)
def dynamic_quantize_mat_mul(
    A: Tensor, B: Tensor, b_scale: Tensor, b_zero_point: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Returns MatMulIntegerToFloat of A, quantized by DynamicQuantizeLinear, and B.

    Args:
        A: (..., M, K), float32.
        B: (..., K, N), 8 bits.
        b_scale: 0-d, or (N,), as b_zero_point.
        b_zero_point: see b_scale.
        bias: (N,).

    Source: onnxruntime 1.32, com.microsoft DynamicQuantizeMatMul-1.
    """
    quantized, scale, zero_point = dynamic_quantize_linear(A)
    return mat_mul_integer_to_float(quantized, B, scale, b_scale, zero_point, b_zero_point, bias)


@operator("QGemm", domain=_CONTRIB)
def qgemm(
    A: Tensor,
    a_scale: Tensor,
    a_zero_point: Tensor,
    B: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor,
    C: Tensor | None = None,
    y_scale: Tensor | None = None,
    y_zero_point: Tensor | None = None,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """Returns alpha * A @ B + C of quantized matrices: quantized with a y_scale, else float32.

    Args:
        A: (M, K), or (K, M) with transA; 8 bits.
        a_scale: 0-d, as a_zero_point, y_scale and y_zero_point.
        a_zero_point: see a_scale.
        B: (K, N), or (N, K) with transB; 8 bits.
        b_scale: 0-d, or (N,), as b_zero_point.
        b_zero_point: see b_scale.
        C: broadcastable to (M, N), int32, of scale alpha * a_scale * b_scale.
        y_scale: see a_scale.
        y_zero_point: see a_scale; its type is the result's.
        alpha: factor of the product.
        transA: transpose A.
        transB: transpose B.

    Raises: InvalidModelError for y_scale without y_zero_point.

    Source: onnxruntime 1.32, com.microsoft QGemm-1.
    """
    A, B = (A.T if transA else A), (B.T if transB else B)
    total: Tensor = mat_mul_integer(A, B, a_zero_point, b_zero_point)
    total = total if C is None else total + C
    scale = alpha * a_scale.reshape(()) * along(b_scale, 2, 1)
    if y_scale is None:
        return total.to(torch.float32) * scale
    if y_zero_point is None:
        raise InvalidModelError("QGemm with y_scale needs y_zero_point, whose type is the result's")
    return requantized(total, scale / y_scale.reshape(()), y_zero_point, y_zero_point.dtype)
