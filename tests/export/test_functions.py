"""Model-local functions against qonnx 1.0.0, bit for bit, in onnxruntime without graph optimisation.

Every expected value comes from the qonnx operator itself, executed in the test. One file holds all nodes of a
group of cases, since starting a session costs more than running a node.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes.common import InlinePass
from qonnx.custom_op.general.multithreshold import multithreshold
from qonnx.custom_op.registry import getCustomOp

from qonnx_torch.export.functions import attach_functions, refresh_functions, strip_functions

GENERAL = "qonnx.custom_op.general"
CHANNELS_LAST = "qonnx.custom_op.channels_last"
MODES = ("ROUND", "HALF_EVEN", "CEIL", "FLOOR", "UP", "DOWN", "HALF_UP", "HALF_DOWN")
WIDTHS = (1, 2, 3, 4, 8, 12, 16, 2.5)
SPECIAL = np.array(
    [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        1e-45,
        -1e-45,
        1e-39,
        -1e-39,
        1.1754944e-38,
        3.4028235e38,
        -3.4028235e38,
    ],
    np.float32,
)


@dataclass(frozen=True)
class Case:
    """A node: operator, attributes, inputs after the first, domain, and qonnx's version of the operator."""

    op_type: str
    attributes: Mapping[str, Any]
    inputs: Sequence[np.ndarray]
    domain: str = GENERAL
    version: int = 1
    assumed: Mapping[str, Any] = field(default_factory=dict)
    """Attributes absent from the node that qonnx wants to see."""


def f32(value: Any) -> np.ndarray:
    return np.asarray(value, np.float32)


def build(
    cases: Iterable[Case], x: np.ndarray, *, opset: int = 21, ir_version: int = 10, dynamic: bool = False
) -> onnx.ModelProto:
    """Return a model with input x and one node and output per case; parameters are initializers or inputs."""
    cases = list(cases)
    arrays: dict[tuple[Any, ...], tuple[str, np.ndarray]] = {}
    nodes = []
    for index, case in enumerate(cases):
        names = []
        for array in case.inputs:
            array = np.asarray(array)
            key = (array.dtype, array.shape, array.tobytes())
            names.append(arrays.setdefault(key, (f"p{len(arrays)}", array))[0])
        node = helper.make_node(
            case.op_type, ["x", *names], [f"y{index}"], f"n{index}", domain=case.domain, **case.attributes
        )
        nodes.append(node)
    inputs = [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)]
    initializers = []
    for name, array in arrays.values():
        if dynamic:
            elem_type = helper.np_dtype_to_tensor_dtype(array.dtype)
            inputs.append(helper.make_tensor_value_info(name, elem_type, array.shape))
        else:
            initializers.append(numpy_helper.from_array(array, name))
    rank = x.ndim
    outputs = [
        helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [f"d{i}_{axis}" for axis in range(rank)])
        for i in range(len(cases))
    ]
    versions = {"": opset, **{case.domain: case.version for case in cases}}
    return helper.make_model(
        helper.make_graph(nodes, "cases", inputs, outputs, initializers),
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in versions.items()],
        ir_version=ir_version,
    )


def run(
    model: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray],
    level: ort.GraphOptimizationLevel = ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


def qonnx_value(case: Case, x: np.ndarray) -> np.ndarray:
    """Return what qonnx computes for a case, as float32."""
    names = [f"i{position}" for position in range(len(case.inputs))]
    attributes = {**case.attributes, **case.assumed}
    node = helper.make_node(case.op_type, ["x", *names], ["y"], domain=case.domain, **attributes)
    context = {"x": x, **dict(zip(names, case.inputs, strict=True))}
    with np.errstate(all="ignore"):
        getCustomOp(node, onnx_opset_version=case.version).execute_node(context, None)
        return np.asarray(context["y"]).astype(np.float32)


