"""Operators that select by value: the largest, the smallest, the distinct."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard._axes import axis_of
from qonnx_torch.ops.standard._integers import on_bits, ordered
from qonnx_torch.ops.standard._numbers import integers

__all__: list[str] = []


def _arg(data: Tensor, axis: int, keepdims: int, last: int, largest: bool) -> Tensor:
    pick = torch.argmax if largest else torch.argmin
    data = ordered(data)
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

    Of equal elements the lower index comes first, also where sorted is 0.

    Raises: InvalidModelError where the axis has fewer than K elements. Source: ONNX TopK-24.
    """
    k: Any = integers(K)[0]
    size = X.shape[axis]
    if isinstance(k, int) and isinstance(size, int) and not 0 <= k <= size:
        raise InvalidModelError(f"TopK: {k} elements of an axis of {size}")
    # torch.topk leaves the order of equal elements open; a stable sort gives ONNX's.
    indices = torch.sort(ordered(X), dim=axis, descending=bool(largest), stable=True).indices
    indices = indices.narrow(axis, 0, k)
    return on_bits(lambda x: torch.gather(x, axis, indices), X), indices


@operator("Unique", since_version=11, python_only=("outputs",))
def unique(X: Tensor, *, axis: int | None = None, sorted: int = 1, outputs: int = 1) -> Any:
    """Returns the distinct elements (slices along an axis), and where they are.

    Args:
        X: any shape.
        axis: of the slices; the elements of the flattened input where absent.
        sorted: 1 sorts them ascending, 0 leaves them in the order of their first occurrence.
        outputs: how many of the results to return.

    Returns: what is distinct (Y); the index in X of each one's first occurrence, the index in Y of each
    element of X, and how often each occurs, all (n,) int64. Source: ONNX Unique-28.
    """
    x, along_axis = (X.reshape(-1), 0) if axis is None else (X, axis_of(axis, X.dim()))
    _, inverse, counts = torch.unique(
        ordered(x),
        sorted=True,
        return_inverse=True,
        return_counts=True,
        dim=None if axis is None else along_axis,
    )
    length = x.shape[along_axis]
    positions = torch.arange(length, device=X.device)
    first = torch.full_like(counts, length).scatter_reduce(0, inverse, positions, "amin")
    if not sorted:
        order = torch.argsort(first)
        first, counts = first[order], counts[order]
        places = torch.arange(order.shape[0], device=X.device)
        inverse = torch.empty_like(order).scatter(0, order, places)[inverse]
    values = on_bits(lambda bits: bits.index_select(along_axis, first), x)
    results = (values, first, inverse, counts)
    return values if outputs == 1 else results[:outputs]
