"""Operators on bits: every integer type."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import qonnx_torch as qt
from qonnx_torch.ops.standard.bitwise import bit_shift

INTEGERS = [np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)]


def numbers(dtype: np.dtype) -> np.ndarray:
    limits = np.iinfo(dtype)
    return np.array([limits.min, limits.max, limits.max // 2 + 1, 0, 1, limits.max - 5], dtype)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("op_type", ["BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot"])
def test_bits(op_type: str, dtype: np.dtype, check_node) -> None:
    x = numbers(dtype)
    check_node(op_type, *([x] if op_type == "BitwiseNot" else [x[:, None], x]))


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_shifts(direction: str, dtype: np.dtype, run_node) -> None:
    """By Python's big integers, wrapped; of BitShift-28 also beyond the width and by negative amounts."""
    width = 8 * dtype.itemsize
    amounts = np.array(
        [0, 1, width // 2, width - 1, width, width + 3, *([-1, -width] if dtype.kind == "i" else [])]
    )
    x, y = numbers(dtype)[:, None], amounts.astype(dtype)

    def shifted(value: int, amount: int) -> int:
        if not 0 <= amount < width:
            return -1 if direction == "RIGHT" and value < 0 else 0
        return value << amount if direction == "LEFT" else value >> amount

    wanted = [[shifted(int(v), int(a)) & (2**width - 1) for a in y] for v in x.ravel()]
    (result,) = run_node("BitShift", x, y, direction=direction)
    unsigned = np.dtype(f"u{dtype.name.removeprefix('u')}")
    np.testing.assert_array_equal(result.view(unsigned), np.array(wanted, unsigned))
    assert result.dtype == dtype


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(qt.InvalidModelError, match="'UP' is neither 'LEFT' nor 'RIGHT'"):
        bit_shift(torch.tensor([1]), torch.tensor([1]), direction="UP")
