"""Operators that put elements elsewhere; also those of shapes held as Python ints."""

from __future__ import annotations

import functools
import math
import operator as python_operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import as_tensor, is_shape_value, operator
from qonnx_torch.ops.standard._axes import axis_of
from qonnx_torch.ops.standard._integers import on_bits
from qonnx_torch.ops.standard._numbers import along, dimensions, each, integers, joined, moved, shaped

__all__ = ["aligned"]


@operator("Transpose", on_shapes=True)
def transpose(data: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    """Returns data with its dimensions permuted, reversed where perm is absent. Source: ONNX Transpose-25."""
    rank = len(dimensions(data)) if is_shape_value(data) else data.dim()
    order = list(range(rank))[::-1] if perm is None else list(perm)
    return moved(data, order) if is_shape_value(data) else data.permute(order)


def aligned(value: Tensor, other: Tensor, axis: int) -> Tensor:
    """Returns a tensor with dimensions of 1 behind its own: it lies beside another's from an axis on.

    Operators below version 7 broadcast so: (3, 4) with axis 1 goes beside the 3 and 4 of (2, 3, 4, 5).
    """
    if isinstance(value, Proxy):
        arguments = (value, other, axis)
        return value.tracer.create_proxy("call_function", aligned, arguments, {})
    behind = other.dim() - axis_of(axis, other.dim()) - value.dim()
    return value.reshape(*value.shape, *[1] * max(behind, 0))


@operator("Concat", on_shapes=True)
def concat(*inputs: Tensor, axis: int) -> Tensor:
    """Returns the inputs joined along an axis. Source: ONNX Concat-13."""
    if all(is_shape_value(v) for v in inputs):
        rows = [integers(v) for v in inputs]
        return joined(rows, axis_of(axis, len(dimensions(rows[0]))))  # type: ignore[no-any-return]
    device = next(v.device for v in inputs if isinstance(v, Tensor))
    return torch.cat([as_tensor(v, device=device) for v in inputs], axis)


@operator("Split", static=("split",), on_shapes=True, outputs=None)
def split(
    input: Tensor, split: Sequence[int] | None = None, *, axis: int = 0, num_outputs: int | None = None
) -> tuple[Tensor, ...]:
    """Returns the pieces of a tensor along an axis: of the given sizes, or num_outputs equal ones.

    The last of equal pieces may be smaller. Source: ONNX Split-18.
    """
    sizes = dimensions(input) if is_shape_value(input) else input.shape
    axis = axis_of(axis, len(sizes))
    length = sizes[axis]
    if split is None:
        if num_outputs is None:
            raise InvalidModelError("Split needs either the input split or the attribute num_outputs")
        chunk = -(-length // num_outputs)
        split = [chunk] * (num_outputs - 1) + [length - chunk * (num_outputs - 1)]
    parts = integers(split)
    if not is_shape_value(input):
        return torch.split(input, parts, axis)
    ends = [sum(parts[: i + 1]) for i in range(len(parts))]
    rows = [slice(end - n, end) for n, end in zip(parts, ends, strict=True)]
    return tuple(along(input, axis, python_operator.itemgetter(row)) for row in rows)


@operator("Expand", since_version=8, static=("shape",), on_shapes=True)
def expand(input: Tensor, shape: Sequence[int]) -> Tensor:
    """Returns the input broadcast with a shape, in both directions. Source: ONNX Expand-13."""
    target = integers(shape)
    if is_shape_value(input):
        if not all(isinstance(n, int) for n in target):
            return expand(as_tensor(input), target)
        return each(lambda n, _: n, input, shaped([0] * math.prod(target), target))  # type: ignore[no-any-return]
    rank = max(len(target), input.dim())
    have = [1] * (rank - input.dim()) + list(input.shape)
    want = [1] * (rank - len(target)) + target
    return input.expand([_broadcast(h, w) for h, w in zip(have, want, strict=True)])


def _broadcast(have: Any, want: Any) -> Any:
    """Returns the common size of two dimensions; asks symbolic ones only where nothing else tells."""
    if isinstance(want, int):
        return have if want == 1 else want
    if isinstance(have, int):
        return want if have == 1 else have
    return want if have == 1 else have


@operator("Tile", since_version=6, static=("repeats",), on_shapes=True)
def tile(input: Tensor, repeats: Sequence[int]) -> Tensor:
    """Returns the input repeated along each dimension. Source: ONNX Tile-13."""
    counts = integers(repeats)
    if not is_shape_value(input):
        return input.repeat(counts)
    if not all(isinstance(n, int) for n in counts):
        return as_tensor(input).repeat(counts)
    for axis, count in enumerate(counts):
        input = along(input, axis, functools.partial(python_operator.mul, count))
    return input


@operator("DepthToSpace")
def depth_to_space(input: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Returns (N, C, H, W) as (N, C / b^2, H b, W b), channels by mode DCR or CRD. Source: ONNX-28."""
    n, c, h, w = input.shape
    b = blocksize
    if mode == "CRD":
        y = input.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    else:
        y = input.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, c // b**2, h * b, w * b)


@operator("SpaceToDepth")
def space_to_depth(input: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Returns (N, C, H, W) as (N, C b^2, H / b, W / b), channels by mode DCR or CRD. Source: ONNX-28."""
    n, c, h, w = input.shape
    b = blocksize
    y = input.reshape(n, c, h // b, b, w // b, b)
    y = y.permute(0, 1, 3, 5, 2, 4) if mode == "CRD" else y.permute(0, 3, 5, 1, 2, 4)
    return y.reshape(n, c * b**2, h // b, w // b)


@operator("ReverseSequence", since_version=10)
def reverse_sequence(
    input: Tensor, sequence_lens: Tensor, *, batch_axis: int = 1, time_axis: int = 0
) -> Tensor:
    """Returns the input with the first steps of each sequence in reverse order.

    Args:
        input: any shape of two or more dimensions.
        sequence_lens: (batch,) how many steps of each sequence are reversed.
        batch_axis: 0 or 1.
        time_axis: the other of the two.

    Source: ONNX ReverseSequence-28.
    """
    time, batch = input.shape[time_axis], input.shape[batch_axis]
    step = torch.arange(time, device=input.device)
    lengths = sequence_lens.to(step.dtype).unsqueeze(1)
    index = torch.where(step < lengths, lengths - 1 - step, step)  # (batch, time)
    index = index if batch_axis < time_axis else index.T
    sizes = [1] * input.dim()
    sizes[batch_axis], sizes[time_axis] = batch, time
    index = index.reshape(sizes).expand(input.shape)
    return on_bits(lambda x: torch.gather(x, time_axis, index), input)