def mismatches(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return where two float32 arrays differ in their bits; any two NaN are equal."""
    assert actual.dtype == expected.dtype == np.float32
    assert actual.shape == expected.shape
    same = (actual.view(np.int32) == expected.view(np.int32)) | (np.isnan(actual) & np.isnan(expected))
    return np.argwhere(~same)


def assert_equal_to_qonnx(cases: Sequence[Case], x: np.ndarray, **options: Any) -> None:
    """Attach functions, run all cases in one session, and compare each with qonnx."""
    model = attach_functions(build(cases, x, **options))
    feeds = {"x": x}
    if options.get("dynamic"):
        for node, case in zip(model.graph.node, cases, strict=True):
            feeds.update(zip(node.input[1:], map(np.asarray, case.inputs), strict=True))
    wrong = []
    for case, actual in zip(cases, run(model, feeds), strict=True):
        expected = qonnx_value(case, x)
        where = mismatches(actual, expected)
        if len(where):
            at = tuple(where[0])
            shown = f"x={x[at]!r}: {actual[at]!r}, qonnx {expected[at]!r}" if x.shape == actual.shape else ""
            wrong.append(f"{case.op_type} {case.attributes} {case.inputs}: {len(where)} points, {shown}")
    assert not wrong, f"{len(wrong)} of {len(cases)} cases differ:\n" + "\n".join(wrong[:10])


def around(values: np.ndarray) -> np.ndarray:
    """Return float32 values with their lower and upper neighbours."""
    values = f32(values)
    return np.concatenate([values, np.nextafter(values, f32(-np.inf)), np.nextafter(values, f32(np.inf))])


def quant_points(scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Return points (n, 2): ties, integers and range ends of all widths, each +-1 ulp, and specials."""
    bounds = [
        sign * (2**bits + offset) for bits in (7, 8, 11, 12, 15, 16) for sign in (-1, 1) for offset in OFFSETS
    ]
    grid = np.concatenate(
        [np.arange(-20, 20.5, 0.5), bounds, [8388609.0, -8388609.0, 0.49999997, -0.49999997]]
    )
    columns = []
    for s, z in zip(np.broadcast_to(scale, (1, 2))[0], np.broadcast_to(zero, (1, 2))[0], strict=True):
        columns.append(np.concatenate([around((grid - float(z)) * float(s)), SPECIAL]))
    return np.stack(columns, axis=1)


OFFSETS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5)

QUANT_PARAMETERS = {
    "scalar": (f32(0.25), f32(0.0), np.float32),
    "one element": (f32([0.1]), f32([3.0]), np.float32),
    "per channel": (f32([0.0371, 1 / 3]), f32([[0.25, -7.0]]), np.float32),
    "fractional zero point": (f32(0.1), f32(2.7), np.float32),
    "negative scale, negative zero": (f32(-0.3), f32(-0.0), np.float32),
    "float64 scale": (np.float64(0.1), f32(0.5), np.float32),
    "float64 per channel": (np.array([0.1, 1 / 3]), f32(1.0), np.float64),
    "qkeras": (np.float64(0.0371), np.int64(0), np.int64),
    "int64 zero point": (f32(0.1), np.int64(3), np.int64),
    "int64 zero point, float32 width": (f32(1 / 3), np.int64(1), np.float32),
    "int8 zero point, int32 width": (f32(0.1), np.int8(-5), np.int32),
    "int64 scale": (np.int64(2), np.int64(-1), np.int64),
    "float16 scale": (np.float16(0.1), np.float16(0.3), np.float32),
}


def quant_cases(
    parameters: tuple[Any, Any, Any], modes: Sequence[str], widths: Sequence[float], op_type: str = "Quant"
) -> list[Case]:
    scale, zero, width_type = parameters
    return [
        Case(
            op_type,
            {"signed": signed, "narrow": narrow, "rounding_mode": mode},
            [np.asarray(scale), np.asarray(zero), np.asarray(width, width_type)],
        )
        for mode, signed, narrow, width in itertools.product(modes, (0, 1), (0, 1), widths)
        if float(width).is_integer() or np.dtype(width_type).kind == "f"
    ]


@pytest.mark.parametrize("parameters", QUANT_PARAMETERS.values(), ids=QUANT_PARAMETERS.keys())
def test_quant(parameters: tuple[Any, Any, Any]) -> None:
    assert_equal_to_qonnx(quant_cases(parameters, MODES, WIDTHS), quant_points(*parameters[:2]))


@pytest.mark.parametrize("name", ["per channel", "qkeras", "int64 zero point"])
def test_quant_with_parameters_of_the_run(name: str) -> None:
    parameters = QUANT_PARAMETERS[name]
    cases = quant_cases(parameters, MODES, (1, 2.5, 8))
    model = attach_functions(build(cases, f32([[0.0, 0.0]]), dynamic=True))
    assert {f.overload.split("_DOUBLE")[0] for f in model.functions} >= {"ROUND_DYNAMIC", "HALF_DOWN_DYNAMIC"}
    assert_equal_to_qonnx(cases, quant_points(*parameters[:2]), dynamic=True)


