"""Model-local functions: ours for known names, inlined bodies for all others."""

from __future__ import annotations

import pickle
import time

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
import torch
from onnx import ModelProto, TensorProto, helper

import qonnx_torch as qt
from qonnx_torch.errors import InvalidModelError, UnsupportedModelError
from qonnx_torch.import_.functions import inline_functions
from qonnx_torch.import_.reading import open_model

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


def at_versions(body: str, *, model: int, function: int) -> ModelProto:
    header = f'<ir_version: 10, opset_import: ["" : {model}, "local" : 1]>'
    return parsed(f"""{header} {GRAPH} {{ y = local.f (x) }}
        <domain: "local", opset_import: ["" : {function}]> f (v) => (w) {{ {body} }}""")


@pytest.mark.parametrize(
    ("body", "model", "function", "version"),  # version: of the export; a mix is written whole, in one set
    [
        ("w = Identity (v)", 21, 18, 21),
        ("s = Shape (v)  w = Reshape (v, s)", 21, 18, 21),
        ("a = Transpose <perm = [1, 0]> (v)  w = Transpose (a)", 21, 18, 21),
        ("a = Cast <to = 11> (v)  w = Cast <to = 1> (a)", 20, 18, 20),
        ("w = Flatten (v)", 21, 18, 21),
        ("w = Cos (v)", 13, 12, 13),
        ("w = Softmax <axis = 0> (v)", 20, 11, 21),  # over all dimensions from the axis on
        ("a = ReduceSum <axes = [1]> (v)  w = Add (a, v)", 20, 11, 21),
        ("a = ReduceMax <axes = [1]> (v)  w = Sub (a, v)", 20, 13, 21),
        ("w = Clip <min = -0.5, max = 0.5> (v)", 20, 9, 21),
        ("a, b = Split <axis = 1, split = [1, 3]> (v)  w = Concat <axis = 1> (b, a)", 13, 11, 21),
        ("w = Gelu (v)", 13, 20, 21),
        (
            "c = Constant <value: tensor = bool {1}> ()  w = If (c) <"
            "then_branch = t () => (float[N, 4] p) { p = Softmax <axis = 0> (v) },"
            "else_branch = e () => (float[N, 4] q) { q = Neg (v) }>",
            20,
            11,
            21,
        ),
    ],
)
def test_bodies_in_other_operator_sets(body: str, model: int, function: int, version: int) -> None:
    """Nodes mean what they mean in the function's operator set; types that were added are no difference."""
    x = np.linspace(-2, 3, 12, dtype=np.float32).reshape(3, 4)
    alone = parsed(
        f'<ir_version: 7, opset_import: ["" : {function}]> {GRAPH} {{ v = Neg (x) '
        f"{body.replace('w =', 'y =')} }}"
    )
    session = ort.InferenceSession(alone.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": -x})[0]
    module = qt.import_model(at_versions(body, model=model, function=function))
    np.testing.assert_allclose(module(torch.from_numpy(x)).detach(), expected, rtol=1e-5, atol=1e-6)
    for source in (module, pickle.loads(pickle.dumps(module))):
        written = qt.export_qonnx(source, args=torch.from_numpy(x))
        assert [o.version for o in written.opset_import if o.domain == ""] == [version]
        session = ort.InferenceSession(written.SerializeToString(), providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-5, atol=1e-6)


def test_an_unused_function_needs_nothing() -> None:
    model = parsed(
        f"""{HEADER} {GRAPH} {{ y = Neg (x) }}
        <domain: "local", opset_import: ["" : 21, "elsewhere" : 1]> f (v) => (w) {{ w = elsewhere.op (v) }}"""
    )
    assert qt.import_model(model)(torch.ones(1, 4)).tolist() == [[-1.0] * 4]


@pytest.mark.parametrize(("outer", "inner"), [("ai.onnx", ""), ("", "ai.onnx"), ("finn", "onnx.brevitas")])
def test_names_of_one_domain_in_model_and_body(outer: str, inner: str) -> None:
    """Versions are compared whatever a domain is called."""

    def model(op_type: str, version: int, **attributes: int) -> ModelProto:
        result = parsed(f"{HEADER} {GRAPH} {{ y = local.f (x) }}")
        node = helper.make_node(
            op_type, ["v"] if outer != "finn" else ["v"] * 5, ["w"], domain=inner, **attributes
        )
        sets = [helper.make_opsetid(inner, version)]
        if outer == "finn":
            sets.append(helper.make_opsetid("", 21))
        result.functions.append(helper.make_function("local", "f", ["v"], ["w"], [node], sets))
        version = 2 if outer == "finn" else 13
        del result.opset_import[:]
        result.opset_import.extend([helper.make_opsetid(outer, version), helper.make_opsetid("local", 1)])
        if outer == "finn":
            result.opset_import.append(helper.make_opsetid("", 21))
        return result

    x = torch.linspace(-2, 3, 12).reshape(3, 4)
    if outer == "finn":
        module = qt.import_model(model("Trunc", 1))  # version 2 would have six inputs, and warn
        assert [type(m).__name__ for m in module.children()] == ["TruncV1"]
        return
    coerced = torch.softmax(x.flatten(), 0).reshape(3, 4)
    torch.testing.assert_close(qt.import_model(model("Softmax", 11, axis=0))(x), coerced)
    torch.testing.assert_close(qt.import_model(model("Softmax", 13, axis=0))(x), torch.softmax(x, 0))
    assert torch.equal(qt.import_model(model("Cos", 12))(x), x.cos())


# -- calls ------------------------------------------------------------------------------------------

CALLS = {
    "the first output left out": (
        '"", y = local.f (x)',
        "f (a) => (m, n) { m = Abs (a)  n = Neg (m) }",
        lambda x: -abs(x),
    ),
    "the last output left out": ("y = local.f (x)", "f (a) => (m, n) { m = Exp (a)  n = Neg (m) }", np.exp),
    "an output that is an input": (
        "p, q = local.f (x)  y = Mul (p, q)",
        "f (a) => (a, n) { n = Neg (a) }",
        lambda x: -(x**2),
    ),
    "only an output that is an input": ("y = local.f (x)", "f (a) => (a, n) { n = Neg (a) }", lambda x: x),
    "an output twice": (
        "p, q = local.f (x)  y = Mul (p, q)",
        "f (a) => (n, n) { n = Neg (a) }",
        lambda x: x**2,
    ),
    "an output twice, of which one is left out": (
        '"", y = local.f (x)',
        "f (a) => (n, n) { n = Neg (a) }",
        lambda x: -x,
    ),
    "names that the graph has too": (
        "t = Neg (x)  a = local.f (t, x)  b = local.f (a, t)  y = Sub (b, a)",
        "f (x, t) => (b) { a = Mul (x, t)  b = Exp (a) }",
        lambda x: np.exp(-x * np.exp(-x * x)) - np.exp(-x * x),
    ),
    "names of a branch that the graph has too": (
        "z = Abs (x)  y = local.f (z, x)",
        "f (x, z) => (r) { zero = Constant <value: tensor = bool {0}> ()  r = If (zero) <"
        "then_branch = t () => (float[N, 4] q) { q = Neg (x) },"
        "else_branch = e () => (float[N, 4] q) { y = Add (x, x)  q = Sub (y, z) }> }",
        lambda x: 2 * abs(x) - x,
    ),
    "an attribute handed on into a branch": (
        "y = local.f <beta = 0.25> (x)",
        "f <beta: float = 0.5> (a) => (r) { one = Constant <value: tensor = bool {1}> ()  r = If (one) <"
        "then_branch = t () => (float[N, 4] q) { q = local.g <alpha: float = @beta> (a) },"
        "else_branch = e () => (float[N, 4] q) { q = Neg (a) }> }"
        '<domain: "local", opset_import: ["" : 21]> g <alpha: float = 0.75> (a) => (b) {'
        "b = LeakyRelu <alpha: float = @alpha> (a) }",
        lambda x: np.where(x < 0, x / 4, x),
    ),
    "an attribute left out that has no default": (
        "p = local.f (x)  q = local.f <alpha = 0.5> (x)  y = Sub (p, q)",
        "f <alpha> (a) => (b) { b = LeakyRelu <alpha: float = @alpha> (a) }",
        lambda x: np.where(x < 0, (0.01 - 0.5) * x, 0 * x),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    calls, function, expected = CALLS[name]
    model = parsed(
        f"""{HEADER} {GRAPH} {{ {calls} }}
        <domain: "local", opset_import: ["" : 21, "local" : 1]> {function}"""
    )
    x = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
    module = qt.import_model(model)
    np.testing.assert_allclose(module(torch.from_numpy(x)).detach(), expected(x), rtol=1e-5, atol=1e-6)
    written = qt.export_qonnx(module, args=torch.from_numpy(x))
    session = ort.InferenceSession(written.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("calls", "function", "expected"),
    [
        (
            "y = local.f (x, x)",
            "f (a) => (b) { b = Neg (a) }",
            "has 2 inputs and 1 outputs; the function local",
        ),
        (
            "y, z = local.f (x)",
            "f (a) => (b) { b = Neg (a) }",
            "has 1 inputs and 2 outputs; the function local",
        ),
        ("y = local.f ()", "f (a) => (a) { b = Neg (a) }", "output 'y' is the input 'a' .* leaves out"),
        ("y = local.f (x)", "f (a, a) => (b) { b = Neg (a) }", "inputs of the function local::f need a name"),
        ("y = local.f (x)", "f (a) => (b) { c = Neg (a) }", "'b' is produced by nothing"),
        (
            "y = local.f (x)",
            "f (a) => (b) { b = LeakyRelu <alpha: float = @alpha> (a) }",
            "local::f refers to an attribute 'alpha', which it does not have",
        ),
    ],
)
def test_calls_that_do_not_fit(calls: str, function: str, expected: str) -> None:
    text = f'{HEADER} {GRAPH} {{ {calls} }} <domain: "local", opset_import: ["" : 21]> {function}'
    with pytest.raises(InvalidModelError, match=expected):
        qt.import_model(parsed(text))


def with_functions(nodes: list[onnx.NodeProto], functions: list[onnx.FunctionProto]) -> ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (2,))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (2,))
    sets = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    graph = helper.make_graph(nodes, "g", [x], [y])
    return helper.make_model(graph, opset_imports=sets, functions=functions, ir_version=10)


def function(name: str, nodes: list[onnx.NodeProto], attributes: tuple[str, ...] = ()) -> onnx.FunctionProto:
    sets = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["a"], ["b"], nodes, sets, attributes=list(attributes))


