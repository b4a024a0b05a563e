"""Model-local functions: ours for known names, inlined bodies for all others."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
import torch
from onnx import ModelProto, TensorProto, helper

import qonnx_torch as qt
from qonnx_torch.errors import InvalidModelError, UnsupportedModelError

HEADER = '<ir_version: 10, opset_import: ["" : 21, "local" : 1]>'
GRAPH = "agraph (float[N, 4] x) => (float[N, 4] y)"

MODELS = {
    "called twice": f"""{HEADER} {GRAPH} {{ a = local.scale <factor = 2.0> (x)  y = local.scale (a) }}
        <domain: "local", opset_import: ["" : 21]> scale <factor: float = 3.0> (v) => (w) {{
            f = Constant <value_float: float = @factor> ()
            w = Mul (v, f) }}""",
    "functions calling functions": f"""{HEADER} {GRAPH} {{ y = local.outer (x) }}
        <domain: "local", opset_import: ["" : 21, "local" : 1]> outer (v) => (w) {{
            a = local.inner (v)  b = local.inner (a)  w = Add (a, b) }}
        <domain: "local", opset_import: ["" : 21]> inner (v) => (w) {{ n = Neg (v)  w = Exp (n) }}""",
    "optional input left out": f"""{HEADER} {GRAPH} {{ y = local.clip (x) }}
        <domain: "local", opset_import: ["" : 21]> clip (v, low, high) => (w) {{
            w = Clip (v, low, high) }}""",
    "two outputs": f"""{HEADER} {GRAPH} {{ a, b = local.both (x)  y = Mul (a, b) }}
        <domain: "local", opset_import: ["" : 21]> both (v) => (p, q) {{ p = Sin (v)  q = Cos (v) }}""",
    "in a subgraph": f"""{HEADER} {GRAPH} {{
            flag = Constant <value: tensor = bool {{1}}> ()
            y = If (flag) <
                then_branch = yes () => (float[N, 4] t) {{ t = local.twice (x) }},
                else_branch = no () => (float[N, 4] e) {{ e = Neg (x) }}
            > }}
        <domain: "local", opset_import: ["" : 21]> twice (v) => (w) {{ w = Add (v, v) }}""",
    "a body in another operator set that means the same": f"""{HEADER} {GRAPH} {{ y = local.f (x) }}
        <domain: "local", opset_import: ["" : 20]> f (v) => (w) {{ w = Tanh (v) }}""",
}


def parsed(text: str) -> ModelProto:
    return onnx.parser.parse_model(text)


@pytest.mark.parametrize("name", MODELS)
def test_calls_become_their_bodies(name: str) -> None:
    model = parsed(MODELS[name])
    x = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": x})[0]
    module = qt.import_model(model)
    np.testing.assert_allclose(module(torch.from_numpy(x)).detach(), expected, rtol=1e-6)
    again = qt.import_model(qt.export_qonnx(module))
    assert torch.equal(again(torch.from_numpy(x)), module(torch.from_numpy(x)))


def test_the_callers_model_is_not_changed() -> None:
    model = parsed(MODELS["called twice"])
    before = model.SerializeToString(deterministic=True)
    qt.import_model(model)
    assert model.SerializeToString(deterministic=True) == before


def test_a_body_with_a_known_name_is_ours() -> None:
    quant = helper.make_node("Quant", ["x", "s", "z", "b"], ["y"], "q", domain="qonnx.custom_op.general")
    quant.attribute.extend(
        [
            helper.make_attribute("signed", 1),
            helper.make_attribute("narrow", 0),
            helper.make_attribute("rounding_mode", "ROUND"),
        ]
    )
    quant.overload = "round"
    body = helper.make_function(
        "qonnx.custom_op.general",
        "Quant",
        ["x", "s", "z", "b"],
        ["y"],
        [helper.make_node("Neg", ["x"], ["y"])],  # not what Quant means
        [helper.make_opsetid("", 21)],
        overload="round",
    )
    graph = helper.make_graph(
        [quant],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (3,))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (3,))],
        [helper.make_tensor(n, TensorProto.FLOAT, (), [v]) for n, v in (("s", 0.5), ("z", 0.0), ("b", 3.0))],
    )
    sets = [helper.make_opsetid("", 21), helper.make_opsetid("qonnx.custom_op.general", 1)]
    module = qt.import_model(helper.make_model(graph, opset_imports=sets, functions=[body], ir_version=10))
    assert isinstance(module.q, qt.nn.Quant)
    assert module(torch.tensor([0.3, 0.25, 9.0])).tolist() == [0.5, 0.0, 1.5]  # 0.25 / 0.5 is a tie: to even


def overloaded(*, called: str) -> ModelProto:
    model = parsed(f"{HEADER} {GRAPH} {{ y = local.f (x) }}")
    for overload, op_type in (("", "Neg"), ("exp", "Exp")):
        body = [helper.make_node(op_type, ["v"], ["w"])]
        sets = [helper.make_opsetid("", 21)]
        function = helper.make_function("local", "f", ["v"], ["w"], body, sets, overload=overload)
        model.functions.append(function)
    model.graph.node[0].overload = called
    return model


@pytest.mark.parametrize(("called", "expected"), [("", -1.0), ("exp", float(np.exp(np.float32(1))))])
def test_overloads(called: str, expected: float) -> None:
    y = qt.import_model(overloaded(called=called))(torch.ones(1, 4))
    torch.testing.assert_close(y, torch.full((1, 4), expected))


def test_an_overload_that_does_not_exist() -> None:
    expected = r"calls local::f \(overload 'log'\), which the model does not define"
    with pytest.raises(InvalidModelError, match=expected):
        qt.import_model(overloaded(called="log"))


def test_functions_that_call_each_other_in_a_circle() -> None:
    model = parsed(
        f"""{HEADER} {GRAPH} {{ y = local.f (x) }}
        <domain: "local", opset_import: ["" : 21, "local" : 1]> f (v) => (w) {{ w = local.g (v) }}
        <domain: "local", opset_import: ["" : 21, "local" : 1]> g (v) => (w) {{ w = local.f (v) }}"""
    )
    with pytest.raises(InvalidModelError, match=r"the function local::\w calls itself"):
        qt.import_model(model)


def test_functions_that_grow_without_measure() -> None:
    text = f"{HEADER} {GRAPH} {{ y = local.f0 (x) }}\n"
    for i in range(30):
        call = f"local.f{i + 1}" if i < 29 else "Neg"
        text += (
            f'<domain: "local", opset_import: ["" : 21, "local" : 1]> f{i} (v) => (w) '
            f"{{ a = {call} (v)  w = {call} (a) }}\n"
        )
    with pytest.raises(UnsupportedModelError, match=r"would be inlined into \d+ nodes"):
        qt.import_model(parsed(text))


def test_a_body_whose_operator_set_means_something_else() -> None:
    model = parsed(
        f"""{HEADER} {GRAPH} {{ y = local.f (x) }}
        <domain: "local", opset_import: ["" : 11]> f (v) => (w) {{ w = Softmax (v) }}"""
    )
    expected = "local::f is written for version 11 of ai.onnx, where Softmax means something else .* 21"
    with pytest.raises(UnsupportedModelError, match=expected):
        qt.import_model(model)


def test_an_unused_function_needs_nothing() -> None:
    model = parsed(
        f"""{HEADER} {GRAPH} {{ y = Neg (x) }}
        <domain: "local", opset_import: ["" : 21, "elsewhere" : 1]> f (v) => (w) {{ w = elsewhere.op (v) }}"""
    )
    assert qt.import_model(model)(torch.ones(1, 4)).tolist() == [[-1.0] * 4]
