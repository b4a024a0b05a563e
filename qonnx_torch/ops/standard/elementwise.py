"""Elementwise arithmetic, with NumPy broadcasting; on shape values too."""

from __future__ import annotations

import builtins
import functools
import math
import operator as python_operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qonnx_torch.ops._operator import as_tensor, is_shape_value, operator
from qonnx_torch.ops.standard._integers import in_order, on_bits, whole, whole_divide
from qonnx_torch.ops.standard._numbers import (
    chosen,
    computed,
    in_floats,
    whole_above,
    whole_below,
    whole_towards_zero,
)

__all__: list[str] = []

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64)
_UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)
_ENDS: dict[torch.dtype, tuple[Any, Any]] = {
    **{t: (torch.finfo(t).min, torch.finfo(t).max) for t in _FLOATS},
    **{t: (torch.iinfo(t).min, torch.iinfo(t).max) for t in (*_INTEGERS, *_UNSIGNED)},
}
"""Dtype -> its smallest and largest finite number."""


def _modular(compute: Callable[..., Any], *values: Any, number_type: int | None = None) -> Tensor:
    """Applies an operation that Python numbers and tensors have in common; integers wrap around."""
    return computed(compute, functools.partial(on_bits, compute), *values, number_type=number_type)


def _divide_numbers(a: Any, b: Any) -> Any:
    if isinstance(a, (float, torch.SymFloat)):
        return in_floats(python_operator.truediv, a, b)
    return a // b if (a >= 0) == (b > 0) else -(-a // b)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point() or a.is_complex():
        return a / b
    if a.dtype == torch.uint64:
        return whole_divide(a, b)
    if a.dtype in (torch.uint16, torch.uint32):
        return torch.div(whole(a), whole(b), rounding_mode="trunc").to(a.dtype)
    if a.dtype in (torch.int32, torch.int64):
        # The least integer by -1 overflows, for which processors end the process; here it wraps around.
        negated = b == -1
        return torch.where(negated, -a, torch.div(a, torch.where(negated, 1, b), rounding_mode="trunc"))
    return torch.div(a, b, rounding_mode="trunc")


