"""Shapes and what is made of them. Shapes are Python ints, and stay so through most operators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

from qonnx_torch.dtypes import torch_dtype
from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import is_shape_value, operator
from qonnx_torch.ops.standard._axes import axes_of, axis_of
from qonnx_torch.ops.standard._numbers import along, dimensions, elements, fitted, integers, shaped

__all__: list[str] = []


@operator("Shape", on_shapes=True, gives_numbers=True)
def shape(data: Tensor, *, start: int = 0, end: int | None = None) -> tuple[int, ...]:
    """Returns the dimensions from `start` to `end` as Python ints. Source: ONNX Shape-25."""
    sizes = dimensions(data) if is_shape_value(data) else tuple(data.shape)
    return sizes[slice(start, end)]


@operator("Size", on_shapes=True, gives_numbers=True)
def size(data: Tensor) -> int:
    """Returns the number of elements as a Python int. Source: ONNX Size-25."""
    return math.prod(dimensions(data) if is_shape_value(data) else data.shape)


@operator("Reshape", static=("shape",), on_shapes=True)
def reshape(data: Tensor, shape: Sequence[int], *, allowzero: int = 0) -> Tensor:
    """Returns data in another shape; -1 is inferred, 0 copies unless allowzero. Source: ONNX Reshape-25."""
    target = integers(shape)
    have = dimensions(data) if is_shape_value(data) else data.shape
    if not allowzero:
        target = [have[i] if type(n) is int and n == 0 else n for i, n in enumerate(target)]
    if not is_shape_value(data):
        return data.reshape(target)
    numbers = elements(data)
    if -1 in target:
        rest = -math.prod(target)
        target[target.index(-1)] = len(numbers) // rest if rest else 0
    if math.prod(target) != len(numbers):
        raise InvalidModelError(f"Reshape: {len(numbers)} elements do not have the shape {integers(shape)}")
    return shaped(numbers, target)  # type: ignore[no-any-return]


@operator("Flatten")
def flatten(input: Tensor, *, axis: int = 1) -> Tensor:
    """Returns a matrix: dimensions before `axis` become rows, the others columns. Source: ONNX Flatten-25."""
    axis = axis + input.dim() if axis < 0 else axis
    if axis == 0:
        return input.reshape(1, -1)
    if axis == input.dim():
        return input.reshape(-1, 1)
    y = input.flatten(axis)
    return y.flatten(0, axis - 1) if axis > 1 else y


@operator("Squeeze", static=("axes",), on_shapes=True)
def squeeze(data: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """Returns data without the given (or all) dimensions of size 1. Source: ONNX Squeeze-25."""
    sizes = dimensions(data) if is_shape_value(data) else data.shape
    if axes is None and not is_shape_value(data):
        return data.squeeze()
    given = [i for i, n in enumerate(sizes) if n == 1] if axes is None else axes_of(axes, len(sizes))
    wrong = [a for a in given if isinstance(sizes[a], int) and sizes[a] != 1]
    if wrong:
        raise InvalidModelError(f"Squeeze: axis {wrong[0]} of a tensor {tuple(sizes)} is not 1")
    if not is_shape_value(data):
        return data.squeeze(given)
    for axis in sorted(given, reverse=True):
        data = along(data, axis, lambda row: row[0])
    return data


@operator("Unsqueeze", static=("axes",), on_shapes=True)
def unsqueeze(data: Tensor, axes: Sequence[int]) -> Tensor:
    """Returns data with dimensions of size 1 inserted at `axes` of the result. Source: ONNX Unsqueeze-25."""
    rank = len(dimensions(data)) if is_shape_value(data) else data.dim()
    given = integers(axes)
    for axis in sorted(axis_of(a, rank + len(given)) for a in given):
        data = along(data, axis, lambda row: (row,)) if is_shape_value(data) else data.unsqueeze(axis)
    return data


@operator("ConstantOfShape", since_version=9, static=("input",), python_only=("as_numbers", "like"))
def constant_of_shape(
    input: Sequence[int],
    *,
    value: tuple[int, float | int | bool] = (TensorProto.FLOAT, 0.0),
    as_numbers: bool = False,
    like: Any = None,
) -> Tensor:
    """Returns a tensor of the given shape filled with one number.

    Args:
        input: the shape.
        value: ONNX element type and number (ONNX has them as a tensor of one element).
        as_numbers: returns a shape value instead.
        like: a tensor on whose device the result is.

    Source: ONNX ConstantOfShape-25.
    """
    element_type, number = value
    sizes = integers(input)
    if as_numbers:
        return shaped([number] * math.prod(sizes), sizes)  # type: ignore[no-any-return]
    device = like.device if isinstance(like, Tensor) else None
    return torch.full(sizes, number, dtype=torch_dtype(element_type), device=device)


@operator(
    "Range",
    since_version=11,
    on_shapes=True,
    numbers=("start", "limit", "delta"),
    python_only=("as_numbers", "like", "number_type"),
)
def range_(
    start: Any,
    limit: Any,
    delta: Any,
    *,
    stash_type: int = 1,
    as_numbers: bool = False,
    like: Any = None,
    number_type: int | None = None,
) -> Any:
    """Returns start, start + delta, ... below limit.

    Args:
        start: a number, as a 0-d tensor or Python number, like the others.
        limit: the end, which does not belong to it.
        delta: what is added each time; may be negative.
        stash_type: what float16 and bfloat16 are computed in: 1 float32, 11 float64.
        as_numbers: returns a shape value instead of a tensor.
        like: a tensor on whose device the result is, where the numbers are Python's.
        number_type: of Python numbers, INT32 or DOUBLE.

    Source: ONNX Range-27.
    """
    given = [v for v in (start, limit, delta) if isinstance(v, Tensor)]
    device = next((v.device for v in (*given, like) if isinstance(v, Tensor)), None)
    start, limit, delta = (v.item() if isinstance(v, Tensor) else v for v in (start, limit, delta))
    if as_numbers:
        count = max(math.ceil((limit - start) / delta), 0)
        return tuple(fitted(start + i * delta, number_type) for i in range(count))
    limit = torch.sym_max(start, limit) if delta > 0 else torch.sym_min(start, limit)
    of_numbers = None if number_type is None else torch_dtype(number_type)
    dtype = given[0].dtype if given else of_numbers
    if dtype in (torch.float16, torch.bfloat16):
        return torch.arange(start, limit, delta, dtype=torch_dtype(stash_type), device=device).to(dtype)
    if dtype in (torch.uint16, torch.uint32, torch.uint64):
        return torch.arange(start, limit, delta, device=device).to(dtype)
    return torch.arange(start, limit, delta, dtype=dtype, device=device)
