"""Operators of one's own: functions and modules, versions, attributes, export, cost, tracing, pickling."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser
from torch import Tensor, fx, nn

import qonnx_torch as qt
from qonnx_torch.errors import ExportError, InvalidModelError, UnsupportedModelError
from qonnx_torch.registry import describe

DOMAIN = "tests.extension"


@qt.register_op(DOMAIN, "Leaky", since_version=2)
def leaky(x: Tensor, *, slope: float = 0.5, label: str = "", ends: Sequence[int] = (0,)) -> Tensor:
    return torch.where(x < 0, x * slope, x)


@qt.register_op(DOMAIN, "Leaky", since_version=5)
def leaky_5(x: Tensor, *, slope: float = 0.25) -> Tensor:
    return torch.where(x < 0, x * slope, x)


@qt.register_op(DOMAIN, "TopTwo", outputs=2, static=("keep",))
def top_two(x: Tensor, keep: Sequence[int]) -> tuple[Tensor, Tensor]:
    values = x.sort(-1, descending=True).values[..., : keep[0]]
    return values, values.sum(-1)


@qt.register_op(DOMAIN, "Project", macs=lambda y, x, weight: y.numel() * x.shape[-1])
def project(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight


@qt.register_op(DOMAIN, "Counter")
class Counter(nn.Module):
    """Adds to its input the number of training steps that it has seen."""

    def __init__(self, *, start: int = 0) -> None:
        super().__init__()
        self.start = start
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps.add_(1)
        return x + self.start + self.steps


def model(
    op_type: str, inputs=("x",), outputs=("y",), version: int = 2, constants=None, **attributes
) -> ModelProto:
    custom = helper.make_node(op_type, inputs, outputs, "custom", domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [custom],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(v, n) for n, v in (constants or {}).items()],
    )
    sets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, version)]
    return helper.make_model(graph, opset_imports=sets)


X = torch.tensor([[-1.0, 2.0, -3.0, 4.0]])


@pytest.mark.parametrize(("version", "expected"), [(2, -0.5), (4, -0.5), (5, -0.25), (9, -0.25)])
def test_the_version_in_force_is_chosen(version: int, expected: float) -> None:
    assert qt.import_model(model("Leaky", version=version))(X)[0, 0] == expected


def test_a_version_before_the_first_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'custom' \(Leaky\): tests.extension::Leaky version 1"):
        qt.import_model(model("Leaky", version=1))


def test_attributes_have_the_types_of_the_signature() -> None:
    module = qt.import_model(model("Leaky", slope=2.0, label="n", ends=[1, 2]))
    node = next(n for n in module.graph.nodes if n.target is leaky)
    assert node.kwargs == {"slope": 2.0, "label": "n", "ends": (1, 2)}
    with pytest.raises(InvalidModelError, match="its attribute 'slope' is 2, not float"):
        qt.import_model(model("Leaky", slope=2))


def test_several_outputs_and_static_inputs() -> None:
    proto = model("TopTwo", ("x", "k"), ("a", "b"), constants={"k": np.array([2])})
    values, total = qt.import_model(proto)(X)
    assert values.tolist() == [[4.0, 2.0]]
    assert total.tolist() == [6.0]


def test_weights_train_and_shapes_and_cost_are_known() -> None:
    weight = np.eye(4, 3, dtype=np.float32)
    module = qt.import_model(model("Project", ("x", "w"), constants={"w": weight}))
    module(X).sum().backward()
    assert torch.equal(module.w.grad, X.T.expand(4, 3))
    assert qt.infer_shapes(module)["y"].shape == ("n", 3)
    assert qt.inference_cost(module, discount_sparsity=False).macs == 4 * 3
    assert qt.inference_cost(module).macs == 3  # a quarter of the weights are not zero


def test_a_module_has_state_and_behaves_otherwise_in_training() -> None:
    module = qt.import_model(model("Counter", start=3))
    assert isinstance(module.custom, Counter)
    assert module(X)[0, 0] == 2.0
    module.train()
    assert module(X)[0, 0] == 3.0
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert copied.eval()(X)[0, 0] == 3.0
        assert isinstance(copied.custom, Counter)  # kept whole, not traced into
    assert "custom.steps" in module.state_dict()


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize(
    "proto",
    [
        model("Leaky", slope=2.0, ends=[1, 2]),
        model("Leaky", version=7),
        model("TopTwo", ("x", "k"), ("a", "b"), constants={"k": np.array([2])}),
        model("Counter", start=3),
    ],
    ids=lambda m: f"{m.graph.node[0].op_type}-{m.opset_import[1].version}",
)
def test_it_goes_back_out(proto: ModelProto, edited: bool) -> None:
    module = qt.import_model(proto)
    if edited:
        custom = next(n for n in module.graph.nodes if n.op.startswith("call"))
        with module.graph.inserting_before(custom):
            custom.replace_input_with(
                custom.args[0], module.graph.call_function(torch.neg, (custom.args[0],))
            )
        module.recompile()
    exported = qt.export_qonnx(module)
    node = exported.graph.node[-1]
    source = proto.graph.node[0]
    assert (node.domain, node.op_type) == (DOMAIN, source.op_type)
    assert sorted(a.SerializeToString() for a in node.attribute) == sorted(
        a.SerializeToString() for a in source.attribute
    )
    versions = {o.domain: o.version for o in exported.opset_import}
    assert versions[DOMAIN] <= proto.opset_import[1].version
    again, expected = qt.import_model(exported)(X), module(X)
    for a, e in zip(again, expected, strict=True) if isinstance(expected, tuple) else [(again, expected)]:
        assert torch.equal(a, e)


def test_it_compiles_and_is_one_node_when_traced() -> None:
    module = qt.import_model(model("Leaky"))
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    assert torch.equal(compiled(X), module(X))
    program = torch.export.export(module, (X.expand(3, 4),), dynamic_shapes=qt.dynamic_shapes(module))
    assert torch.equal(program.module()(X.expand(7, 4)), module(X.expand(7, 4)))

    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return leaky(x, slope=2.0)

    traced = fx.symbolic_trace(Own())
    assert [n.target for n in traced.graph.nodes if n.op == "call_function"] == [leaky]


def test_the_same_definition_may_run_twice_but_not_another() -> None:
    def define():
        @qt.register_op(DOMAIN, "Twice")
        def twice(x: Tensor) -> Tensor:
            return 2 * x

        return twice

    define()
    second = define()
    module = qt.import_model(model("Twice"))
    assert next(n for n in module.graph.nodes if n.op == "call_function").target is second
    with pytest.raises(ValueError, match=r"tests\.extension::Twice-1 is implemented by .*twice already"):

        @qt.register_op(DOMAIN, "Twice")
        def other(x: Tensor) -> Tensor:
            return x

    with pytest.raises(ValueError, match=r"Relu-1 is built in"):

        @qt.register_op("ai.onnx", "Relu")
        def relu(X: Tensor) -> Tensor:
            return X


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Plain is neither a function nor an nn\.Module class"):

        @qt.register_op(DOMAIN, "Plain")
        class Plain:
            pass


def test_annotations_that_are_no_attribute_types_are_refused() -> None:
    with pytest.raises(TypeError, match="its attribute 'mode' is annotated 'bytes'"):

        @qt.register_op(DOMAIN, "Annotated")
        def annotated(x: Tensor, *, mode: bytes) -> Tensor:
            return x


def test_attributes_without_annotation_have_the_type_of_their_default() -> None:
    @qt.register_op(DOMAIN, "Bare")
    def bare(x, *, slope=0.5, ends=(1, 2)):
        return x * slope

    assert qt.import_model(model("Bare", slope=2.0, ends=[3]))(X)[0, 1] == 4.0


def test_what_was_imported_before_a_second_definition_still_exports() -> None:
    """As when a notebook's cell runs twice."""

    def define() -> None:
        @qt.register_op("tests.extension.twice", "Scaled")
        def scaled(x: torch.Tensor, *, k: int = 2) -> torch.Tensor:
            return x * k

    define()
    text = """<ir_version: 10, opset_import: ["": 21, "tests.extension.twice": 1]>
        agraph (float[2] x) => (float[2] y) { s = tests.extension.twice.Scaled(x) y = Relu(s) }"""
    module = qt.import_model(parser.parse_model(text))
    define()
    last = next(node for node in reversed(module.graph.nodes) if node.op == "call_function")
    with module.graph.inserting_after(last):
        negative = module.graph.call_function(torch.neg, (last,))
    last.replace_all_uses_with(negative)
    negative.args = (last,)
    module.recompile()
    nodes = [node.op_type for node in qt.export_qonnx(module).graph.node]
    assert nodes == ["Scaled", "Relu", "Neg"]