def local(name: str, given: str, result: str) -> onnx.NodeProto:
    return helper.make_node(name, [given], [result], domain="local")


NEG = helper.make_node("Neg", ["a"], ["b"])
LONG = 10_000
LONG_MODELS = {
    "many calls": lambda: with_functions(
        [local("f", "x" if i == 0 else f"v{i}", f"v{i + 1}" if i < LONG - 1 else "y") for i in range(LONG)],
        [function("f", [NEG])],
    ),
    "many functions": lambda: with_functions(
        [local("f0", "x", "y")], [function(f"f{i}", [NEG]) for i in range(LONG)]
    ),
    "a long chain of functions": lambda: with_functions(
        [local("f0", "x", "y")],
        [function(f"f{i}", [local(f"f{i + 1}", "a", "b")] if i < LONG - 1 else [NEG]) for i in range(LONG)],
    ),
    "functions that double": lambda: with_functions(
        [local("f13", "x", "y")],
        [
            function(f"f{i}", [local(f"f{i - 1}", "a", "c"), local(f"f{i - 1}", "c", "b")] if i else [NEG])
            for i in range(14)
        ],
    ),
}


@pytest.mark.parametrize("name", LONG_MODELS)
def test_inlining_is_linear(name: str) -> None:
    """These take a fraction of a second; in quadratic time they took 20 s and more."""
    model, tensors = open_model(LONG_MODELS[name]())
    start = time.perf_counter()
    inline_functions(model, tensors)
    assert time.perf_counter() - start < 5
    assert {node.op_type for node in model.graph.node} == {"Neg"}
    assert not model.functions


