"""Activation functions: every float type, the corners, older operator sets."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from qonnx_torch.ops.standard import activation

X = np.random.default_rng(0).uniform(-4, 4, (3, 5))
TOLERANCE = {np.float16: 4e-3, ml_dtypes.bfloat16: 4e-2, np.float32: 3e-6, np.float64: 1e-9}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


ROWS: dict[str, tuple[dict[str, float], Any]] = {
    "Celu": ({"alpha": 0.5}, lambda x: np.maximum(0, x) + np.minimum(0, 0.5 * np.expm1(x / 0.5))),
    "Elu": ({"alpha": 2.0}, lambda x: np.where(x > 0, x, 2 * np.expm1(x))),
    "Selu": ({"alpha": 2.0, "gamma": 3.0}, lambda x: 3 * np.where(x > 0, x, 2 * np.exp(x) - 2)),
    "Mish": ({}, lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    "Swish": ({"alpha": 0.5}, lambda x: x * sigmoid(0.5 * x)),
    "HardSwish": ({}, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "HardSigmoid": ({"alpha": 0.5, "beta": 0.25}, lambda x: np.clip(0.5 * x + 0.25, 0, 1)),
    "Softplus": ({}, lambda x: np.log1p(np.exp(x))),
    "Softsign": ({}, lambda x: x / (1 + np.abs(x))),
    "ThresholdedRelu": ({"alpha": 1.5}, lambda x: np.where(x > 1.5, x, 0)),
    "LeakyRelu": ({"alpha": 0.25}, lambda x: np.where(x < 0, 0.25 * x, x)),
    "Sigmoid": ({}, sigmoid),
    "Tanh": ({}, np.tanh),
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("op_type", ROWS)
def test_floats(op_type: str, dtype: Any, check_node) -> None:
    attributes, compute = ROWS[op_type]
    x = X.astype(dtype)
    expected = compute(x.astype(np.float64)).astype(dtype)
    check_node(op_type, x, expected=expected, tolerance=TOLERANCE[dtype], **attributes)


def test_swiglu(check_node) -> None:
    a, b = X.astype(np.float32), X[::-1].astype(np.float32).copy()
    for alpha in (1.0, 0.5):
        check_node("SwiGLU", a, b, alpha=alpha, tolerance=3e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8, np.uint8, np.int64, np.uint32], ids=str)
def test_shrink(dtype: Any, check_node) -> None:
    x = np.array([0, 1, 2, 3, 100] if dtype(0).dtype.kind == "u" else [-100, -2, -1, 0, 1, 2, 100]).astype(
        dtype
    )
    check_node("Shrink", x, lambd=1.5, bias=0.5)
    check_node("Shrink", x)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64], ids=str)
def test_hardmax_marks_the_first_maximum(dtype: Any, check_node) -> None:
    x = np.array([[[1, 3, 3], [2, 2, 2]], [[0, -1, 5], [7, 7, 1]]]).astype(dtype)
    expected = np.zeros_like(x)
    for i, j, k in ((0, 0, 1), (0, 1, 0), (1, 0, 2), (1, 1, 0)):
        expected[i, j, k] = 1
    check_node("Hardmax", x, expected=expected)


def test_hardmax_below_13_takes_dimensions_together(check_node) -> None:
    x = np.array([[[1, 3, 3], [2, 2, 2]], [[0, -1, 5], [7, 7, 1]]], np.float32)
    expected = np.zeros_like(x)
    expected[0, 0, 1] = expected[1, 1, 0] = 1
    check_node("Hardmax", x, opset=11, expected=expected)
    check_node("Hardmax", x, opset=11, axis=1, source="onnxruntime")


@pytest.mark.parametrize("opset", [6, 11, 13])
def test_hardmax_of_nothing(opset: int, check_node) -> None:
    check_node("Hardmax", np.zeros((2, 0), np.float32), opset=opset, expected=np.zeros((2, 0), np.float32))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.uint64], ids=str)
def test_prelu_of_integers(dtype: Any, check_node) -> None:
    x = np.array(
        [[0, 5, 200], [7, 1, 3]] if dtype(0).dtype.kind == "u" else [[-3, 5, 0], [7, -1, -9]]
    ).astype(dtype)
    check_node("PRelu", x, np.array([2, 3, 4], dtype), opset=16)


def test_an_exponential_that_is_not_taken_leaves_the_gradient_finite() -> None:
    for function in (activation.selu, activation.elu, activation.celu, activation.softplus, activation.mish):
        x = torch.tensor([-1000.0, 0.5, 1000.0], requires_grad=True)
        function(x).sum().backward()
        assert torch.isfinite(x.grad).all(), function.__name__


def test_softplus_keeps_its_digits(run_node) -> None:
    """torch's own turns into the identity at 20."""
    x = np.array([19.9, 20.1, 36.0, 700.0])
    np.testing.assert_allclose(run_node("Softplus", x)[0], np.logaddexp(x, 0), rtol=1e-15)
