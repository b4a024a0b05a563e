"""What the passes do with subgraphs: they look into them, or say that they do not."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx.parser
import pytest
import torch

import qonnx_torch as qt
from qonnx_torch.passes.constants import nested_graphs
from qonnx_torch.passes.shapes import DataDependentShapeError, ValueInfo


@pytest.fixture
def quantized(subgraph_case_of):
    return subgraph_case_of("if_quantized")


def tensors(inputs) -> list[torch.Tensor]:
    return [torch.from_numpy(x) for x in inputs]


def inner(module, path: str) -> dict[str, ValueInfo]:
    graph = module.get_submodule(path).graph
    return {n.name: n.meta["value_info"] for n in graph.nodes if "value_info" in n.meta}


# -- shapes ------------------------------------------------------------------------------------------


def test_branches_that_agree_have_a_shape(subgraph_case_of):
    module = qt.import_model(subgraph_case_of("if_data").model)
    assert qt.infer_shapes(module)["y"] == ValueInfo((2, 3), torch.float32)
    assert inner(module, "y.else_branch")["mul"] == ValueInfo((2, 3), torch.float32)


def test_branches_that_differ_have_none():
    module = qt.import_model(
        onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[2,3] x, bool c) => (float[a,b] y) {
            z = Relu(x)
            y = If(c) <then_branch = t () => (float[a,b] u) { u = Identity(z) },
                       else_branch = e () => (float[a,b] v) { v = Transpose(z) }>
        }""")
    )
    with pytest.raises(
        DataDependentShapeError, match="node 'y' \\(If\\) cannot be inferred: it depends on data"
    ):
        qt.infer_shapes(module)


@pytest.mark.parametrize(
    ("name", "value", "shape"),
    [
        ("while_data", "y", (2, 3)),  # a loop's carried values keep their shapes
        ("while_shape", "y", ("N", 3)),
        ("scan_recurrent", "s", ("T", 3)),
        ("loop_no_iteration", "s", (0, 2, 3)),
        ("if_in_loop", "y", (2, None)),
        ("if_gives_shape", "y", (None, None)),  # (N, 3), or (-1, 2) of few
    ],
)
def test_shapes_behind_subgraphs(name, value, shape, subgraph_case_of):
    assert qt.infer_shapes(qt.import_model(subgraph_case_of(name).model))[value].shape == shape


@pytest.mark.parametrize("name", ["loop", "loop_break", "loop_growing"])
def test_a_length_that_hangs_on_data_is_refused_by_name(name, subgraph_case_of):
    with pytest.raises(
        DataDependentShapeError, match="node 'y' \\(Loop\\) cannot be inferred: it depends on data"
    ):
        qt.infer_shapes(qt.import_model(subgraph_case_of(name).model))


def test_what_hangs_on_data_can_be_left_out(subgraph_case_of):
    module = qt.import_model(subgraph_case_of("loop").model)
    assert set(qt.infer_shapes(module, partial=True)) == {"x", "n"}


def test_sizes_that_change_from_one_iteration_to_the_next_are_unknown(subgraph_case_of):
    module = qt.import_model(subgraph_case_of("if_in_loop").model)
    qt.infer_shapes(module)
    assert inner(module, "y.body")["v"].shape == (2, None)


