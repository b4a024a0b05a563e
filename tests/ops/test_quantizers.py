"""Every quantizer against qonnx itself, bit for bit, on the values where implementations differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from qonnx.custom_op.general.bipolar_quant import binary_quant
from qonnx.custom_op.general.floatquant import float_quant as qonnx_float_quant
from qonnx.custom_op.general.intquant import int_quant
from qonnx.custom_op.general.trunc import trunc_v1 as qonnx_trunc_v1
from qonnx.custom_op.general.trunc import trunc_v2 as qonnx_trunc_v2

from qonnx_torch import ops
from qonnx_torch.ops.quantizers.operators import trunc_v1
from qonnx_torch.ops.quantizers.rounding import ROUNDING_MODES

MODES = (*ROUNDING_MODES, "HALF_EVEN", "round", "half_up")
SHAPE = (-1, 3, 4)  # of every x: the second axis is the channels


def f32(*values: float) -> np.ndarray:
    return np.array(values if len(values) != 1 else values[0], np.float32)


def points(seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Random and awkward float32 values: ties and integer bounds a last place up and down, ends, specials."""
    generator = np.random.default_rng(seed)
    wide = generator.normal(size=2000) * 10 ** generator.uniform(-3, 3, size=2000)
    ties = np.arange(-300.5, 301.5, 0.5, dtype=np.float32) * np.float32(scale)
    powers = 2.0 ** np.arange(-148, 128, dtype=np.float64)
    bounds = np.concatenate([2.0**b + np.array([-2, -1.5, -1, -0.5, 0, 0.5, 1]) for b in range(33)]) * scale
    exact = np.concatenate([ties, powers, bounds]).astype(np.float32)
    exact = np.concatenate([exact, -exact])
    specials = f32(
        0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-40, 0.49999997, -0.49999997, 8388609.0, 3.4e38
    )
    x = np.concatenate([wide, exact, np.nextafter(exact, np.inf), np.nextafter(exact, -np.inf), specials])
    x = x.astype(np.float32)
    return np.concatenate([x, np.zeros(-len(x) % 12, np.float32)]).reshape(SHAPE)


