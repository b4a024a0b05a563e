"""Subgraphs in exported files: node for node where they are unchanged, else written whole."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from torch import fx

import qonnx_torch as qt
from qonnx_torch.errors import ExportError
from qonnx_torch.ops.standard.activation import relu
from qonnx_torch.ops.standard.casting import cast
from qonnx_torch.ops.standard.elementwise import identity

EDITED = (
    "if_constant",
    "if_data",
    "if_gives_shape",
    "if_in_loop",
    "if_normalized",
    "if_quantized",
    "if_shape",
    "if_two_results",
    "loop",
    "loop_break",
    "loop_growing",
    "loop_in_if",
    "loop_int32",
    "loop_iterations",
    "loop_no_iteration",
    "loop_over_rows",
    "scan",
    "scan_axes",
    "scan_map",
    "scan_recurrent",
    "while_data",
    "while_shape",
)


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def nodes_of(model: ModelProto) -> list[Any]:
    """Returns what each node says, without its subgraphs; those follow."""

    def plain(node: NodeProto) -> NodeProto:
        result = NodeProto.FromString(node.SerializeToString())
        for attribute in result.attribute:
            attribute.ClearField("g")
        return result

    return [[plain(n) for n in g.node] for g in graphs(model.graph)]


def initializers_of(model: ModelProto) -> list[list[TensorProto]]:
    return [list(g.initializer) for g in graphs(model.graph)]


def names_of(model: ModelProto) -> list[str]:
    """Returns every name that a graph of the model defines."""
    names: list[str] = []
    for graph in graphs(model.graph):
        names += [v.name for v in (*graph.input, *graph.initializer)]
        names += [o for node in graph.node for o in node.output if o]
    return names


def assert_computes(module, model, case, in_onnxruntime) -> None:
    onnx.checker.check_model(model, full_check=True)
    if any(o.domain for o in model.opset_import):
        model = qt.export_qonnx(module, functions=True)
    for inputs in case.inputs:
        given = [[*map(torch.from_numpy, x)] if isinstance(x, list) else torch.from_numpy(x) for x in inputs]
        actual = module(*given)
        expected = in_onnxruntime(model, inputs)
        for a, e in zip(actual if isinstance(actual, tuple) else (actual,), expected, strict=True):
            for x, y in zip(a, e, strict=True) if isinstance(e, list) else [(a, e)]:
                got = torch.as_tensor(x).detach().numpy()
                assert (got.dtype, got.shape) == (y.dtype, y.shape)
                np.testing.assert_allclose(got, y, rtol=1e-5, atol=1e-6)


def train(module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.25)


def edit(module: fx.GraphModule) -> None:
    """Puts a Neg behind the first output."""
    output = module.graph.output_node()
    several = isinstance(output.args[0], tuple)
    first, *others = output.args[0] if several else output.args
    with module.graph.inserting_before(output):
        changed = module.graph.call_function(torch.neg, (first,))
    output.args = ((changed, *others),) if several else (changed,)
    module.recompile()


# -- unchanged ---------------------------------------------------------------------------------------


def test_an_unchanged_graph_comes_back_node_for_node(subgraph_case):
    model = subgraph_case.model
    exported = qt.export_qonnx(qt.import_model(model))
    onnx.checker.check_model(exported, full_check=True)
    assert nodes_of(exported) == nodes_of(model)
    pairs = zip(initializers_of(exported), initializers_of(model), strict=True)
    for ours, theirs in pairs:
        assert [i.name for i in ours] == [i.name for i in theirs]
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))


def test_trained_weights_come_back_in_their_subgraphs(subgraph_case, in_onnxruntime):
    module = qt.import_model(subgraph_case.model)
    train(module)
    exported = qt.export_qonnx(module)
    assert nodes_of(exported) == nodes_of(subgraph_case.model)
    assert_computes(module, exported, subgraph_case, in_onnxruntime)
    again = qt.import_model(exported).state_dict()
    assert list(again) == list(module.state_dict())
    assert all(torch.equal(again[key], value) for key, value in module.state_dict().items())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_exports_the_same_file(subgraph_case, copied):
    module = qt.import_model(subgraph_case.model)
    train(module)
    assert qt.export_qonnx(copied(module)) == qt.export_qonnx(module)


def test_values_of_subgraphs_are_declared(subgraph_case_of):
    exported = qt.export_qonnx(qt.import_model(subgraph_case_of("if_data").model))
    (otherwise,) = (g for g in graphs(exported.graph) if g.name == "e")
    (value,) = otherwise.value_info
    assert (value.name, [d.dim_value for d in value.type.tensor_type.shape.dim]) == ("a1", [2, 3])


def test_scales_that_training_set_apart_get_names_of_their_own(subgraph_case_of, in_onnxruntime):
    case = subgraph_case_of("if_quantized")
    module = qt.import_model(case.model)
    module.get_submodule("y.then_branch.qw9").set_parameters(scale=torch.tensor(0.3))
    exported = qt.export_qonnx(module)
    main, then, _ = graphs(exported.graph)
    values = {i.name: numpy_helper.to_array(i) for i in (*main.initializer, *then.initializer)}
    scales = [values[n.input[1]].item() for n in then.node if n.op_type == "Quant"]
    assert scales == pytest.approx([0.2, 0.3, 0.05])
    assert values["s3"] == np.float32(0.2)
    assert_computes(module, exported, case, in_onnxruntime)


def test_another_dtype_is_declared_in_subgraphs_too(subgraph_case_of):
    case = subgraph_case_of("scan")
    module = qt.import_model(case.model).double()
    args = tuple(torch.from_numpy(x).double() for x in case.inputs[0])
    exported = qt.export_qonnx(module, args=args)
    onnx.checker.check_model(exported, full_check=True)
    body = list(graphs(exported.graph))[1]
    declared = {v.type.tensor_type.elem_type for v in (*body.input, *body.output, *body.value_info)}
    assert declared == {TensorProto.DOUBLE}


def test_nodes_of_a_subgraph_are_sorted_and_domains_are_todays():
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17, "onnx.brevitas": 1]>
        g (float[2] x, bool c) => (float[2] y) <float s = {0.5}, float z = {0}, float b = {4}> {
            y = If(c) <then_branch = t () => (float[2] u) {
                    u = Neg(q)
                    q = onnx.brevitas.Quant <signed = 1, narrow = 0, rounding_mode = "ROUND"> (x, s, z, b)
                }, else_branch = e () => (float[2] v) { v = Relu(x) }>
        }""")
    exported = qt.export_qonnx(qt.import_model(model))
    onnx.checker.check_model(exported, full_check=True)
    then = list(graphs(exported.graph))[1]
    assert [(n.op_type, n.domain) for n in then.node] == [("Quant", "qonnx.custom_op.general"), ("Neg", "")]
    assert {o.domain for o in exported.opset_import} == {"", "qonnx.custom_op.general"}


