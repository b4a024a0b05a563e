"""Operators that put elements at given positions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard._axes import axis_of
from qonnx_torch.ops.standard._integers import in_order, on_bits

__all__: list[str] = []

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _scattered(data: Tensor, axis: int, index: Tensor, updates: Tensor, reduction: str) -> Tensor:
    """Returns data with updates put, or folded, at positions along an axis (one of each per element)."""
    index = index.to(torch.int64)
    index = torch.where(index < 0, index + data.shape[axis], index)
    if reduction == "none":
        return on_bits(lambda x, y: x.scatter(axis, index, y), data, updates)
    if reduction not in _REDUCTIONS:
        raise InvalidModelError(f"reduction {reduction!r} is none of {['none', *_REDUCTIONS]}")
    through: Callable[..., Tensor] = in_order if reduction in ("max", "min") else on_bits
    return through(lambda x, y: x.scatter_reduce(axis, index, y, _REDUCTIONS[reduction]), data, updates)


@operator("ScatterElements", since_version=11)
def scatter_elements(
    data: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    """Returns data with updates at positions along an axis.

    Args:
        data: any shape.
        indices: of data's rank; negative ones count from the end.
        updates: of the indices' shape.
        axis: of the positions.
        reduction: none puts them there; add, mul, max and min fold them into what is there.

    Raises: InvalidModelError for another reduction. Source: ONNX ScatterElements-18.
    """
    return _scattered(data, axis, indices, updates, reduction)


@operator("Scatter", since_version=9)
def scatter(data: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0) -> Tensor:
    """Returns data with updates at positions along an axis. Source: ONNX Scatter-11."""
    return _scattered(data, axis, indices, updates, "none")


@operator("ScatterND", since_version=11)
def scatter_nd(data: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """Returns data with slices put, or folded, at tuples of indices.

    Args:
        data: (*indexed, *rest).
        indices: (*picks, k): each row a place in the first k dimensions of data, or negative from the end.
        updates: (*picks, *data.shape[k:]).
        reduction: none, add, mul, max or min.

    Raises: InvalidModelError for another reduction. Source: ONNX ScatterND-18.
    """
    k = indices.shape[-1]
    place = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=data.device)
    for axis in range(k):
        size = data.shape[axis]
        index = indices[..., axis].to(torch.int64)
        place = place * size + torch.where(index < 0, index + size, index)
    count, width = math.prod(data.shape[:k]), math.prod(data.shape[k:])
    new = updates.reshape(place.numel(), width)
    index = place.reshape(-1, 1).expand(new.shape)
    return _scattered(data.reshape(count, width), 0, index, new, reduction).reshape(data.shape)


@operator("TensorScatter", since_version=24)
def tensor_scatter(
    past_cache: Tensor,
    update: Tensor,
    write_indices: Tensor | None = None,
    *,
    axis: int = -2,
    mode: str = "linear",
) -> Tensor:
    """Returns a cache with new steps written behind the last valid one of each sample.

    Args:
        past_cache: (batch, ..., max_sequence_length, ...).
        update: the same with sequence_length steps.
        write_indices: (batch,) where the new steps begin; 0 where absent.
        axis: of the steps; not 0.
        mode: linear, or circular, which goes on at the front.

    Raises: InvalidModelError for another mode. Source: ONNX TensorScatter-24.
    """
    if mode not in ("linear", "circular"):
        raise InvalidModelError(f"TensorScatter: mode {mode!r} is neither 'linear' nor 'circular'")
    axis = axis_of(axis, update.dim())
    steps = torch.arange(update.shape[axis], device=update.device)
    sizes = [1] * update.dim()
    sizes[axis] = -1
    index = steps.reshape(sizes)
    if write_indices is not None:
        index = index + write_indices.reshape(-1, *[1] * (update.dim() - 1))
    if mode == "circular":
        index = index % past_cache.shape[axis]
    index = index.expand(update.shape)
    return on_bits(lambda past, new: past.scatter(axis, index, new), past_cache, update)