@dataclass(frozen=True)
class Case:
    """A quantizer: its parameters (in ONNX order, after x), its attributes, and the step of its points."""

    operator: str
    parameters: tuple[np.ndarray, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    step: float = 1.0


def quant_case(
    scale: Any = 1.0,
    zero_point: Any = 0.0,
    bits: Any = 8.0,
    signed: int = 1,
    narrow: int = 0,
    dtypes: str = "fff",
) -> Case:
    values = (scale, zero_point, bits)
    parameters = tuple(
        np.asarray(v, {"f": "f4", "d": "f8", "i": "i8"}[t]) for v, t in zip(values, dtypes, strict=True)
    )
    largest = float(np.abs(np.asarray(scale)).max()) or 1.0
    return Case("quant", parameters, {"signed": signed, "narrow": narrow}, largest)


CHANNELS = np.array([0.5, 0.1, 3e-3]).reshape(3, 1)
ELEMENTS = 10 ** np.random.default_rng(7).uniform(-3, 1, size=(3, 4))

QUANT: dict[str, Case] = {
    **{
        f"{b}bit-signed{s}-narrow{n}": quant_case(0.0473, bits=b, signed=s, narrow=n)
        for b in (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32)
        for s in (0, 1)
        for n in (0, 1)
    },
    **{
        f"2.5bit-signed{s}-narrow{n}": quant_case(0.5, bits=2.5, signed=s, narrow=n)
        for s in (0, 1)
        for n in (0, 1)
    },
    "unit-scale": quant_case(),
    "tiny-scale": quant_case(1e-30),
    "denormal-scale": quant_case(1e-40),
    "negative-scale": quant_case(-0.25, bits=4),
    "zero-scale": quant_case(0.0, bits=4),
    "channels": quant_case(CHANNELS, bits=4),
    "channels-of-rank-3": quant_case(CHANNELS[None], bits=4, narrow=1),
    "elements": quant_case(ELEMENTS, bits=6),
    "channels-with-negative": quant_case(np.array([0.5, -0.1, 0.0]).reshape(3, 1), bits=4),
    "zero-point-of-channels": quant_case(CHANNELS, np.array([0, 3, -1.5]).reshape(3, 1), 4, signed=0),
    "zero-point-3": quant_case(0.0473, 3, 4, signed=0),
    "zero-point-fraction": quant_case(0.1, 0.25, 4),
    "zero-point-far": quant_case(0.1, -1e6, 8),
    "zero-point--0.0": quant_case(0.1, -0.0, 4),
    "zero-point--0.0-1bit": quant_case(0.1, -0.0, 1),
    "zero-point-fraction-1bit": quant_case(0.5, 0.25, 1),
    "int64-bits": quant_case(0.1, bits=8, dtypes="ffi"),
    "int64-bits-unsigned-narrow": quant_case(0.1, bits=8, signed=0, narrow=1, dtypes="ffi"),
    "int64-1bit": quant_case(0.1, bits=1, dtypes="ffi"),
    "int64-32bit": quant_case(0.1, bits=32, signed=0, dtypes="ffi"),
    "float64-scale": quant_case(0.1, bits=4, dtypes="dff"),
    "float64-scale-of-channels": quant_case(CHANNELS, 1.5, 6, dtypes="dfi"),
    "float64-zero-point": quant_case(0.1, 0.3, 4, dtypes="fdf"),
    "int64-zero-point": quant_case(0.1, 3, 4, signed=0, dtypes="fif"),
    "int64-zero-point-1bit": quant_case(0.1, 1, 1, dtypes="fii"),
    "all-wide": quant_case(0.1, 3, 8, dtypes="dii"),
    "float64-bits": quant_case(0.1, bits=8, dtypes="ffd"),
    "one-element-parameters": quant_case([0.1], [0.0], [4.0]),
}


def float_case(
    e: float, m: float, bias: float, max_val: float, scale: Any = 1.0, dtypes: str = "fffff", **flags: int
) -> Case:
    values = (scale, e, m, bias, max_val)
    parameters = tuple(
        np.asarray(v, {"f": "f4", "d": "f8", "i": "i8"}[t]) for v, t in zip(values, dtypes, strict=True)
    )
    defaults = {"has_inf": 0, "has_nan": 0, "has_subnormal": 1, "saturation": 1}
    return Case("float_quant", parameters, {**defaults, **flags}, float(np.max(scale)))


FLOAT: dict[str, Case] = {
    "e4m3-480": float_case(4, 3, 7, 480),
    "e4m3-448": float_case(4, 3, 7, 448, 0.0473),
    "e5m2": float_case(5, 2, 15, 57344, 0.5),
    "e3m2": float_case(3, 2, 3, 28),
    "e2m1": float_case(2, 1, 1, 6, 3e-3),
    "e2m3-bias-0": float_case(2, 3, 0, 100),
    "e8m7": float_case(8, 7, 127, 3.38953139e38),
    "e8m7-no-limit": float_case(8, 7, 127, np.inf),
    "e4m0": float_case(4, 0, 7, 256, 4.0),  # scaled, since NumPy's own float32 exp2(127) can be one place off
    "e0m3": float_case(0, 3, 0, 1.75),
    "e4m2.5": float_case(4, 2.5, 7, 1000),
    "limit-between-grid-points": float_case(4, 3, 7, 300.7),
    "bias-fraction": float_case(4, 3, 7.5, 300),
    "channels": float_case(4, 3, 7, 448, CHANNELS),
    "elements": float_case(3, 2, 3, 28, ELEMENTS),
    "float64-scale": float_case(4, 3, 7, 448, 0.1, "dffff"),
    "float64-formats": float_case(4, 3, 7, 448, 0.1, "ddddd"),
    "float64-limit": float_case(4, 3, 7, 300.7, 0.1, "ffffd"),
    "int64-formats": float_case(4, 3, 7, 448, 0.1, "fiiii"),
    "int64-mantissa": float_case(3, 2, 3, 28, 0.1, "ffiff"),
    "int64-bias": float_case(3, 2, 3, 28, 0.1, "fffif"),
    "negative-scale": float_case(4, 3, 7, 448, -0.5),
    "zero-scale": float_case(4, 3, 7, 448, 0.0),
    "infinity": float_case(4, 3, 7, 448, has_inf=1, saturation=0),
    "nan": float_case(4, 3, 7, 448, has_nan=1, saturation=0),
    "infinity-and-nan": float_case(5, 2, 15, 57344, 0.1, has_inf=1, has_nan=1, saturation=0),
    "flags-with-saturation": float_case(5, 2, 15, 57344, 0.1, has_inf=1, has_nan=1, has_subnormal=0),
}


def trunc_case(
    scale: Any,
    zero_point: Any,
    bits: float,
    out_scale: Any,
    out_bits: Any,
    dtypes: str = "fffff",
    **attributes: int,
) -> Case:
    values = (scale, zero_point, bits, out_scale, out_bits)
    parameters = tuple(
        np.asarray(v, {"f": "f4", "d": "f8", "i": "i8"}[t]) for v, t in zip(values, dtypes, strict=True)
    )
    return Case("trunc", parameters, {"signed": 1, "narrow": 0, **attributes}, float(np.max(scale)))


TRUNC: dict[str, Case] = {
    "8to6": trunc_case(0.25, 0, 8, 1.0, 6),
    "8to6-unsigned": trunc_case(0.25, 0, 8, 1.0, 6, signed=0),
    "8to6-unsigned-narrow": trunc_case(0.25, 0, 8, 1.0, 6, signed=0, narrow=1),
    "8to4-narrow": trunc_case(0.1, 0, 8, 1.6, 4, narrow=1),
    "zero-point": trunc_case(0.1, 3, 8, 0.4, 6, signed=0),
    "zero-point-fraction": trunc_case(0.1, -1.25, 8, 0.4, 6),
    "no-power-of-two": trunc_case(0.1, 0, 8, 0.9, 6),
    "finer": trunc_case(0.5, 0, 4, 0.125, 8),
    "channels": trunc_case(CHANNELS, 0, 8, 4 * CHANNELS, 6),
    "many-output-scales": trunc_case(0.25, 1, 8, CHANNELS, 6),
    "int64-bits": trunc_case(0.25, 0, 8, 1.0, 6, "ffifi"),
    "float64-scale": trunc_case(0.1, 0, 8, 0.4, 6, "dffdf"),
    "float64-output-scale": trunc_case(0.1, 1, 8, 0.4, 6, "fffdf"),
    "int64-zero-point": trunc_case(0.1, 1, 8, 0.4, 6, "fifff"),
    "1bit": trunc_case(0.25, 0, 8, 1.0, 1),
    "fractional-bits": trunc_case(0.25, 0, 8, 1.0, 2.5),
}

TRUNC_V1: dict[str, Case] = {
    name: Case("trunc_v1", tuple(np.asarray(v, t) for v, t in zip(values, types, strict=True)), {}, 0.25)
    for name, values, types in (
        ("8to6", (0.25, 0, 8, 6), "ffff"),
        ("zero-point", (0.1, 3, 8, 4), "ffff"),
        ("zero-point-fraction", (0.1, -1.25, 8, 4), "ffff"),
        ("widening", (0.25, 0, 6, 8), "ffff"),
        ("int64-bits", (0.25, 0, 8, 6), "ffqq"),
        ("mixed-bits", (0.25, 0, 8, 6), "ffqf"),
        ("float64-scale", (0.1, 0, 8, 6), "dfff"),
        ("int64-zero-point", (0.1, 3, 8, 6), "fqff"),
        ("channels", (CHANNELS, 0, 8, 6), "ffff"),
        ("fractional-bits", (0.25, 0, 8, 5.5), "ffff"),
    )
}

BIPOLAR: dict[str, Case] = {
    "unit": Case("bipolar_quant", (f32(1.0),)),
    "scale": Case("bipolar_quant", (f32(0.0473),)),
    "negative": Case("bipolar_quant", (f32(-0.5),)),
    "zero": Case("bipolar_quant", (f32(0.0),)),
    "channels": Case("bipolar_quant", (CHANNELS.astype(np.float32),)),
    "float64": Case("bipolar_quant", (np.asarray(0.1),)),
}


def _int_quant(x, scale, zero_point, bits, *, signed, narrow, rounding_mode):
    return int_quant(x, scale, zero_point, bits, signed, narrow, rounding_mode)


def _trunc_v2(x, s, z, b, out_s, out_b, *, signed, narrow, rounding_mode):
    return qonnx_trunc_v2(x, s, z, b, narrow, signed, out_s, out_b, rounding_mode)


def _trunc_v1(x, s, z, b, out_b, *, rounding_mode):
    return qonnx_trunc_v1(x, s, z, b, out_b, rounding_mode)


def _float_quant(x, s, e, m, bias, max_val, *, rounding_mode, saturation, **flags):
    return qonnx_float_quant(
        x, s, e, m, bias, max_val=max_val, rounding_mode=rounding_mode, saturation=saturation, **flags
    )


ORACLES: dict[str, Callable[..., Any]] = {
    "quant": _int_quant,
    "float_quant": _float_quant,
    "trunc": _trunc_v2,
    "trunc_v1": _trunc_v1,
    "bipolar_quant": binary_quant,
}
OPERATORS: dict[str, Callable[..., Any]] = {
    "quant": ops.quant,
    "float_quant": ops.float_quant,
    "trunc": ops.trunc,
    "trunc_v1": trunc_v1,
    "bipolar_quant": ops.bipolar_quant,
}


def reference(case: Case, x: np.ndarray, attributes: dict[str, Any]) -> np.ndarray:
    """Returns what qonnx computes, as float32 (which its quantizer nodes cast to)."""
    with np.errstate(all="ignore"):
        return np.asarray(ORACLES[case.operator](x.copy(), *case.parameters, **attributes)).astype(np.float32)


def check(case: Case, attributes: dict[str, Any], assert_same_bits: Callable[..., None]) -> None:
    x = points(scale=case.step)
    expected = reference(case, x, attributes)
    parameters = [torch.from_numpy(np.array(p)) for p in case.parameters]
    function = OPERATORS[case.operator]
    with torch.no_grad():
        assert_same_bits(function(torch.from_numpy(x), *parameters, **attributes), expected)
    # The straight-through path, which training takes, gives the same bits.
    tracked = [torch.from_numpy(x), *parameters]
    tracked = [t.clone().requires_grad_() if t.is_floating_point() else t for t in tracked]
    assert_same_bits(function(*tracked, **attributes), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{case.operator}-{name}")
        for table in (QUANT, FLOAT, TRUNC, TRUNC_V1)
        for name, case in table.items()
    ],
)
def test_equals_qonnx(case: Case, mode: str, assert_same_bits: Callable[..., None]) -> None:
    check(case, {**case.attributes, "rounding_mode": mode}, assert_same_bits)