# -- written whole -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EDITED)
def test_an_edited_graph_is_written_with_its_subgraphs(name, subgraph_case_of, in_onnxruntime):
    case = subgraph_case_of(name)
    module = qt.import_model(case.model)
    train(module)
    edit(module)
    exported = qt.export_qonnx(module)
    assert len(names_of(exported)) == len(set(names_of(exported)))  # nothing is hidden
    assert_computes(module, exported, case, in_onnxruntime)
    assert_computes(qt.import_model(exported), exported, case, in_onnxruntime)


def test_outputs_of_unknown_length_are_declared_as_far_as_they_are_known(subgraph_case_of):
    module = qt.import_model(subgraph_case_of("loop_growing").model)
    output = module.graph.output_node()
    with module.graph.inserting_before(output):
        output.args = (module.graph.call_function(cast, output.args, {"to": TensorProto.FLOAT16}),)
    module.recompile()
    (value,) = qt.export_qonnx(module).graph.output
    assert value.type.tensor_type.elem_type == TensorProto.FLOAT16
    assert len(value.type.tensor_type.shape.dim) in (0, 2)


def test_an_edited_scan_of_operator_set_8_is_refused(subgraph_case_of):
    case = subgraph_case_of("scan_batch")
    module = qt.import_model(case.model)
    edit(module)
    with pytest.raises(ExportError, match=r"data|operator set 8"):
        qt.export_qonnx(module)


