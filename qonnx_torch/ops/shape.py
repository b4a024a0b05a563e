"""Operators that only move, select or describe elements. Most also compute on shapes held as Python ints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from qonnx_torch.dtypes import torch_dtype
from qonnx_torch.errors import InvalidModelError, UnsupportedModelError
from qonnx_torch.ops._operator import as_tensor, is_shape_value, operator

__all__: list[str] = []


def _ints(value: Any) -> list[Any]:
    """Returns a shape value as a list; a number is a list of one."""
    return list(value) if isinstance(value, (tuple, list)) else [value]


@operator("Shape", on_shapes=True)
def shape(data: Tensor, *, start: int = 0, end: int | None = None) -> tuple[int, ...]:
    """Returns the dimensions from `start` to `end` as Python ints. Source: ONNX Shape-15."""
    if is_shape_value(data):
        return (len(data),) if isinstance(data, (tuple, list)) else ()
    return tuple(data.shape)[slice(start, end)]


@operator("Size")
def size(data: Tensor) -> int:
    """Returns the number of elements as a Python int. Source: ONNX Size-13."""
    return math.prod(data.shape)


@operator("Reshape", static=("shape",), on_shapes=True)
def reshape(data: Tensor, shape: Sequence[int], *, allowzero: int = 0) -> Tensor:
    """Returns data in another shape; -1 is inferred, 0 copies unless allowzero. Source: ONNX Reshape-14."""
    target = _ints(shape)
    if is_shape_value(data):
        return data if target else _ints(data)[0]
    if not allowzero:
        target = [data.shape[i] if type(n) is int and n == 0 else n for i, n in enumerate(target)]
    return data.reshape(target)


@operator("Flatten")
def flatten(input: Tensor, *, axis: int = 1) -> Tensor:
    """Returns a matrix: dimensions before `axis` become rows, the others columns. Source: ONNX Flatten-13."""
    axis = axis + input.dim() if axis < 0 else axis
    if axis == 0:
        return input.reshape(1, -1)
    if axis == input.dim():
        return input.reshape(-1, 1)
    y = input.flatten(axis)
    return y.flatten(0, axis - 1) if axis > 1 else y


@operator("Squeeze", static=("axes",), on_shapes=True)
def squeeze(data: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """Returns data without the given (or all) dimensions of size 1. Source: ONNX Squeeze-13."""
    if is_shape_value(data):
        values = _ints(data)
        return values[0] if len(values) == 1 else data
    if axes is None:
        return data.squeeze()
    dims = [a % data.dim() for a in _ints(axes)]
    wrong = [a for a in dims if isinstance(data.shape[a], int) and data.shape[a] != 1]
    if wrong:
        raise InvalidModelError(f"Squeeze: axis {wrong[0]} of a tensor {tuple(data.shape)} is not 1")
    return data.squeeze(dims)


@operator("Unsqueeze", static=("axes",), on_shapes=True)
def unsqueeze(data: Tensor, axes: Sequence[int]) -> Tensor:
    """Returns data with dimensions of size 1 inserted at `axes` of the result. Source: ONNX Unsqueeze-13."""
    if is_shape_value(data):
        if isinstance(data, (tuple, list)):
            return unsqueeze(as_tensor(data), axes)
        return (data,)  # type: ignore[return-value]
    dims = _ints(axes)
    rank = data.dim() + len(dims)
    for axis in sorted(a % rank for a in dims):
        data = data.unsqueeze(axis)
    return data


@operator("Transpose")
def transpose(data: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    """Returns data with its dimensions permuted, reversed where perm is absent. Source: ONNX Transpose-13."""
    return data.permute(list(perm) if perm is not None else list(range(data.dim()))[::-1])


@operator("Concat", on_shapes=True)
def concat(*inputs: Tensor, axis: int) -> Tensor:
    """Returns the inputs joined along an axis. Source: ONNX Concat-13."""
    if all(is_shape_value(v) for v in inputs):
        return tuple(n for v in inputs for n in _ints(v))  # type: ignore[return-value]
    device = next(v.device for v in inputs if isinstance(v, Tensor))
    return torch.cat([as_tensor(v, device=device) for v in inputs], axis)


@operator("Split", static=("split",), on_shapes=True, outputs=None)
def split(
    input: Tensor, split: Sequence[int] | None = None, *, axis: int = 0, num_outputs: int | None = None
) -> tuple[Tensor, ...]:
    """Returns the pieces of a tensor along an axis: of the given sizes, or num_outputs equal ones.

    The last of equal pieces may be smaller. Source: ONNX Split-18.
    """
    length = len(_ints(input)) if is_shape_value(input) else input.shape[axis]
    if split is None:
        if num_outputs is None:
            raise InvalidModelError("Split needs either the input split or the attribute num_outputs")
        chunk = -(-length // num_outputs)
        split = [chunk] * (num_outputs - 1) + [length - chunk * (num_outputs - 1)]
    if is_shape_value(input):
        values, start, pieces = _ints(input), 0, []
        for n in split:
            pieces.append(tuple(values[start : start + n]))
            start += n
        return tuple(pieces)  # type: ignore[arg-type]
    return torch.split(input, list(split), axis)


@operator("Slice", static=("starts", "ends", "axes", "steps"), on_shapes=True)
def slice_(
    data: Tensor,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> Tensor:
    """Returns data[starts:ends:steps] along the given axes, as NumPy slices. Source: ONNX Slice-13."""
    begins, stops = _ints(starts), _ints(ends)
    dims = _ints(axes) if axes is not None else list(range(len(begins)))
    strides = _ints(steps) if steps is not None else [1] * len(begins)
    if is_shape_value(data):
        return tuple(_ints(data))[slice(begins[0], stops[0], strides[0])]  # type: ignore[return-value]
    for axis, start, stop, step in zip(dims, begins, stops, strides, strict=True):
        if step > 0:
            key = [slice(None)] * (axis % data.dim()) + [slice(start, stop, step)]
            data = data[tuple(key)]
        else:
            index = range(data.shape[axis])[slice(start, None if stop < -data.shape[axis] else stop, step)]
            data = data.index_select(axis, torch.tensor(list(index), device=data.device, dtype=torch.int64))
    return data


@operator("Gather", on_shapes=True)
def gather(data: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Returns the slices of data along an axis at `indices` (any shape; negative counts from the end).

    Source: ONNX Gather-13.
    """
    if is_shape_value(data) and is_shape_value(indices):
        values: Any = _ints(data)
        if isinstance(indices, (tuple, list)):
            return tuple(values[i] for i in indices)
        return values[indices]  # type: ignore[no-any-return]
    data = as_tensor(data, device=indices.device if isinstance(indices, Tensor) else None)
    if isinstance(indices, int):
        return data.select(axis, indices)
    index = as_tensor(indices, device=data.device)
    axis = axis % data.dim()
    length = data.shape[axis]
    index = torch.where(index < 0, index + length, index)
    picked = data.index_select(axis, index.reshape(-1))
    return picked.reshape(*data.shape[:axis], *index.shape, *data.shape[axis + 1 :])


