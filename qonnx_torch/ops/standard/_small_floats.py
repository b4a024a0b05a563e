"""Rounding to the floating-point types of 8 bits and fewer, as ONNX's tables say."""

from __future__ import annotations

import torch
from onnx import TensorProto
from torch import Tensor

from qonnx_torch.dtypes import FLOAT4E2M1, torch_dtype
from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops.quantizers.rounding import straight_through

__all__ = ["FLOAT8_TYPES", "NARROW_FLOATS", "to_float8", "to_narrow_float", "to_power_of_two"]

FLOAT8_TYPES = (
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E4M3FNUZ,
    TensorProto.FLOAT8E5M2,
    TensorProto.FLOAT8E5M2FNUZ,
)
"""The float8 element types with a sign."""

NARROW_FLOATS = {
    FLOAT4E2M1: (1, 0, 6.0),
    27: (3, 0, 7.5),  # FLOAT6E2M3
    28: (2, -2, 28.0),  # FLOAT6E3M2
}
"""Element types held in float16 -> bits of the mantissa, least exponent, largest value."""


def to_float8(x: Tensor, element_type: int, saturate: bool) -> Tensor:
    """Returns x, floating, in a float8 type, rounded half to even.

    Args:
        x: any shape.
        element_type: one of FLOAT8_TYPES.
        saturate: what is too large (also infinity) becomes the largest value; else infinity in E5M2, NaN in
            the others.
    """
    dtype = torch_dtype(element_type)
    if saturate:
        largest = torch.finfo(dtype).max
        x = x.clamp(-largest, largest)
    elif (
        element_type == TensorProto.FLOAT8E4M3FN
    ):  # torch saturates here, and has what ONNX says in the others
        x = torch.where(x.abs() > 464, torch.nan, x)  # 464 itself ties with the largest value, 448
    return x.to(dtype)


def to_narrow_float(x: Tensor, element_type: int) -> Tensor:
    """Returns x in a float type of 4 or 6 bits, held in float16: rounded half to even, clamped; gradient 1.

    These types have neither infinities nor NaN: infinity becomes the largest value, NaN becomes -0 as in the
    specification's test cases (its technical note on float4 says the largest value).
    """
    mantissa_bits, least_exponent, largest = NARROW_FLOATS[element_type]
    wide = x if x.dtype == torch.float64 else x.to(torch.float32)
    clamped = torch.nan_to_num(wide.detach(), nan=-0.0).clamp(-largest, largest)
    exponent = (torch.frexp(clamped)[1] - 1).clamp(min=least_exponent) - mantissa_bits
    step = torch.ldexp(torch.ones_like(clamped), exponent)
    rounded = (torch.round(clamped / step) * step).to(torch.float16)
    return straight_through(x.to(torch.float16), rounded)


def to_power_of_two(x: Tensor, saturate: bool, round_mode: str) -> Tensor:
    """Returns |x|, floating, in FLOAT8E8M0, which holds 2^-127 to 2^127 and NaN.

    Args:
        x: any shape.
        saturate: what is out of range becomes the nearest end; else NaN, also 0.
        round_mode: up, down, or nearest with ties up.

    Raises: InvalidModelError for another mode.
    """
    wide = x.detach().abs().to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    mantissa, exponent = torch.frexp(wide)  # mantissa in [0.5, 1): wide lies from 2^(exponent - 1)
    if round_mode == "up":
        above = mantissa > 0.5
    elif round_mode == "nearest":
        above = mantissa >= 0.75
    elif round_mode == "down":
        above = torch.zeros_like(mantissa, dtype=torch.bool)
    else:
        raise InvalidModelError(f"round_mode {round_mode!r} is none of 'up', 'down', 'nearest'")
    code = exponent - 1 + above.to(exponent.dtype) + 127
    zero, infinite = wide == 0, torch.isinf(wide)
    code = torch.where(zero, -1, torch.where(infinite, 255, code))
    if saturate:
        code = code.clamp(0, 254)
    else:
        code = torch.where((code < 0) | (code > 254), 255, code)
    code = torch.where(torch.isnan(wide), 255, code)
    return code.to(torch.uint8).view(torch.float8_e8m0fnu)
