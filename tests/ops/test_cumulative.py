"""Running sums and products: forms of the axis, both switches, every type."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

TYPES = {
    np.int32: 0, np.int64: 0, np.uint32: 0, np.uint64: 0, np.float16: 4e-3, ml_dtypes.bfloat16: 4e-2,
    np.float32: 1e-6, np.float64: 1e-12,
}  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("op_type", ["CumSum", "CumProd"])
def test_all_switches(op_type: str, dtype: Any, check_node) -> None:
    x = np.random.default_rng(0).integers(1, 4, (2, 3, 4)).astype(dtype)
    for exclusive in (0, 1):
        for reverse in (0, 1):
            for axis in (0, -1, np.array(1, np.int32)):
                switches = {"exclusive": exclusive, "reverse": reverse}
                check_node(op_type, x, axis, tolerance=TYPES[dtype], **switches)


@pytest.mark.parametrize("op_type", ["CumSum", "CumProd"])
@pytest.mark.parametrize("reverse", [0, 1])
def test_of_nothing(op_type: str, reverse: int, check_node) -> None:
    x = np.zeros((2, 0), np.float32)
    check_node(op_type, x, 1, exclusive=1, reverse=reverse, expected=x)


def test_the_axis_may_have_a_dimension(run_node) -> None:
    x = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    assert run_node("CumSum", x, (1,), opset=11)[0].tolist() == [[1, 3], [3, 7]]


def test_an_exclusive_sum_is_not_a_difference(run_node) -> None:
    """What follows an infinity is infinite; infinity less itself would be NaN."""
    x = np.array([1.0, np.inf, 2.0], np.float32)
    assert run_node("CumSum", x, 0, exclusive=1)[0].tolist() == [0.0, 1.0, np.inf]
