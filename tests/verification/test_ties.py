"""Tie flips told apart from errors, on cases small enough to work out by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper
from torch import fx

from qonnx_torch.import_ import import_model
from qonnx_torch.verification import LayerResult, VerificationReport, verify

QONNX = "qonnx.custom_op.general"
Make = Callable[..., ModelProto]


def node(
    op_type: str, inputs: Sequence[str], output: str, domain: str = QONNX, **attributes: Any
) -> NodeProto:
    return helper.make_node(op_type, list(inputs), [output], name=output, domain=domain, **attributes)


def quant(x: str, output: str, mode: str = "ROUND") -> NodeProto:
    inputs = [x, "scale", "zero", "bits"]
    return node("Quant", inputs, output, signed=1, narrow=0, rounding_mode=mode)


@pytest.fixture
def two_quantizers(make_model: Make) -> fx.GraphModule:
    """sum = x + 0; q = 4-bit Quant(sum), scale 1; double = 2 q; y = 4-bit Quant(double), scale 1."""
    nodes = [
        node("Add", ["x", "zero"], "sum", ""),
        quant("sum", "q"),
        node("Mul", ["q", "two"], "double", ""),
        quant("double", "y"),
    ]
    constants = {"scale": 1.0, "zero": 0.0, "bits": 4.0, "two": 2.0}
    return import_model(make_model(nodes, initializers=constants))


X = np.array([[2.5, 1.2, 0.7, 9.0]], np.float32)
# Our run: sum = x, q = [2, 1, 1, 7] (2.5 to even, 9 clamped), double = [4, 2, 2, 14], y = [4, 2, 2, 7].
UP = np.nextafter(np.float32(2.5), np.float32(3))


def check(module: fx.GraphModule, exact: bool = True, **changes: tuple[int, float]) -> VerificationReport:
    """Verifies against our own values with one element of each named value changed."""
    values = {
        "sum": X.copy(),
        "q": np.array([[2, 1, 1, 7]], np.float32),
        "double": np.array([[4, 2, 2, 14]], np.float32),
        "y": np.array([[4, 2, 2, 7]], np.float32),
    }
    for name, (index, value) in changes.items():
        values[name][0, index] = value
    return verify(module, X, values, exact_quantizers=exact)


def layer(report: VerificationReport, name: str) -> LayerResult:
    return next(row for row in report.layers if row.name == name)


def test_equal_values(two_quantizers: fx.GraphModule) -> None:
    report = check(two_quantizers)
    assert report.passed
    assert report.equal
    assert report.first_divergence is report.first_difference is None
    assert [row.name for row in report.layers] == ["sum", "q", "double", "y"]
    assert [row.quantizer for row in report.layers] == [False, True, False, True]
    assert report.tie_flips == report.errors == 0


def test_a_flip_on_a_tie(two_quantizers: fx.GraphModule) -> None:
    # The reference summed to the next float above 2.5, and so rounded to 3; its y is 6. Our sum is within
    # tolerance of its sum, and a boundary lies between: one tie flip. Fed with its own sum we give its q,
    # so nothing differs teacher-forced. In double and y the difference is carried (4 against 6), not new.
    report = check(two_quantizers, sum=(0, UP), q=(0, 3), double=(0, 6), y=(0, 6))
    q, y = layer(report, "q"), layer(report, "y")
    assert (q.codes_differing, q.tie_flips, q.carried, q.errors) == (1, 1, 0, 0)
    assert (q.forced_differing, q.forced_tie_flips) == (0, 0)
    assert (y.codes_differing, y.tie_flips, y.carried, y.errors) == (1, 0, 1, 0)
    assert layer(report, "sum").differing == 1
    assert not layer(report, "sum").diverges
    (output,) = report.outputs
    assert (output.differing, output.max_abs_diff, output.within_tolerance) == (1, 2.0, False)
    assert output.behind_tie_flips
    assert (report.tie_flips, report.errors) == (1, 0)
    assert report.passed
    assert report.first_divergence is None
    assert report.first_difference is q
    assert (report.to_dict()["first_divergence"], report.to_dict()["first_difference"]) == (None, "q")
    assert "first difference: Quant 'q'" in report.table()
    assert "first divergence" not in report.table()


def test_the_first_divergence_is_the_error_and_not_a_tie_flip_before_it(
    two_quantizers: fx.GraphModule,
) -> None:
    # q flips on a tie in its first element, as above; y is wrong in its second, on the reference's own input.
    report = check(two_quantizers, sum=(0, UP), q=(0, 3), double=(0, 6), y=(1, 3))
    assert not report.passed
    assert report.first_difference is layer(report, "q")
    assert report.first_divergence is layer(report, "y")


def test_tie_flips_can_be_refused(two_quantizers: fx.GraphModule) -> None:
    expected = {
        "sum": np.array([[UP, 1.2, 0.7, 9.0]], np.float32),
        "q": np.array([[3, 1, 1, 7]], np.float32),
        "double": np.array([[6, 2, 2, 14]], np.float32),
        "y": np.array([[6, 2, 2, 7]], np.float32),
    }
    assert verify(two_quantizers, X, expected).passed
    assert not verify(two_quantizers, X, expected, allow_tie_flips=False).passed


def test_an_error_is_no_tie(two_quantizers: fx.GraphModule) -> None:
    # 1.2 rounds to 1. The nearest boundary, 1.5, is 0.3 steps away, so 2 is wrong.
    report = check(two_quantizers, q=(1, 2), double=(1, 4), y=(1, 4))
    q = layer(report, "q")
    assert (q.codes_differing, q.tie_flips, q.carried, q.code_errors, q.forced_errors) == (1, 0, 0, 1, 1)
    assert report.errors == 1  # what follows from it is not counted again
    assert report.first_divergence is q
    assert not report.passed


def test_errors_fail_also_where_the_outputs_agree(two_quantizers: fx.GraphModule) -> None:
    # 9 is clamped to 7 in both quantizers; a wrong 6 in the first becomes 12, which the second hides.
    report = check(two_quantizers, q=(3, 6), double=(3, 12))
    assert report.equal
    assert layer(report, "q").errors == 1
    assert not report.passed


def test_a_step_beyond_the_clamp_is_no_boundary(make_model: Make) -> None:
    # 4 bits end at 7. 7.5 lies between two integers but is clamped before rounding: 8 is an error, no tie.
    constants = {"scale": 1.0, "zero": 0.0, "bits": 4.0}
    nodes = [node("Identity", ["x"], "same", ""), quant("same", "y")]
    module = import_model(make_model(nodes, initializers=constants))
    x = np.array([[7.5, 0, 0, 0]], np.float32)
    report = verify(module, x, {"same": x, "y": np.array([[8, 0, 0, 0]], np.float32)})
    assert (report.tie_flips, report.errors) == (0, 1)


def test_two_steps_are_no_tie(two_quantizers: fx.GraphModule) -> None:
    # 2.5 may become 2 or 3, never 4.
    report = check(two_quantizers, q=(0, 4), double=(0, 8), y=(0, 7))
    assert (report.tie_flips, report.errors) == (0, 1)


def test_another_code_on_identical_inputs_is_an_error(two_quantizers: fx.GraphModule) -> None:
    # The reference has our sum, exactly 2.5, and rounds it up: another rounding mode. Only where it is known
    # to quantize in other steps (another division) is that a tie flip.
    report = check(two_quantizers, q=(0, 3), double=(0, 6), y=(0, 6))
    q = layer(report, "q")
    assert (q.forced_differing, q.forced_tie_flips, q.forced_errors) == (1, 0, 1)
    assert (q.codes_differing, q.tie_flips, q.code_errors) == (1, 0, 1)
    assert (report.errors, report.passed, report.first_divergence) == (1, False, q)
    report = check(two_quantizers, exact=False, q=(0, 3), double=(0, 6), y=(0, 6))
    q = layer(report, "q")
    assert (q.forced_differing, q.forced_tie_flips, q.forced_errors, q.tie_flips) == (1, 1, 0, 1)
    assert (report.passed, report.exact_quantizers) == (True, False)


def test_an_input_that_the_reference_lacks_is_not_its_own(two_quantizers: fx.GraphModule) -> None:
    # Without sum nobody knows whether the reference summed to 2.5 or to the next float.
    expected = {
        "q": np.array([[3, 1, 1, 7]], np.float32),
        "double": np.array([[6, 2, 2, 14]], np.float32),
        "y": np.array([[6, 2, 2, 7]], np.float32),
    }
    report = verify(two_quantizers, X, expected)
    assert (layer(report, "q").forced_tie_flips, report.tie_flips, report.errors) == (1, 1, 0)
    assert report.passed


@pytest.mark.parametrize("program", ["onnxruntime", "qonnx", "module"])
def test_a_rounding_mode_that_only_ties_reveal(make_model: Make, program: str) -> None:
    # 0.5, 1.5, 2.5, -0.5, 4.5, 3.5: HALF_UP gives 1, 2, 3, -1, 5, 4; ROUND gives 0, 2, 2, 0, 4, 4.
    if program != "module":
        pytest.importorskip(program)
    constants = {"scale": 1.0, "zero": 0.0, "bits": 4.0}
    right, wrong = (
        make_model([quant("x", "y", mode)], initializers=constants, imports={"": 16, QONNX: 2})
        for mode in ("ROUND", "HALF_UP")
    )
    right.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    x = np.array([[0.5, 1.5, 2.5, -0.5], [4.5, 1.0, 3.5, 0.0]], np.float32)
    for proto, passed, errors in ((right, True, 0), (wrong, False, 4)):
        against = {"reference": right} if program == "module" else {"reference": program, "model": right}
        report = verify(import_model(proto, batch="dynamic"), x, **against, batch_size=1)
        assert (report.passed, report.errors, report.tie_flips) == (passed, errors, 0), report.table()


def test_computed_parameters_are_the_references_in_every_batch(make_model: Make) -> None:
    # The scale is computed once, from constants; in later batches its quantizer is judged as strictly.
    nodes = [node("Mul", ["half", "two"], "s", ""), quant("x", "y", "HALF_UP")]
    nodes[1].input[1] = "s"
    constants = {"half": 0.5, "two": 2.0, "zero": 0.0, "bits": 4.0}
    module = import_model(make_model(nodes, inputs={"x": (1, 1)}, initializers=constants))
    x = np.array([[1.0], [2.5]], np.float32)
    one = np.array(1.0, np.float32)
    report = verify(module, x, {"y": np.array([[1.0], [2.0]], np.float32), "s": one})
    assert (report.errors, report.tie_flips) == (1, 0)
    assert layer(report, "s").elements == 1, "compared once"


@pytest.mark.parametrize(("eps", "flips", "errors"), [(1e-4, 0, 1), (1e-2, 1, 0)])
def test_tie_eps_is_in_steps(make_model: Make, eps: float, flips: int, errors: int) -> None:
    # Scale 0.5: 1.245 is 2.49 steps, 0.01 steps (0.005 itself) below the boundary 2.5.
    constants = {"scale": 0.5, "zero": 0.0, "bits": 4.0}
    nodes = [node("Identity", ["x"], "same", ""), quant("same", "y")]
    module = import_model(make_model(nodes, initializers=constants))
    x = np.array([[1.245, 0, 0, 0]], np.float32)
    expected = {"same": x, "y": np.array([[1.5, 0, 0, 0]], np.float32)}
    report = verify(module, x, expected, tie_eps=eps, exact_quantizers=False)
    assert (report.tie_flips, report.errors) == (flips, errors)


QUANTIZERS = {
    # name: node, constants, x, ours, the other side of the boundary, (x, y) for an error
    "floor": (quant("same", "y", "FLOOR"), {"scale": 1, "zero": 0, "bits": 4}, 3.0, 3, 2, (3.5, 2)),
    "half up": (quant("same", "y", "HALF_UP"), {"scale": 1, "zero": 0, "bits": 4}, 2.5, 3, 2, (2.6, 2)),
    "zero point": (quant("same", "y"), {"scale": 0.5, "zero": 3, "bits": 4}, 0.75, 0.5, 1, (0.6, 1)),
    "one bit": (quant("same", "y"), {"scale": 1, "zero": 0, "bits": 1}, 0.0, 1, -1, (0.1, -1)),
    "bipolar": (node("BipolarQuant", ["same", "s"], "y"), {"s": 0.5}, 0.0, 0.5, -0.5, (0.1, -0.5)),
    # 8 -> 6 bits keep the value: output scale 4. The input 5.5 rounds to 6 first, and 6 / 4 down to 1; at 7.5
    # rounding to 8 gives 2, to 7 gives 1.
    "trunc": (
        node("Trunc", ["same", "s", "z", "ib", "os", "ob"], "y", signed=1, narrow=0, rounding_mode="FLOOR"),
        {"s": 1, "z": 0, "ib": 8, "os": 4, "ob": 6},
        7.5,
        8,
        4,
        (7.0, 8),
    ),
    # e4m3: steps of 0.25 from 2 on. 2.125 is half way from 2 to 2.25, and goes to the even mantissa.
    "float": (
        node(
            "FloatQuant",
            ["same", "s", "e", "m", "b", "mx"],
            "y",
            **{"has_inf": 0, "has_nan": 0, "has_subnormal": 1, "saturation": 1, "rounding_mode": "ROUND"},
        ),
        {"s": 1, "e": 4, "m": 3, "b": 7, "mx": 448},
        2.125,
        2,
        2.25,
        (2.05, 2.25),
    ),
    "thresholds": (
        node("MultiThreshold", ["same", "t"], "y", out_dtype="UINT2"),
        {"t": np.array([[0, 1, 2]], np.float32)},
        1.0,
        2,
        1,
        (1.5, 1),
    ),
}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_quantizer_has_ties_and_errors(make_model: Make, name: str) -> None:
    proto, constants, x, ours, other, (wrong_x, wrong_y) = QUANTIZERS[name]
    model = make_model(
        [node("Identity", ["x"], "same", ""), proto],
        inputs={"x": (1, 1)},
        initializers={k: v if isinstance(v, np.ndarray) else float(v) for k, v in constants.items()},
        imports={"": 13, QONNX: 2},
    )
    module = import_model(model)

    def against(value: float, expected: float, exact: bool = True) -> VerificationReport:
        given = np.full((1, 1), value, np.float32)
        values = {"same": given, "y": np.full((1, 1), expected, np.float32)}
        return verify(module, given, values, exact_quantizers=exact)

    assert against(x, ours).equal
    tie = against(x, other, exact=False)
    assert (tie.tie_flips, tie.errors) == (1, 0)
    assert tie.passed
    same_bits = against(x, other)
    assert (same_bits.tie_flips, same_bits.errors, same_bits.passed) == (0, 1, False)
    wrong = against(wrong_x, wrong_y)
    assert (wrong.tie_flips, wrong.errors) == (0, 1)
    assert not wrong.passed


def test_quantize_linear_is_a_quantizer(make_model: Make) -> None:
    constants = {"s": 0.5, "z": np.array(0, np.int8)}
    nodes = [node("Identity", ["x"], "same", ""), node("QuantizeLinear", ["same", "s", "z"], "y", "")]
    module = import_model(make_model(nodes, inputs={"x": (1, 2)}, initializers=constants))
    x = np.array([[1.25, 1.0]], np.float32)  # 2.5 and 2 steps
    flipped = {"same": x, "y": np.array([[3, 2]], np.int8)}
    tie = verify(module, x, flipped, exact_quantizers=False)
    assert (tie.tie_flips, tie.errors, tie.passed) == (1, 0, True)
    same_bits = verify(module, x, flipped)
    assert (same_bits.tie_flips, same_bits.errors, same_bits.passed) == (0, 1, False)
    wrong = verify(module, x, {"same": x, "y": np.array([[2, 3]], np.int8)})
    assert (wrong.tie_flips, wrong.errors, wrong.passed) == (0, 1, False)


def test_behind_an_unseen_quantizer_nothing_is_called_an_error(two_quantizers: fx.GraphModule) -> None:
    # Without q a flip there cannot be told from an error: double differs, but has no errors, and since no
    # flip was counted the output fails.
    expected = {"double": np.array([[6, 2, 2, 14]], np.float32), "y": np.array([[6, 2, 2, 7]], np.float32)}
    report = verify(two_quantizers, X, expected)
    assert layer(report, "double").forced_differing == 1
    assert report.errors == 0
    assert not report.passed


def test_a_wrong_weight_is_found_where_it_is(make_model: Make) -> None:
    nodes = [
        node("MatMul", ["x", "w"], "product", ""),
        quant("product", "q"),
        node("MatMul", ["q", "v"], "y", ""),
    ]
    generator = np.random.default_rng(0)
    constants = {
        "w": generator.normal(size=(4, 4)).astype(np.float32),
        "v": generator.normal(size=(4, 4)).astype(np.float32),
        "scale": 0.25,
        "zero": 0.0,
        "bits": 8.0,
    }
    model = make_model(nodes, initializers=constants)
    right, wrong = import_model(model), import_model(model)
    with torch.no_grad():
        wrong.get_parameter("v")[0] += 0.125
    x = generator.normal(size=(16, 4)).astype(np.float32)
    report = verify(wrong, x, reference=right)
    assert report.first_divergence is layer(report, "y")
    assert layer(report, "y").errors > 0
    assert layer(report, "q").differing == layer(report, "product").differing == 0
    assert not report.passed
    assert verify(right, x, reference=model).equal
