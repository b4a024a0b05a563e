"""Padding in every mode over any number of dimensions, wider than the tensor, negative; cropping."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import qonnx_torch as qt
from qonnx_torch.ops.standard.padding import pad

TYPES = [
    bool, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float16,
    ml_dtypes.bfloat16, np.float32, np.float64, np.complex64, ml_dtypes.float8_e5m2,
]  # fmt: skip
X = np.arange(1, 25).reshape(2, 3, 4)
WIDE = ((2, 1), (5, 4), (0, 9))
"""Wider than the dimensions they pad."""


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_modes(dtype: Any, mode: str, check_node) -> None:
    x = X.astype(dtype)
    flat = tuple(n for side in zip(*WIDE, strict=True) for n in side)
    check_node("Pad", x, flat, mode=mode, opset=21, expected=np.pad(x, WIDE, mode=mode))
    check_node("Pad", x[:, :1], (1, 2), None, (-2,), mode=mode, opset=21,
               expected=np.pad(x[:, :1], ((0, 0), (1, 2), (0, 0)), mode=mode))  # fmt: skip


@pytest.mark.parametrize(("mode", "expected"), [
    ("constant", [[0, 2, 3, 0]]), ("edge", [[2, 2, 3, 3]]), ("reflect", [[3, 2, 3, 2]]),
    ("wrap", [[3, 2, 3, 2]]),
])  # fmt: skip
def test_negative_amounts_cut_first(mode: str, expected: list, check_node) -> None:
    x = np.array([[9, 9], [2, 3], [9, 9]], np.float32)
    check_node("Pad", x, (-1, 1, -1, 1), mode=mode, expected=np.array(expected, np.float32))


@pytest.mark.parametrize(("dtype", "fill"), [
    (np.uint64, 2**64 - 1), (np.int64, -(2**63)), (np.int64, 2**53 + 1), (bool, True), (np.float16, np.inf),
    (np.float64, 0.1), (np.uint16, 65535), (ml_dtypes.float8_e5m2, 0.25), (np.float32, np.nan),
])  # fmt: skip
def test_constants(dtype: Any, fill: Any, check_node) -> None:
    x, value = X.astype(dtype), np.array(fill).astype(dtype)
    expected = np.full((2, 3, 6), value, dtype)
    expected[..., 1:5] = x
    check_node("Pad", x, (0, 0, 1, 0, 0, 1), value, expected=expected)


def test_amounts_known_when_it_runs(check_node) -> None:
    x = X.astype(np.float32)
    for mode in ("constant", "edge", "reflect"):
        check_node("Pad", x, np.array([0, 1, 2, 1, 0, 0]), mode=mode, opset=13)


def test_what_is_none_is_refused() -> None:
    with pytest.raises(qt.InvalidModelError, match="'mirror' is none of"):
        pad(torch.zeros(2), (1, 1), mode="mirror")
    with pytest.raises(qt.InvalidModelError, match="2 axes need 4 pads, not 2"):
        pad(torch.zeros(2, 2), (1, 1))


@pytest.mark.parametrize("dtype", TYPES[:14], ids=str)
def test_centre(dtype: Any, check_node) -> None:
    x = X.astype(dtype)
    check_node("CenterCropPad", x, (1, 6, 3), expected=np.pad(x[:1, :, :3], ((0, 0), (1, 2), (0, 0))))
    check_node(
        "CenterCropPad", x, (1, 9), axes=[-1, 0], expected=np.pad(x[..., 1:2], ((3, 4), (0, 0), (0, 0)))
    )