def test_a_branch_that_is_not_taken_may_be_impossible():
    module = qt.import_model(
        onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[2,3] x) => (float[2,3] y) <bool no = {0}, int64[1] first = {0}> {
            y = If(no) <then_branch = t () => (float[3] u) { u = Squeeze(x, first) },
                        else_branch = e () => (float[2,3] v) { v = Neg(x) }>
        }""")
    )
    assert qt.infer_shapes(module)["y"].shape == (2, 3)
    assert "value_info" not in next(n for n in module.y.then_branch.graph.nodes if n.name == "squeeze").meta


def test_numbers_have_the_integer_type_of_the_file(subgraph_case_of):
    module = qt.import_model(subgraph_case_of("loop_int32").model)
    assert qt.infer_shapes(module)["cnt"] == ValueInfo((), torch.int32)


def test_example_inputs_may_be_sequences(subgraph_case_of):
    case = subgraph_case_of("map_sequence")
    module = qt.import_model(case.model)
    sequence, t = case.inputs[0]
    infos = qt.infer_shapes(module, [torch.from_numpy(x) for x in sequence], torch.from_numpy(t))
    assert "y" not in infos  # a sequence has no shape
    assert inner(module, "y.body")["add"].shape == (None, 3)


# -- constants, training, calibration ----------------------------------------------------------------


def test_a_captured_weight_is_constant_in_a_subgraph(quantized):
    module = qt.import_model(quantized.model)
    found = {prefix: (graph, constants) for prefix, graph, constants in nested_graphs(module)}
    graph, constants = found["y.then_branch."]
    node = next(n for n in graph.graph.nodes if n.target == "qw")
    assert constants.is_constant(node)
    assert constants.value(node).shape == (3, 3)
    assert not constants.is_constant(next(n for n in graph.graph.nodes if n.target == "r2"))


def test_training_is_configured_by_nested_names(quantized):
    rules = {"y.then_branch.r2": qt.QuantizerTraining(gradient="pact", scale="threshold")}
    module = qt.import_model(quantized.model, training=qt.TrainingConfig(rules=rules))
    kinds = {n: m.gradient for n, m in module.named_modules() if isinstance(m, qt.nn.Quantizer)}
    assert kinds == {
        "qx": "ste",
        "y.then_branch.qw": "pass",
        "y.then_branch.qw9": "pass",
        "y.then_branch.r2": "pact",
    }


def test_calibration_sets_the_quantizers_of_the_branches_that_ran(quantized):
    module = qt.import_model(quantized.model)
    yes, no = (tensors(inputs) for inputs in quantized.inputs)
    assert set(qt.calibrate(module, [no])) == {"qx"}
    assert set(qt.calibrate(module, [yes])) == {"qx", "y.then_branch.r2"}
    assert qt.calibrate_weights(module) == ("y.then_branch.qw", "y.then_branch.qw9")


def test_switches_reach_subgraphs(quantized):
    module = qt.import_model(quantized.model)
    qt.disable_quantization(module, "y.then_branch.*")
    assert not module.get_submodule("y.then_branch.r2").enabled


# -- folding, cost, quantization ---------------------------------------------------------------------


def test_folding_for_inference_quantizes_nested_weights_once(quantized, in_onnxruntime):
    module = qt.import_model(quantized.model)
    folded = qt.fold_for_inference(module)
    left = {n for n, m in folded.named_modules() if isinstance(m, qt.nn.Quantizer)}
    assert left == {"qx", "y.then_branch.r2"}
    assert not list(folded.parameters())
    exported = qt.export_qonnx(folded, functions=True)
    for inputs in quantized.inputs:
        expected = module(*tensors(inputs))
        assert torch.equal(folded(*tensors(inputs)), expected)
        (other,) = in_onnxruntime(exported, inputs)
        np.testing.assert_allclose(other, expected.detach().numpy(), rtol=1e-6, atol=1e-6)


def test_folding_keeps_nested_batch_normalization_and_says_so(subgraph_case_of):
    report = qt.fold_batch_normalization(qt.import_model(subgraph_case_of("if_normalized").model))
    assert report.folded == ()
    assert dict(report.kept) == dict.fromkeys(("y.then_branch.a1", "y.then_branch.a"), "it is in a subgraph")


def test_the_cost_names_operators_with_subgraphs_as_uncounted(quantized):
    cost = qt.inference_cost(qt.import_model(quantized.model))
    assert [layer.op_type for layer in cost.layers] == ["MatMul"]
    assert cost.uncounted == {"If"}


def test_a_graph_with_subgraphs_is_quantized_around_them_and_exported(quantized, in_onnxruntime):
    module = qt.import_model(quantized.model)
    with pytest.warns(UserWarning, match=r"operators in subgraphs stay as they are: .*mat_mul \(MatMul\)"):
        result = qt.quantize(copy.deepcopy(module), args=tuple(tensors(quantized.inputs[0])))
    exported = qt.export_qonnx(result, functions=True)
    onnx.checker.check_model(exported, full_check=True)
    for inputs in quantized.inputs:
        (expected,) = in_onnxruntime(exported, inputs)
        y = result(*tensors(inputs)).detach().numpy()
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["if_data", "if_quantized", "loop_in_if", "scan_map", "loop_over_rows"])
def test_a_module_is_verified_as_a_whole(name, subgraph_case_of):
    case = subgraph_case_of(name)
    report = qt.verify(qt.import_model(case.model), list(case.inputs[0]), reference="onnxruntime")
    assert report.passed


def test_sequences_are_refused_by_verify(subgraph_case_of):
    case = subgraph_case_of("map_sequence")
    with pytest.raises(qt.VerificationError, match="sequences cannot be compared"):
        qt.verify(qt.import_model(case.model), list(case.inputs[0]), reference="onnxruntime")
