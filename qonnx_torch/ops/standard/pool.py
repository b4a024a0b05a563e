"""Maximum and average pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard._precision import wide
from qonnx_torch.ops.standard._windows import (
    ceil_extra,
    is_symmetric,
    pad_spatial,
    resolve_pads,
    spatial_values,
    surely,
    too_small,
    windows,
)

__all__: list[str] = []

_MAX_POOL: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@operator("MaxPool", python_only=("outputs",))
def max_pool(
    X: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
    outputs: int = 1,
) -> Any:
    """Returns the maximum over windows of the spatial dimensions.

    Args:
        X: (N, C, D1, ...).
        kernel_shape: window size.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        ceil_mode: round the output size up.
        dilations: one per spatial dimension.
        pads: begins, then ends; padding never wins.
        storage_order: how Indices count within a channel: 0 row by row, 1 the first dimension fastest.
        strides: one per spatial dimension.
        outputs: 2: also Indices.

    Returns:
        Y (N, C, O1, ...); with 2 outputs the tuple (Y, Indices), where the maximum (the first one) of each
        window stands in the flat X, as int64 of Y's shape.

    Source: ONNX MaxPool-22.
    """
    rank = X.dim() - 2
    kernel_shape = spatial_values(kernel_shape, rank, "kernel_shape")
    strides = spatial_values(strides, rank, "strides")
    dilations = spatial_values(dilations, rank, "dilations")
    pads = resolve_pads(X.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    if outputs > 1:
        return _max_pool_with_indices(X, kernel_shape, strides, dilations, pads, ceil_mode, storage_order)
    begins, ends = list(pads[:rank]), list(pads[rank:])
    if ceil_mode:
        extra = ceil_extra(X.shape[2:], kernel_shape, strides, dilations, pads)
        ends = [e + x for e, x in zip(ends, extra, strict=True)]
    fits = is_symmetric(begins, ends) and all(b <= k // 2 for b, k in zip(begins, kernel_shape, strict=True))
    if not fits:
        X, begins = pad_spatial(X, begins, ends, _lowest(X.dtype)), [0] * rank
    if rank > 3 or too_small(X, kernel_shape, dilations):
        view = windows(pad_spatial(X, begins, begins, _lowest(X.dtype)), kernel_shape, strides, dilations)
        return view.amax(list(range(-rank, 0)))
    if rank == 1 and not X.is_floating_point():  # torch has no such kernel
        kernel, step, pad, reach = [1, kernel_shape[0]], [1, strides[0]], [0, begins[0]], [1, dilations[0]]
        return F.max_pool2d(X.unsqueeze(2), kernel, step, pad, reach).squeeze(2)
    return _MAX_POOL[rank](X, list(kernel_shape), strides, begins, dilations)


def _lowest(dtype: torch.dtype) -> float:
    return -torch.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def _max_pool_with_indices(
    X: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    ceil_mode: int,
    storage_order: int,
) -> tuple[Tensor, Tensor]:
    rank = len(kernel)
    begins, ends = list(pads[:rank]), list(pads[rank:])
    if ceil_mode:
        extra = ceil_extra(X.shape[2:], kernel, strides, dilations, pads)
        ends = [e + x for e, x in zip(ends, extra, strict=True)]
    size = math.prod(X.shape[2:])
    cells = torch.arange(size, device=X.device)
    # Where each element stands within its channel; padding stands nowhere (-1).
    own = cells.reshape(X.shape[2:])
    if storage_order:
        backwards = list(reversed(range(rank)))
        own = cells.reshape([X.shape[2 + d] for d in backwards]).permute(backwards)
    places = windows(pad_spatial(own[None, None], begins, ends, -1), kernel, strides, dilations)
    view = windows(pad_spatial(X, begins, ends, _lowest(X.dtype)), kernel, strides, dilations)
    view, places = view.flatten(-rank), places.flatten(-rank)
    y = view.amax(-1)
    # The first place in the window, row by row, that holds the maximum (or NaN) and is no padding.
    largest = ((view == y.unsqueeze(-1)) | (view != view)) & (places >= 0)
    order = torch.arange(view.shape[-1], device=X.device)
    first = torch.where(largest, order, view.shape[-1] - 1).amin(-1, keepdim=True)
    index = places.expand(view.shape).gather(-1, first).squeeze(-1)
    channels = torch.arange(math.prod(X.shape[:2]), device=X.device).reshape(*X.shape[:2], *[1] * rank)
    return y, index + channels * size


@operator("AveragePool")
def average_pool(
    X: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Returns the average over windows of the spatial dimensions.

    Args:
        X: (N, C, D1, ...).
        kernel_shape: window size.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        ceil_mode: round the output size up; what that adds never counts.
        count_include_pad: padding counts as zeros.
        dilations: one per spatial dimension.
        pads: begins, then ends.
        strides: one per spatial dimension.

    Source: ONNX AveragePool-22.
    """
    rank = X.dim() - 2
    kernel_shape = spatial_values(kernel_shape, rank, "kernel_shape")
    strides = spatial_values(strides, rank, "strides")
    dilations = spatial_values(dilations, rank, "dilations")
    pads = resolve_pads(X.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    begins, ends = list(pads[:rank]), list(pads[rank:])
    extra = [0] * rank
    if ceil_mode:
        extra = ceil_extra(X.shape[2:], kernel_shape, strides, dilations, pads)
    x = pad_spatial(X.to(wide(X.dtype)), begins, [e + x for e, x in zip(ends, extra, strict=True)])
    total = window_sum(x, kernel_shape, strides, dilations)
    if _no_padding(extra) and (count_include_pad or _no_padding(pads)):
        return (total / math.prod(kernel_shape)).to(X.dtype)
    counted = x.new_ones((1, 1, *X.shape[2:]))
    counted = pad_spatial(counted, begins, ends, 1.0 if count_include_pad else 0.0)
    counted = pad_spatial(counted, [0] * rank, extra)
    return (total / window_sum(counted, kernel_shape, strides, dilations)).to(X.dtype)


def _no_padding(pads: Sequence[int]) -> bool:
    return all(surely(p == 0) for p in pads)


def window_sum(
    x: Tensor, kernel_shape: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Tensor:
    """Returns the sum over each window of x (N, C, D1, ...), padded already."""
    rank = x.dim() - 2
    if rank > 3 or any(d != 1 for d in dilations) or too_small(x, kernel_shape, dilations):
        return windows(x, kernel_shape, strides, dilations).sum(list(range(-rank, 0)))
    lift = x.unsqueeze(2) if rank == 1 else x
    kernel = list(kernel_shape) if rank > 1 else [1, *kernel_shape]
    step = list(strides) if rank > 1 else [1, *strides]
    pool: Any = F.avg_pool3d if rank == 3 else F.avg_pool2d
    y: Tensor = pool(lift, kernel, step, divisor_override=1)
    return y.squeeze(2) if rank == 1 else y


@operator("LpPool")
def lp_pool(
    X: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    p: int = 2,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Returns the p-norm over windows of the spatial dimensions; padding is zeros.

    Args: as of AveragePool; p: order of the norm. Source: ONNX LpPool-22.
    """
    rank = X.dim() - 2
    kernel_shape = spatial_values(kernel_shape, rank, "kernel_shape")
    strides = spatial_values(strides, rank, "strides")
    dilations = spatial_values(dilations, rank, "dilations")
    pads = resolve_pads(X.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    ends = list(pads[rank:])
    if ceil_mode:
        extra = ceil_extra(X.shape[2:], kernel_shape, strides, dilations, pads)
        ends = [e + x for e, x in zip(ends, extra, strict=True)]
    x = pad_spatial(X.to(wide(X.dtype)), list(pads[:rank]), ends)
    view = windows(x, kernel_shape, strides, dilations).flatten(-rank)
    y: Tensor = torch.linalg.vector_norm(view, p, dim=-1)
    return y.to(X.dtype)


@operator("GlobalAveragePool")
def global_average_pool(X: Tensor) -> Tensor:
    """Returns the mean over all spatial dimensions, kept as 1. Source: ONNX GlobalAveragePool-22."""
    return X.mean(list(range(2, X.dim())), keepdim=True) if X.dim() > 2 else X


@operator("GlobalMaxPool")
def global_max_pool(X: Tensor) -> Tensor:
    """Returns the maximum over all spatial dimensions, kept as 1. Source: ONNX GlobalMaxPool-22."""
    return X.amax(list(range(2, X.dim())), keepdim=True) if X.dim() > 2 else X


@operator("GlobalLpPool")
def global_lp_pool(X: Tensor, *, p: int = 2) -> Tensor:
    """Returns the p-norm over all spatial dimensions, kept as 1. Source: ONNX GlobalLpPool-22."""
    dims = list(range(2, X.dim()))
    y: Tensor = torch.linalg.vector_norm(X.to(wide(X.dtype)), p, dim=dims, keepdim=True)
    return y.to(X.dtype)


@operator("MaxUnpool", since_version=9, static=("output_shape",), python_only=("of_max_pool",))
def max_unpool(
    X: Tensor,
    I: Tensor,  # noqa: E741
    output_shape: Sequence[int] | None = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    of_max_pool: bool = False,
) -> Tensor:
    """Returns zeros with the elements of X where the indices say: what MaxPool took them from.

    The specification lets the indices count in the shape that follows from the attributes, and adds zeros at
    the ends where output_shape is larger. But those that a MaxPool has given count in what it has pooled;
    onnxruntime and torch let them count in output_shape.

    Args:
        X: (N, C, O1, ...).
        I: MaxPool's Indices into its flat input, of X's shape.
        output_shape: may be larger than the shape that follows from the attributes.
        kernel_shape: MaxPool's.
        pads: MaxPool's, begins, then ends.
        strides: MaxPool's.
        of_max_pool: whether a MaxPool in the graph gives the indices.

    Source: ONNX MaxUnpool-22.
    """
    rank = X.dim() - 2
    kernel_shape = spatial_values(kernel_shape, rank, "kernel_shape")
    strides = spatial_values(strides, rank, "strides")
    pads = resolve_pads(X.shape[2:], kernel_shape, strides, [1] * rank, pads, "NOTSET")
    sides = zip(X.shape[2:], strides, kernel_shape, pads[:rank], pads[rank:], strict=True)
    inferred = [*X.shape[:2], *((n - 1) * s + k - b - e for n, s, k, b, e in sides)]
    if output_shape and of_max_pool:
        inferred = list(output_shape)
    flat = X.new_zeros(math.prod(inferred)).scatter(0, I.reshape(-1), X.reshape(-1))
    y = flat.reshape(inferred)
    if output_shape:
        y = pad_spatial(y, [0] * (rank + 2), [n - o for n, o in zip(output_shape, inferred, strict=True)])
    return y
