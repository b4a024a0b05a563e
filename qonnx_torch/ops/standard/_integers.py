"""Integer dtypes that torch stores and hardly computes on: through the signed ones of the same width."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["in_order", "on_bits", "ordered", "whole", "whole_divide"]

_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
_FLOAT8 = (
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
)
_BITS = _SIGNED | dict.fromkeys(_FLOAT8, torch.uint8)


def on_bits(compute: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Applies what only moves elements, or computes modulo 2^n, to tensors of one dtype.

    uint16, uint32, uint64 and the float8 types, for which torch lacks most kernels, go through integers of
    their width. (The float8 types have no arithmetic in ONNX; they are only moved.)
    """
    dtype = tensors[0].dtype
    if dtype not in _BITS:
        return compute(*tensors)
    return compute(*(t.to(dtype).view(_BITS[dtype]) for t in tensors)).view(dtype)


def ordered(x: Tensor) -> Tensor:
    """Returns a tensor that torch can compare and sort, of the same order as x.

    Unsigned integers move down by half their range; the others stay.
    """
    if x.dtype not in _SIGNED:
        return x
    bits = x.view(_SIGNED[x.dtype])
    return bits ^ torch.iinfo(bits.dtype).min


def in_order(compute: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Applies what selects among elements by their order (a maximum, say) to tensors of one dtype."""
    dtype = tensors[0].dtype
    if dtype not in _SIGNED:
        return compute(*tensors)
    result = compute(*(ordered(t.to(dtype)) for t in tensors))
    return (result ^ torch.iinfo(result.dtype).min).view(dtype)


def whole(x: Tensor) -> Tensor:
    """Returns integers as int64: the same numbers, or the same bits where they are uint64."""
    return x.view(torch.int64) if x.dtype == torch.uint64 else x.to(torch.int64)


def whole_divide(a: Tensor, b: Tensor) -> Tensor:
    """Returns a / b of uint64 tensors, truncated."""
    x, y = whole(a), whole(b)
    half = (x >> 1) & torch.iinfo(torch.int64).max
    large = y < 0  # the divisor is 2^63 or more: it goes in at most once
    divisor = torch.where(large, 1, y)
    quotient = torch.div(half, divisor, rounding_mode="trunc") << 1
    rest = x - quotient * divisor
    quotient = quotient + (_unsigned_at_least(rest, divisor)).to(torch.int64)
    once = _unsigned_at_least(x, y).to(torch.int64)
    return torch.where(large, once, quotient).view(torch.uint64)


def _unsigned_at_least(x: Tensor, y: Tensor) -> Tensor:
    least = torch.iinfo(torch.int64).min
    return (x ^ least) >= (y ^ least)
