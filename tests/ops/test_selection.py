"""What is picked by value: the first and last extreme, the K largest, the distinct."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import qonnx_torch as qt
from qonnx_torch.ops.standard.selection import top_k

TIES = np.array([[1, 3, 3, 2], [0, 0, 0, 0], [5, 4, 5, 5]])
NUMBERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]
FLOATS = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


@pytest.mark.parametrize("dtype", [*NUMBERS, *FLOATS], ids=str)
@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
def test_extremes(op_type: str, dtype: Any, check_node) -> None:
    for axis in (0, -1):
        for last in (0, 1):
            check_node(op_type, TIES.astype(dtype), axis=axis, select_last_index=last, keepdims=last)


def test_extremes_of_large_unsigned_integers(run_node) -> None:
    x = np.array([1, 2**63 + 1, 2**63, 2], np.uint64)
    assert run_node("ArgMax", x)[0].tolist() == [1]
    assert run_node("ArgMin", x)[0].tolist() == [0]


@pytest.mark.parametrize("dtype", [*NUMBERS, *FLOATS], ids=str)
@pytest.mark.parametrize("largest", [0, 1])
def test_largest(dtype: Any, largest: int, check_node) -> None:
    """Of equals the lower index comes first."""
    x = TIES.astype(dtype)
    order = np.argsort(x.astype(np.float64) * (-1 if largest else 1), axis=1, kind="stable")[:, :3]
    expected = (np.take_along_axis(x, order, 1), order)
    for opset in (11, 24):
        check_node("TopK", x, (3,), largest=largest, opset=opset, outputs=2, expected=expected)


def test_largest_unsigned_integers(run_node) -> None:
    x = np.array([1, 2**63 + 1, 2**63, 2], np.uint64)
    values, indices = run_node("TopK", x, (2,), outputs=2)
    assert values.tolist() == [2**63 + 1, 2**63]
    assert indices.tolist() == [1, 2]


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(qt.InvalidModelError, match="TopK: 5 elements of an axis of 4"):
        top_k(torch.zeros(4), 5)


@pytest.mark.parametrize("dtype", [*NUMBERS, np.float32, np.float16, bool], ids=str)
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_distinct(dtype: Any, axis: int | None, check_node) -> None:
    x = (TIES % 2 if dtype is bool else TIES)[[0, 2, 0]].astype(dtype)
    expected = np.unique(x, True, True, True, axis=axis)
    attributes = {} if axis is None else {"axis": axis}
    for outputs in (1, 2, 3, 4):
        wanted = [np.ravel(v) if i else v for i, v in enumerate(expected[:outputs])]
        check_node("Unique", x, outputs=outputs, expected=wanted if outputs > 1 else wanted[0], **attributes)


@pytest.mark.parametrize(("x", "axis", "expected"), [
    ([2, 1, 1, 3, 4, 3], None, ([2, 1, 3, 4], [0, 1, 3, 4], [0, 1, 1, 2, 3, 2], [1, 2, 2, 1])),
    ([[1, 0], [1, 0], [0, 1]], 0, ([[1, 0], [0, 1]], [0, 2], [0, 0, 1], [2, 1])),
    ([[1, 0, 1], [2, 5, 2]], 1, ([[1, 0], [2, 5]], [0, 1], [0, 1, 0], [2, 1])),
])  # fmt: skip
def test_distinct_in_the_order_of_their_first_occurrence(x, axis, expected, check_node) -> None:
    attributes = {"sorted": 0} | ({} if axis is None else {"axis": axis})
    wanted = [np.array(v, np.float32 if i == 0 else np.int64) for i, v in enumerate(expected)]
    check_node("Unique", np.array(x, np.float32), outputs=4, expected=wanted, **attributes)
    check_node("Unique", np.array(x, np.float32), outputs=4, source="onnxruntime", opset=11, **attributes)
