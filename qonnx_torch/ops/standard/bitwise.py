"""Operators on the bits of integers."""

from __future__ import annotations

import torch
from torch import Tensor

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard._integers import on_bits, whole

__all__: list[str] = []


@operator("BitwiseAnd", since_version=18)
def bitwise_and(A: Tensor, B: Tensor) -> Tensor:
    """Returns the conjunction of the bits, broadcast. Source: ONNX BitwiseAnd-18."""
    return torch.bitwise_and(A, B)


@operator("BitwiseOr", since_version=18)
def bitwise_or(A: Tensor, B: Tensor) -> Tensor:
    """Returns the disjunction of the bits, broadcast. Source: ONNX BitwiseOr-18."""
    return torch.bitwise_or(A, B)


@operator("BitwiseXor", since_version=18)
def bitwise_xor(A: Tensor, B: Tensor) -> Tensor:
    """Returns the exclusive disjunction of the bits, broadcast. Source: ONNX BitwiseXor-18."""
    return torch.bitwise_xor(A, B)


@operator("BitwiseNot", since_version=18)
def bitwise_not(X: Tensor) -> Tensor:
    """Returns the inverted bits. Source: ONNX BitwiseNot-18."""
    return on_bits(torch.bitwise_not, X)


@operator("BitShift", since_version=11)
def bit_shift(X: Tensor, Y: Tensor, *, direction: str) -> Tensor:
    """Returns X shifted by Y bits, broadcast; right shifts of signed integers copy the sign bit.

    A Y that is negative or not below the width leaves nothing but copies of the sign bit (RIGHT) or 0 (LEFT).

    Args:
        X: any shape, integers.
        Y: of X's type.
        direction: LEFT or RIGHT.

    Raises: InvalidModelError for another direction. Source: ONNX BitShift-28.
    """
    width = 8 * X.dtype.itemsize
    bits, shift = whole(X), whole(Y)
    within = (shift >= 0) & (shift < width)
    amount = torch.where(within, shift, 0)
    if direction == "LEFT":
        shifted = torch.where(within, bits << amount, 0)
    elif direction != "RIGHT":
        raise InvalidModelError(f"BitShift: direction {direction!r} is neither 'LEFT' nor 'RIGHT'")
    elif X.dtype == torch.uint64:
        positive = (bits >> 1) & torch.iinfo(torch.int64).max  # no sign bit to copy
        shifted = torch.where(amount > 0, positive >> (amount - 1).clamp(min=0), bits)
        shifted = torch.where(within, shifted, 0)
    else:
        shifted = torch.where(within, bits >> amount, bits >> 63)
    return shifted.view(torch.uint64) if X.dtype == torch.uint64 else shifted.to(X.dtype)
