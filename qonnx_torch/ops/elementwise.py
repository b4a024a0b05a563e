"""Elementwise arithmetic, comparison and logic, with NumPy broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qonnx_torch.dtypes import torch_dtype
from qonnx_torch.ops._operator import as_tensor, is_shape_value, operator

__all__: list[str] = []


def _on_shapes(compute: Callable[[Any, Any], Any], A: Any, B: Any) -> Any:
    """Applies a binary operation to two shape values, broadcasting numbers over tuples."""
    if isinstance(A, (tuple, list)) and isinstance(B, (tuple, list)):
        if 1 in (len(A), len(B)) and len(A) != len(B):
            A, B = (A * len(B) if len(A) == 1 else A), (B * len(A) if len(B) == 1 else B)
        return tuple(compute(a, b) for a, b in zip(A, B, strict=True))
    if isinstance(A, (tuple, list)):
        return tuple(compute(a, B) for a in A)
    if isinstance(B, (tuple, list)):
        return tuple(compute(A, b) for b in B)
    return compute(A, B)


def _binary(compute: Callable[[Any, Any], Any], A: Any, B: Any) -> Tensor:
    result: Tensor
    if is_shape_value(A) and is_shape_value(B):
        result = _on_shapes(compute, A, B)
    else:
        device = (A if isinstance(A, Tensor) else B).device
        result = compute(as_tensor(A, device=device), as_tensor(B, device=device))
    return result


def _divide(a: Any, b: Any) -> Any:
    if isinstance(a, Tensor):
        return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")
    if isinstance(a, (float, torch.SymFloat)):
        return a / b
    return a // b if (a >= 0) == (b > 0) else -(-a // b)


def _sym_floor(a: Any, _: Any) -> Any:
    return torch.sym_float(math.floor(a))


def _sym_ceil(a: Any, _: Any) -> Any:
    return torch.sym_float(math.ceil(a))


@operator("Add", on_shapes=True)
def add(A: Tensor, B: Tensor) -> Tensor:
    """Returns A + B, broadcast. Source: ONNX Add-14."""
    return _binary(lambda a, b: a + b, A, B)


@operator("Sub", on_shapes=True)
def sub(A: Tensor, B: Tensor) -> Tensor:
    """Returns A - B, broadcast. Source: ONNX Sub-14."""
    return _binary(lambda a, b: a - b, A, B)


@operator("Mul", on_shapes=True)
def mul(A: Tensor, B: Tensor) -> Tensor:
    """Returns A * B, broadcast. Source: ONNX Mul-14."""
    return _binary(lambda a, b: a * b, A, B)


@operator("Div", on_shapes=True)
def div(A: Tensor, B: Tensor) -> Tensor:
    """Returns A / B, broadcast; integers truncate towards zero. Source: ONNX Div-14."""
    return _binary(_divide, A, B)


@operator("Pow")
def pow(X: Tensor, Y: Tensor) -> Tensor:
    """Returns X to the power Y in X's dtype, broadcast. Source: ONNX Pow-15."""
    return torch.pow(X, Y).to(X.dtype)


@operator("Mod", on_shapes=True)
def mod(A: Tensor, B: Tensor, *, fmod: int = 0) -> Tensor:
    """Returns A mod B with the sign of B, or of A where fmod is 1. Source: ONNX Mod-13."""
    if is_shape_value(A) and is_shape_value(B):
        return _binary(math.fmod if fmod else (lambda a, b: a % b), A, B)
    return _binary(torch.fmod if fmod else torch.remainder, A, B)


@operator("Neg", on_shapes=True)
def neg(X: Tensor) -> Tensor:
    """Returns -X. Source: ONNX Neg-13."""
    return _binary(lambda a, _: -a, X, 0) if is_shape_value(X) else -X


@operator("Min")
def min(*data_0: Tensor) -> Tensor:
    """Returns the elementwise minimum, broadcast. Source: ONNX Min-13."""
    result = data_0[0]
    for other in data_0[1:]:
        result = torch.minimum(result, other)
    return result


@operator("Max")
def max(*data_0: Tensor) -> Tensor:
    """Returns the elementwise maximum, broadcast. Source: ONNX Max-13."""
    result = data_0[0]
    for other in data_0[1:]:
        result = torch.maximum(result, other)
    return result


@operator("Sum")
def sum(*data_0: Tensor) -> Tensor:
    """Returns the elementwise sum, broadcast. Source: ONNX Sum-13."""
    result = data_0[0]
    for other in data_0[1:]:
        result = result + other
    return result


@operator("Mean")
def mean(*data_0: Tensor) -> Tensor:
    """Returns the elementwise mean, broadcast. Source: ONNX Mean-13."""
    result = data_0[0]
    for other in data_0[1:]:
        result = result + other
    return result / len(data_0)


@operator("Abs")
def abs(X: Tensor) -> Tensor:
    """Returns |X|. Source: ONNX Abs-13."""
    return torch.abs(X)


@operator("Sign")
def sign(input: Tensor) -> Tensor:
    """Returns -1, 0 or 1; NaN stays. Source: ONNX Sign-13."""
    sign = torch.sign(input)
    return torch.where(torch.isnan(input), input, sign) if input.is_floating_point() else sign