def test_int_quant_and_defaults() -> None:
    parameters = QUANT_PARAMETERS["per channel"]
    cases = quant_cases(parameters, MODES, (1, 3, 8), op_type="IntQuant")
    for op_type in ("Quant", "IntQuant"):
        cases.append(Case(op_type, {"signed": 1, "narrow": 0}, [f32(0.1), f32(0.0), f32(4.0)]))
        cases.append(Case(op_type, {"signed": 1, "narrow": 0, "rounding_mode": "half_Up"}, cases[0].inputs))
        # A width of shape (1,), wide ranges, and more bits than float32 has digits.
        for signed, narrow, width in itertools.product((0, 1), (0, 1), (4, 20, 24, 25, 26, 32)):
            flags = {"signed": signed, "narrow": narrow, "rounding_mode": "ROUND"}
            cases.append(Case(op_type, flags, [f32(2e-4), f32(0.0), f32([width])]))
            cases.append(Case(op_type, flags, [f32(2e-4), f32(0.0), np.array(width, np.int64)]))
            cases.append(Case(op_type, flags, [np.float64(2e-4), f32(0.0), np.array(width, np.int64)]))
    x = quant_points(*parameters[:2])
    ends = around([sign * 2.0**bits * f32(2e-4) for bits in range(18, 33) for sign in (-1, 1)])
    assert_equal_to_qonnx(cases, np.concatenate([x, np.stack([ends, -ends], axis=1)]))


@pytest.mark.parametrize("rank", [0, 1, 4])
def test_quant_of_other_ranks(rank: int) -> None:
    x = np.linspace(-3, 3, 2**rank if rank else 1, dtype=np.float32).reshape([2] * rank)
    scales = [f32(0.1), f32(np.arange(1, 3).reshape([2, *[1] * (rank - 1)])) if rank else f32(0.3)]
    flags = {"signed": 1, "narrow": 1, "rounding_mode": "ROUND"}
    assert_equal_to_qonnx([Case("Quant", flags, [s, f32(0.0), f32(w)]) for s in scales for w in (1, 4)], x)


def test_bipolar_quant() -> None:
    x = np.stack([np.concatenate([SPECIAL, f32([-1.5, 0.3])])] * 2, axis=1)
    scales = [f32(0.1), f32([0.3]), f32([[1 / 3, -2.0]]), np.float64(0.1), np.int64(3), np.float16(0.1)]
    assert_equal_to_qonnx([Case("BipolarQuant", {}, [np.asarray(s)]) for s in scales], x)


TRUNC_PARAMETERS = {
    # scale, zero point, out_scale, type of the bit widths
    "float32": (f32(0.25), f32(0.0), f32(1.0), np.float32),
    "zero point": (f32(0.1), f32([[3.0, -2.5]]), f32([[0.4, 0.8]]), np.float32),
    "odd ratio": (f32([0.1, 1 / 3]), f32(0.5), f32(0.9), np.float32),
    "integers": (f32(0.1), np.int64(2), f32(0.8), np.int64),
    "float64": (np.float64(0.1), f32(1.5), np.float64(0.4), np.int64),
    "mixed": (f32(0.1), f32(1.5), np.float64(0.4), np.float32),
}


@pytest.mark.parametrize("parameters", TRUNC_PARAMETERS.values(), ids=TRUNC_PARAMETERS.keys())
def test_trunc_v1(parameters: tuple[Any, Any, Any, Any]) -> None:
    scale, zero, _, width_type = parameters
    cases = [
        Case("Trunc", {"rounding_mode": mode}, [scale, zero, *np.array([bits, out], width_type)])
        for mode in (*MODES, "floor")
        for bits, out in ((8, 6), (8, 8), (10, 3), (4, 8), (9, 2.5))
        if float(out).is_integer() or width_type is np.float32
    ]
    cases.append(Case("Trunc", {}, cases[0].inputs, assumed={"rounding_mode": "FLOOR"}))
    assert_equal_to_qonnx(cases, quant_points(scale, zero))


