"""Comparison and logic: every element type, with the order of unsigned integers."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What overflows or is no number is meant to, and NumPy says so."""
    with np.errstate(all="ignore"):
        yield


DTYPES = [np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)]
DTYPES += [np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)]
COMPARISONS = {
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
}


def numbers(dtype: np.dtype) -> np.ndarray:
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.array([limits.min, limits.max, limits.max // 2 + 1, 0, 1, limits.max - 1], dtype)
    return np.array([-np.inf, np.inf, -0.0, 0.0, np.nan, 1.5], np.float32).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op_type", COMPARISONS)
def test_comparisons(op_type: str, dtype: np.dtype, check_node) -> None:
    a, b = numbers(dtype)[:, None], numbers(dtype)
    check_node(op_type, a, b, expected=COMPARISONS[op_type](a, b))


@pytest.mark.parametrize("dtype", [*DTYPES, np.dtype(bool)], ids=str)
def test_where(dtype: np.dtype, check_node) -> None:
    x = numbers(np.dtype(np.int8)).astype(dtype) if dtype.kind == "b" else numbers(dtype)
    condition = np.array([[True], [False]])
    check_node("Where", condition, x, x[::-1].copy(), expected=np.where(condition, x, x[::-1]))


NARROW = [np.dtype(getattr(ml_dtypes, f"float8_{t}")) for t in ("e5m2", "e5m2fnuz", "e4m3fn", "e4m3fnuz")]


@pytest.mark.parametrize("dtype", [*DTYPES[8:], *NARROW], ids=str)
@pytest.mark.parametrize(("negative", "positive"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_infinities(dtype: np.dtype, negative: int, positive: int, check_node) -> None:
    x = np.array([-np.inf, np.inf, -0.0, np.nan, 1.5], np.float32).astype(dtype)
    wide = x.astype(np.float32)
    expected = np.isinf(wide) & ((wide < 0) & bool(negative) | (wide > 0) & bool(positive))
    check_node("IsInf", x, expected=expected, detect_negative=negative, detect_positive=positive)
    check_node("IsNaN", x, expected=np.isnan(wide))
