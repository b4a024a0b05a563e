"""Sampling along one axis: where the samples lie, and which elements they mix."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError

__all__ = ["cubic_weights", "resize_coordinates", "resize_taps"]

_NEAREST: dict[str, Callable[[Tensor], Tensor]] = {
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round_prefer_floor": lambda x: torch.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: torch.floor(x + 0.5),
}

Taps = list[tuple[Tensor, Tensor]]
"""(index, weight) pairs, each one element per sample; their weighted sum is the interpolation."""


def resize_coordinates(
    length: int, new_length: int, scale: float, mode: str, roi: Sequence[float], like: Tensor
) -> Tensor:
    """Returns the source coordinate of each of the new elements.

    Args:
        length: number of elements there are.
        new_length: number of elements wanted.
        scale: the factor between them, before the new length was rounded.
        mode: Resize's coordinate_transformation_mode.
        roi: start and end of the region, for tf_crop_and_resize.
        like: a tensor of the result's dtype and device; onnxruntime computes in float32.
    """
    x = torch.arange(new_length, dtype=like.dtype, device=like.device)
    if mode == "asymmetric":
        return x / scale
    if mode == "align_corners":
        return x * (length - 1) / (new_length - 1) if new_length > 1 else torch.zeros_like(x)
    if mode == "half_pixel":
        return (x + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return (x + 0.5) / scale - 0.5 if new_length > 1 else torch.zeros_like(x)
    if mode == "half_pixel_symmetric":
        adjustment = new_length / (scale * length)
        return length / 2 * (1 - adjustment) + (x + 0.5) / scale - 0.5
    if mode == "tf_crop_and_resize":
        start, end = roi
        if new_length > 1:
            return start * (length - 1) + x * (end - start) * (length - 1) / (new_length - 1)
        return torch.zeros_like(x) + 0.5 * (start + end) * (length - 1)
    raise InvalidModelError(f"Resize: coordinate_transformation_mode {mode!r} does not exist")


def cubic_weights(t: Tensor, a: float) -> list[Tensor]:
    """Returns the weights of the elements -1, 0, 1 and 2 places from a sample's floor, t beyond it."""
    return [_cubic(d, a) for d in (t + 1, t, 1 - t, 2 - t)]


def _cubic(d: Tensor, a: float) -> Tensor:
    """Returns the cubic convolution kernel (Keys 1981) at distances d >= 0; 0 from 2 on."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def resize_taps(
    position: Tensor, mode: str, nearest_mode: str, cubic_coeff_a: float, scale: float, antialias: int
) -> Taps:
    """Returns which elements, with which weights, give the interpolation at each position.

    Args:
        position: source coordinates.
        mode: nearest, linear or cubic.
        nearest_mode: how nearest rounds; `simple` is that of Resize-10: up where it shrinks, else down.
        cubic_coeff_a: coefficient of the cubic kernel.
        scale: factor of the axis; below 1 it stretches an antialiasing kernel.
        antialias: 1: linear and cubic look at everything that a smaller element covers.
    """
    if mode == "nearest":
        rounding = ("ceil" if scale < 1 else "floor") if nearest_mode == "simple" else nearest_mode
        if rounding not in _NEAREST:
            raise InvalidModelError(f"Resize: nearest_mode {nearest_mode!r} does not exist")
        return [(_NEAREST[rounding](position), torch.ones_like(position))]
    if mode not in ("linear", "cubic"):
        raise InvalidModelError(f"Resize: mode {mode!r} does not exist")
    base = torch.floor(position)
    t = position - base
    if antialias and scale < 1:
        return _stretched_taps(base, t, mode, cubic_coeff_a, scale)
    if mode == "linear":
        return [(base, 1 - t), (base + 1, t)]
    return list(zip((base - 1, base, base + 1, base + 2), cubic_weights(t, cubic_coeff_a), strict=True))


def _stretched_taps(base: Tensor, t: Tensor, mode: str, cubic_coeff_a: float, scale: float) -> Taps:
    reach = math.ceil((1 if mode == "linear" else 2) / scale)
    taps: Taps = []
    for i in range(-reach, reach + 2):
        distance = (i - t).abs() * scale
        weight = (1 - distance).clamp(min=0) if mode == "linear" else _cubic(distance, cubic_coeff_a)
        taps.append((base + i, weight))
    total = torch.stack([w for _, w in taps]).sum(0)
    return [(i, w / total) for i, w in taps]
