"""Older spellings of operators that ai.onnx has today."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard import grid_sample as sampling
from qonnx_torch.ops.standard import indexing, matrices, padding, selection

__all__: list[str] = []

_DOMAIN = "com.microsoft"


@operator("Trilu", domain=_DOMAIN, static=("k",))
def trilu(X: Tensor, k: int | None = None, *, upper: int = 1) -> Tensor:
    """Returns the triangle of matrices above (or below) their diagonal k. Source: onnxruntime Trilu-1."""
    y: Tensor = matrices.trilu(X, k, upper=upper)
    return y


@operator("GridSample", domain=_DOMAIN)
def grid_sample(
    X: Tensor, Grid: Tensor, *, align_corners: int = 0, mode: str = "bilinear", padding_mode: str = "zeros"
) -> Tensor:
    """Returns X (N, C, H, W) at the points of a grid (N, H', W', 2). Source: onnxruntime GridSample-1."""
    names = {"bilinear": "linear", "bicubic": "cubic"}
    y: Tensor = sampling.grid_sample(
        X, Grid, align_corners=align_corners, mode=names.get(mode, mode), padding_mode=padding_mode
    )
    return y


@operator("Pad", domain=_DOMAIN, static=("pads", "value"))
def pad(data: Tensor, pads: Any, value: Any = None, *, mode: str = "constant") -> Tensor:
    """Returns data padded, negative pads cut; pads may be a row of a matrix. Source: onnxruntime Pad-1."""
    row = pads[0] if pads and isinstance(pads[0], (tuple, list)) else pads
    y: Tensor = padding.pad(data, row, value, mode=mode)
    return y


@operator("Unique", domain=_DOMAIN, outputs=3)
def unique(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns distinct elements in their first order, the place of each of x, and how often each occurs.

    Source: onnxruntime Unique-1.
    """
    values, _, places, counts = selection.unique(x, sorted=0, outputs=4)
    return values, places, counts


@operator("ExpandDims", domain=_DOMAIN, static=("axis",))
def expand_dims(X: Tensor, axis: Any) -> Tensor:
    """Returns X with a dimension of size 1 inserted at an axis. Source: onnxruntime ExpandDims-1."""
    return X.unsqueeze(axis[0] if isinstance(axis, (tuple, list)) else axis)


@operator("GatherND", domain=_DOMAIN)
def gather_nd(data: Tensor, indices: Tensor) -> Tensor:
    """Returns the slices of data at tuples of indices. Source: onnxruntime GatherND-1."""
    y: Tensor = indexing.gather_nd(data, indices.to(torch.int64))
    return y
