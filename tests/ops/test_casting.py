"""Conversions between all element types, exhaustive where a type is small."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

import qonnx_torch as qt
from qonnx_torch.dtypes import from_array, to_array
from qonnx_torch.ops.standard.casting import cast


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What overflows or is no number is meant to, and NumPy says so."""
    with np.errstate(all="ignore"):
        yield


HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
"""All numbers of float16."""
FLOAT8 = {
    TensorProto.FLOAT8E4M3FN: ml_dtypes.float8_e4m3fn,
    TensorProto.FLOAT8E4M3FNUZ: ml_dtypes.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2: ml_dtypes.float8_e5m2,
    TensorProto.FLOAT8E5M2FNUZ: ml_dtypes.float8_e5m2fnuz,
}
NARROW_FLOATS = {
    TensorProto.FLOAT4E2M1: ml_dtypes.float4_e2m1fn,
    27: ml_dtypes.float6_e2m3fn,
    28: ml_dtypes.float6_e3m2fn,
}
NARROW_INTEGERS = {
    TensorProto.INT4: ml_dtypes.int4,
    TensorProto.UINT4: ml_dtypes.uint4,
    TensorProto.INT2: ml_dtypes.int2,
    TensorProto.UINT2: ml_dtypes.uint2,
}


def same_numbers(actual: np.ndarray, expected: np.ndarray) -> None:
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_array_equal(a, b)
    assert (np.signbit(a) == np.signbit(b))[~np.isnan(b)].all()


@pytest.mark.parametrize("source", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64], ids=str)
@pytest.mark.parametrize("target", FLOAT8)
@pytest.mark.parametrize("saturate", [1, 0])
def test_float8(source: type, target: int, saturate: int) -> None:
    x = (HALVES.astype(np.float64) * (1 if source is np.float16 else 37.5)).astype(source)
    finite = ml_dtypes.finfo(FLOAT8[target])
    result = cast(from_array(x), to=target, saturate=saturate)
    wide = x.astype(np.float64)
    bounded = np.clip(wide, float(finite.min), float(finite.max)) if saturate else wide
    same_numbers(to_array(result), bounded.astype(FLOAT8[target]))


@pytest.mark.parametrize("target", NARROW_FLOATS)
def test_floats_narrower_than_a_byte(target: int) -> None:
    numbers = HALVES[~np.isnan(HALVES)]
    for x in (numbers, numbers.astype(np.float32) * np.float32(1.0001)):
        result = cast(from_array(x), to=target)
        assert result.dtype == torch.float16
        same_numbers(result.numpy(), x.astype(NARROW_FLOATS[target]))


def test_they_have_no_nan() -> None:
    assert cast(torch.tensor([NAN, -NAN]), to=TensorProto.FLOAT4E2M1).tolist() == [0.0, 0.0]


def test_their_gradient_is_one() -> None:
    x = torch.tensor([0.3, 5.0, 100.0], requires_grad=True)
    (cast(x, to=TensorProto.FLOAT4E2M1) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert x.grad.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("target", NARROW_INTEGERS)
@pytest.mark.parametrize("source", [np.int8, np.int32, np.int64, np.uint16, np.float32, np.float16], ids=str)
def test_integers_narrower_than_a_byte(target: int, source: type) -> None:
    """Floats truncate, higher bits are discarded."""
    limits = ml_dtypes.iinfo(NARROW_INTEGERS[target])
    signed = np.dtype(source).kind != "u"
    x = np.arange(-40 if signed else 0, 40).astype(source)
    if np.dtype(source).kind == "f":
        x = np.linspace(limits.min, limits.max, 41).astype(source)
    expected = np.trunc(x.astype(np.float64)).astype(np.int64).astype(NARROW_INTEGERS[target])
    same_numbers(cast(from_array(x), to=target).numpy(), expected)


def power(exponent: int) -> float:
    return 2.0**exponent


INF, NAN, END = np.inf, np.nan, power(127)


@pytest.mark.parametrize(("round_mode", "saturate", "numbers"), [
    ("up", 1, {1.0: 1.0, 1.01: 2.0, 1.5: 2.0, 3.0: 4.0, 0.0: power(-127), power(-130): power(-127), INF: END,
               1.5 * END: END, NAN: NAN, power(-127): power(-127), 1.5 * power(-127): power(-126)}),
    ("down", 1, {1.0: 1.0, 1.99: 1.0, 3.0: 2.0, 1.5 * END: END, INF: END, power(-140): power(-127)}),
    ("nearest", 1, {1.49: 1.0, 1.5: 2.0, 3.0: 4.0, 2.9: 2.0, 1.4 * END: END, 1.5 * END: END}),
    ("nearest", 0, {1.49: 1.0, 1.5: 2.0, 0.0: NAN, INF: NAN, 1.5 * END: NAN, power(-130): NAN, NAN: NAN}),
])  # fmt: skip
def test_powers_of_two(round_mode: str, saturate: int, numbers: dict[float, float]) -> None:
    """FLOAT8E8M0, by the table of Cast-24."""
    x = torch.tensor(list(numbers), dtype=torch.float64)
    result = cast(x, to=TensorProto.FLOAT8E8M0, round_mode=round_mode, saturate=saturate)
    np.testing.assert_array_equal(to_array(result).astype(np.float64), list(numbers.values()))


@pytest.mark.parametrize("target", [*FLOAT8, TensorProto.FLOAT8E8M0])
def test_from_float8(target: int, check_node) -> None:
    every = np.arange(256, dtype=np.uint8).view(helper.tensor_dtype_to_np_dtype(target))
    for wider in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16):
        element_type = helper.np_dtype_to_tensor_dtype(np.dtype(wider))
        check_node("Cast", every, to=element_type, expected=every.astype(wider))