@pytest.mark.parametrize("parameters", TRUNC_PARAMETERS.values(), ids=TRUNC_PARAMETERS.keys())
def test_trunc_v2(parameters: tuple[Any, Any, Any, Any]) -> None:
    scale, zero, out_scale, width_type = parameters
    cases = [
        Case(
            "Trunc",
            {"rounding_mode": mode, "signed": signed, "narrow": narrow},
            [scale, zero, width_type(8), np.asarray(out_scale), width_type(out)],
            version=2,
        )
        for mode in MODES
        for signed, narrow in itertools.product((0, 1), (0, 1))
        for out in (1, 2, 4, 8)
    ]
    cases.append(
        Case(
            "Trunc",
            {},
            cases[0].inputs,
            version=2,
            assumed={"rounding_mode": "FLOOR", "signed": 1, "narrow": 0},
        )
    )
    assert_equal_to_qonnx(cases, quant_points(scale, zero))


def test_trunc_v2_rounds_the_exponent_as_qonnx_does() -> None:
    """Ratios within 8 ulp of 2^(k + 1/2), where log2 may or may not round to a tie."""
    cases = []
    for k in range(-6, 12):
        ratio = f32(2.0 ** (k + 0.5))
        for step in range(-8, 9):
            out_scale = (ratio.view(np.int32) + np.int32(step)).view(np.float32)
            inputs = [f32(1.0), f32(0.0), f32(8.0), out_scale, f32(8.0)]
            cases.append(Case("Trunc", {"rounding_mode": "ROUND"}, inputs, version=2))
    assert_equal_to_qonnx(cases, f32([[-9.0, 100.0, 3.5, 2.5]]))


FORMATS = {
    # exponent width, mantissa width, exponent bias, max_val
    "e4m3": (4, 3, 7, 448.0),
    "e5m2": (5, 2, 15, 57344.0),
    "e4m3fnuz": (4, 3, 8, 240.0),
    "e2m1": (2, 1, 1, 6.0),
    "e3m2": (3, 2, 3, 1e9),
    "bfloat16": (8, 7, 127, 3.3895314e38),
    "e3m1.5": (3, 1.5, 2.5, 14.0),
}


def float_points() -> np.ndarray:
    """Return all powers of two with 8 values below and 1 above, steps, range ends, and specials."""
    powers = f32(2.0 ** np.arange(-126, 128, dtype=np.float64))
    below = [(powers.view(np.int32) - np.int32(step)).view(np.float32) for step in range(-1, 9)]
    grid = around(np.concatenate([np.arange(0, 64) / 64, np.arange(0, 64), np.arange(400, 520, 4)]))
    positive = np.concatenate([*below, grid, around([57344.0, 61440.0, 65536.0])])
    return np.concatenate([positive, -positive, SPECIAL])[:, None]


FLOAT_TYPES = {
    # scale, type of the three format numbers, type of max_val
    "float32": (f32(1.0), np.float32, np.float32),
    "float32 scale": (f32([[0.0371, 1 / 3]]), np.float32, np.float32),
    "float64 scale": (np.float64(0.0371), np.float32, np.float32),
    "integers": (f32(0.25), np.int64, np.float64),
    "float64": (np.float64(1 / 3), np.float64, np.float64),
}


@pytest.mark.parametrize("types", FLOAT_TYPES.values(), ids=FLOAT_TYPES.keys())
def test_float_quant(types: tuple[Any, Any, Any]) -> None:
    scale, width_type, max_type = types
    overflows = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)]
    cases = [
        Case(
            "FloatQuant",
            {
                "has_inf": inf,
                "has_nan": nan,
                "has_subnormal": 1,
                "saturation": saturation,
                "rounding_mode": mode,
            },
            [
                np.asarray(scale),
                *(np.asarray(number, width_type) for number in numbers[:3]),
                max_type(numbers[3]),
            ],
        )
        for mode, numbers, (saturation, inf, nan) in itertools.product(MODES, FORMATS.values(), overflows)
        if all(float(number).is_integer() for number in numbers[:3]) or np.dtype(width_type).kind == "f"
    ]
    attributes = {name: value for name, value in cases[0].attributes.items() if name != "rounding_mode"}
    cases.append(Case("FloatQuant", attributes, cases[0].inputs))
    x = float_points()
    assert_equal_to_qonnx(cases, np.concatenate([x, f32(x * f32(np.ravel(scale)[0]))]))