def test_an_edit_in_a_subgraph_is_written(subgraph_case_of, in_onnxruntime):
    case = subgraph_case_of("if_data")
    module = qt.import_model(case.model)
    branch = module.y.else_branch
    output = branch.graph.output_node()
    with branch.graph.inserting_before(output):
        output.args = ((branch.graph.call_function(relu, output.args[0]),),)
    branch.recompile()
    exported = qt.export_qonnx(module)
    otherwise = next(g for g in graphs(exported.graph) if g.name == "e")
    assert [n.op_type for n in otherwise.node] == ["Mul", "Add", "Relu"]
    assert_computes(module, exported, case, in_onnxruntime)


def test_names_in_branches_do_not_hide_names_around_them():
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x, bool c) => (float[2] y) {
            y = If(c) <then_branch = t () => (float[2] a) { k = Neg(x)
                                                            a = Relu(k) },
                       else_branch = e () => (float[2] b) { k = Relu(x)
                                                            b = Neg(k) }>
        }""")
    module = qt.import_model(model)
    edit(module)
    exported = qt.export_qonnx(module)
    onnx.checker.check_model(exported, full_check=True)
    assert len(names_of(exported)) == len(set(names_of(exported)))


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_an_edited_graph_is_written_at_another_operator_set(opset, subgraph_case_of, in_onnxruntime):
    case = subgraph_case_of("loop_in_if")
    module = qt.import_model(case.model)
    edit(module)
    exported = qt.export_qonnx(module, opset_version=opset)
    assert exported.opset_import[0].version == opset
    assert_computes(module, exported, case, in_onnxruntime)


def test_an_operator_set_changes_the_form_of_nodes_in_subgraphs(in_onnxruntime):
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 18]>
        g (float[2,3] x, bool c) => (float[2] y) <int64[1] last = {1}> {
            y = If(c) <then_branch = t () => (float[2] a) { a = ReduceMean <keepdims = 0> (x, last) },
                       else_branch = e () => (float[2] b) { b = ReduceMax <keepdims = 0> (x, last) }>
        }""")
    module = qt.import_model(model)
    exported = qt.export_qonnx(module, opset_version=17)
    onnx.checker.check_model(exported, full_check=True)
    then = list(graphs(exported.graph))[1]
    assert {a.name for a in then.node[0].attribute} == {"axes", "keepdims"}
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    (expected,) = in_onnxruntime(exported, [x, np.array(True)])
    assert module(torch.from_numpy(x), torch.tensor(True)).tolist() == expected.tolist()


def test_a_subgraph_that_is_no_graph_is_refused(subgraph_case_of):
    class Negated(torch.nn.Module):
        def forward(self, h):
            return (-h,)

    module = qt.import_model(subgraph_case_of("if_data").model)
    module.y.then_branch = Negated()
    with pytest.raises(ExportError, match=r"its then_branch is no torch.fx.GraphModule"):
        qt.export_qonnx(module)


def test_a_tensor_that_a_subgraph_lost_is_named(subgraph_case_of):
    module = qt.import_model(subgraph_case_of("if_data").model)
    del module.y.then_branch.b
    with pytest.raises(ExportError, match=r"y.then_branch.b"):
        qt.export_qonnx(module)


@pytest.mark.parametrize("name", ["map_sequence", "loop_sequence"])
def test_sequences_are_written_whole(name, subgraph_case_of, in_onnxruntime):
    case = subgraph_case_of(name)
    module = qt.import_model(case.model)
    output = module.graph.output_node()
    first = output.args[0][0] if isinstance(output.args[0], tuple) else output.args[0]
    with module.graph.inserting_before(output):
        passed = module.graph.call_function(identity, (first,))
    first.replace_all_uses_with(passed, delete_user_cb=lambda user: user is output)
    module.recompile()
    args = [
        [*map(torch.from_numpy, x)] if isinstance(x, list) else torch.from_numpy(x) for x in case.inputs[0]
    ]
    exported = qt.export_qonnx(module, args=tuple(args))
    assert exported.graph.output[0].type.HasField("sequence_type")
    assert_computes(module, exported, case, in_onnxruntime)