@operator("GatherElements", since_version=11)
def gather_elements(data: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Returns elements of data picked along an axis, one per index. Source: ONNX GatherElements-13."""
    return torch.gather(data, axis, torch.where(indices < 0, indices + data.shape[axis], indices))


@operator("Expand", static=("shape",))
def expand(input: Tensor, shape: Sequence[int]) -> Tensor:
    """Returns the input broadcast with a shape, in both directions. Source: ONNX Expand-13."""
    target = _ints(shape)
    rank = max(len(target), input.dim())
    have = [1] * (rank - input.dim()) + list(input.shape)
    want = [1] * (rank - len(target)) + target
    return input.expand([h if isinstance(w, int) and w == 1 else w for h, w in zip(have, want, strict=True)])


@operator("Tile", static=("repeats",))
def tile(input: Tensor, repeats: Sequence[int]) -> Tensor:
    """Returns the input repeated along each dimension. Source: ONNX Tile-13."""
    return input.repeat(_ints(repeats))


@operator("ConstantOfShape", static=("input",))
def constant_of_shape(
    input: Sequence[int], *, value: tuple[int, float | int | bool] = (TensorProto.FLOAT, 0.0)
) -> Tensor:
    """Returns a tensor of the given shape filled with one number.

    Args:
        input: the shape.
        value: ONNX element type and number (ONNX has them as a tensor of one element).

    Source: ONNX ConstantOfShape-9.
    """
    element_type, number = value
    return torch.full(_ints(input), number, dtype=torch_dtype(element_type))


@operator("Range", since_version=11, on_shapes=True)
def range_(start: Any, limit: Any, delta: Any) -> Any:
    """Returns start, start + delta, ... below limit. Source: ONNX Range-11."""
    dtype = next((v.dtype for v in (start, limit, delta) if isinstance(v, Tensor)), None)
    start, limit, delta = (v.item() if isinstance(v, Tensor) else v for v in (start, limit, delta))
    return torch.arange(start, limit, delta, dtype=dtype)


@operator("Pad", static=("pads", "constant_value", "axes"))
def pad(
    data: Tensor,
    pads: Sequence[int],
    constant_value: float | None = None,
    axes: Sequence[int] | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    """Returns data padded (negative pads cut).

    Args:
        data: any shape.
        pads: begins, then ends, one of each per axis.
        constant_value: for mode constant; 0 where absent.
        axes: which axes pads are for; all where absent.
        mode: constant, reflect, edge or wrap.

    Raises: UnsupportedModelError where torch cannot pad these dimensions in that mode. Source: ONNX Pad-21.
    """
    rank = data.dim()
    amounts = _ints(pads)
    dims = [a % rank for a in _ints(axes)] if axes is not None else list(range(rank))
    per_axis = {a: (amounts[i], amounts[i + len(dims)]) for i, a in enumerate(dims)}
    flat = [n for axis in reversed(range(rank)) for n in per_axis.get(axis, (0, 0))]
    if mode == "constant":
        fill = _ints(constant_value)[0] if constant_value is not None else 0
        return F.pad(data, flat, value=fill)
    padded = [a for a in range(rank) if per_axis.get(a, (0, 0)) != (0, 0)]
    lowest = padded[0] if padded else rank
    spatial = rank - lowest
    names = {"edge": "replicate", "reflect": "reflect", "wrap": "circular"}
    if spatial > 3 or mode not in names:
        raise UnsupportedModelError(f"Pad in mode {mode} over {spatial} dimensions is not supported")
    if not padded:
        return data
    y = data.reshape(1, -1, *data.shape[lowest:])  # torch pads the last 1 to 3 of (N, C, ...)
    y = F.pad(y, flat[: 2 * spatial], mode=names[mode])
    return y.reshape(*data.shape[:lowest], *y.shape[2:])


@operator("DepthToSpace")
def depth_to_space(input: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Returns (N, C, H, W) as (N, C / b^2, H b, W b), channels by mode DCR or CRD. Source: ONNX-13."""
    n, c, h, w = input.shape
    b = blocksize
    if mode == "CRD":
        y = input.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    else:
        y = input.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, c // b**2, h * b, w * b)


@operator("SpaceToDepth")
def space_to_depth(input: Tensor, *, blocksize: int) -> Tensor:
    """Returns (N, C, H, W) as (N, C b^2, H / b, W / b). Source: ONNX SpaceToDepth-13."""
    n, c, h, w = input.shape
    b = blocksize
    y = input.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return y.reshape(n, c * b**2, h // b, w // b)