@operator("Reciprocal")
def reciprocal(X: Tensor) -> Tensor:
    """Returns 1 / X. Source: ONNX Reciprocal-13."""
    return torch.reciprocal(X)


@operator("Sqrt")
def sqrt(X: Tensor) -> Tensor:
    """Returns the square root of X. Source: ONNX Sqrt-13."""
    return torch.sqrt(X)


@operator("Exp")
def exp(input: Tensor) -> Tensor:
    """Returns e to the power of the input. Source: ONNX Exp-13."""
    return torch.exp(input)


@operator("Log")
def log(input: Tensor) -> Tensor:
    """Returns the natural logarithm. Source: ONNX Log-13."""
    return torch.log(input)


@operator("Erf")
def erf(input: Tensor) -> Tensor:
    """Returns the error function. Source: ONNX Erf-13."""
    return torch.erf(input)


@operator("Sin")
def sin(input: Tensor) -> Tensor:
    """Returns the sine. Source: ONNX Sin-7."""
    return torch.sin(input)


@operator("Cos")
def cos(input: Tensor) -> Tensor:
    """Returns the cosine. Source: ONNX Cos-7."""
    return torch.cos(input)


@operator("Ceil", on_shapes=True)
def ceil(X: Tensor) -> Tensor:
    """Returns X rounded up. Source: ONNX Ceil-13."""
    return _on_shapes(_sym_ceil, X, 0) if is_shape_value(X) else torch.ceil(X)


@operator("Floor", on_shapes=True)
def floor(X: Tensor) -> Tensor:
    """Returns X rounded down. Source: ONNX Floor-13."""
    return _on_shapes(_sym_floor, X, 0) if is_shape_value(X) else torch.floor(X)


@operator("Round")
def round(X: Tensor) -> Tensor:
    """Returns X rounded half to even. Source: ONNX Round-11."""
    return torch.round(X)


@operator("IsNaN")
def is_nan(X: Tensor) -> Tensor:
    """Returns where X is NaN. Source: ONNX IsNaN-13."""
    return torch.isnan(X)


@operator("Clip", on_numbers=True, numbers=("min", "max"))
def clip(input: Tensor, min: Tensor | float | None = None, max: Tensor | float | None = None) -> Tensor:
    """Returns the input clamped to [min, max], two optional 0-d tensors; max wins. Source: ONNX Clip-13."""
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        bounds = (
            as_tensor(b, device=input.device).to(input.dtype) if b is not None else b for b in (min, max)
        )
        return torch.clamp(input, *bounds)
    return input if min is None and max is None else torch.clamp(input, min, max)


@operator("Where")
def where(condition: Tensor, X: Tensor, Y: Tensor) -> Tensor:
    """Returns X where the condition holds, else Y, broadcast. Source: ONNX Where-16."""
    return torch.where(condition, X, Y)


@operator("Equal")
def equal(A: Tensor, B: Tensor) -> Tensor:
    """Returns A == B. Source: ONNX Equal-19."""
    return A == B


@operator("Greater")
def greater(A: Tensor, B: Tensor) -> Tensor:
    """Returns A > B. Source: ONNX Greater-13."""
    return A > B


@operator("GreaterOrEqual", since_version=12)
def greater_or_equal(A: Tensor, B: Tensor) -> Tensor:
    """Returns A >= B. Source: ONNX GreaterOrEqual-16."""
    return A >= B


@operator("Less")
def less(A: Tensor, B: Tensor) -> Tensor:
    """Returns A < B. Source: ONNX Less-13."""
    return A < B


@operator("LessOrEqual", since_version=12)
def less_or_equal(A: Tensor, B: Tensor) -> Tensor:
    """Returns A <= B. Source: ONNX LessOrEqual-16."""
    return A <= B


@operator("Not")
def logical_not(X: Tensor) -> Tensor:
    """Returns the logical negation. Source: ONNX Not-1."""
    return torch.logical_not(X)


@operator("And")
def logical_and(A: Tensor, B: Tensor) -> Tensor:
    """Returns the logical conjunction. Source: ONNX And-7."""
    return torch.logical_and(A, B)


@operator("Or")
def logical_or(A: Tensor, B: Tensor) -> Tensor:
    """Returns the logical disjunction. Source: ONNX Or-7."""
    return torch.logical_or(A, B)


@operator("Xor")
def logical_xor(A: Tensor, B: Tensor) -> Tensor:
    """Returns the exclusive disjunction. Source: ONNX Xor-7."""
    return torch.logical_xor(A, B)


@operator("Identity", on_shapes=True)
def identity(input: Tensor) -> Tensor:
    """Returns the input. Source: ONNX Identity-16."""
    return input


@operator("Cast", on_shapes=True)
def cast(input: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Returns the input in another dtype; a shape value stays Python.

    Args:
        input: any shape.
        to: ONNX element type (`onnx.TensorProto.DataType`).
        saturate: only for float8 targets.
        round_mode: only for float8e8m0 targets.

    Raises: UnsupportedModelError where torch has no such dtype. Source: ONNX Cast-13.
    """
    dtype = torch_dtype(to)
    if not is_shape_value(input):
        return input.to(dtype)
    kind: Any = bool if dtype is torch.bool else torch.sym_float if dtype.is_floating_point else torch.sym_int
    return _binary(lambda value, _: kind(value), input, 0)
