"""Interpolation between the elements of a tensor at any points, with any number of dimensions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qonnx_torch.ops.standard._interpolation import cubic_weights

__all__ = ["PADDING", "reflect", "sample"]


def reflect(position: Tensor, low: float, high: float) -> Tensor:
    """Returns positions mirrored at low and high until they lie between them."""
    if high <= low:
        return torch.full_like(position, low)
    around = torch.remainder(position - low, 2 * (high - low))
    return low + torch.minimum(around, 2 * (high - low) - around)


def _zeros(index: Tensor, length: int, low: float, high: float) -> tuple[Tensor, Tensor | None]:
    return index.clamp(0, length - 1), (index >= 0) & (index <= length - 1)


def _border(index: Tensor, length: int, low: float, high: float) -> tuple[Tensor, Tensor | None]:
    return index.clamp(0, length - 1), None


def _reflection(index: Tensor, length: int, low: float, high: float) -> tuple[Tensor, Tensor | None]:
    return reflect(index, low, high).clamp(0, length - 1), None


PADDING: dict[str, Callable[..., tuple[Tensor, Tensor | None]]] = {
    "zeros": _zeros,
    "border": _border,
    "reflection": _reflection,
}
"""What stands outside: (index, length, lowest, highest position) -> index inside, whether it counts."""


def _taps(position: Tensor, mode: str) -> list[tuple[Tensor, Tensor]]:
    if mode == "nearest":
        return [(position.round(), torch.ones_like(position))]
    base = position.floor()
    t = position - base
    if mode == "linear":
        return [(base, 1 - t), (base + 1, t)]
    return list(zip((base - 1, base, base + 1, base + 2), cubic_weights(t, -0.75), strict=True))


def sample(
    x: Tensor,
    position: Tensor,
    *,
    mode: str = "linear",
    padding: str = "zeros",
    borders: Sequence[tuple[float, float]] | None = None,
) -> Tensor:
    """Returns the values of x between its elements.

    Args:
        x: (N, C, D1, ..., Dr), floating.
        position: (N, P, r), indices into D1, ..., Dr; of x's dtype.
        mode: nearest (of halves the even one), linear or cubic.
        padding: zeros, border or reflection.
        borders: lowest and highest position of each dimension, for reflection.

    Returns:
        (N, C, P).
    """
    lengths = x.shape[2:]
    resolve = PADDING[padding]
    axes = []
    for d, length in enumerate(lengths):
        low, high = borders[d] if borders else (0.0, length - 1.0)
        taps = []
        for index, weight in _taps(position[..., d], mode):
            inside, counts = resolve(index, length, low, high)
            taps.append((inside.to(torch.int64), weight if counts is None else weight * counts))
        axes.append(taps)
    flat = x.flatten(2)
    total: Tensor | None = None
    for corner in itertools.product(*axes):
        place, share = corner[0]
        for (index, weight), length in zip(corner[1:], lengths[1:], strict=True):
            place, share = place * length + index, share * weight
        values = flat.gather(2, place.unsqueeze(1).expand(-1, x.shape[1], -1)) * share.unsqueeze(1)
        total = values if total is None else total + values
    assert total is not None
    return total
