"""Resize: nearest, linear and cubic interpolation in every coordinate convention."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError, UnsupportedModelError
from qonnx_torch.ops._operator import operator

__all__: list[str] = []

_NEAREST: dict[str, Callable[[Tensor], Tensor]] = {
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round_prefer_floor": lambda x: torch.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: torch.floor(x + 0.5),
}


def _coordinates(length: int, new_length: int, scale: float, mode: str) -> Tensor:
    """Returns the source coordinate of each of the new elements, in float32 as onnxruntime computes it."""
    x = torch.arange(new_length, dtype=torch.float32)
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
    raise UnsupportedModelError(f"Resize: coordinate_transformation_mode {mode!r} is not supported")


def _taps(
    position: Tensor, mode: str, nearest_mode: str, cubic_coeff_a: float
) -> list[tuple[Tensor, Tensor]]:
    """Returns (index, weight) pairs whose weighted sum is the interpolation at each position."""
    if mode == "nearest":
        return [(_NEAREST[nearest_mode](position), torch.ones_like(position))]
    base = torch.floor(position)
    t = position - base
    if mode == "linear":
        return [(base, 1 - t), (base + 1, t)]
    if mode != "cubic":
        raise InvalidModelError(f"Resize: mode {mode!r} does not exist")
    a = cubic_coeff_a

    def near(d: Tensor) -> Tensor:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Tensor) -> Tensor:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [(base - 1, far(t + 1)), (base, near(t)), (base + 1, near(1 - t)), (base + 2, far(2 - t))]


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
        X: any shape.
        roi: only for tf_crop_and_resize, which is not supported.
        scales: one factor per axis; the new length is floor(length * factor).
        sizes: the new lengths, instead of scales.
        antialias: not supported.
        axes: which axes scales or sizes are for; all where absent.
        coordinate_transformation_mode: how a new index maps to an old coordinate.
        cubic_coeff_a: coefficient of the cubic kernel.
        exclude_outside: weights outside the tensor become 0 and the others are scaled up.
        extrapolation_value: only for tf_crop_and_resize.
        keep_aspect_ratio_policy: only `stretch` is supported.
        mode: nearest, linear or cubic.
        nearest_mode: how nearest rounds a coordinate.

    Raises: UnsupportedModelError for what is named above. Source: ONNX Resize-19.
    """
    if antialias or keep_aspect_ratio_policy != "stretch":
        raise UnsupportedModelError("Resize: antialias and keep_aspect_ratio_policy are not supported")
    dims = [a % X.dim() for a in axes] if axes is not None else list(range(X.dim()))
    lengths = [X.shape[d] for d in dims]
    if sizes:
        new = list(sizes)
        factors = [n / o for n, o in zip(new, lengths, strict=True)]
    elif scales:
        factors = [float(s) for s in scales]
        new = [o if s == 1.0 else math.floor(o * s) for o, s in zip(lengths, factors, strict=True)]
    else:
        raise InvalidModelError("Resize needs scales or sizes")
    for dim, old, length, factor in zip(dims, lengths, new, factors, strict=True):
        if factor == 1.0:
            continue
        position = _coordinates(old, length, factor, coordinate_transformation_mode)
        taps = _taps(position, mode, nearest_mode, cubic_coeff_a)
        if exclude_outside:
            taps = [(i, w * ((i >= 0) & (i < old))) for i, w in taps]
            total = torch.stack([w for _, w in taps]).sum(0)
            taps = [(i, w / total) for i, w in taps]
        pieces = []
        for index, weight in taps:
            piece = X.index_select(dim, index.clamp(0, old - 1).to(torch.int64).to(X.device))
            if mode != "nearest":
                view = [1] * X.dim()
                view[dim] = length
                piece = piece * weight.to(X.dtype).to(X.device).reshape(view)
            pieces.append(piece)
        X = pieces[0] if len(pieces) == 1 else torch.stack(pieces).sum(0)
    return X