def test_multi_threshold() -> None:
    rng = np.random.default_rng(0)
    layouts = {
        2: ("", "NC"),
        3: ("", "NCW", "NWC"),
        4: ("", "NCHW", "NHWC", "NHCW", "XYZQ"),
        5: ("", "NCDHW", "NDHWC"),
    }
    for rank, names in layouts.items():
        x = f32(rng.integers(-8, 8, [3] * rank) / 2)
        x.ravel()[: len(SPECIAL)] = SPECIAL[: x.size]
        per_channel = f32(rng.integers(-8, 8, (3, 7)) / 2)
        thresholds = [
            per_channel,
            np.sort(per_channel[:1]),
            per_channel.astype(np.float64) / 3,
            per_channel.astype(np.int64),
        ]
        cases = [
            Case(
                "MultiThreshold",
                {"out_dtype": "INT4", **({"data_layout": layout} if layout else {}), **scaling},
                [t],
            )
            for layout, t, scaling in itertools.product(
                names, thresholds, ({}, {"out_scale": 0.1, "out_bias": -0.7}, {"out_bias": -4.0})
            )
        ]
        assert_equal_to_qonnx(cases, x)
    # Once more with qonnx's counting function alone, which guards against a wrong reading of layouts.
    expected = multithreshold(x, per_channel, channels_last=True).astype(np.float32)
    (actual,) = run(
        attach_functions(build([Case("MultiThreshold", {"data_layout": "NDHWC"}, [per_channel])], x)),
        {"x": x},
    )
    assert not len(mismatches(actual, expected))


def channels_last_cases() -> dict[str, tuple[Case, tuple[int, ...]]]:
    rng = np.random.default_rng(1)

    def small(*shape: int) -> np.ndarray:
        return f32(rng.integers(-8, 8, shape))

    conv_2d = {
        "kernel_shape": [3, 2],
        "strides": [2, 1],
        "pads": [1, 0, 1, 1],
        "dilations": [1, 2],
        "group": 1,
    }
    depthwise = {
        "kernel_shape": [3, 3],
        "strides": [1, 1],
        "pads": [1, 1, 1, 1],
        "dilations": [1, 1],
        "group": 4,
    }
    pool = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 1, 0, 1]}
    normal = [f32([0.5, 1.0, -2.0]), f32([0.1, 0.0, 1.0]), f32([1.0, 2.0, -0.3]), f32([0.3, 2.0, 5.0])]
    return {
        "conv": (Case("Conv", conv_2d, [small(5, 3, 2, 3)], CHANNELS_LAST), (2, 7, 6, 3)),
        "conv with bias": (Case("Conv", conv_2d, [small(5, 3, 2, 3), small(5)], CHANNELS_LAST), (1, 7, 6, 3)),
        "depthwise": (Case("Conv", depthwise, [small(8, 3, 3, 1)], CHANNELS_LAST), (1, 5, 5, 4)),
        "bare": (Case("Conv", {}, [small(2, 3, 3, 3)], CHANNELS_LAST), (1, 5, 5, 3)),
        "conv 1-D": (
            Case("Conv", {"kernel_shape": [3], "pads": [1, 1]}, [small(2, 3, 3)], CHANNELS_LAST),
            (2, 5, 3),
        ),
        "max pool": (Case("MaxPool", pool, [], CHANNELS_LAST), (1, 6, 5, 3)),
        "max pool, ceil": (Case("MaxPool", {**pool, "ceil_mode": 1}, [], CHANNELS_LAST, 10), (1, 7, 5, 3)),
        "batch norm": (
            Case("BatchNormalization", {"epsilon": 1e-3, "momentum": 0.9}, normal, CHANNELS_LAST, 14),
            (2, 4, 5, 3),
        ),
    }


@pytest.mark.parametrize("name", channels_last_cases())
def test_channels_last(name: str) -> None:
    """Integer data: every order of summation gives the same bits."""
    case, shape = channels_last_cases()[name]
    x = f32(np.random.default_rng(2).integers(-8, 8, shape))
    (actual,) = run(attach_functions(build([case], x)), {"x": x})
    names = [f"i{position}" for position in range(len(case.inputs))]
    node = helper.make_node(case.op_type, ["x", *names], ["y"], domain=case.domain, **case.attributes)
    # qonnx wants an output of the right rank in the context.
    context = {"x": x, "y": np.zeros_like(actual), **dict(zip(names, case.inputs, strict=True))}
    operator = getCustomOp(node, onnx_opset_version=case.version)
    operator.onnx_opset_version = max(case.version, 11)
    operator.execute_node(context, None)
    assert not len(mismatches(actual, context["y"]))


