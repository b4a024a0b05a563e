"""What holds for every quantizer whatever its parameters; dtypes and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from qonnx.custom_op.general.intquant import int_quant, max_int, min_int

from qonnx_torch import ops
from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops.quantizers.operators import integer_bounds
from qonnx_torch.ops.quantizers.rounding import ROUNDING_MODES, resolve_rounding_mode

# -- properties ----------------------------------------------------------------------------------------

SAFE = st.floats(-1e5, 1e5, width=32)
SCALES = st.floats(2**-10, 2**10, width=32)
POWERS = st.integers(-10, 10).map(lambda k: 2.0**k)
BITS = st.integers(1, 16)
FLAGS = st.booleans()
MODES = st.sampled_from([*ROUNDING_MODES])
NEAREST = st.sampled_from(["ROUND", "HALF_UP", "HALF_DOWN"])
VALUES = st.lists(SAFE, min_size=2, max_size=20).map(torch.tensor)


@given(
    x=VALUES,
    scale=SCALES,
    bits=BITS,
    signed=FLAGS,
    narrow=FLAGS,
    mode=NEAREST,
)
def test_rounding_to_nearest_is_idempotent(x, scale, bits, signed, narrow, mode) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return ops.quant(x, scale, 0.0, bits, signed=signed, narrow=narrow, rounding_mode=mode)

    assert torch.equal(f(f(x)), f(x))


@given(x=VALUES, scale=POWERS, bits=BITS, signed=FLAGS, narrow=FLAGS, mode=MODES)
def test_every_mode_is_idempotent_on_an_exact_scale(x, scale, bits, signed, narrow, mode) -> None:
    # With other scales q * scale / scale may fall one place short of q, and FLOOR then takes a step.
    def f(x: torch.Tensor) -> torch.Tensor:
        return ops.quant(x, scale, 0.0, bits, signed=signed, narrow=narrow, rounding_mode=mode)

    assert torch.equal(f(f(x)), f(x))


@given(
    x=VALUES,
    scale=SCALES,
    zero_point=st.floats(-100, 100, width=32),
    bits=st.one_of(BITS, st.floats(1.0, 16.0, width=32)),
    signed=FLAGS,
    narrow=FLAGS,
    mode=MODES,
)
def test_quant_is_monotonic(x, scale, zero_point, bits, signed, narrow, mode) -> None:
    x = x.sort().values
    y = ops.quant(x, scale, zero_point, bits, signed=signed, narrow=narrow, rounding_mode=mode)
    assert bool((y.diff() >= 0).all())


@given(
    x=VALUES,
    scale=SCALES,
    zero_point=st.integers(-100, 100),
    bits=BITS,
    signed=FLAGS,
    narrow=FLAGS,
    mode=MODES,
)
def test_quant_stays_on_its_grid(x, scale, zero_point, bits, signed, narrow, mode) -> None:
    y = ops.quant(x, scale, float(zero_point), bits, signed=signed, narrow=narrow, rounding_mode=mode)
    q = (y.double() / torch.tensor(scale).double()).round() + zero_point
    if signed and bits == 1:
        low, high = -1, 1
    else:
        low, high = (
            float(v) for v in integer_bounds(torch.tensor(float(bits)), signed=signed, narrow=narrow)
        )
    assert bool(((q >= low) & (q <= high)).all())
    assert torch.equal(((q - zero_point).float() * scale), y)


@given(
    x=VALUES,
    scale=POWERS,
    e=st.integers(2, 5),
    m=st.integers(1, 5),
    mode=st.sampled_from(["ROUND", "HALF_UP"]),
)
def test_float_quant_is_idempotent_and_odd(x, scale, e, m, mode) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return ops.float_quant(x, scale, e, m, 2 ** (e - 1) - 1, torch.inf, rounding_mode=mode)

    assert torch.equal(f(f(x)), f(x))
    assert torch.equal(f(-x), -f(x))


@given(x=VALUES, scale=SCALES, max_val=st.floats(0.5, 1000, width=32))
def test_float_quant_stays_below_its_limit(x, scale, max_val) -> None:
    y = ops.float_quant(x, scale, 4, 3, 7, max_val)
    assert bool((y.double().abs() <= np.float64(min(max_val, 480)) * np.float64(scale) * (1 + 2**-23)).all())


@pytest.mark.parametrize(("dtype", "e", "m", "bias", "largest"), [
    (torch.float8_e4m3fn, 4, 3, 7, 448.0),
    (torch.float8_e5m2, 5, 2, 15, 57344.0),
])  # fmt: skip
def test_float_quant_equals_a_float8_cast(
    dtype: torch.dtype, e: int, m: int, bias: int, largest: float
) -> None:
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0)) * 10 ** torch.linspace(
        -6, 6, 100_000
    )
    cast = x.clamp(-largest, largest).to(dtype).float()
    assert torch.equal(ops.float_quant(x, 1.0, e, m, bias, largest), cast)


@pytest.mark.parametrize("bits", [1, 2, 2.5, 8, 32])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("narrow", [False, True])
def test_integer_bounds(bits: float, signed: bool, narrow: bool) -> None:
    low, high = integer_bounds(torch.tensor(float(bits), dtype=torch.float64), signed=signed, narrow=narrow)
    assert (float(low), float(high)) == (min_int(signed, narrow, bits), max_int(signed, narrow, bits))


# -- dtypes and shapes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("x", "scale", "result"), [
    ("float32", "float32", "float32"),
    ("float64", "float64", "float64"),
    ("float64", "float32", "float32"),
    ("float32", "float64", "float32"),
    ("float16", "float16", "float16"),
    ("float16", "float32", "float32"),
    ("float32", "float16", "float32"),
    ("bfloat16", "bfloat16", "bfloat16"),
    ("int32", "float32", "float32"),
    ("int32", "int32", "float32"),
])  # fmt: skip
def test_result_dtype(x: str, scale: str, result: str) -> None:
    value = torch.tensor([-3, 0, 1, 2], dtype=getattr(torch, x))
    step = torch.tensor(2, dtype=getattr(torch, scale))
    one, three = torch.tensor(1.0), torch.tensor(3.0)
    expected = getattr(torch, result)
    assert ops.quant(value, step, 0.0, 4).dtype == expected
    assert ops.bipolar_quant(value, step).dtype == expected
    assert ops.trunc(value, step, 0.0, 8, one, 6).dtype == expected
    assert ops.float_quant(value, step, 4, three, 7, 448).dtype == expected


def test_half_precision_computes_in_float32() -> None:
    x = torch.linspace(-10, 10, 1001, dtype=torch.float16)
    scale = torch.tensor(0.1, dtype=torch.float16)
    assert torch.equal(ops.quant(x, scale, 0.0, 8), ops.quant(x.float(), scale.float(), 0.0, 8).half())


def test_float64_is_the_reference_in_float64() -> None:
    x = np.random.default_rng(0).normal(size=10_000) * 10
    expected = int_quant(x, np.asarray(0.1), np.asarray(0.25), np.asarray(4.0), 1, 0, "ROUND")
    actual = ops.quant(*(torch.from_numpy(np.asarray(v)) for v in (x, 0.1, 0.25)), 4)
    assert torch.equal(actual, torch.from_numpy(expected))


def test_parameters_may_widen_the_result() -> None:
    assert ops.quant(torch.ones(3, 1), torch.ones(2), 0.0, 4).shape == (3, 2)


def test_empty_tensors() -> None:
    assert ops.quant(torch.ones(0, 3), torch.ones(3), 0.0, 4).shape == (0, 3)
    assert ops.multi_threshold(torch.ones(0, 3), torch.ones(3, 2)).shape == (0, 3)


# -- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["STOCHASTIC_ROUND", "", "ROUND "])
def test_unknown_rounding_mode_is_refused(mode: str) -> None:
    with pytest.raises(
        InvalidModelError, match=rf"rounding_mode '{mode}' does not exist; known modes: ROUND, CEIL"
    ):
        ops.quant(torch.ones(1), 1.0, 0.0, 4, rounding_mode=mode)


def test_aliases_of_rounding_modes() -> None:
    assert resolve_rounding_mode("half_even") == "ROUND"
    assert resolve_rounding_mode("Round_To_Zero") == "DOWN"


def test_float_quant_without_a_value_for_overflow_is_refused() -> None:
    with pytest.raises(InvalidModelError, match="set has_inf or has_nan, or saturation"):
        ops.float_quant(torch.ones(1), 1.0, 4, 3, 7, 448, saturation=False)
