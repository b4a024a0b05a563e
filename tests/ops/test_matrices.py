"""Triangles, diagonals and determinants."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from onnx import TensorProto

import qonnx_torch as qt
from qonnx_torch.ops.standard.matrices import eye_like

TYPES = [bool, np.int8, np.uint16, np.uint64, np.float16, ml_dtypes.bfloat16, np.float32]
X = np.arange(1, 25).reshape(2, 3, 4)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("k", [None, 0, 1, -1, 5, -5, 2**40])
@pytest.mark.parametrize("upper", [0, 1])
def test_triangles(dtype: Any, k: int | None, upper: int, check_node) -> None:
    expected = (np.triu if upper else np.tril)(X, min(k or 0, 9)).astype(dtype)
    check_node("Trilu", X.astype(dtype), *([] if k is None else [k]), upper=upper, expected=expected)


def test_a_triangle_leaves_no_infinity(run_node) -> None:
    x = np.full((2, 2), -np.inf, np.float32)
    assert run_node("Trilu", x, upper=1)[0].tolist() == [[-np.inf, -np.inf], [0.0, -np.inf]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.float16, np.float32, bool], ids=str)
def test_diagonals(dtype: Any, check_node) -> None:
    x = np.zeros((3, 4), dtype)
    for k in (0, 2, -1, 7):
        check_node("EyeLike", x, k=k, expected=np.eye(3, 4, k, dtype))
        check_node("EyeLike", x, k=k, dtype=TensorProto.DOUBLE, opset=9, expected=np.eye(3, 4, k))


def test_no_matrix_is_refused() -> None:
    with pytest.raises(qt.InvalidModelError, match="EyeLike needs a matrix, not 3 dimensions"):
        eye_like(torch.zeros(2, 2, 2))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64], ids=str)
def test_determinants(dtype: Any, check_node) -> None:
    x = np.random.default_rng(0).integers(-2, 3, (2, 3, 3))
    expected = np.linalg.det(x).astype(dtype)
    check_node(
        "Det", x.astype(dtype), opset=22, expected=expected, tolerance=1e-3 if dtype is np.float16 else 1e-5
    )
    check_node("Det", x[0].astype(dtype), opset=22, expected=expected[0], tolerance=1e-3)