# ----------------------------------------------------------------------------------------------------
# Models
# ----------------------------------------------------------------------------------------------------


def one_of_each(**options: Any) -> onnx.ModelProto:
    """Return a model with all general operators, static and 1 bit, in several modes."""
    quant = {"signed": 1, "narrow": 0}
    float_quant = {"has_inf": 0, "has_nan": 1, "has_subnormal": 1, "saturation": 1}
    zero, three, four = f32(0.0), f32(3.0), f32(4.0)
    cases = [
        Case("Quant", {**quant, "rounding_mode": "round"}, [f32(0.5), zero, four]),
        Case("Quant", {**quant, "rounding_mode": "FLOOR"}, [f32(0.5), zero, four]),
        Case("Quant", {**quant, "rounding_mode": "ROUND_TO_ZERO"}, [f32(0.5), zero, four]),
        Case("Quant", quant, [f32(0.5), zero, f32(1.0)]),
        Case("Quant", quant, [np.float64(0.5), np.int64(0), np.int64(4)]),
        Case("IntQuant", quant, [f32(0.5), np.int64(0), four]),
        Case("BipolarQuant", {}, [f32(0.5)]),
        Case("Trunc", {}, [f32(0.5), zero, four, three]),
        Case("Trunc", {}, [f32(0.5), zero, four, f32(1.0), three]),
        Case("FloatQuant", float_quant, [f32(0.5), four, three, f32(7.0), f32(448.0)]),
        Case("FloatQuant", {**float_quant, "saturation": 0}, [f32(0.5), four, three, f32(7.0), f32(448.0)]),
        Case("MultiThreshold", {"out_dtype": "UINT2"}, [f32([[0.0, 1.0, 2.0]])]),
    ]
    return build(cases, f32([[0.3, -2.0]]), **options)


OVERLOADS = [
    ("Quant", "ROUND"),
    ("Quant", "FLOOR"),
    ("Quant", "DOWN"),
    ("Quant", "BIPOLAR"),
    ("Quant", "ROUND_DOUBLE"),
    ("IntQuant", "ROUND_DOUBLE_SUM"),
    ("BipolarQuant", ""),
    ("Trunc", "FLOOR_V1"),
    ("Trunc", "FLOOR_V2"),
    ("FloatQuant", "ROUND"),
    ("FloatQuant", "ROUND_NAN"),
    ("MultiThreshold", "CHANNEL_LAST"),
]


def test_overloads_are_readable_and_only_those_used() -> None:
    model = attach_functions(one_of_each())
    assert [(f.name, f.overload) for f in model.functions] == OVERLOADS
    assert [(n.op_type, n.overload) for n in model.graph.node] == OVERLOADS
    for function in model.functions:
        assert function.doc_string
        assert not {node.op_type for node in function.node} & {"If", "Loop", "Identity"}
        assert {node.domain for node in function.node} == {""}
        assert all(a.type != onnx.AttributeProto.STRING for node in function.node for a in node.attribute)


@pytest.mark.parametrize("opset", [*range(15, 22), 23, 25])
def test_checker_inference_and_runtime_at_each_opset(opset: int) -> None:
    original = one_of_each(opset=opset, ir_version=8)
    model = attach_functions(original)
    assert model.ir_version == 10
    for function in model.functions:
        assert {o.domain: o.version for o in function.opset_import} == {"": opset, GENERAL: 1}
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    outputs = [[d.dim_value for d in o.type.tensor_type.shape.dim] for o in inferred.graph.output]
    assert len(outputs) == len(OVERLOADS)
    x = f32([[0.3, -2.0]])
    for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
        values = run(model, {"x": x}, level)
        expected = run(attach_functions(one_of_each()), {"x": x})
        assert not any(len(mismatches(a, e)) for a, e in zip(values, expected, strict=True))


def test_inlined_functions_compute_the_same() -> None:
    x = f32([[0.3, -2.0]])
    attached = attach_functions(one_of_each())
    inlined = ir.from_proto(attached)
    InlinePass()(inlined)
    inlined = ir.to_proto(inlined)
    assert not inlined.functions
    assert {node.domain for node in inlined.graph.node} == {""}
    for actual, expected in zip(run(inlined, {"x": x}), run(attached, {"x": x}), strict=True):
        assert not len(mismatches(actual, expected))


