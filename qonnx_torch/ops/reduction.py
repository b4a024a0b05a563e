"""Reductions, arg-reductions and TopK."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qonnx_torch.ops._operator import is_shape_value, operator

__all__: list[str] = []


def _axes(data: Tensor, axes: Sequence[int] | int | None, noop: int) -> list[int] | None:
    """Returns the axes to reduce, or None where there is nothing to do."""
    given = [] if axes is None else [axes] if isinstance(axes, int) else list(axes)
    if given:
        return [a % data.dim() for a in given]
    return None if noop else list(range(data.dim()))


@operator("ReduceSum", static=("axes",))
def reduce_sum(
    data: Tensor, axes: Sequence[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Returns the sum over axes (all where absent). Source: ONNX ReduceSum-13."""
    dims = _axes(data, axes, noop_with_empty_axes)
    return data if dims is None else data.sum(dims, keepdim=bool(keepdims), dtype=data.dtype)


@operator("ReduceMean", static=("axes",))
def reduce_mean(
    data: Tensor, axes: Sequence[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Returns the mean over axes (all where absent). Source: ONNX ReduceMean-18."""
    dims = _axes(data, axes, noop_with_empty_axes)
    return data if dims is None else data.mean(dims, keepdim=bool(keepdims))


@operator("ReduceMax", static=("axes",))
def reduce_max(
    data: Tensor, axes: Sequence[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Returns the maximum over axes (all where absent). Source: ONNX ReduceMax-20."""
    dims = _axes(data, axes, noop_with_empty_axes)
    return data if dims is None else data.amax(dims, keepdim=bool(keepdims))


@operator("ReduceMin", static=("axes",))
def reduce_min(
    data: Tensor, axes: Sequence[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Returns the minimum over axes (all where absent). Source: ONNX ReduceMin-20."""
    dims = _axes(data, axes, noop_with_empty_axes)
    return data if dims is None else data.amin(dims, keepdim=bool(keepdims))


@operator("ReduceProd", static=("axes",), on_shapes=True)
def reduce_prod(
    data: Tensor, axes: Sequence[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Returns the product over axes (all where absent). Source: ONNX ReduceProd-18."""
    if is_shape_value(data):
        product: Any = 1
        for n in data if isinstance(data, (tuple, list)) else (data,):
            product = product * n
        product = (product,) if keepdims else product
        return product  # type: ignore[no-any-return]
    dims = _axes(data, axes, noop_with_empty_axes)
    for axis in sorted(dims or [], reverse=True):
        data = data.prod(axis, keepdim=bool(keepdims))
    return data


@operator("ReduceL1", static=("axes",))
def reduce_l1(
    data: Tensor, axes: Sequence[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Returns the sum of |x| over axes (all where absent). Source: ONNX ReduceL1-18."""
    dims = _axes(data, axes, noop_with_empty_axes)
    return data.abs() if dims is None else data.abs().sum(dims, keepdim=bool(keepdims))


@operator("ReduceL2", static=("axes",))
def reduce_l2(
    data: Tensor, axes: Sequence[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Returns the root of the sum of squares over axes (all where absent). Source: ONNX ReduceL2-18."""
    dims = _axes(data, axes, noop_with_empty_axes)
    return data.abs() if dims is None else data.square().sum(dims, keepdim=bool(keepdims)).sqrt()


@operator("ReduceSumSquare", static=("axes",))
def reduce_sum_square(
    data: Tensor, axes: Sequence[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Returns the sum of squares over axes (all where absent). Source: ONNX ReduceSumSquare-18."""
    dims = _axes(data, axes, noop_with_empty_axes)
    return data.square() if dims is None else data.square().sum(dims, keepdim=bool(keepdims))


def _arg(data: Tensor, axis: int, keepdims: int, last: int, largest: bool) -> Tensor:
    pick = torch.argmax if largest else torch.argmin
    if not last:
        return pick(data, axis, bool(keepdims))
    return data.shape[axis] - 1 - pick(data.flip(axis), axis, bool(keepdims))


@operator("ArgMax")
def arg_max(data: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Returns the int64 index of the maximum along an axis; the first or last of equals. Source: ONNX-13."""
    return _arg(data, axis, keepdims, select_last_index, largest=True)


@operator("ArgMin")
def arg_min(data: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Returns the int64 index of the minimum along an axis; the first or last of equals. Source: ONNX-13."""
    return _arg(data, axis, keepdims, select_last_index, largest=False)


@operator("TopK", static=("K",), outputs=2)
def top_k(
    X: Tensor, K: Sequence[int] | int, *, axis: int = -1, largest: int = 1, sorted: int = 1
) -> tuple[Tensor, Tensor]:
    """Returns the K largest (or smallest) elements along an axis and their int64 indices.

    Of equal elements the lower index comes first. Source: ONNX TopK-11.
    """
    k = K if isinstance(K, int) else K[0]
    # torch.topk leaves the order of equal elements open; a stable sort gives ONNX's.
    values, indices = torch.sort(X, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, k), indices.narrow(axis, 0, k)


@operator("CumSum", since_version=11, static=("axis",))
def cum_sum(x: Tensor, axis: int, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Returns the running sum along an axis. Source: ONNX CumSum-14."""
    dim = axis[0] if isinstance(axis, (tuple, list)) else axis
    x = x.flip(dim) if reverse else x
    y = x.cumsum(dim, dtype=x.dtype)
    y = y - x if exclusive else y
    return y.flip(dim) if reverse else y