@pytest.mark.parametrize(("x", "target", "expected"), [
    (np.array([200, -200, 70000], np.int32), TensorProto.INT8, np.array([-56, 56, 112], np.int8)),
    (np.array([-1, 2**40 + 7], np.int64), TensorProto.UINT32, np.array([2**32 - 1, 7], np.uint32)),
    (np.array([-1.9, 1.9, 0.0, -0.0], np.float32), TensorProto.INT64, np.array([-1, 1, 0, 0])),
    (np.array([0.0, -0.0, 0.1, NAN, INF], np.float32), TensorProto.BOOL, np.array([0, 0, 1, 1, 1], bool)),
    (np.array([True, False]), TensorProto.FLOAT16, np.array([1, 0], np.float16)),
    (np.array([1e6, -1e6], np.float32), TensorProto.FLOAT16, np.array([np.inf, -np.inf], np.float16)),
    (np.array([2**64 - 1], np.uint64), TensorProto.DOUBLE, np.array([2.0**64])),
])  # fmt: skip
def test_wider_types(x: np.ndarray, target: int, expected: np.ndarray, check_node) -> None:
    for opset in (6, 9, 13, 28):
        check_node("Cast", x, to=target, opset=opset, expected=expected)
    check_node("CastLike", x, expected[:1], opset=19, expected=expected)


def test_cast_like_a_type_narrower_than_a_byte(check_node) -> None:
    x, like = np.array([-3.5, 9.5, 1.0], np.float32), np.zeros(1, ml_dtypes.int4)
    check_node("CastLike", x, like, opset=25, expected=np.array([-3, -7, 1], np.int8).astype(ml_dtypes.int4))


BITS = np.random.default_rng(0).integers(0, 256, 64).astype(np.uint8)
PAIRS = [("float32", "int32"), ("int64", "float64"), ("uint16", "bfloat16"), ("float8_e5m2", "int8"),
         ("uint8", "float8_e8m0fnu"), ("bool", "uint8"), ("complex64", "int64")]  # fmt: skip


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_bits_stay(source: str, target: str, run_node) -> None:
    source, target = (np.dtype(getattr(ml_dtypes, n, n)) for n in (source, target))
    x = (BITS & 1).view(bool) if source.kind == "b" else BITS.view(source)
    (result,) = run_node("BitCast", x, to=helper.np_dtype_to_tensor_dtype(target))
    assert result.dtype == target
    np.testing.assert_array_equal(result.view(np.uint8), x.view(np.uint8))


@pytest.mark.parametrize(("source", "target"), [
    ("int4", "uint4"), ("uint4", "int4"), ("float4_e2m1fn", "int4"), ("uint4", "float4_e2m1fn"),
    ("int2", "uint2"),
])  # fmt: skip
def test_fewer_bits_stay(source: str, target: str, check_node) -> None:
    source, target = (np.dtype(getattr(ml_dtypes, n)) for n in (source, target))
    x = np.arange(16, dtype=np.uint8).view(source) if "float" in source.name else np.arange(
        *((-8, 8) if source.name == "int4" else (0, 16) if source.name == "uint4" else (-2, 2))
    ).astype(source)  # fmt: skip
    check_node("BitCast", x, to=helper.np_dtype_to_tensor_dtype(target), expected=x.view(target))


def test_another_width_is_refused() -> None:
    with pytest.raises(qt.InvalidModelError, match="types of one width"):
        qt.ops.standard.casting.bit_cast(torch.zeros(2), to=TensorProto.INT8)