def branch(node: onnx.NodeProto) -> onnx.GraphProto:
    result = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, (2,))
    return helper.make_graph([node], "branch", [], [result])


def test_an_attribute_that_is_a_graph() -> None:
    """Its names are those of the graph around the call, and it may stand in the body more than once."""
    choice = helper.make_node("If", ["c"], ["d"])
    for name, given in (("then_branch", "first"), ("else_branch", "second")):
        choice.attribute.add(name=name, type=onnx.AttributeProto.GRAPH, ref_attr_name=given)
    one = helper.make_node(
        "Constant", [], ["one"], value=helper.make_tensor("", TensorProto.BOOL, (), [True])
    )
    flag = helper.make_node("Identity", ["one"], ["c"])
    body = [one, flag, choice, helper.make_node("Add", ["d", "a"], ["b"])]
    call = helper.make_node(
        "f",
        ["t"],
        ["y"],
        domain="local",
        first=branch(local("g", "x", "r")),
        second=branch(helper.make_node("Neg", ["x"], ["r"])),
    )
    model = with_functions(
        [helper.make_node("Abs", ["x"], ["t"]), call],
        [
            function("f", body, ("first", "second")),
            function("g", [helper.make_node("Exp", ["a"], ["b"])]),
        ],
    )
    x = torch.tensor([-1.0, 2.0])
    torch.testing.assert_close(qt.import_model(model)(x), x.exp() + x.abs())


