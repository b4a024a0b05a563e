"""Resize: nearest, linear and cubic interpolation in every coordinate convention."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard._interpolation import resize_coordinates, resize_taps
from qonnx_torch.ops.standard._precision import wide

__all__: list[str] = []


@operator("Resize", static=("roi", "scales", "sizes"))
def resize(
    X: Tensor,
    roi: Sequence[float] | None = None,
    scales: Sequence[float] | None = None,
    sizes: Sequence[int] | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """Returns X resized along its axes.

    Args:
        X: any shape; of integers linear and cubic round to the nearest and saturate.
        roi: starts, then ends, as shares of the lengths; only for tf_crop_and_resize.
        scales: one factor per axis; the new length is floor(length * factor), as the references have it also
            where a region is cropped.
        sizes: the new lengths, instead of scales.
        antialias: 1: linear and cubic, where they shrink, mix everything that a new element covers.
        axes: which axes roi, scales and sizes are for; all where absent.
        coordinate_transformation_mode: how a new index maps to an old coordinate.
        cubic_coeff_a: coefficient of the cubic kernel.
        exclude_outside: weights outside the tensor become 0 and the others are scaled up.
        extrapolation_value: what tf_crop_and_resize gives outside the tensor.
        keep_aspect_ratio_policy: stretch, or one factor for all axes with which none becomes larger
            (not_larger) or smaller (not_smaller) than sizes say.
        mode: nearest, linear or cubic.
        nearest_mode: how nearest rounds a coordinate.

    Raises: InvalidModelError where inputs or attributes do not fit. Source: ONNX Resize-19.
    """
    dims = [a % X.dim() for a in axes] if axes is not None else list(range(X.dim()))
    crops = coordinate_transformation_mode == "tf_crop_and_resize"
    regions = _regions(roi, len(dims)) if crops else [(0.0, 1.0)] * len(dims)
    factors, lengths = _targets([X.shape[d] for d in dims], scales, sizes, keep_aspect_ratio_policy)
    integers = not (X.is_floating_point() or X.is_complex())
    x = X if mode == "nearest" else X.to(torch.float64 if integers else wide(X.dtype))
    like = x.new_empty(0, dtype=torch.float32) if mode == "nearest" or x.is_complex() else x.new_empty(0)
    for dim, length, factor, region in zip(dims, lengths, factors, regions, strict=True):
        old = x.shape[dim]
        if factor == 1.0 and region == (0.0, 1.0):
            continue
        position = resize_coordinates(old, length, factor, coordinate_transformation_mode, region, like)
        taps = resize_taps(position, mode, nearest_mode, cubic_coeff_a, factor, antialias)
        if exclude_outside and mode != "nearest":
            taps = [(i, w * ((i >= 0) & (i < old))) for i, w in taps]
            total = torch.stack([w for _, w in taps]).sum(0)
            taps = [(i, w / total) for i, w in taps]
        x = _mix(x, dim, taps, weighted=mode != "nearest")
        if crops:
            outside = ((position < 0) | (position > old - 1)).reshape(-1, *[1] * (x.dim() - 1 - dim))
            x = torch.where(outside, torch.full_like(outside, extrapolation_value, dtype=x.dtype), x)
    if integers and mode != "nearest" and X.dtype != torch.bool:
        limits = torch.iinfo(X.dtype)
        x = x.round().clamp(limits.min, limits.max)
    return x.to(X.dtype)


def _mix(x: Tensor, dim: int, taps: list[tuple[Tensor, Tensor]], weighted: bool) -> Tensor:
    """Returns the weighted sum of elements along a dimension; the edge's stand for those outside."""
    total = None
    for index, weight in taps:
        piece = x.index_select(dim, index.clamp(0, x.shape[dim] - 1).to(torch.int64))
        if weighted:
            piece = piece * weight.to(x.dtype).reshape(-1, *[1] * (x.dim() - 1 - dim))
        total = piece if total is None else total + piece
    assert total is not None
    return total


def _regions(roi: Sequence[float] | None, count: int) -> list[tuple[float, float]]:
    if not roi or len(roi) != 2 * count:
        raise InvalidModelError(
            f"Resize: tf_crop_and_resize of {count} axes needs a roi of {2 * count} values"
        )
    return [(float(start), float(end)) for start, end in zip(roi[:count], roi[count:], strict=True)]


def _targets(
    lengths: Sequence[int],
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
    policy: str,
) -> tuple[list[Any], list[int]]:
    """Returns the factor and the new length of each axis."""
    given = sizes or scales
    if not given or len(given) != len(lengths):
        raise InvalidModelError(
            f"Resize of {len(lengths)} axes needs as many scales or sizes, not {tuple(given or ())}"
        )
    if sizes:
        factors = [1.0 if n == o else n / o for n, o in zip(sizes, lengths, strict=True)]
        if policy == "stretch":
            return factors, list(sizes)
        if policy not in ("not_larger", "not_smaller"):
            raise InvalidModelError(f"Resize: keep_aspect_ratio_policy {policy!r} does not exist")
        bound = torch.sym_min if policy == "not_larger" else torch.sym_max
        factor = functools.reduce(bound, factors)
        return [factor] * len(lengths), [math.floor(factor * o + 0.5) for o in lengths]
    factors = [float(s) for s in scales or ()]
    return factors, [_scaled(o, s) for o, s in zip(lengths, factors, strict=True)]


def _scaled(length: Any, scale: float) -> Any:
    """Returns floor(length * scale), the product rounded to float32 as onnxruntime computes it.

    So 10 * 0.7, where float32 holds 0.69999999, is 7, as it is in torch.
    """
    if scale == 1.0:
        return length
    if not isinstance(length, int):
        return math.floor(length * (scale * (1 + 2**-25)))
    product = length * scale
    head = product * (2.0**29 + 1)  # Veltkamp's splitting: what remains of the product has 24 bits
    return math.floor(head - (head - product))
