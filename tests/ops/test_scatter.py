"""Operators that put elements at positions: every type and reduction, repeated and negative positions."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import qonnx_torch as qt
from qonnx_torch.ops.standard.scatter import scatter_elements, tensor_scatter

NUMBERS = [
    np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float16,
    ml_dtypes.bfloat16, np.float32, np.float64,
]  # fmt: skip
REDUCTIONS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}
DATA = np.arange(1, 13).reshape(3, 4)
INDEX = np.array([[0, 2, 0, -1], [0, 0, 1, -3]])
UPDATES = np.array([[2, 3, 4, 0], [5, 1, 2, 9]])


@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("index_type", [np.int32, np.int64], ids=str)
def test_elements_are_folded_in(dtype: Any, reduction: str, index_type: Any, check_node) -> None:
    expected = DATA.copy()
    for row in range(2):
        for column in range(4):
            place = INDEX[row, column], column
            expected[place] = REDUCTIONS[reduction](expected[place], UPDATES[row, column])
    arrays = DATA.astype(dtype), INDEX.astype(index_type), UPDATES.astype(dtype)
    check_node("ScatterElements", *arrays, reduction=reduction, expected=expected.astype(dtype))
    turned = [np.ascontiguousarray(a.T) for a in arrays]
    check_node("ScatterElements", *turned, axis=-1, reduction=reduction, expected=expected.T.astype(dtype))


@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_slices_are_folded_in(dtype: Any, reduction: str, check_node) -> None:
    expected = DATA.copy()
    for place, new in zip((0, -1, 0), ([1, 2, 3, 4], [5, 6, 7, 8], [2, 2, 20, 0]), strict=True):
        expected[place] = REDUCTIONS[reduction](expected[place], new)
    updates = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [2, 2, 20, 0]], dtype)
    index = np.array([[0], [-1], [0]])
    check_node(
        "ScatterND", DATA.astype(dtype), index, updates, reduction=reduction, expected=expected.astype(dtype)
    )


@pytest.mark.parametrize("dtype", [*NUMBERS, bool, np.complex64], ids=str)
def test_elements_are_put(dtype: Any, check_node) -> None:
    index = np.array([[2, 0, 1, -1]])
    expected = DATA.astype(dtype)
    for column in range(4):
        expected[index[0, column], column] = UPDATES[:1].astype(dtype)[0, column]
    arrays = DATA.astype(dtype), index, UPDATES[:1].astype(dtype)
    check_node("ScatterElements", *arrays, expected=expected)
    if dtype is not ml_dtypes.bfloat16:
        check_node("Scatter", *arrays, opset=9, expected=expected)


@pytest.mark.parametrize("dtype", [*NUMBERS, bool, np.complex64], ids=str)
def test_slices_are_put(dtype: Any, check_node) -> None:
    x, whole = DATA.astype(dtype), DATA.astype(dtype)
    whole[1, 2], whole[2, 3] = x[0, 0], x[0, 1]
    check_node("ScatterND", x, np.array([[[1, 2]], [[-1, -1]]]), x[:1, :2].T.copy(), expected=whole)
    check_node("ScatterND", x, np.array([1]), x[0], expected=x[[0, 0, 2]])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint16, bool, ml_dtypes.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_cache(dtype: Any, mode: str, check_node) -> None:
    past = np.zeros((2, 3, 5, 2)).astype(dtype)
    update = np.arange(1, 25).reshape(2, 3, 2, 2).astype(dtype)
    start = np.array([3, 0] if mode == "linear" else [4, 2])
    check_node("TensorScatter", past, update, start, mode=mode)
    check_node("TensorScatter", past, update, mode=mode)
    moved = [np.ascontiguousarray(np.moveaxis(a, 2, 1)) for a in (past, update)]
    check_node("TensorScatter", *moved, start, mode=mode, axis=1)


def test_unknown_words_are_refused() -> None:
    x = torch.zeros(2, 3, 4)
    with pytest.raises(qt.InvalidModelError, match="'mean' is none of"):
        scatter_elements(x, x.long(), x, reduction="mean")
    with pytest.raises(qt.InvalidModelError, match="'ring' is neither 'linear' nor 'circular'"):
        tensor_scatter(x, x, mode="ring")
