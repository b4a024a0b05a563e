"""onnxruntime's elementwise operators and data movement on quantized integers (com.microsoft).

They have no gradient. Where onnxruntime's arithmetic is another than its documentation's formula, this is
onnxruntime's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard._requantize import centred, limits
from qonnx_torch.ops.standard.activation import leaky_relu, softmax, softmax_coerced
from qonnx_torch.ops.standard.movement import concat
from qonnx_torch.ops.standard.quantize_linear import dequantize_linear, quantize_linear

__all__ = ["dequantized", "quantized", "require"]

_CONTRIB = "com.microsoft"


def require(name: str, **inputs: Tensor | None) -> tuple[Tensor, ...]:
    """Returns inputs that follow optional ones, and that a node needs all the same."""
    missing = [n for n, value in inputs.items() if value is None]
    if missing:
        raise InvalidModelError(f"{name} needs its input {missing[0]}")
    return tuple(value for value in inputs.values() if value is not None)


def _number(value: Tensor | None, like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return like.new_zeros((), dtype=dtype) if value is None else value.reshape(()).to(dtype)


def _rounded(y: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns floats rounded to integers, half to even, and limited to a dtype."""
    return torch.clamp(torch.round(y), *limits(dtype)).to(dtype)


def quantized(y: Tensor, scale: Tensor, zero_point: Tensor | None, like: Tensor) -> Tensor:
    """Returns QuantizeLinear of y per tensor; without a zero point of the type of another tensor."""
    zero = like.new_zeros(()) if zero_point is None else zero_point.reshape(())
    result: Tensor = quantize_linear(y, scale.reshape(()), zero)
    return result


