"""Spatial transformers: grids of sampling points, and sampling at them; deformable convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard._precision import wide
from qonnx_torch.ops.standard._sampling import PADDING, reflect, sample
from qonnx_torch.ops.standard._windows import resolve_pads, spatial_values

__all__: list[str] = []


@operator("AffineGrid", since_version=20, static=("size",))
def affine_grid(theta: Tensor, size: Sequence[int], *, align_corners: int = 0) -> Tensor:
    """Returns the sampling points of affine transformations of an image.

    Args:
        theta: (N, 2, 3), or (N, 3, 4) for volumes.
        size: (N, C, H, W) or (N, C, D, H, W) of the image that is wanted.
        align_corners: -1 and 1 are the centers of the outermost elements, not their outer edges.

    Returns:
        (N, H, W, 2) or (N, D, H, W, 3), each point as (x, y) or (x, y, z) from -1 to 1.

    Source: ONNX AffineGrid-20.
    """
    grid = F.affine_grid(theta.to(wide(theta.dtype)), list(size), align_corners=bool(align_corners))
    return grid.to(theta.dtype)


_TORCH_MODES = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}


@operator("GridSample", since_version=16)
def grid_sample(
    X: Tensor,
    grid: Tensor,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> Tensor:
    """Returns X at the points of a grid.

    Args:
        X: (N, C, D1, ..., Dr); of integers the result is cut to the whole part.
        grid: (N, O1, ..., Or, r), each point from -1 to 1, the last dimension of X first.
        align_corners: -1 and 1 are the centers of the outermost elements, not their outer edges.
        mode: linear, nearest (of halves the even one) or cubic.
        padding_mode: what stands outside: zeros, border or reflection.

    Returns:
        (N, C, O1, ..., Or).

    Raises: InvalidModelError for another mode. Source: ONNX GridSample-22; for cubic in two dimensions a
        point outside the border mixes the elements around it, as onnxruntime and torch have it.
    """
    rank = X.dim() - 2
    if mode not in _TORCH_MODES or padding_mode not in PADDING or grid.shape[-1] != rank:
        raise InvalidModelError(
            f"GridSample: mode {mode!r}, padding_mode {padding_mode!r}, points of {grid.shape[-1]} "
            f"coordinates for {rank} spatial dimensions"
        )
    if X.is_complex():
        options: dict[str, Any] = {
            "align_corners": align_corners,
            "mode": mode,
            "padding_mode": padding_mode,
        }
        return torch.complex(*(grid_sample(part, grid, **options) for part in (X.real, X.imag)))
    dtype = torch.promote_types(wide(grid.dtype), X.dtype if X.is_floating_point() else torch.float32)
    x, points = X.to(wide(dtype)), grid.to(wide(dtype))
    # torch has no kernel for volumes and cubic, and rounds halves after reflecting, not before.
    native = rank == 2 or (rank == 3 and mode != "cubic")
    if native and not (mode == "nearest" and padding_mode == "reflection"):
        y = F.grid_sample(x, points, _TORCH_MODES[mode], padding_mode, bool(align_corners))
        return y.to(X.dtype)
    position, borders = _positions(points, X.shape[2:], align_corners, mode, padding_mode)
    y = sample(x, position.flatten(1, -2), mode=mode, padding=padding_mode, borders=borders)
    return y.reshape(*X.shape[:2], *grid.shape[1:-1]).to(X.dtype)


def _positions(
    points: Tensor, lengths: Sequence[int], align_corners: int, mode: str, padding_mode: str
) -> tuple[Tensor, list[tuple[float, float]]]:
    """Returns the indices that points stand for, resolved where they lie outside, and the borders."""
    positions, borders = [], []
    for n, length in zip(points.flip(-1).unbind(-1), lengths, strict=True):
        low, high = (0.0, length - 1.0) if align_corners else (-0.5, length - 0.5)
        position = (n + 1) / 2 * (length - 1) if align_corners else ((n + 1) * length - 1) / 2
        position = position.round() if mode == "nearest" else position
        if padding_mode == "border":
            outside = (position < low) | (position > high)
            position = torch.where(outside, position.clamp(0, length - 1), position)
        elif padding_mode == "reflection":
            outside = (position < low) | (position > high)
            position = torch.where(outside, reflect(position, low, high), position)
        positions.append(position)
        borders.append((low, high))
    return torch.stack(positions, -1), borders


@operator("DeformConv", since_version=19)
def deform_conv(
    X: Tensor,
    W: Tensor,
    offset: Tensor,
    B: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    offset_group: int = 1,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Returns the convolution whose kernel looks at points moved by offsets; between elements linearly.

    Args:
        X: (N, C, D1, ..., Dr).
        W: (M, C / group, k1, ..., kr).
        offset: (N, offset_group * k1 * ... * kr * r, O1, ..., Or).
        B: (M,).
        mask: factors on the points, (N, offset_group * k1 * ... * kr, O1, ..., Or).
        dilations: one per spatial dimension.
        group: number of groups.
        kernel_shape: k1, ...; taken from W where absent.
        offset_group: number of groups of channels that share offsets.
        pads: begins, then ends; zeros.
        strides: one per spatial dimension.

    Source: ONNX DeformConv-22.
    """
    rank, kernel = X.dim() - 2, W.shape[2:]
    strides = spatial_values(strides, rank, "strides")
    dilations = spatial_values(dilations, rank, "dilations")
    pads = resolve_pads(X.shape[2:], kernel, strides, dilations, pads, "NOTSET")
    dtype, out, places = wide(X.dtype), offset.shape[2:], math.prod(kernel)
    if offset.shape[1] != offset_group * places * rank:
        raise InvalidModelError(
            f"DeformConv: offset {tuple(offset.shape)} needs {offset_group * places * rank} channels"
        )
    # (N * offset_group, k1, ..., kr, r, O1, ..., Or)
    moved = offset.to(dtype).reshape(-1, *kernel, rank, *out)
    positions = []
    for d in range(rank):
        steps = torch.arange(kernel[d], device=X.device) * dilations[d]
        starts = torch.arange(out[d], device=X.device) * strides[d] - pads[d]
        grid = steps.reshape(-1, *[1] * (2 * rank - 1 - d)) + starts.reshape(-1, *[1] * (rank - 1 - d))
        positions.append((moved.select(1 + rank, d) + grid).flatten(1))
    groups = X.to(dtype).reshape(-1, X.shape[1] // offset_group, *X.shape[2:])
    columns = sample(groups, torch.stack(positions, -1))
    columns = columns.reshape(X.shape[0], offset_group, -1, places, math.prod(out))
    if mask is not None:
        columns = columns * mask.to(dtype).reshape(X.shape[0], offset_group, 1, places, math.prod(out))
    columns = columns.reshape(X.shape[0], group, -1, math.prod(out))  # (N, group, C / group * K, O)
    y = W.to(dtype).reshape(group, W.shape[0] // group, -1) @ columns
    y = y.reshape(X.shape[0], W.shape[0], *out).to(X.dtype)
    return y if B is None else y + B.reshape(-1, *[1] * rank)
