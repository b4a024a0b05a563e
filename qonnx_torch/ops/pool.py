"""Pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.errors import UnsupportedModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops._windows import resolve_pads

__all__: list[str] = []

_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def _ceil_extra(
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> list[int]:
    """Returns how much to add at each end so that flooring gives ONNX's ceil_mode output size.

    A last window that would start in the end padding is dropped, as in torch and onnxruntime.
    """
    rank = len(kernel)
    extra = []
    for i, (n, k, s, d) in enumerate(zip(spatial, kernel, strides, dilations, strict=True)):
        span = n + pads[i] + pads[rank + i] - d * (k - 1) - 1
        count = -(-span // s) + 1
        if (count - 1) * s >= n + pads[i]:
            count -= 1
        extra.append(max(0, (count - 1) * s - span))
    return extra


def _padded(x: Tensor, begins: Sequence[int], ends: Sequence[int], value: float) -> Tensor:
    flat: list[int] = []
    for begin, end in zip(reversed(begins), reversed(ends), strict=True):
        flat += [begin, end]
    return F.pad(x, flat, value=value) if any(flat) else x


@operator("MaxPool")
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
) -> Tensor:
    """Returns the maximum over windows of 1 to 3 spatial dimensions; the Indices output is not available.

    Args:
        X: (N, C, D1, ...).
        kernel_shape: window size.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        ceil_mode: round the output size up.
        dilations: one per spatial dimension.
        pads: begins, then ends; padding never wins.
        storage_order: only for the Indices output.
        strides: one per spatial dimension.

    Source: ONNX MaxPool-22.
    """
    rank = X.dim() - 2
    strides = list(strides or [1] * rank)
    dilations = list(dilations or [1] * rank)
    pads = resolve_pads(X.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    begins, ends = list(pads[:rank]), list(pads[rank:])
    if ceil_mode:
        extra = _ceil_extra(X.shape[2:], kernel_shape, strides, dilations, pads)
        ends = [e + x for e, x in zip(ends, extra, strict=True)]
    fits = all(b <= k // 2 for b, k in zip(begins, kernel_shape, strict=True))
    if begins == ends and fits:
        return _MAX_POOL[rank](X, list(kernel_shape), strides, begins, dilations)
    lowest = -torch.inf if X.is_floating_point() else torch.iinfo(X.dtype).min
    return _MAX_POOL[rank](_padded(X, begins, ends, lowest), list(kernel_shape), strides, 0, dilations)


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
    """Returns the average over windows of 1 to 3 spatial dimensions.

    Args:
        X: (N, C, D1, ...).
        kernel_shape: window size.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        ceil_mode: round the output size up; what that adds never counts.
        count_include_pad: padding counts as zeros.
        dilations: one per spatial dimension; only 1 is supported.
        pads: begins, then ends.
        strides: one per spatial dimension.

    Raises: UnsupportedModelError for dilations other than 1. Source: ONNX AveragePool-22.
    """
    rank = X.dim() - 2
    if dilations is not None and any(d != 1 for d in dilations):
        raise UnsupportedModelError(f"AveragePool with dilations {tuple(dilations)} is not supported")
    strides = list(strides or [1] * rank)
    ones = [1] * rank
    pads = resolve_pads(X.shape[2:], kernel_shape, strides, ones, pads, auto_pad)
    begins, ends = list(pads[:rank]), list(pads[rank:])
    extra = _ceil_extra(X.shape[2:], kernel_shape, strides, ones, pads) if ceil_mode else [0] * rank

    def window_sum(x: Tensor) -> Tensor:
        lift = x.unsqueeze(2) if rank == 1 else x
        kernel = list(kernel_shape) if rank > 1 else [1, *kernel_shape]
        step = list(strides) if rank > 1 else [1, *strides]
        pool: Any = F.avg_pool3d if rank == 3 else F.avg_pool2d
        y: Tensor = pool(lift, kernel, step, divisor_override=1)
        return y.squeeze(2) if rank == 1 else y

    size = 1
    for k in kernel_shape:
        size *= k
    total = window_sum(_padded(X, begins, [e + x for e, x in zip(ends, extra, strict=True)], 0.0))
    if not any(extra) and (count_include_pad or not any(pads)):
        return total / size
    counted = X.new_ones((1, 1, *X.shape[2:]))
    counted = _padded(counted, begins, ends, 1.0 if count_include_pad else 0.0)
    return total / window_sum(_padded(counted, [0] * rank, extra, 0.0))


@operator("GlobalAveragePool")
def global_average_pool(X: Tensor) -> Tensor:
    """Returns the mean over all spatial dimensions, kept as 1. Source: ONNX GlobalAveragePool-1."""
    return X.mean(list(range(2, X.dim())), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(X: Tensor) -> Tensor:
    """Returns the maximum over all spatial dimensions, kept as 1. Source: ONNX GlobalMaxPool-1."""
    return X.amax(list(range(2, X.dim())), keepdim=True)
