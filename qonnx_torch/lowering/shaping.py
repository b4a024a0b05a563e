"""Shapes and other properties of tensors, and what changes shapes, as ONNX operators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from qonnx_torch.lowering.emitter import Emitter, NotLoweredError
from qonnx_torch.lowering.table import lowers
from qonnx_torch.ops.standard import movement, shape

__all__ = ["shape_argument", "unflatten"]


def _flat(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns arguments given one by one or as one sequence."""
    return tuple(values[0]) if len(values) == 1 and isinstance(values[0], (tuple, list)) else values


# -- properties ------------------------------------------------------------------------------------


@lowers(getattr)
def attribute(g: Emitter, value: fx.Node, name: str) -> Any:
    """Returns a property of a tensor: a number, or as a node where it depends on the batch."""
    if name == "shape":
        return size(g, value)
    if name in ("T", "mT"):
        return transpose(g, value, -2, -1)
    if name == "requires_grad":
        return value.op == "get_attr" and g.tensors[str(value.target)].requires_grad
    found = getattr(g.known(value)[0], name)
    if isinstance(found, torch.Tensor):
        raise NotLoweredError(f".{name} has no operator here")
    return found


@lowers("size")
def size(g: Emitter, input: fx.Node, dim: int | None = None) -> Any:
    """Returns one size or all, as numbers but for those that depend on the batch."""
    return g.dim(input, dim) if dim is not None else tuple(g.dim(input, i) for i in range(g.rank(input)))


@lowers("dim", "ndimension")
def dim(g: Emitter, input: fx.Node) -> int:
    """Returns the rank."""
    return g.rank(input)


@lowers("numel", "nelement", torch.numel)
def numel(g: Emitter, input: fx.Node) -> Any:
    """Returns the number of elements, as a node where it depends on the batch."""
    return g.call(shape.size, input)


@lowers("is_floating_point", torch.is_floating_point)
def is_floating_point(g: Emitter, input: fx.Node) -> bool:
    """Returns whether the dtype is floating."""
    return g.dtype(input).is_floating_point


@lowers(torch._assert)
def check(g: Emitter, condition: Any, message: str) -> None:
    """Writes nothing: what the model asserts held for the example inputs."""


@lowers("contiguous", "clone", torch.clone, "cpu", "cuda")
def same(g: Emitter, input: fx.Node, **keywords: Any) -> fx.Node:
    """Writes nothing: values are never shared in ONNX."""
    return input


# -- shapes ----------------------------------------------------------------------------------------


def shape_argument(g: Emitter, sizes: Sequence[Any]) -> Any:
    """Returns a shape as numbers, or joined by Concat where a part depends on the batch."""
    if not any(isinstance(n, fx.Node) for n in sizes):
        return tuple(sizes)
    parts: list[Any] = []
    for n in sizes:
        if isinstance(n, fx.Node):
            parts.append(g.call(shape.unsqueeze, n, (0,)))
        elif parts and isinstance(parts[-1], tuple):
            parts[-1] = (*parts[-1], n)
        else:
            parts.append((n,))
    return g.call(movement.concat, *parts, axis=0)


@lowers(torch.reshape, "reshape", "view")
def reshape(g: Emitter, input: fx.Node, *sizes: Any, **keywords: Any) -> Any:
    """Writes Reshape.

    1. Sizes that no batch changes are constants.
    2. One that depends on the batch and stands where the input has it is 0, which copies it.
    3. A single other one is -1, if that is free.
    4. Else the shape is computed.
    """
    wanted = _flat(sizes) if sizes else _flat((keywords["shape"],))
    if any(isinstance(n, torch.dtype) for n in wanted):
        raise NotLoweredError("a view as another dtype has no operator")
    if 0 in wanted:
        raise NotLoweredError("a size of 0 copies in ONNX")
    shapes = [tuple(x.shape) for x in g.known(input)]
    target = list(wanted)
    for i, n in enumerate(wanted):
        if isinstance(n, fx.Node) and i < g.rank(input) and g.known(n) == tuple(s[i] for s in shapes):
            target[i] = 0  # Case 2
    open_ = [i for i, n in enumerate(target) if isinstance(n, fx.Node)]
    if len(open_) == 1 and -1 not in target:
        target[open_[0]] = -1  # Case 3
    elif open_:
        target = list(wanted)  # Case 4
    return g.call(shape.reshape, input, shape_argument(g, target))