def test_inference_flows_through_the_functions() -> None:
    model = one_of_each()
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(attach_functions(model), check_type=True, strict_mode=True)
    for output in inferred.graph.output:
        assert [d.dim_value for d in output.type.tensor_type.shape.dim] == [1, 2]


def test_attach_refresh_and_strip_are_inverse_and_idempotent() -> None:
    original = one_of_each()
    before = original.SerializeToString(deterministic=True)
    attached = attach_functions(original)
    assert original.SerializeToString(deterministic=True) == before
    expected = attached.SerializeToString(deterministic=True)
    assert attach_functions(attached).SerializeToString(deterministic=True) == expected
    assert refresh_functions(attached).SerializeToString(deterministic=True) == expected
    assert strip_functions(attached).SerializeToString(deterministic=True) == before
    assert strip_functions(original).SerializeToString(deterministic=True) == before
    del attached.functions[:]
    assert refresh_functions(attached).SerializeToString(deterministic=True) == expected


def test_refresh_follows_edits() -> None:
    model = attach_functions(one_of_each())
    node = model.graph.node[1]
    next(a for a in node.attribute if a.name == "rounding_mode").s = b"CEIL"
    refreshed = refresh_functions(model)
    assert refreshed.graph.node[1].overload == "CEIL"
    assert ("Quant", "FLOOR") not in [(f.name, f.overload) for f in refreshed.functions]


def test_other_functions_stay() -> None:
    model = one_of_each()
    other = helper.make_function(
        "other", "Quant", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], [helper.make_opsetid("", 21)]
    )
    other.overload = "mine"
    wrapper = helper.make_function(
        "other",
        "Wrapper",
        ["a", "s", "z", "w"],
        ["b"],
        [helper.make_node("Quant", ["a", "s", "z", "w"], ["b"], "inner", domain=GENERAL, signed=1, narrow=0)],
        [helper.make_opsetid("", 21), helper.make_opsetid(GENERAL, 1)],
    )
    model.functions.extend([other, wrapper])
    model.opset_import.append(helper.make_opsetid("other", 1))
    parameters = model.graph.node[0].input[1:]
    model.graph.node.append(helper.make_node("Quant", ["x"], ["o"], domain="other", overload="mine"))
    model.graph.node.append(helper.make_node("Wrapper", ["o", *parameters], ["w"], domain="other"))
    model.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [1, 2]))
    attached = attach_functions(model)
    assert attached.functions[0] == other
    assert attached.functions[1].node[0].overload == "ROUND_DYNAMIC"
    assert attached.graph.node[-2].overload == "mine"
    onnx.checker.check_model(attached, full_check=True)
    x = f32([[0.3, -2.0]])
    # onnxruntime 1.32 resolves no overload inside a function: inline the outer one.
    inlined = onnx.inliner.inline_selected_functions(attached, [("other", "Wrapper")])
    values = run(inlined, {"x": -x})
    assert values[-1].tolist() == run(attach_functions(one_of_each()), {"x": x})[0].tolist()
    assert strip_functions(attached) == model