@pytest.mark.parametrize(
    ("annotation", "spelled"),
    [
        (Optional[int], "int"),  # noqa: UP045 (as users write it)
        (int | None, "int"),
        ("Optional[float]", "float"),
        (list[int], "Sequence[int]"),
        (tuple[float, ...], "Sequence[float]"),
        (Optional[Sequence[str]], "Sequence[str]"),  # noqa: UP045
        ("Optional[List[int]]", "Sequence[int]"),
    ],
    ids=str,
)
def test_annotations_of_attributes(annotation: Any, spelled: str) -> None:
    def function(x: torch.Tensor, *, k: Any = None) -> torch.Tensor:
        return x

    function.__annotations__["k"] = annotation
    entry = describe(function, inspect.signature(function), domain="tests", op_type="A", since_version=1)
    assert entry.attribute_types == {"k": spelled}


def schema(text: str, **options: Any) -> None:
    """Registers a function that is written as text, since the formatter would not have some of them."""
    scope: dict[str, Any] = {"Tensor": Tensor, "torch": torch, "Sequence": Sequence}
    exec(text, scope)  # noqa: S102
    qt.register_op("tests.extension.refused", "Refused", **options)(scope["f"])


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        ("def f(x: Tensor, k: int = 3): ...", {}, TypeError, "its input 'k' is annotated 'int'"),
        ("def f(x: Tensor, k: Sequence[int]): ...", {}, TypeError, "named in static="),
        ("def f(x, *, k: Tensor = None): ...", {}, TypeError, "'Tensor'.*make it an input"),
        ("def f(x, *, k: dict = None): ...", {}, TypeError, "annotated 'dict'; ONNX attributes are int,"),
        ("def f(x, **k): ...", {}, TypeError, r"\*\*k names no attributes"),
        ("def f(x) -> tuple[Tensor, Tensor]: ...", {}, TypeError, "returns a tuple: say outputs="),
        ("def f(x): ...", {"static": ("q",)}, ValueError, r"static names 'q'; its inputs are \['x'\]"),
        ("def f(x): ...", {"outputs": 0}, ValueError, "outputs is 0"),
        ("def f(x): ...", {"since_version": 0}, ValueError, "since_version is 0"),
        ("def f(x): ...", {"since_version": "2"}, ValueError, "since_version is '2'"),
    ],
)
def test_what_is_no_schema_is_refused(
    text: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        schema(text, **options)


def test_built_in_operators_stay() -> None:
    with pytest.raises(ValueError, match=r"ai\.onnx::Relu-1 is built in; give yours a domain of its own"):
        qt.register_op("", "Relu", since_version=14)(lambda x: x)


def test_another_number_of_outputs_is_noticed() -> None:
    @qt.register_op("tests.extension.outputs", "Halves", outputs=2)
    def halves(x: Tensor) -> Any:
        return x.reshape(2, -1)

    with pytest.raises(TypeError, match="Halves-1 returned Tensor instead of a tuple of 2"):
        halves(torch.zeros(4))


def test_bool_attributes() -> None:
    @qt.register_op("tests.extension.bool", "Sign")
    def sign(x: Tensor, *, negative: bool = False) -> Tensor:
        return -x if negative else x

    text = """<ir_version: 10, opset_import: ["": 21, "tests.extension.bool": 1]>
        agraph (float[2] x) => (float[2] y) { y = tests.extension.bool.Sign<negative = 1>(x) }"""
    module = qt.import_model(parser.parse_model(text))
    assert module(torch.ones(2)).tolist() == [-1, -1]
    assert qt.import_model(qt.export_qonnx(module))(torch.ones(2)).tolist() == [-1, -1]


GAIN = """<ir_version: 10, opset_import: ["": 21, "tests.extension.gain": 1]>
    agraph (float[2] x) => (float[2] y) { y = tests.extension.gain.Gain<start = 2.0>(x) }"""


def gain_class(**members: Any) -> type[nn.Module]:
    class Gain(nn.Module):
        def __init__(self, *, start: float = 1.0) -> None:
            super().__init__()
            self.start = start
            self.gain = nn.Parameter(torch.tensor(start))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gain

    for name, member in members.items():
        setattr(Gain, name, member)
    return qt.register_op("tests.extension.gain", "Gain")(Gain)


def test_what_a_module_learned_is_not_lost_silently() -> None:
    gain_class()
    module = qt.import_model(parser.parse_model(GAIN))
    assert qt.import_model(qt.export_qonnx(module))(torch.ones(2)).tolist() == [2, 2]
    with torch.no_grad():
        next(module.parameters()).fill_(5)
    with pytest.raises(ExportError, match=r"Gain-1\) holds gain, which its attributes do not give"):
        qt.export_qonnx(module)


def test_what_a_module_learned_can_be_its_attributes() -> None:
    gain_class(onnx_attributes=lambda self: {"start": self.gain.item()})
    module = qt.import_model(parser.parse_model(GAIN))
    with torch.no_grad():
        next(module.parameters()).fill_(5)
    assert qt.import_model(qt.export_qonnx(module))(torch.ones(2)).tolist() == [5, 5]


def test_a_module_that_forgets_its_argument_is_named() -> None:
    @qt.register_op("tests.extension.forgets", "Forgets")
    class Forgets(nn.Module):
        def __init__(self, *, n: int = 6) -> None:
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            return x

    text = """<ir_version: 10, opset_import: ["": 21, "tests.extension.forgets": 1]>
        agraph (float[2] x) => (float[2] y) { y = tests.extension.forgets.Forgets(x) }"""
    with pytest.raises(TypeError, match=r"Forgets must keep its argument 'n' as self\.n"):
        qt.import_model(parser.parse_model(text))


def test_a_module_without_a_constructor() -> None:
    @qt.register_op(DOMAIN, "Center")
    class Center(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(-1, keepdim=True)

    module = qt.import_model(model("Center"))
    for own in (module, qt.import_model(qt.export_qonnx(module))):
        assert torch.equal(own(X), Center()(X))
