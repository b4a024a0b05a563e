"""Reductions over axes; the simple ones also of shapes held as Python ints."""

from __future__ import annotations

import math
import operator as python_operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from qonnx_torch.ops._operator import is_shape_value, operator
from qonnx_torch.ops.standard._axes import axes_of
from qonnx_torch.ops.standard._integers import in_order, on_bits
from qonnx_torch.ops.standard._numbers import dimensions, fitted, reduced

__all__: list[str] = []


def _axes(data: Any, axes: Sequence[int] | int | None, noop: int) -> list[int] | None:
    """Returns the axes to reduce, or None where there is nothing to do."""
    rank = len(dimensions(data)) if is_shape_value(data) else data.dim()
    given = [] if axes is None else list(dict.fromkeys(axes_of(axes, rank)))  # a repeated one counts once
    return given or (None if noop else list(range(rank)))


def _numbers(
    compute: Callable[[Any, Any], Any],
    data: Any,
    axes: list[int] | None,
    keepdims: int,
    number_type: int | None = None,
) -> Any:
    if axes is None:
        return data
    return reduced(lambda a, b: fitted(compute(a, b), number_type), data, axes, bool(keepdims))


def _in_floats(compute: Callable[[Tensor], Tensor], data: Tensor) -> Tensor:
    """Applies a computation on real numbers; integers go through float64."""
    if data.is_floating_point():
        return compute(data)
    return compute(data.to(torch.float64)).to(data.dtype)


def _sum(x: Tensor, dims: list[int], keepdims: int) -> Tensor:
    return on_bits(lambda t: t.sum(dims, keepdim=bool(keepdims), dtype=t.dtype), x)


@operator("ReduceSum", static=("axes",), on_shapes=True, python_only=("number_type",))
def reduce_sum(
    data: Tensor,
    axes: Sequence[int] | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
    number_type: int | None = None,
) -> Tensor:
    """Returns the sum over axes (all where absent). Source: ONNX ReduceSum-13."""
    dims = _axes(data, axes, noop_with_empty_axes)
    if is_shape_value(data):
        numbers = _numbers(python_operator.add, data, dims, keepdims, number_type)
        return numbers  # type: ignore[no-any-return]
    return data if dims is None else _sum(data, dims, keepdims)


@operator("ReduceMean", static=("axes",))
def reduce_mean(
    data: Tensor, axes: Sequence[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Returns the mean over axes (all where absent); integers truncate. Source: ONNX ReduceMean-18."""
    dims = _axes(data, axes, noop_with_empty_axes)
    return data if dims is None else _in_floats(lambda x: x.mean(dims, keepdim=bool(keepdims)), data)


def _extreme(data: Tensor, dims: list[int], keepdims: int, largest: bool) -> Tensor:
    """Returns the largest (or smallest) element; over no elements, what every other one exceeds."""
    if any(isinstance(data.shape[a], int) and data.shape[a] == 0 for a in dims):
        sizes = [1 if a in dims else n for a, n in enumerate(data.shape)]
        empty = torch.full(sizes, _identity(data.dtype, largest), dtype=data.dtype, device=data.device)
        return empty if keepdims else empty.squeeze(dims)
    pick = torch.amax if largest else torch.amin
    return in_order(lambda x: pick(x, dims, keepdim=bool(keepdims)), data)


def _identity(dtype: torch.dtype, largest: bool) -> float | bool:
    if dtype == torch.bool:
        return not largest
    if dtype.is_floating_point:
        return -math.inf if largest else math.inf
    limits = torch.iinfo(dtype)
    return limits.min if largest else limits.max


@operator("ReduceMax", static=("axes",), on_shapes=True)
def reduce_max(
    data: Tensor, axes: Sequence[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Returns the maximum over axes (all where absent), also of booleans. Source: ONNX ReduceMax-20."""
    dims = _axes(data, axes, noop_with_empty_axes)
    if is_shape_value(data):
        return _numbers(torch.sym_max, data, dims, keepdims)  # type: ignore[no-any-return]
    return data if dims is None else _extreme(data, dims, keepdims, largest=True)


@operator("ReduceMin", static=("axes",), on_shapes=True)
def reduce_min(
    data: Tensor, axes: Sequence[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Returns the minimum over axes (all where absent), also of booleans. Source: ONNX ReduceMin-20."""
    dims = _axes(data, axes, noop_with_empty_axes)
    if is_shape_value(data):
        return _numbers(torch.sym_min, data, dims, keepdims)  # type: ignore[no-any-return]
    return data if dims is None else _extreme(data, dims, keepdims, largest=False)


@operator("ReduceProd", static=("axes",), on_shapes=True, python_only=("number_type",))
def reduce_prod(
    data: Tensor,
    axes: Sequence[int] | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
    number_type: int | None = None,
) -> Tensor:
    """Returns the product over axes (all where absent). Source: ONNX ReduceProd-18."""
    dims = _axes(data, axes, noop_with_empty_axes)
    if is_shape_value(data):
        numbers = _numbers(python_operator.mul, data, dims, keepdims, number_type)
        return numbers  # type: ignore[no-any-return]
    for axis in sorted(dims or [], reverse=True):
        data = on_bits(lambda x, a=axis: x.prod(a, keepdim=bool(keepdims), dtype=x.dtype), data)
    return data


@operator("ReduceL1", static=("axes",))
def reduce_l1(
    data: Tensor, axes: Sequence[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Returns the sum of |x| over axes (all where absent). Source: ONNX ReduceL1-18."""
    dims = _axes(data, axes, noop_with_empty_axes)
    signed = data.is_floating_point() or torch.iinfo(data.dtype).min < 0
    x = data.abs() if signed else data
    return x if dims is None else _sum(x, dims, keepdims)


@operator("ReduceL2", static=("axes",))
def reduce_l2(
    data: Tensor, axes: Sequence[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Returns the root of the sum of squares over axes (all where absent). Source: ONNX ReduceL2-18."""
    dims = _axes(data, axes, noop_with_empty_axes)
    if dims is None:
        return reduce_l1(data, noop_with_empty_axes=1)
    # Unlike a root of squares it has a gradient, 0, where all elements are 0.
    return _in_floats(lambda x: torch.linalg.vector_norm(x, 2, dims or None, bool(keepdims)), data)


@operator("ReduceSumSquare", static=("axes",))
def reduce_sum_square(
    data: Tensor, axes: Sequence[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Returns the sum of squares over axes (all where absent). Source: ONNX ReduceSumSquare-18."""
    dims = _axes(data, axes, noop_with_empty_axes)
    squares = on_bits(torch.square, data)
    return squares if dims is None else _sum(squares, dims, keepdims)


@operator("ReduceLogSum", static=("axes",))
def reduce_log_sum(
    data: Tensor, axes: Sequence[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Returns the logarithm of the sum over axes (all where absent). Source: ONNX ReduceLogSum-28."""
    dims = _axes(data, axes, noop_with_empty_axes)
    return _in_floats(lambda x: torch.log(x if dims is None else _sum(x, dims, keepdims)), data)


@operator("ReduceLogSumExp", static=("axes",))
def reduce_log_sum_exp(
    data: Tensor, axes: Sequence[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Returns the logarithm of the sum of exponentials over axes (all where absent).

    Nothing overflows on the way; over no elements it is -inf. Source: ONNX ReduceLogSumExp-28.
    """
    dims = _axes(data, axes, noop_with_empty_axes)
    if dims is None:
        return data
    return _in_floats(lambda x: torch.logsumexp(x, dims, keepdim=bool(keepdims)), data)