def test_subgraphs_and_domain_aliases() -> None:
    """A node inside If sees initializers of the outer graph; alias domains keep their name and version."""
    branches = []
    for mode in ("FLOOR", "CEIL"):
        node = helper.make_node(
            "Quant",
            ["x", "s", "z", "w"],
            [mode],
            domain="onnx.brevitas",
            signed=1,
            narrow=0,
            rounding_mode=mode,
        )
        branches.append(
            helper.make_graph([node], mode, [], [helper.make_tensor_value_info(mode, TensorProto.FLOAT, [2])])
        )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], else_branch=branches[0], then_branch=branches[1])],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(f32(v), n) for n, v in (("s", 1.0), ("z", 0.0), ("w", 4.0))],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("onnx.brevitas", 3)]
    model = attach_functions(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    assert [(f.domain, f.overload, f.opset_import[1].version) for f in model.functions] == [
        ("onnx.brevitas", "FLOOR", 3),
        ("onnx.brevitas", "CEIL", 3),
    ]
    onnx.checker.check_model(model, full_check=True)
    for condition, expected in ((True, [1.0, -1.0]), (False, [0.0, -2.0])):
        (actual,) = run(model, {"x": f32([0.5, -1.5]), "c": np.array(condition)})
        assert actual.tolist() == expected


def test_types_and_widths_of_computed_parameters() -> None:
    """Constants are static, overridable widths dynamic, computed parameters get their type from inference."""
    graph = onnx.parser.parse_graph(
        """g (float[1, 2] x, float w2) => (float[1, 2] a, float[1, 2] b, float[1, 2] c) <float w2 = {1.0}> {
            s = Constant <value_float = 0.5> ()
            zf = Constant <value_float = 3.0> ()
            z = Cast <to = 7> (zf)
            w = Constant <value_float = 1.0> ()
            a = qonnx.custom_op.general.Quant <signed = 1, narrow = 0> (x, s, zf, w)
            b = qonnx.custom_op.general.Quant <signed = 1, narrow = 0> (a, s, z, w2)
            t = Mul (b, s)
            k = Constant <value_float = 4.0> ()
            c = qonnx.custom_op.general.Quant <signed = 0, narrow = 0> (t, s, zf, k)
        }"""
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(GENERAL, 1)]
    model = attach_functions(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    overloads = [node.overload for node in model.graph.node if node.domain]
    assert overloads == ["BIPOLAR", "ROUND_DYNAMIC_DOUBLE_SUM", "ROUND"]
    onnx.checker.check_model(model, full_check=True)
    assert len(run(model, {"x": f32([[1.0, -1.0]]), "w2": f32(4.0)})) == 3


@pytest.mark.parametrize("elem_type", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_declared_output_types(elem_type: int) -> None:
    model = one_of_each()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = elem_type
    attached = attach_functions(model)
    onnx.checker.check_model(attached, full_check=True)
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    for value in run(attached, {"x": np.array([[0.3, -2.0]], dtype)}):
        assert value.dtype == dtype
    assert attached.graph.node[0].overload.endswith(f"_TO_{TensorProto.DataType.Name(elem_type)}")


def test_models_without_qonnx_nodes_are_copied() -> None:
    model = helper.make_model(
        helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], []),
        opset_imports=[helper.make_opsetid("", 9)],
        ir_version=4,
    )
    assert attach_functions(model) == model
    assert attach_functions(model) is not model


def test_old_opsets_are_refused() -> None:
    with pytest.raises(ValueError, match="functions need opset >= 15, but the model has opset 14"):
        attach_functions(one_of_each(opset=14))


REFUSED = [
    (
        Case("Quant", {"signed": 1, "narrow": 0, "rounding_mode": "STOCHASTIC"}, [f32(1)] * 3),
        "rounding_mode 'STOCHASTIC'",
    ),
    (Case("Quant", {"narrow": 0}, [f32(1)] * 3), "attribute 'signed' is missing"),
    (Case("Quant", {"signed": 1, "narrow": 2}, [f32(1)] * 3), "attribute 'narrow' is 2"),
    (Case("Quant", {"signed": 1, "narrow": 0}, [f32(1)] * 2), "needs 4"),
    (Case("Quant", {"signed": 1, "narrow": 0}, [f32(1), f32(0), f32([4, 8])]), r"bit width has shape \(2,\)"),
    (Case("Trunc", {"rounding_mode": "DPU"}, [f32(1)] * 4), "rounding_mode 'DPU'"),
    (Case("Trunc", {}, [f32(1)] * 3), "needs 5 or 6"),
    (
        Case("FloatQuant", {"has_inf": 0, "has_nan": 0, "has_subnormal": 1, "saturation": 0}, [f32(1)] * 5),
        "saturation is 0",
    ),
    (
        Case("FloatQuant", {"has_nan": 0, "has_subnormal": 1, "saturation": 1}, [f32(1)] * 5),
        "'has_inf' is missing",
    ),
    (Case("MultiThreshold", {"data_layout": "NHWC"}, [f32([[1]])]), "names axis 3, but the input has rank 2"),
    (Case("Conv", {}, [f32([[[1]]])], CHANNELS_LAST), "rank of at least 3"),
]


@pytest.mark.parametrize(("case", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_refused_nodes(case: Case, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"{case.op_type} node 'n0' \(domain '{case.domain}'\): .*{reason}"):
        attach_functions(build([case], f32([[0.0, 0.0]])))


def test_all_refused_nodes_are_listed() -> None:
    x = f32([[0.0]])
    with pytest.raises(ValueError, match=r"(?s)n0.*n1"):
        attach_functions(build([REFUSED[0][0], REFUSED[1][0]], x))
    model = build([Case("BipolarQuant", {}, [f32(1)])], x)
    del model.opset_import[1:]
    with pytest.raises(ValueError, match="no opset import for this domain"):
        attach_functions(model)