def dequantized(x: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    """Returns DequantizeLinear of x per tensor."""
    zero = None if zero_point is None else zero_point.reshape(())
    result: Tensor = dequantize_linear(x, scale.reshape(()), zero)
    return result


@operator("QLinearAdd", domain=_CONTRIB)
def qlinear_add(
    A: Tensor,
    A_scale: Tensor,
    A_zero_point: Tensor | None = None,
    B: Tensor | None = None,
    B_scale: Tensor | None = None,
    B_zero_point: Tensor | None = None,
    C_scale: Tensor | None = None,
    C_zero_point: Tensor | None = None,
) -> Tensor:
    """Returns the quantized sum: saturate(round(A ra + B rb + shift)).

    ra = A_scale / C_scale, rb = B_scale / C_scale, shift = C_zero_point - (ra A_zero_point + rb
    B_zero_point), in float32 with fused multiplications and additions. Where onnxruntime has none, or
    broadcasts, it may give the other integer next to a tie: found at about 1 of 10^5 to 10^6 elements.

    Source: onnxruntime 1.32, com.microsoft QLinearAdd-1.
    """
    B, B_scale, C_scale = require("QLinearAdd", B=B, B_scale=B_scale, C_scale=C_scale)
    of_a, of_b = A_scale.reshape(()) / C_scale.reshape(()), B_scale.reshape(()) / C_scale.reshape(())
    shift = _number(C_zero_point, A) - (of_a * _number(A_zero_point, A) + of_b * _number(B_zero_point, A))
    return _rounded(_fused(B, of_b, _fused(A, of_a, shift)), A.dtype)


def _fused(integers: Tensor, factor: Tensor, addend: Tensor) -> Tensor:
    """Returns integers * factor + addend in float32, rounded once."""
    exact = integers.to(torch.float64) * factor.to(torch.float64)
    return (exact + addend.to(torch.float64)).to(torch.float32)


@operator("QLinearMul", domain=_CONTRIB)
def qlinear_mul(
    A: Tensor,
    A_scale: Tensor,
    A_zero_point: Tensor | None = None,
    B: Tensor | None = None,
    B_scale: Tensor | None = None,
    B_zero_point: Tensor | None = None,
    C_scale: Tensor | None = None,
    C_zero_point: Tensor | None = None,
) -> Tensor:
    """Returns the quantized product: saturate(round((A - A_zero_point) (B - B_zero_point) r + C_zero_point)).

    r = A_scale B_scale / C_scale. Source: onnxruntime 1.32, com.microsoft QLinearMul-1.
    """
    B, B_scale, C_scale = require("QLinearMul", B=B, B_scale=B_scale, C_scale=C_scale)
    factor = A_scale.reshape(()) * B_scale.reshape(()) / C_scale.reshape(())
    product = centred(A, A_zero_point, torch.float32) * centred(B, B_zero_point, torch.float32)
    return _rounded(product * factor + _number(C_zero_point, A), A.dtype)


@operator("MulInteger", domain=_CONTRIB)
def mul_integer(
    A: Tensor,
    A_zero_point: Tensor | None = None,
    B: Tensor | None = None,
    B_zero_point: Tensor | None = None,
) -> Tensor:
    """Returns (A - A_zero_point) * (B - B_zero_point) as int32.

    Source: onnxruntime 1.32, com.microsoft MulInteger-1.
    """
    (B,) = require("MulInteger", B=B)
    return centred(A, A_zero_point, torch.int32) * centred(B, B_zero_point, torch.int32)


@operator("QLinearSigmoid", domain=_CONTRIB)
def qlinear_sigmoid(
    X: Tensor,
    X_scale: Tensor,
    X_zero_point: Tensor | None = None,
    Y_scale: Tensor | None = None,
    Y_zero_point: Tensor | None = None,
) -> Tensor:
    """Returns QuantizeLinear(Sigmoid(DequantizeLinear(X))).

    Source: onnxruntime 1.32, com.microsoft QLinearSigmoid-1.
    """
    (Y_scale,) = require("QLinearSigmoid", Y_scale=Y_scale)
    return quantized(torch.sigmoid(dequantized(X, X_scale, X_zero_point)), Y_scale, Y_zero_point, X)


@operator("QLinearLeakyRelu", domain=_CONTRIB)
def qlinear_leaky_relu(
    X: Tensor,
    X_scale: Tensor,
    X_zero_point: Tensor | None = None,
    Y_scale: Tensor | None = None,
    Y_zero_point: Tensor | None = None,
    *,
    alpha: float = 0.01,
) -> Tensor:
    """Returns QuantizeLinear(LeakyRelu(DequantizeLinear(X))).

    Source: onnxruntime 1.32, com.microsoft QLinearLeakyRelu-1.
    """
    (Y_scale,) = require("QLinearLeakyRelu", Y_scale=Y_scale)
    y = leaky_relu(dequantized(X, X_scale, X_zero_point), alpha=alpha)
    return quantized(y, Y_scale, Y_zero_point, X)


@operator("QLinearSoftmax", domain=_CONTRIB)
def qlinear_softmax(
    X: Tensor,
    X_scale: Tensor,
    x_zero_point: Tensor | None = None,
    y_scale: Tensor | None = None,
    y_zero_point: Tensor | None = None,
    *,
    axis: int = -1,
    opset: int = 13,
) -> Tensor:
    """Returns QuantizeLinear(Softmax(DequantizeLinear(X))), Softmax as in an ai.onnx operator set.

    onnxruntime takes the exponentials from a table of 32 bit integers.

    Args:
        X: any shape, 8 bits.
        X_scale: 0-d, as the other parameters.
        x_zero_point: see X_scale.
        y_scale: see X_scale.
        y_zero_point: see X_scale.
        axis: the dimension of the sum; below opset 13 all from it on.
        opset: operator set of the Softmax.

    Source: onnxruntime 1.32, com.microsoft QLinearSoftmax-1.
    """
    (y_scale,) = require("QLinearSoftmax", y_scale=y_scale)
    function = softmax if opset >= 13 else softmax_coerced
    return quantized(function(dequantized(X, X_scale, x_zero_point), axis=axis), y_scale, y_zero_point, X)


@operator("QLinearWhere", domain=_CONTRIB)
def qlinear_where(
    condition: Tensor,
    X: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    Y: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    z_scale: Tensor,
    z_zero_point: Tensor,
) -> Tensor:
    """Returns X where the condition holds, else Y, both in the scale and zero point of the result.

    Source: onnxruntime 1.32, com.microsoft QLinearWhere-1.
    """
    x = _rescaled(X, x_scale, x_zero_point, z_scale, z_zero_point)
    return torch.where(condition, x, _rescaled(Y, y_scale, y_zero_point, z_scale, z_zero_point))


def _rescaled(
    x: Tensor, scale: Tensor, zero_point: Tensor, new_scale: Tensor, new_zero_point: Tensor
) -> Tensor:
    return quantized(dequantized(x, scale, zero_point), new_scale, new_zero_point, x)


@operator("QLinearConcat", domain=_CONTRIB)
def qlinear_concat(Y_scale: Tensor, Y_zero_point: Tensor, *inputs: Tensor, axis: int) -> Tensor:
    """Returns tensors joined along an axis, each first brought to the scale and zero point of the result.

    Args:
        Y_scale: 0-d, as all scales and zero points.
        Y_zero_point: its type is that of the tensors.
        *inputs: tensor, scale and zero point of each.
        axis: the dimension.

    Source: onnxruntime 1.32, com.microsoft QLinearConcat-1.
    """
    if not inputs or len(inputs) % 3:
        raise InvalidModelError(f"QLinearConcat has {len(inputs)} inputs after Y_zero_point: 3 per tensor")
    triples = zip(inputs[::3], inputs[1::3], inputs[2::3], strict=True)
    parts = [_rescaled(x, scale, zero, Y_scale, Y_zero_point) for x, scale, zero in triples]
    result: Tensor = concat(*parts, axis=axis)
    return result


@operator("QuantizeLinear", domain=_CONTRIB)
def quantize_linear_contrib(
    x: Tensor, y_scale: Tensor, y_zero_point: Tensor | None = None, *, axis: int = 1, output_dtype: int = 0
) -> Tensor:
    """Returns ai.onnx's QuantizeLinear, in opsets that have it only for 8 bits.

    `output_dtype` is no attribute of files: an import sets it for types narrower than a byte.
    Source: onnxruntime 1.32, com.microsoft QuantizeLinear-1.
    """
    y: Tensor = quantize_linear(x, y_scale, y_zero_point, axis=axis, output_dtype=output_dtype)
    return y


@operator("DequantizeLinear", domain=_CONTRIB)
def dequantize_linear_contrib(
    x: Tensor, x_scale: Tensor, x_zero_point: Tensor | None = None, *, axis: int = 1
) -> Tensor:
    """Returns ai.onnx's DequantizeLinear. Source: onnxruntime 1.32, com.microsoft DequantizeLinear-1."""
    y: Tensor = dequantize_linear(x, x_scale, x_zero_point, axis=axis)
    return y