def test_graphs_handed_on_twice_over() -> None:
    """No function calls many others, yet the graph that they hand on doubles each time."""
    functions = []
    for i in range(30):
        inner = helper.make_node("If", ["one"], ["r"])
        for name in ("then_branch", "else_branch"):
            inner.attribute.add(name=name, type=onnx.AttributeProto.GRAPH, ref_attr_name="g")
        one = helper.make_node("Constant", [], ["one"], value=helper.make_tensor("", 9, (), [True]))
        call = helper.make_node(f"f{i + 1}", ["a"], ["b"], domain="local", g=branch(inner))
        functions.append(function(f"f{i}", [one, call] if i < 29 else [NEG], ("g",)))
    start = helper.make_node(
        "f0", ["x"], ["y"], domain="local", g=branch(helper.make_node("Neg", ["x"], ["r"]))
    )
    with pytest.raises(UnsupportedModelError, match=r"would be inlined into more than|nests graphs more"):
        qt.import_model(with_functions([start], functions))


def test_functions_that_nest_graphs_too_deep() -> None:
    def body(i: int) -> list[onnx.NodeProto]:
        one = helper.make_node("Constant", [], ["one"], value=helper.make_tensor("", 9, (), [True]))
        inner = local(f"f{i + 1}", "a", "r") if i < 3000 else helper.make_node("Neg", ["a"], ["r"])
        other = helper.make_node("Abs", ["a"], ["r"])
        branches = {"then_branch": branch(inner), "else_branch": branch(other)}
        return [one, helper.make_node("If", ["one"], ["b"], **branches)]

    functions = [function(f"f{i}", body(i)) for i in range(3001)]
    with pytest.raises(UnsupportedModelError, match="nests graphs more than 32 deep"):
        qt.import_model(with_functions([local("f0", "x", "y")], functions))


def test_names_that_grow() -> None:
    """A short name in the body becomes the long one of the call, as often as it stands there."""
    long = "x" * 1_000_000
    nodes = [helper.make_node("Add", ["a", "a"], [f"c{i}"]) for i in range(1000)]
    model = with_functions(
        [helper.make_node("Neg", ["x"], [long]), local("f", long, "y")], [function("f", [*nodes, NEG])]
    )
    with pytest.raises(UnsupportedModelError, match="the body of the function local::f"):
        qt.import_model(model)
