"""Comparison, logic and choice between two tensors, with NumPy broadcasting; on shape values too."""

from __future__ import annotations

import operator as python_operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard._integers import ordered
from qonnx_torch.ops.standard._numbers import chosen

__all__: list[str] = []


def _compared(compute: Callable[[Any, Any], Any], A: Any, B: Any) -> Tensor:
    def on_tensors(a: Tensor, b: Tensor) -> Tensor:
        result: Tensor = compute(ordered(a), ordered(b.to(a.dtype) if b.dim() == 0 else b))
        return result

    return chosen(compute, on_tensors, A, B)


@operator("Equal", on_shapes=True)
def equal(A: Tensor, B: Tensor) -> Tensor:
    """Returns A == B. Source: ONNX Equal-19."""
    return chosen(python_operator.eq, torch.eq, A, B)


@operator("Greater", on_shapes=True)
def greater(A: Tensor, B: Tensor) -> Tensor:
    """Returns A > B. Source: ONNX Greater-13."""
    return _compared(python_operator.gt, A, B)


@operator("GreaterOrEqual", since_version=12, on_shapes=True)
def greater_or_equal(A: Tensor, B: Tensor) -> Tensor:
    """Returns A >= B. Source: ONNX GreaterOrEqual-16."""
    return _compared(python_operator.ge, A, B)


@operator("Less", on_shapes=True)
def less(A: Tensor, B: Tensor) -> Tensor:
    """Returns A < B. Source: ONNX Less-13."""
    return _compared(python_operator.lt, A, B)


@operator("LessOrEqual", since_version=12, on_shapes=True)
def less_or_equal(A: Tensor, B: Tensor) -> Tensor:
    """Returns A <= B. Source: ONNX LessOrEqual-16."""
    return _compared(python_operator.le, A, B)


@operator("Not", on_shapes=True)
def logical_not(X: Tensor) -> Tensor:
    """Returns the logical negation. Source: ONNX Not-1."""
    return chosen(_negation, torch.logical_not, X)


def _negation(value: Any) -> Any:
    # torch.compile takes sym_not of symbolic values only, and keeps those symbolic under `not`.
    return torch.sym_not(value) if isinstance(value, torch.SymBool) else not value


@operator("And", on_shapes=True)
def logical_and(A: Tensor, B: Tensor) -> Tensor:
    """Returns the logical conjunction. Source: ONNX And-7."""
    return chosen(python_operator.and_, torch.logical_and, A, B)


@operator("Or", on_shapes=True)
def logical_or(A: Tensor, B: Tensor) -> Tensor:
    """Returns the logical disjunction. Source: ONNX Or-7."""
    return chosen(python_operator.or_, torch.logical_or, A, B)


@operator("Xor", on_shapes=True)
def logical_xor(A: Tensor, B: Tensor) -> Tensor:
    """Returns the exclusive disjunction. Source: ONNX Xor-7."""
    return chosen(lambda a, b: _negation(b) if a else b, torch.logical_xor, A, B)


@operator("Where", on_shapes=True)
def where(condition: Tensor, X: Tensor, Y: Tensor) -> Tensor:
    """Returns X where the condition holds, else Y, broadcast. Source: ONNX Where-16."""
    return chosen(lambda c, x, y: x if c else y, torch.where, condition, X, Y)


@operator("IsNaN")
def is_nan(X: Tensor) -> Tensor:
    """Returns where X is NaN. Source: ONNX IsNaN-20."""
    return torch.isnan(X)


@operator("IsInf", since_version=10)
def is_inf(X: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Returns where X is infinite, of the signs asked for. Source: ONNX IsInf-20."""
    if X.dtype.itemsize == 1:  # the float8 types
        X = X.to(torch.float32)
    infinite = torch.isinf(X)
    if detect_negative and detect_positive:
        return infinite
    if not detect_negative and not detect_positive:
        return torch.zeros_like(infinite)
    return infinite & ((X < 0) if detect_negative else (X > 0))
