"""Operators that pick elements by position; Slice and Gather also from shapes held as Python ints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import as_tensor, is_shape_value, operator
from qonnx_torch.ops.standard._axes import axes_of, axis_of
from qonnx_torch.ops.standard._integers import on_bits
from qonnx_torch.ops.standard._numbers import along, dimensions, elements, integers, taken

__all__: list[str] = []


@operator("Slice", static=("starts", "ends", "axes", "steps"), on_shapes=True)
def slice_(
    data: Tensor,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> Tensor:
    """Returns data[starts:ends:steps] along the given axes, as NumPy slices. Source: ONNX Slice-13."""
    begins, stops = integers(starts), integers(ends)
    rank = len(dimensions(data)) if is_shape_value(data) else data.dim()
    dims = axes_of(axes, rank) if axes is not None else list(range(len(begins)))
    strides = integers(steps) if steps is not None else [1] * len(begins)
    if not len(begins) == len(stops) == len(dims) == len(strides):
        raise InvalidModelError("Slice needs as many starts as ends, axes and steps")
    if 0 in strides:
        raise InvalidModelError("Slice: a step is 0")
    for axis, start, stop, step in zip(dims, begins, stops, strides, strict=True):
        data = _sliced(data, axis, start, stop, step)
    return data


def _sliced(data: Any, axis: int, start: Any, stop: Any, step: int) -> Any:
    """Returns data[start:stop:step] along an axis; a negative step is a positive one on the reversed axis."""
    if step < 0:
        size = dimensions(data)[axis] if is_shape_value(data) else data.shape[axis]
        data = _flipped(data, axis)
        # ONNX clamps a start before the front to 0; NumPy would give nothing.
        start = torch.sym_min(_reversed(start, size), size - 1)
        stop, step = _reversed(stop, size), -step
    if is_shape_value(data):
        return along(data, axis, lambda row: tuple(row)[start:stop:step])
    return data[tuple([slice(None)] * axis + [slice(start, stop, step)])]


def _flipped(data: Any, axis: int) -> Any:
    if is_shape_value(data):
        return along(data, axis, lambda row: tuple(row)[::-1])
    return on_bits(lambda x: x.flip(axis), data)


def _reversed(position: Any, size: Any) -> Any:
    """Returns where a position of an axis lies on the reversed axis; 0 where it lies behind the end."""
    from_front = position + size if position < 0 else position
    return torch.sym_max(size - 1 - from_front, 0)


@operator("Gather", on_shapes=True)
def gather(data: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Returns the slices of data along an axis at `indices` (any shape; negative counts from the end).

    Source: ONNX Gather-13.
    """
    if is_shape_value(data) and all(isinstance(i, int) for i in elements(indices)):
        sizes = dimensions(data)
        return along(data, axis_of(axis, len(sizes)), lambda row: taken(row, indices))  # type: ignore[no-any-return]
    device = next((v.device for v in (data, indices) if isinstance(v, Tensor)), None)
    data = as_tensor(data, device=device)
    axis = axis_of(axis, data.dim())
    if is_shape_value(indices) and not isinstance(indices, (tuple, list)):
        return data.select(axis, indices)  # type: ignore[arg-type]
    index = _from_front(as_tensor(indices, device=device), data.shape[axis])
    picked = on_bits(lambda x: x.index_select(axis, index.reshape(-1)), data)
    return picked.reshape([*data.shape[:axis], *index.shape, *data.shape[axis + 1 :]])


def _from_front(index: Tensor, size: Any) -> Tensor:
    """Returns indices, int64, with the negative ones counted from the end."""
    index = index.to(torch.int64)
    return torch.where(index < 0, index + size, index)


@operator("GatherElements", since_version=11)
def gather_elements(data: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Returns elements of data picked along an axis, one per index. Source: ONNX GatherElements-13."""
    index = _from_front(indices, data.shape[axis])
    return on_bits(lambda x: torch.gather(x, axis, index), data)


@operator("GatherND", since_version=11)
def gather_nd(data: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Returns the slices of data at tuples of indices.

    Args:
        data: (*batch, *indexed, *rest).
        indices: (*batch, *picks, k): each row a place in the first k dimensions behind the batch.
        batch_dims: how many dimensions data and indices have in common.

    Returns: (*batch, *picks, *rest[k:]). Source: ONNX GatherND-13.

    Raises:
        InvalidModelError: k is 0.
    """
    if not indices.shape[-1]:
        raise InvalidModelError(f"GatherND: indices {tuple(indices.shape)}; the last dimension must be >= 1")
    index: list[Any] = []
    for axis in range(batch_dims):
        shape = [1] * (indices.dim() - 1)
        shape[axis] = -1
        index.append(torch.arange(data.shape[axis], device=data.device).reshape(shape))
    return data[tuple(index + list(indices.to(torch.int64).unbind(-1)))]


@operator("Compress", since_version=9)
def compress(input: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    """Returns the slices along an axis (elements of the flattened input) where a condition holds.

    Args:
        input: any shape.
        condition: (n,) bool; what lies behind its end is left out.
        axis: the flattened input where absent.

    Source: ONNX Compress-28.
    """
    index = condition.nonzero().reshape(-1)
    along_axis, x = (0, input.reshape(-1)) if axis is None else (axis, input)
    return on_bits(lambda bits: bits.index_select(along_axis, index), x)


@operator("NonZero", since_version=9, on_shapes=True)
def non_zero(X: Tensor) -> Tensor:
    """Returns the indices of the elements that are not 0, (rank, count) int64. Source: ONNX NonZero-13."""
    if is_shape_value(X):
        if len(dimensions(X)) == 1:
            return (tuple(i for i, n in enumerate(X) if n),)  # type: ignore[return-value]
        X = as_tensor(X)
    return (X != 0).nonzero().T


@operator("OneHot", since_version=9, static=("depth",))
def one_hot(indices: Tensor, depth: int, values: Tensor, *, axis: int = -1) -> Tensor:
    """Returns values[1] where the position along a new axis is the index, else values[0].

    Args:
        indices: any shape, any numbers (truncated); negative ones count from the end, others beyond the depth
            are nowhere.
        depth: size of the new axis.
        values: (2,), off and on.
        axis: where the new axis stands in the result.

    Source: ONNX OneHot-28.
    """
    count = torch.sym_int(integers(depth)[0])
    rank = indices.dim() + 1
    place = axis_of(axis, rank)
    shape = [1] * rank
    shape[place] = count
    positions = torch.arange(count, device=indices.device).reshape(shape)
    hot = _from_front(indices, count).unsqueeze(place) == positions
    off, on = values.unbind(0)
    return torch.where(hot, on, off)