def _modulo(a: Tensor, b: Tensor, compute: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    if a.dtype == torch.uint64:
        return (whole(a) - whole(whole_divide(a, b)) * whole(b)).view(torch.uint64)
    if a.dtype in (torch.uint16, torch.uint32):
        return compute(whole(a), whole(b)).to(a.dtype)
    return compute(a, b)


def _floor_modulo(a: Tensor, b: Tensor) -> Tensor:
    rest = torch.remainder(a, b)
    # A zero takes the sign of the divisor; torch keeps the dividend's.
    return torch.where(rest == 0, torch.copysign(rest, b), rest) if rest.is_floating_point() else rest


def _power_numbers(x: Any, y: Any) -> Any:
    if isinstance(x, (float, torch.SymFloat)):
        return in_floats(python_operator.pow, x, y)
    if type(x) is int and type(y) is int and y >= 0 and not torch.compiler.is_compiling():
        return builtins.pow(x, y, 1 << 64)
    whole_power = isinstance(y, (int, torch.SymInt)) and y >= 0
    return x**y if whole_power else whole_towards_zero(in_floats(python_operator.pow, x, y))


def _modulo_numbers(a: Any, b: Any) -> Any:
    if isinstance(a, (float, torch.SymFloat)):
        if torch.compiler.is_compiling() or not type(a) is type(b) is float:
            return a - b * whole_towards_zero(a / b)
        return in_floats(np.fmod, a, b)
    return a - b * _divide_numbers(a, b)


def _power(x: Tensor, y: Tensor | float) -> Tensor:
    exponent_floats = isinstance(y, float) or (isinstance(y, Tensor) and y.is_floating_point())
    if isinstance(y, Tensor) and not exponent_floats:
        y = whole(y)
    if x.is_floating_point():
        if not isinstance(y, Tensor) and y == 0.5:  # torch takes a square root, an ulp beside the power
            y = torch.full((), y, dtype=x.dtype, device=x.device)
        return torch.pow(x, y).to(x.dtype)
    if exponent_floats or (not isinstance(y, Tensor) and y < 0):
        x_wide, y = x.to(torch.float64), y.to(torch.float64) if isinstance(y, Tensor) else float(y)
        return torch.pow(x_wide, y).to(x.dtype)
    return torch.pow(whole(x), y).to(x.dtype)


@operator("Add", on_shapes=True, python_only=("number_type",))
def add(A: Tensor, B: Tensor, *, number_type: int | None = None) -> Tensor:
    """Returns A + B, broadcast. Source: ONNX Add-14."""
    return _modular(lambda a, b: a + b, A, B, number_type=number_type)


@operator("Sub", on_shapes=True, python_only=("number_type",))
def sub(A: Tensor, B: Tensor, *, number_type: int | None = None) -> Tensor:
    """Returns A - B, broadcast. Source: ONNX Sub-14."""
    return _modular(lambda a, b: a - b, A, B, number_type=number_type)


@operator("Mul", on_shapes=True, python_only=("number_type",))
def mul(A: Tensor, B: Tensor, *, number_type: int | None = None) -> Tensor:
    """Returns A * B, broadcast. Source: ONNX Mul-14."""
    return _modular(lambda a, b: a * b, A, B, number_type=number_type)


@operator("Div", on_shapes=True, python_only=("number_type",))
def div(A: Tensor, B: Tensor, *, number_type: int | None = None) -> Tensor:
    """Returns A / B, broadcast; integers truncate towards zero. Source: ONNX Div-14."""
    return computed(_divide_numbers, _divide, A, B, number_type=number_type)


@operator("Pow", on_shapes=True, python_only=("number_type",), numbers=("Y",))
def pow(X: Tensor, Y: Tensor | float, *, number_type: int | None = None) -> Tensor:
    """Returns X to the power Y in X's dtype, broadcast. Source: ONNX Pow-15.

    A constant 0-d exponent is a Python number: part of what the node computes, nothing to be trained.
    """
    if isinstance(X, Tensor) and isinstance(Y, (int, float)):
        return _power(X, Y)
    return computed(_power_numbers, _power, X, Y, number_type=number_type)


@operator("Mod", on_shapes=True, python_only=("number_type",))
def mod(A: Tensor, B: Tensor, *, fmod: int = 0, number_type: int | None = None) -> Tensor:
    """Returns A mod B with the sign of B, or of A where fmod is 1. Source: ONNX Mod-28."""
    if fmod:
        rest = functools.partial(_modulo, compute=torch.fmod)
        return computed(_modulo_numbers, rest, A, B, number_type=number_type)
    rest = functools.partial(_modulo, compute=_floor_modulo)
    return computed(lambda a, b: a % b, rest, A, B, number_type=number_type)


@operator("Neg", on_shapes=True, python_only=("number_type",))
def neg(X: Tensor, *, number_type: int | None = None) -> Tensor:
    """Returns -X. Source: ONNX Neg-13."""
    return _modular(lambda x: -x, X, number_type=number_type)


@operator("Abs", on_shapes=True, python_only=("number_type",))
def abs(X: Tensor, *, number_type: int | None = None) -> Tensor:
    """Returns |X|. Source: ONNX Abs-13."""
    magnitude: Callable[[Tensor], Tensor] = lambda x: x if _unsigned(x) else torch.abs(x)  # noqa: E731
    return computed(lambda x: torch.sym_max(x, -x), magnitude, X, number_type=number_type)


@operator("Sign", on_shapes=True)
def sign(input: Tensor) -> Tensor:
    """Returns -1, 0 or 1; NaN stays. Source: ONNX Sign-13."""
    return chosen(_sign_number, _sign, input)


def _sign_number(n: Any) -> Any:
    sign = 1 if n > 0 else -1 if n < 0 else 0
    return float(sign) if isinstance(n, (float, torch.SymFloat)) else sign


def _sign(x: Tensor) -> Tensor:
    if _unsigned(x):
        return (x != 0).to(x.dtype)
    sign = torch.sign(x)
    return torch.where(torch.isnan(x), x, sign) if x.is_floating_point() else sign


def _unsigned(x: Tensor) -> bool:
    return x.dtype in _UNSIGNED


def _fold(compute: Callable[[Any, Any], Tensor], values: tuple[Tensor, ...]) -> Tensor:
    result = values[0]
    for other in values[1:]:
        result = compute(result, other)
    return result


@operator("Min", on_shapes=True)
def min(*data_0: Tensor) -> Tensor:
    """Returns the elementwise minimum, broadcast. Source: ONNX Min-13."""
    least = functools.partial(in_order, torch.minimum)
    return _fold(lambda a, b: chosen(torch.sym_min, least, a, b), data_0)


@operator("Max", on_shapes=True)
def max(*data_0: Tensor) -> Tensor:
    """Returns the elementwise maximum, broadcast. Source: ONNX Max-13."""
    most = functools.partial(in_order, torch.maximum)
    return _fold(lambda a, b: chosen(torch.sym_max, most, a, b), data_0)


@operator("Sum", on_shapes=True, python_only=("number_type",))
def sum(*data_0: Tensor, number_type: int | None = None) -> Tensor:
    """Returns the elementwise sum, broadcast. Source: ONNX Sum-13."""
    return _fold(functools.partial(add, number_type=number_type), data_0)


@operator("Mean")
def mean(*data_0: Tensor) -> Tensor:
    """Returns the elementwise mean, broadcast. Source: ONNX Mean-13."""
    return _fold(add, data_0) / len(data_0)


@operator("Reciprocal", on_shapes=True, python_only=("number_type",))
def reciprocal(X: Tensor, *, number_type: int | None = None) -> Tensor:
    """Returns 1 / X. Source: ONNX Reciprocal-13."""
    return computed(lambda x: in_floats(lambda a: 1 / a, x), torch.reciprocal, X, number_type=number_type)


@operator("Sqrt", on_shapes=True, python_only=("number_type",))
def sqrt(X: Tensor, *, number_type: int | None = None) -> Tensor:
    """Returns the square root of X. Source: ONNX Sqrt-13."""
    return computed(lambda x: in_floats(lambda a: a**0.5, x), torch.sqrt, X, number_type=number_type)


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
    if input.is_floating_point():
        return torch.erf(input)
    size = torch.abs(whole(input))
    return torch.where(size >= 4, sign(input), 0)  # truncated, it is 0 up to where float32 has 1


def _to_whole(compute: Callable[[Any, int | None], Any], x: Any, number_type: int | None) -> Any:
    """Returns a float rounded to a whole number, as a float; infinities and NaN stay."""
    if type(x) is float and not torch.compiler.is_compiling() and not math.isfinite(x):
        return x
    return torch.sym_float(compute(x, number_type))


@operator("Ceil", on_shapes=True, python_only=("number_type",))
def ceil(X: Tensor, *, number_type: int | None = None) -> Tensor:
    """Returns X rounded up. Source: ONNX Ceil-13."""
    return chosen(lambda x: _to_whole(whole_above, x, number_type), torch.ceil, X)


@operator("Floor", on_shapes=True, python_only=("number_type",))
def floor(X: Tensor, *, number_type: int | None = None) -> Tensor:
    """Returns X rounded down. Source: ONNX Floor-13."""
    return chosen(lambda x: _to_whole(whole_below, x, number_type), torch.floor, X)


@operator("Round", on_shapes=True)
def round(X: Tensor) -> Tensor:
    """Returns X rounded half to even. Source: ONNX Round-22."""
    return chosen(lambda x: _to_whole(lambda n, _: n.__round__(), x, None), torch.round, X)


@operator("Clip", on_shapes=True, numbers=("min", "max"))
def clip(input: Tensor, min: Tensor | float | None = None, max: Tensor | float | None = None) -> Tensor:
    """Returns the input clamped to [min, max], two optional 0-d tensors; max wins.

    An absent bound is the smallest or largest finite number of the input's type. Source: ONNX Clip-13.
    """
    if is_shape_value(input):
        if isinstance(min, Tensor) or isinstance(max, Tensor):
            return clip(as_tensor(input), min, max)
        at_least = input if min is None else chosen(torch.sym_max, torch.maximum, input, min)
        return at_least if max is None else chosen(torch.sym_min, torch.minimum, at_least, max)
    low, high = _bound(input, min, -1), _bound(input, max, 1)
    if not isinstance(low, Tensor) and not isinstance(high, Tensor) and not _unsigned(input):
        return torch.clamp(input, low, high)
    bounds = (as_tensor(b, input.dtype, device=input.device).reshape(()) for b in (low, high))
    return in_order(torch.clamp, input, *bounds)


def _bound(x: Tensor, bound: Any, side: int) -> Any:
    """Returns a bound as a number that x's dtype has, or as a tensor where it is one."""
    if isinstance(bound, (Tensor, torch.SymInt, torch.SymFloat)):
        return bound
    end = _ENDS[x.dtype][side > 0]
    if bound is None:
        return end
    floating = type(end) is float
    if side * bound > side * end:  # of an operator set that has its bounds in float32
        return side * math.inf if floating else end
    return bound if floating else int(bound)


@operator("Identity", on_shapes=True)
def identity(input: Tensor) -> Tensor:
    """Returns the input. Source: ONNX Identity-16."""
    return input
