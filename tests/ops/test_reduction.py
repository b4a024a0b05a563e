"""Reductions: every element type, no elements, no axes, both places where axes stand."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import qonnx_torch as qt
from qonnx_torch.ops.standard import reduction

ALL = ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"]
X = np.random.default_rng(0).uniform(0.5, 2, (2, 3, 4))
FLOATS = {np.float16: 3e-3, ml_dtypes.bfloat16: 3e-2, np.float32: 2e-6, np.float64: 1e-12}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_floats(name: str, dtype: Any, check_node) -> None:
    x, tolerance = X.astype(dtype), FLOATS[dtype]
    for keepdims in (0, 1):
        check_node(f"Reduce{name}", x, (1, -1), tolerance=tolerance, keepdims=keepdims)
        check_node(f"Reduce{name}", x, keepdims=keepdims, tolerance=tolerance)
    empty = np.array([], np.int64)
    check_node(f"Reduce{name}", x, empty, tolerance=tolerance)
    check_node(f"Reduce{name}", x, empty, noop_with_empty_axes=1, tolerance=tolerance)
    if dtype is not ml_dtypes.bfloat16:
        check_node(f"Reduce{name}", x, opset=11, axes=[0, 2], keepdims=0, tolerance=tolerance)
    if name != "LogSumExp":  # of which the reference takes no number
        check_node(f"Reduce{name}", np.asarray(x[0, 0, 0]), tolerance=tolerance)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.uint64], ids=str)
@pytest.mark.parametrize("name", ALL[:8])
def test_integers(name: str, dtype: Any, run_node) -> None:
    x = np.random.default_rng(0).integers(0, 9, (3, 4)).astype(dtype)
    wide = x.astype(np.float64)
    expected = {
        "Sum": wide.sum(1), "Mean": np.trunc(wide.mean(1)), "Max": wide.max(1), "Min": wide.min(1),
        "Prod": wide.prod(1), "L1": wide.sum(1), "L2": np.trunc(np.sqrt((wide**2).sum(1))),
        "SumSquare": (wide**2).sum(1),
    }  # fmt: skip
    (result,) = run_node(f"Reduce{name}", x, (1,), keepdims=0)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, expected[name])


@pytest.mark.parametrize("name", ["Sum", "Prod", "Max", "Min"])
def test_integers_of_all_sizes(name: str, check_node) -> None:
    """Sums and products wrap around, the order is that of unsigned integers."""
    x = np.random.default_rng(0).integers(0, 2**64, (3, 4), np.uint64, endpoint=False)
    check_node(f"Reduce{name}", x, (0,))
    check_node(f"Reduce{name}", x.view(np.int64), (0,))


def test_booleans(check_node) -> None:
    x = np.array([[True, True], [True, False], [False, False]])
    for name in ("Max", "Min"):
        check_node(f"Reduce{name}", x, (1,), keepdims=0)


INF = np.inf
EMPTY = {"Sum": 0.0, "Prod": 1.0, "Max": -INF, "Min": INF, "L1": 0.0, "L2": 0.0, "SumSquare": 0.0,
         "LogSum": -INF, "LogSumExp": -INF}  # fmt: skip


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("name", EMPTY)
def test_no_elements(name: str, keepdims: int, check_node) -> None:
    shape = (2, 1, 4) if keepdims else (2, 4)
    expected = np.full(shape, EMPTY[name], np.float32)
    check_node(f"Reduce{name}", np.zeros((2, 0, 4), np.float32), (1,), keepdims=keepdims, expected=expected)
    nothing = np.zeros((2, 0, 1) if keepdims else (2, 0), np.float32)
    check_node(f"Reduce{name}", np.zeros((2, 0, 4), np.float32), (2,), keepdims=keepdims, expected=nothing)


def test_no_integers_and_booleans(check_node) -> None:
    for name, of_integers, of_booleans in (("Max", -(2**31), False), ("Min", 2**31 - 1, True)):
        for dtype, expected in ((np.int32, of_integers), (bool, of_booleans)):
            nothing, wanted = np.zeros((0, 2), dtype), np.full((1, 2), expected, dtype)
            check_node(f"Reduce{name}", nothing, (0,), expected=wanted)


def test_log_sum_exp_does_not_overflow(check_node) -> None:
    x = np.array([[1000.0, 1001.0], [-1000.0, -INF], [-INF, -INF], [INF, 0.0]], np.float32)
    expected = np.array([1001.3132617, -1000.0, -INF, INF], np.float32)
    check_node("ReduceLogSumExp", x, (1,), keepdims=0, expected=expected)


def test_the_norm_of_zeros_has_a_gradient() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    reduction.reduce_l2(x, (1,)).sum().backward()
    assert torch.equal(x.grad, torch.zeros(2, 3))


def test_an_axis_that_is_not_there_is_refused() -> None:
    with pytest.raises(qt.InvalidModelError, match="axis 3 is not one of a tensor of 2 dimensions"):
        reduction.reduce_sum(torch.zeros(2, 3), (3,))


@pytest.mark.parametrize("name", sorted(n for n in reduction.__dict__ if n.startswith("reduce_")))
def test_a_repeated_axis_counts_once(name: str) -> None:
    reduce = getattr(reduction, name)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert torch.equal(reduce(x, (0, 0, -2)), reduce(x, (0,)))
    assert reduction.reduce_sum(((1, 2), (3, 4)), (0, -2), keepdims=0) == (4, 6)
    assert reduction.reduce_sum(x, (0, 0)).tolist() == [[4.0, 6.0]]  # as in onnxruntime
