"""What joins and selects elements, as ONNX operators."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from qonnx_torch.lowering.emitter import Emitter, NotLoweredError
from qonnx_torch.lowering.shaping import shape_argument
from qonnx_torch.lowering.table import lowers
from qonnx_torch.ops.standard import indexing, movement, shape

__all__: list[str] = []


@lowers(torch.cat, torch.concat)
def cat(g: Emitter, tensors: Sequence[fx.Node], dim: int = 0) -> Any:
    """Writes Concat."""
    if len({g.dtype(t) for t in tensors}) > 1:
        raise NotLoweredError("Concat converts no dtypes")
    return g.call(movement.concat, *tensors, axis=dim)


@lowers(torch.stack)
def stack(g: Emitter, tensors: Sequence[fx.Node], dim: int = 0) -> Any:
    """Writes Concat of tensors with a new dimension."""
    axis = dim % (g.rank(tensors[0]) + 1)
    return cat(g, [g.call(shape.unsqueeze, t, (axis,)) for t in tensors], axis)


@lowers(torch.split, "split")
def split(g: Emitter, tensor: fx.Node, split_size: Any, dim: int = 0) -> Any:
    """Writes Split into pieces of given sizes."""
    axis = dim % g.rank(tensor)
    total = g.fixed_sizes(tensor, range(axis, axis + 1))[0]
    if isinstance(split_size, int):
        whole, rest = divmod(total, split_size)
        split_size = (*[split_size] * whole, *([rest] if rest else []))
    return g.call(movement.split, tensor, tuple(split_size), axis=axis)


@lowers(torch.chunk, "chunk")
def chunk(g: Emitter, input: fx.Node, chunks: int, dim: int = 0) -> Any:
    """Writes Split into pieces of ceil(size / chunks)."""
    axis = dim % g.rank(input)
    total = g.fixed_sizes(input, range(axis, axis + 1))[0]
    return split(g, input, -(-total // chunks), axis)


@lowers(torch.unbind, "unbind")
def unbind(g: Emitter, input: fx.Node, dim: int = 0) -> Any:
    """Writes one Gather per index."""
    axis = dim % g.rank(input)
    count = g.fixed_sizes(input, range(axis, axis + 1))[0]
    return tuple(g.call(indexing.gather, input, i, axis=axis) for i in range(count))


@lowers(torch.select, "select")
def select(g: Emitter, input: fx.Node, dim: int, index: Any) -> Any:
    """Writes Gather of one index."""
    return g.call(indexing.gather, input, index, axis=dim % g.rank(input))


@lowers(torch.narrow, "narrow")
def narrow(g: Emitter, input: fx.Node, dim: int, start: int, length: int) -> Any:
    """Writes Slice."""
    if not (isinstance(start, int) and isinstance(length, int)):
        raise NotLoweredError("the range depends on the batch")
    return g.call(indexing.slice_, input, (start,), (start + length,), (dim % g.rank(input),))


@lowers(torch.index_select, "index_select")
def index_select(g: Emitter, input: fx.Node, dim: int, index: fx.Node) -> Any:
    """Writes Gather."""
    return g.call(indexing.gather, input, index, axis=dim % g.rank(input))


@lowers(torch.gather, "gather")
def gather(g: Emitter, input: fx.Node, dim: int, index: fx.Node) -> Any:
    """Writes GatherElements."""
    return g.call(indexing.gather_elements, input, index, axis=dim)


_END = 2**63 - 1


@lowers(operator.getitem)
def getitem(g: Emitter, value: Any, index: Any) -> Any:
    """Writes Slice, Gather and Unsqueeze, of integers, slices, None, Ellipsis and one index tensor."""
    if not g.is_tensor(value):
        raise NotLoweredError("it indexes no tensor")
    keys = list(index) if isinstance(index, tuple) else [index]
    if any(
        not isinstance(k, (int, slice, fx.Node, type(None), type(...))) or k is True or k is False
        for k in keys
    ):
        raise NotLoweredError(f"x[{index!r}] has no operator")
    tensors = [k for k in keys if g.is_tensor(k)]
    if len(tensors) > 1 or any(g.dtype(k) is torch.bool for k in tensors):
        raise NotLoweredError("masks and several index tensors have no operator")
    used = sum(k is not None and k is not ... for k in keys)
    rest = [slice(None)] * (g.rank(value) - used)
    at = next((i for i, k in enumerate(keys) if k is ...), len(keys))
    keys = keys[:at] + rest + keys[at + 1 :]
    if tensors and (any(isinstance(k, int) for k in keys) or None in keys):
        raise NotLoweredError("index tensors beside integers or None have no operator")
    axes = [k for k in keys if k is not None]
    value = _sliced(g, value, axes)
    for axis in reversed(range(len(axes))):
        if not isinstance(axes[axis], slice):
            value = g.call(indexing.gather, value, axes[axis], axis=axis)
    kept = [k for k in keys if k is None or isinstance(k, slice)]
    new = tuple(i for i, k in enumerate(kept) if k is None)
    return g.call(shape.unsqueeze, value, new) if new else value


def _sliced(g: Emitter, value: fx.Node, keys: Sequence[Any]) -> fx.Node:
    cuts = [(axis, k) for axis, k in enumerate(keys) if isinstance(k, slice) and k != slice(None)]
    if not cuts:
        return value
    starts = [0 if k.start is None else k.start for _, k in cuts]
    ends = [_END if k.stop is None else k.stop for _, k in cuts]
    steps = [1 if k.step is None else k.step for _, k in cuts]
    axes = tuple(axis for axis, _ in cuts)
    bounds = [shape_argument(g, b) for b in (starts, ends)]
    result: fx.Node = g.call(
        indexing.slice_, value, *bounds, axes, *([tuple(steps)] if steps != [1] * len(steps) else [])
    )
    return result