@pytest.mark.parametrize("case", BIPOLAR.values(), ids=BIPOLAR)
def test_bipolar_quant_equals_qonnx(case: Case, assert_same_bits: Callable[..., None]) -> None:
    check(case, {}, assert_same_bits)


COMPILED = (
    QUANT["channels"],
    QUANT["4bit-signed0-narrow1"],
    QUANT["zero-point-fraction-1bit"],
    QUANT["2.5bit-signed1-narrow1"],
    QUANT["float64-scale-of-channels"],
    QUANT["denormal-scale"],
    FLOAT["e4m3-448"],
    FLOAT["infinity-and-nan"],
    TRUNC["zero-point-fraction"],
    TRUNC_V1["mixed-bits"],
)


@pytest.mark.parametrize("operator", ["quant", "float_quant", "trunc", "trunc_v1"])
def test_compiled_equals_qonnx(operator: str, assert_same_bits: Callable[..., None]) -> None:
    cases = [c for c in COMPILED if c.operator == operator]
    function = OPERATORS[operator]

    @torch.compile(fullgraph=True)
    def every_mode(x: torch.Tensor, parameters: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
        return [
            [function(x, *p, **c.attributes, rounding_mode=m) for m in ROUNDING_MODES]
            for c, p in zip(cases, parameters, strict=True)
        ]

    x = points()
    with torch.no_grad():
        results = every_mode(
            torch.from_numpy(x), [[torch.from_numpy(np.array(p)) for p in c.parameters] for c in cases]
        )
    for case, result in zip(cases, results, strict=True):
        for mode, y in zip(ROUNDING_MODES, result, strict=True):
            assert_same_bits(y, reference(case, x, {**case.attributes, "rounding_mode": mode}))


def test_x_without_dimensions(assert_same_bits: Callable[..., None]) -> None:
    case = QUANT["4bit-signed1-narrow0"]
    parameters = [torch.from_numpy(np.array(p)) for p in case.parameters]
    for value in (0.2, -9.0, float("nan")):
        attributes = {**case.attributes, "rounding_mode": "FLOOR"}
        assert_same_bits(
            ops.quant(torch.tensor(value), *parameters, **attributes), reference(case, f32(value), attributes)
        )


def test_python_numbers_are_float32(assert_same_bits: Callable[..., None]) -> None:
    x = points(scale=0.1)
    expected = reference(quant_case(0.1, 0.25, 4), x, {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"})
    assert_same_bits(ops.quant(torch.from_numpy(x), 0.1, 0.25, 4), expected)
