"""Arithmetic: every element type, the corners that numbers have, older operator sets."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from onnx import helper

import qonnx_torch as qt
from qonnx_torch.ops.standard import elementwise

INTEGERS = [np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)]
FLOATS = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32), np.dtype(np.float64)]
TOLERANCE = dict(zip(FLOATS, (2e-3, 2e-2, 1e-6, 1e-12), strict=True))
NAMES = {"ids": str}


def whole_range(dtype: np.dtype, *shape: int, seed: int = 0) -> np.ndarray:
    """Numbers of all sizes that an integer type has, its ends among them."""
    generator, limits = np.random.default_rng([seed, *shape]), np.iinfo(dtype)
    x = generator.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    x.reshape(-1)[:4] = limits.max, limits.min, limits.max // 2 + 1, 7
    return x


def floats(dtype: np.dtype, *shape: int, seed: int = 0, low: float = -4.0, high: float = 4.0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape).astype(dtype)


@pytest.mark.parametrize("dtype", INTEGERS, **NAMES)
@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div", "Mod", "Min", "Max"])
def test_integers(op_type: str, dtype: np.dtype, check_node) -> None:
    a, b = whole_range(dtype, 5, 8), whole_range(dtype, 8, seed=1)
    if op_type in ("Div", "Mod"):
        b[(b == 0) | (b == -1 if dtype.kind == "i" else False)] = 3
    if op_type == "Div":  # the reference rounds down where signs differ
        quotient = a // b
        expected = quotient + ((quotient * b != a) & ((a < 0) != (b < 0))).astype(dtype)
        check_node(op_type, a, b, expected=expected)
        return
    with np.errstate(over="ignore"):
        check_node(op_type, a, b)
        if op_type == "Mod":
            check_node(op_type, a, b, fmod=1)


@pytest.mark.parametrize("dtype", FLOATS, **NAMES)
@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Sum", "Mean"])
def test_floats(op_type: str, dtype: np.dtype, check_node) -> None:
    operands = floats(dtype, 3, 4), floats(dtype, 4, seed=1)
    if op_type == "Mod":  # in float64 it is the same, as the dividend is not much larger
        check_node(op_type, *operands, tolerance=TOLERANCE[dtype] * 4)
    check_node(op_type, *operands, tolerance=TOLERANCE[dtype], **({"fmod": 1} if op_type == "Mod" else {}))


INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(("x", "y", "expected"), [
    (0.0, 3.0, 0.0), (-0.0, 3.0, 0.0), (0.0, -3.0, -0.0), (-0.0, -3.0, -0.0), (6.0, -3.0, -0.0),
    (-6.0, 3.0, 0.0), (INF, 3.0, NAN), (-INF, 3.0, NAN), (1.0, 0.0, NAN), (1.0, -0.0, NAN), (NAN, 1.0, NAN),
    (1.0, NAN, NAN), (2.5, INF, 2.5), (-2.5, -INF, -2.5), (-2.5, INF, INF), (2.5, -INF, -INF),
    (5.5, -3.0, -0.5), (-5.5, 3.0, 0.5),
])  # fmt: skip
def test_floor_modulo_of_special_numbers(x: float, y: float, expected: float) -> None:
    """The table of Mod-28."""
    result = elementwise.mod(torch.tensor(x), torch.tensor(y))
    np.testing.assert_equal(result.item(), expected)
    assert np.isnan(expected) or np.signbit(result.item()) == np.signbit(expected)


@pytest.mark.parametrize(("x", "y", "expected"), [
    (np.array([2, 3, -2], np.int32), np.array([2.5, 0.5, 3.0], np.float32), [5, 1, -8]),
    (np.array([2, 3], np.int64), np.array([62, 3], np.uint8), [1 << 62, 27]),
    (np.array([2, -3], np.int64), np.array([-1, 2], np.int32), [0, 9]),
    (np.array([2.0, -3.0], np.float16), np.array([3, 2], np.int64), [8, 9]),
    (np.array([4.0, 9.0], np.float32), np.array([0.5], np.float64), [2, 3]),
    (np.array([4.0, 9.0], np.float64), np.array(-0.5, np.float32), [0.5, 1 / 3]),
])  # fmt: skip
def test_power_has_the_type_of_its_base(x, y, expected, run_node) -> None:
    (result,) = run_node("Pow", x, y)
    assert result.dtype == x.dtype
    np.testing.assert_allclose(result, np.array(expected, x.dtype))


def test_a_constant_exponent_is_no_parameter(make_model) -> None:
    model = make_model([helper.make_node("Pow", ["x", "two"], ["y"])], initializers={"two": 2.0})
    module = qt.import_model(model)
    assert not list(module.parameters())
    assert torch.equal(module(torch.full((1, 4), -3.0)), torch.full((1, 4), 9.0))


@pytest.mark.parametrize("op_type", ["Neg", "Abs", "Sign"])
@pytest.mark.parametrize("dtype", INTEGERS, **NAMES)
def test_signs_of_integers(op_type: str, dtype: np.dtype, check_node) -> None:
    if op_type != "Neg" or dtype.kind == "i":
        with np.errstate(over="ignore"):
            check_node(op_type, whole_range(dtype, 20))


def test_erf_of_integers_truncates(run_node) -> None:
    x = np.arange(-7, 8, dtype=np.int8)
    (result,) = run_node("Erf", x, opset=12)
    assert result.tolist() == [-1] * 4 + [0] * 7 + [1] * 4


TRIGONOMETRY = {
    "Sin": np.sin, "Cos": np.cos, "Tan": np.tan, "Asin": np.arcsin, "Acos": np.arccos, "Atan": np.arctan,
    "Sinh": np.sinh, "Cosh": np.cosh, "Tanh": np.tanh, "Asinh": np.arcsinh, "Acosh": np.arccosh,
    "Atanh": np.arctanh,
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float64)], **NAMES)
@pytest.mark.parametrize("op_type", TRIGONOMETRY)
def test_trigonometry(op_type: str, dtype: np.dtype, check_node) -> None:
    x = floats(dtype, 3, 5, low=-0.9, high=0.9) + (2 if op_type == "Acosh" else 0)
    check_node(op_type, x, expected=TRIGONOMETRY[op_type](x), tolerance=4 * TOLERANCE[dtype])
    check_node(op_type, x, opset=9, expected=TRIGONOMETRY[op_type](x), tolerance=4 * TOLERANCE[dtype])


SPECIAL = np.array([-INF, -3e4, -1.5, -0.0, 0.5, 3e4, INF, NAN], np.float32)
LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(("inputs", "attributes", "opset", "expected"), [
    ((SPECIAL, -1.0, 1.0), {}, 13, [-1, -1, -1, -0.0, 0.5, 1, 1, NAN]),
    ((SPECIAL, 1.0, -1.0), {}, 13, [-1, -1, -1, -1, -1, -1, -1, NAN]),  # max wins
    ((SPECIAL, None, 1.0), {}, 13, [-LARGEST, -3e4, -1.5, -0.0, 0.5, 1, 1, NAN]),
    ((SPECIAL, -1.0), {}, 11, [-1, -1, -1, -0.0, 0.5, 3e4, LARGEST, NAN]),
    ((SPECIAL,), {"max": 1.0}, 6, [-LARGEST, -3e4, -1.5, -0.0, 0.5, 1, 1, NAN]),
    ((SPECIAL.astype(np.float16),), {"max": 1.0}, 6, [-INF, -3e4, -1.5, -0.0, 0.5, 1, 1, NAN]),
    ((SPECIAL.astype(np.float64),), {}, 10, [-LARGEST, -3e4, -1.5, -0.0, 0.5, 3e4, LARGEST, NAN]),
    ((np.array([0, 9, 200], np.uint8), None, np.array(100, np.uint8)), {}, 13, [0, 9, 100]),
    ((np.array([0, 9, 2**63 + 1], np.uint64), np.array(5, np.uint64), np.array(2**63, np.uint64)), {}, 13,
     [5, 9, 2**63]),
    ((np.array([-9, 9], np.int8), np.array(-5, np.int8)), {}, 13, [-5, 9]),
])  # fmt: skip
def test_clip(
    inputs: tuple[Any, ...], attributes: dict[str, Any], opset: int, expected: list, run_node
) -> None:
    dtype = inputs[0].dtype
    bounds = [np.array(b, dtype) if isinstance(b, float) else b for b in inputs[1:]]
    (result,) = run_node("Clip", inputs[0], *bounds, opset=opset, **attributes)
    wanted = np.array(expected, np.float64 if dtype.kind == "f" else dtype).astype(dtype)
    np.testing.assert_array_equal(result, wanted)
    assert result.dtype == dtype


BROADCASTING = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power,
    "Greater": np.greater, "Less": np.less, "Equal": np.equal, "And": np.logical_and, "Or": np.logical_or,
    "Xor": np.logical_xor,
}  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "axis"), [((3,), 1), ((3, 4), 1), ((2, 3), 0), ((4, 5), 2), ((3,), -3), ((), 1)]
)
@pytest.mark.parametrize("op_type", BROADCASTING)
def test_below_7_an_axis_says_where_the_second_operand_lies(op_type, shape, axis, make_model) -> None:
    kind = {"And": bool, "Or": bool, "Xor": bool, "Equal": np.int32}.get(op_type, np.float32)
    a, b = (floats(np.dtype(np.float32), *s, low=0, high=3).round() for s in ((2, 3, 4, 5), shape))
    a, b = a.astype(kind), np.asarray(b, kind)
    node = helper.make_node(op_type, ["a", "b"], ["y"], broadcast=1, axis=axis)
    element_type = helper.np_dtype_to_tensor_dtype(a.dtype)
    model = make_model(
        [node], inputs={"a": a.shape}, initializers={"b": b}, imports={"": 6}, input_type=element_type
    )
    behind = a.ndim - axis % a.ndim - b.ndim
    with np.errstate(all="ignore"):
        expected = BROADCASTING[op_type](a, b.reshape(b.shape + (1,) * behind))
    module = qt.import_model(model)
    written = qt.import_model(qt.export_qonnx(module, opset_version=17))
    for imported in (module, written):
        np.testing.assert_allclose(imported(torch.from_numpy(a)).detach().numpy(), expected)
