"""Subgraphs of a file: what becomes of their values, and those that do not fit."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper
from torch import fx

import qonnx_torch as qt
from qonnx_torch.errors import InvalidModelError, UnsupportedModelError

HEADER = '<ir_version: 8, opset_import: ["": 17]>\n'


def parsed(text: str) -> ModelProto:
    return onnx.parser.parse_model(HEADER + text)


def call(module: fx.GraphModule, name: str) -> fx.Node:
    return next(n for n in module.graph.nodes if n.op == "call_module" and n.target == name)


def inputs(module: fx.GraphModule) -> list[str]:
    return [n.name for n in module.graph.nodes if n.op == "placeholder"]


# -- what a subgraph is given ------------------------------------------------------------------------


def test_captured_values_are_inputs_of_every_subgraph_in_order_of_first_use():
    module = qt.import_model(
        parsed("""g (float[2] x, float[2] z, bool c) => (float[2] y) {
            u = Relu(x)
            v = Neg(z)
            y = If(c) <then_branch = t () => (float[2] a) { a = Add(v, u) },
                       else_branch = e () => (float[2] b) { b = Mul(x, v) }>
        }""")
    )
    names = ["v", "u", "x"]
    assert inputs(module.y.then_branch) == inputs(module.y.else_branch) == names
    assert [n.meta["onnx"].outputs[0] for n in call(module, "y").args] == ["c", *names]
    assert module.y.captured == 3


def test_constants_that_become_numbers_are_not_captured():
    module = qt.import_model(
        parsed("""g (float[2,3] x, bool c) => (float[3,2] y) <int64[2] shape = {3, 2}, float low = {0.5}> {
            y = If(c) <then_branch = t () => (float[3,2] a) { a = Reshape(x, shape) },
                       else_branch = e () => (float[3,2] b) { k = Clip(x, low)
                                                              b = Reshape(k, shape) }>
        }""")
    )
    assert inputs(module.y.then_branch) == ["x"]
    assert not module.state_dict()


def test_a_weight_that_both_branches_read_is_one_parameter_outside():
    module = qt.import_model(
        parsed("""g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> {
            y = If(c) <then_branch = t () => (float[2] a) { a = Mul(x, w) },
                       else_branch = e () => (float[2] b) { b = Add(x, w) }>
        }""")
    )
    assert list(module.state_dict()) == ["w"]


def test_statistics_that_a_subgraph_reads_are_buffers(subgraph_case_of):
    module = qt.import_model(subgraph_case_of("if_normalized").model)
    assert {"m", "v"} <= {name for name, _ in module.named_buffers()}
    assert {name for name, _ in module.named_parameters()} == {"g0", "be"}


def test_a_quantizer_owns_a_constant_of_the_graph_around(subgraph_case_of):
    module = qt.import_model(subgraph_case_of("if_quantized").model)
    assert module.get_submodule("y.then_branch.qw").scale.item() == pytest.approx(0.2)
    assert "s3" not in module.state_dict()
    assert inputs(module.y.then_branch) == ["w", "k"]


# -- what is Python numbers --------------------------------------------------------------------------


def test_a_constant_condition_is_a_number(subgraph_case_of):
    module = qt.import_model(subgraph_case_of("if_constant").model)
    assert call(module, "y").args[0] == (True,)


def test_shapes_go_into_subgraphs_and_come_out_as_numbers(subgraph_case_of):
    module = qt.import_model(subgraph_case_of("if_gives_shape").model)
    assert module.t.then_branch((5, 3)) == ((5, -1),)
    assert module.t.else_branch((5, 3)) == ((-1, 2),)


def test_integers_that_a_loop_carries_are_numbers_where_they_hang_on_no_data(subgraph_case_of):
    module = qt.import_model(subgraph_case_of("while_shape").model)
    target = next(n.target for n in module.graph.nodes if n.op == "call_module")
    goes_on, counter, _ = module.get_submodule(target).body(0, True, 0, torch.ones(2, 3), 2)
    assert (goes_on, counter) == (True, 1)


def test_a_loop_that_hangs_on_data_carries_tensors(subgraph_case_of):
    module = qt.import_model(subgraph_case_of("while_data").model)
    target = next(n.target for n in module.graph.nodes if n.op == "call_module")
    results = module.get_submodule(target).body(0, True, torch.tensor(0), torch.ones(2, 3))
    assert all(isinstance(r, torch.Tensor) for r in results)


def test_a_carried_integer_that_becomes_data_is_a_tensor_and_others_stay_numbers():
    module = qt.import_model(
        parsed("""g (float[N] x) => (float[N] y, int64 p, int64 q)
            <int64 three = {3}, int64 zero = {0}, bool yes = {1}> {
            p, q, y = Loop(three, yes, zero, zero, x) <body = b
                (int64 i, bool c, int64 j, int64 k, float[N] v)
                => (bool c2, int64 j2, int64 k2, float[N] v2) {
                c2 = Identity(c)
                j2 = Add(j, i)
                top = ArgMax <axis = 0, keepdims = 0> (v)
                k2 = Add(k, top)
                v2 = Neg(v)
            }>
        }""")
    )
    y, p, q = module(torch.tensor([1.0, 2.0]))
    assert (p.item(), q.item(), y.tolist()) == (3, 2, [-1.0, -2.0])
    (target,) = (n.target for n in module.graph.nodes if n.op == "call_module")
    results = module.get_submodule(target).body(1, True, 1, torch.tensor(0), torch.ones(2))
    assert [isinstance(r, torch.Tensor) for r in results] == [False, False, True, True]


# -- what does not fit -------------------------------------------------------------------------------


def graph(nodes, inputs=(), outputs=()) -> GraphProto:
    values = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in names]
        for names in (inputs, outputs)
    ]
    return helper.make_graph(nodes, "subgraph", *values)


RELU = graph([helper.make_node("Relu", ["x"], ["a"])], outputs=["a"])
TWO = graph([helper.make_node("Relu", ["x"], [n]) for n in ("a", "b")], outputs=["a", "b"])
BODY = graph(
    [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Relu", ["v"], ["v2"])],
    ["i", "go", "v"],
    ["on", "v2"],
)
STEP = graph(
    [helper.make_node("Relu", ["v"], ["v2"]), helper.make_node("Neg", ["e"], ["o"])], ["v", "e"], ["v2", "o"]
)
READS = graph([helper.make_node("Relu", ["lost"], ["a"])], outputs=["a"])
LOOPS = graph([helper.make_node("Relu", ["y"], ["a"])], outputs=["a"])
TAKES = graph([helper.make_node("Relu", ["q"], ["a"])], ["q"], ["a"])
TWICE = graph([helper.make_node("Relu", ["x"], ["a"])] * 2, outputs=["a"])


def model(node: NodeProto) -> ModelProto:
    values = [("x", TensorProto.FLOAT, [2]), ("c", TensorProto.BOOL, []), ("n", TensorProto.INT64, [])]
    outputs = [helper.make_tensor_value_info(o, TensorProto.FLOAT, [2]) for o in node.output]
    main = helper.make_graph([node], "main", [helper.make_tensor_value_info(*v) for v in values], outputs)
    return helper.make_model(main, opset_imports=[helper.make_opsetid("", 17)])


WRONG = [
    ("If", ["c"], {"then_branch": RELU}, "else_branch"),
    ("If", ["c"], {"then_branch": RELU, "else_branch": 3}, "else_branch"),
    ("If", ["c"], {"then_branch": RELU, "else_branch": RELU, "third": RELU}, "third"),
    ("Relu", ["x"], {"body": RELU}, "body"),
    ("If", ["c"], {"then_branch": RELU, "else_branch": TWO}, "different numbers of outputs"),
    ("If", ["c"], {"then_branch": TAKES, "else_branch": RELU}, "has 1 inputs and 1 outputs; it must have 0"),
    ("If", ["c"], {"then_branch": READS, "else_branch": RELU}, "'lost', which nothing produces"),
    ("If", ["c"], {"then_branch": LOOPS, "else_branch": RELU}, "cycle"),
    ("If", ["c"], {"then_branch": TWICE, "else_branch": RELU}, "'a' is produced twice"),
    ("Loop", ["n", "c"], {"body": BODY}, "has 3 inputs and 2 outputs; it must have 2"),
    ("Loop", ["n", "c", "x", "x"], {"body": BODY}, "it must have 4 inputs and at least 3 outputs"),
    ("Scan", ["x", "x"], {"body": STEP}, "num_scan_inputs"),
    ("Scan", ["x", "x"], {"body": STEP, "num_scan_inputs": 0}, "num_scan_inputs is 0, of 2 inputs"),
    ("Scan", ["x", "x"], {"body": STEP, "num_scan_inputs": 3}, "num_scan_inputs is 3, of 2 inputs"),
    ("Scan", ["x"], {"body": STEP, "num_scan_inputs": 1}, "it must have 1 inputs"),
    ("SequenceMap", ["x", "x"], {"body": TAKES}, "it must have 2 inputs"),
]


@pytest.mark.parametrize(("op_type", "names", "attributes", "message"), WRONG)
def test_what_does_not_fit_is_refused(op_type, names, attributes, message):
    with pytest.raises(InvalidModelError, match=message):
        qt.import_model(model(helper.make_node(op_type, names, ["y"], **attributes)))


def test_unknown_operators_in_subgraphs_are_listed_with_the_others():
    unknown = graph([helper.make_node("Strange", ["x"], ["a"], name="inner")], outputs=["a"])
    with pytest.raises(UnsupportedModelError, match=r"'inner' \(Strange\)"):
        qt.import_model(model(helper.make_node("If", ["c"], ["y"], then_branch=unknown, else_branch=RELU)))


def test_an_error_in_a_subgraph_names_its_node():
    wrong = graph([helper.make_node("Relu", ["x", "x"], ["a"], name="inner")], outputs=["a"])
    with pytest.raises(InvalidModelError, match=r"^node 'inner' \(Relu\)"):
        qt.import_model(model(helper.make_node("If", ["c"], ["y"], then_branch=wrong, else_branch=RELU)))


# -- another batch size ------------------------------------------------------------------------------


def test_the_batch_can_be_changed_around_and_in_subgraphs(subgraph_case_of, in_onnxruntime):
    case = subgraph_case_of("if_data")
    module = qt.import_model(case.model, batch="dynamic")
    x = np.concatenate([case.inputs[0][0], -case.inputs[0][0]])
    exported = qt.export_qonnx(module)
    onnx.checker.check_model(exported, full_check=True)
    for condition in (True, False):
        (expected,) = in_onnxruntime(exported, [x, np.array(condition)])
        y = module(torch.from_numpy(x), torch.tensor(condition)).detach().numpy()
        np.testing.assert_allclose(y, expected, rtol=1e-6)
        (half,) = in_onnxruntime(case.model, [x[:2], np.array(condition)])
        np.testing.assert_allclose(y[:2], half, rtol=1e-6)


def test_constants_that_only_subgraphs_read_stay_when_the_batch_changes():
    source = parsed("""g (float[2,4] x, bool c) => (float[2,4] y)
        <int64[2] flat = {2, 4}, float[4] w = {1, 2, 3, 4}> {
        r = Reshape(x, flat)
        y = If(c) <then_branch = t () => (float[2,4] a) { a = Mul(r, w) },
                   else_branch = e () => (float[2,4] b) { b = Neg(r) }>
    }""")
    module = qt.import_model(source, batch="dynamic")
    assert torch.equal(module(torch.ones(3, 4), torch.tensor(True)), torch.tensor([[1.0, 2, 3, 4]] * 3))


def test_a_scan_over_the_first_dimension_has_no_batch(subgraph_case_of):
    with pytest.raises(UnsupportedModelError, match="the batch size cannot be changed; use batch='keep'"):
        qt.import_model(subgraph_case_of("scan").model, batch="dynamic")