@lowers("view_as", "reshape_as")
def view_as(g: Emitter, input: fx.Node, other: fx.Node) -> Any:
    """Writes Reshape."""
    return reshape(g, input, size(g, other))


@lowers(torch.flatten, "flatten")
def flatten(g: Emitter, input: fx.Node, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Writes Flatten where it is one, else Reshape."""
    rank = g.rank(input)
    start, end = start_dim % max(rank, 1), end_dim % max(rank, 1)
    if start == 1 and end == rank - 1:
        return g.call(shape.flatten, input, axis=1)
    sizes = size(g, input)
    if start == end and rank:
        return input
    merged = sizes[start : end + 1]
    joined: Any = -1 if any(isinstance(n, fx.Node) for n in merged) else math.prod(merged)
    if joined == -1 and sum(isinstance(n, fx.Node) for n in sizes) > sum(
        isinstance(n, fx.Node) for n in merged
    ):
        raise NotLoweredError("several sizes depend on the batch")
    return reshape(g, input, (*sizes[:start], joined, *sizes[end + 1 :]))


@lowers("unflatten", torch.unflatten)
def unflatten(g: Emitter, input: fx.Node, dim: int, sizes: Sequence[Any]) -> Any:
    """Writes Reshape."""
    have = size(g, input)
    axis = dim % len(have)
    return reshape(g, input, (*have[:axis], *sizes, *have[axis + 1 :]))


@lowers(torch.unsqueeze, "unsqueeze", "unsqueeze_")
def unsqueeze(g: Emitter, input: fx.Node, dim: int) -> Any:
    """Writes Unsqueeze."""
    return g.call(shape.unsqueeze, input, (dim % (g.rank(input) + 1),))


@lowers(torch.squeeze, "squeeze", "squeeze_")
def squeeze(g: Emitter, input: fx.Node, dim: Any = None) -> Any:
    """Writes Squeeze of the dimensions that are 1, whatever the batch is."""
    sizes = g.sizes(input)
    given = range(len(sizes)) if dim is None else (dim,) if isinstance(dim, int) else dim
    axes = tuple(d % len(sizes) for d in given if sizes[d] == 1)
    return g.call(shape.squeeze, input, axes) if axes else input


@lowers(torch.permute, "permute")
def permute(g: Emitter, input: fx.Node, *dims: Any, **keywords: Any) -> Any:
    """Writes Transpose."""
    order = _flat(dims) if dims else tuple(keywords["dims"])
    return g.call(movement.transpose, input, perm=tuple(d % g.rank(input) for d in order))


@lowers(torch.transpose, torch.swapaxes, "transpose", "swapaxes")
def transpose(g: Emitter, input: fx.Node, dim0: int, dim1: int) -> Any:
    """Writes Transpose of two dimensions."""
    order = list(range(g.rank(input)))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return g.call(movement.transpose, input, perm=tuple(order))


@lowers("t", torch.t)
def matrix_transpose(g: Emitter, input: fx.Node) -> Any:
    """Writes Transpose of a matrix."""
    return transpose(g, input, 0, 1) if g.rank(input) == 2 else input


@lowers(torch.movedim, "movedim")
def movedim(g: Emitter, input: fx.Node, source: int, destination: int) -> Any:
    """Writes Transpose."""
    rank = g.rank(input)
    order = [d for d in range(rank) if d != source % rank]
    order.insert(destination % rank, source % rank)
    return g.call(movement.transpose, input, perm=tuple(order))


@lowers("expand")
def expand(g: Emitter, input: fx.Node, *sizes: Any) -> Any:
    """Writes Expand; -1, which keeps a size, is 1 there."""
    wanted = [1 if isinstance(n, int) and n == -1 else n for n in _flat(sizes)]
    return g.call(movement.expand, input, shape_argument(g, wanted))


@lowers("expand_as")
def expand_as(g: Emitter, input: fx.Node, other: fx.Node) -> Any:
    """Writes Expand."""
    return expand(g, input, size(g, other))


@lowers("repeat")
def repeat(g: Emitter, input: fx.Node, *sizes: Any) -> Any:
    """Writes Tile."""
    counts = _flat(sizes)
    if len(counts) != g.rank(input):
        raise NotLoweredError("Tile adds no dimensions")
    return g.call(movement.tile, input, shape_argument(g, counts))
