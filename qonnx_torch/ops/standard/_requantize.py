"""What operators on quantized integers share: exact sums of products, and the way back to few bits."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["as_int32", "centred", "limits", "product_dtype", "requantized", "saturated"]


def product_dtype(a: Tensor, b: Tensor, terms: Any) -> torch.dtype:
    """Returns a floating dtype in which a sum of products of two integer tensors is exact in any order.

    torch has no kernels for convolutions of integers. float32 holds integers up to 2^24, float64 up to 2^53.

    Args:
        a: integers of 8 or 16 bits, before a zero point of their type is subtracted.
        b: likewise.
        terms: products per sum; a symbolic number is taken as large.
    """
    bits = sum(torch.iinfo(t.dtype).bits for t in (a, b))
    small = isinstance(terms, int) and bits + math.ceil(math.log2(max(terms, 1))) <= 24
    kind = a.device.type
    halved = kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind)  # which takes float32 for less
    return torch.float32 if small and not halved else torch.float64


def centred(x: Tensor, zero_point: Tensor | None, dtype: torch.dtype, axis: int | None = None) -> Tensor:
    """Returns x - zero_point in a dtype that holds it.

    Args:
        x: integers.
        zero_point: 0-d or of one element, (n,) along `axis`, or of a shape that broadcasts to x.
        dtype: the result's.
        axis: of a 1-D zero point.
    """
    x = x.to(dtype)
    return x if zero_point is None else x - along(zero_point, x.dim(), axis).to(dtype)


def along(parameter: Tensor, rank: int, axis: int | None) -> Tensor:
    """Returns a parameter in a shape that broadcasts: one of several elements in 1-D lies along an axis."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    if parameter.dim() != 1 or axis is None:
        return parameter
    return parameter.reshape([-1 if d == axis % rank else 1 for d in range(rank)])


def as_int32(total: Tensor) -> Tensor:
    """Returns exact integers, held in floats, modulo 2^32 as int32."""
    return total.to(torch.int64).to(torch.int32)


def limits(dtype: torch.dtype) -> tuple[int, int]:
    """Returns the smallest and the largest integer of a dtype."""
    info = torch.iinfo(dtype)
    return info.min, info.max


def requantized(total: Tensor, scale: Tensor, zero_point: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Returns saturate(round(total * scale) + zero_point): int32 sums as integers of few bits.

    Args:
        total: int32.
        scale: float32, broadcastable: the scales of the inputs over that of the result.
        zero_point: 0-d or of one element; 0 where absent.
        dtype: the result's.
    """
    return saturated(torch.round(total.to(torch.float32) * scale), zero_point, dtype)


def saturated(rounded: Tensor, zero_point: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Returns whole floats plus a zero point, limited to a dtype."""
    if zero_point is not None:
        rounded = rounded + along(zero_point, rounded.dim(), None).to(rounded.dtype)
    return torch.clamp(rounded, *limits(dtype)).to(dtype)
