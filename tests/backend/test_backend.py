"""The backend interface itself: what it takes, what it gives, what it refuses."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, parser

import qonnx_torch.backend as backend
from qonnx_torch.errors import UnsupportedModelError, VerificationError

X = np.array([[1.0, -2.0, 3.0]], np.float32)
Y = np.array([[0.5, 0.5, 0.5]], np.float32)


def model(body: str, signature: str, opset: int = 21) -> ModelProto:
    return parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\ng {signature} {{ {body} }}')


DIFFERENCE = model("d = Sub(x, y)", "(float[N, 3] x, float[N, 3] y) => (float[N, 3] d)")


@pytest.mark.parametrize("inputs", [[X, Y], (X, Y), {"y": Y, "x": X}], ids=["list", "tuple", "mapping"])
def test_inputs_come_in_order_or_by_name(inputs: Any) -> None:
    outputs = backend.run_model(DIFFERENCE, inputs)
    np.testing.assert_array_equal(outputs[0], X - Y)
    np.testing.assert_array_equal(outputs.d, X - Y)


def test_one_array_is_one_input() -> None:
    (y,) = backend.run_model(model("y = Relu(x)", "(float[1, 3] x) => (float[1, 3] y)"), X)
    np.testing.assert_array_equal(y, np.maximum(X, 0))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([X], "1 inputs are given; the model has 2: ['x', 'y']"),
        ({"x": X, "y": Y, "z": Y}, "the model has no input 'z'; its inputs are ['x', 'y']"),
        ({"x": X}, "the model has an input 'y'; its inputs are ['x', 'y']"),
    ],
)
def test_wrong_inputs_are_named(inputs: Any, message: str) -> None:
    with pytest.raises(VerificationError, match=re.escape(message)):
        backend.run_model(DIFFERENCE, inputs)


def test_an_unknown_option_of_run_is_refused() -> None:
    with pytest.raises(VerificationError, match="run takes no option 'threads'"):
        backend.prepare(DIFFERENCE).run([X, Y], threads=4)


def test_a_model_runs_again_and_its_module_is_there() -> None:
    prepared = backend.prepare(DIFFERENCE)
    first, second = prepared.run([X, Y]), prepared.run([Y, X])
    np.testing.assert_array_equal(first[0], -second[0])
    assert not prepared.module.training
    arguments = prepared.tensors({"x": X, "y": Y})
    assert all(isinstance(a, torch.Tensor) for a in arguments)
    np.testing.assert_array_equal(prepared.arrays(prepared.module(*arguments))[0], first[0])


def test_a_node_runs_by_itself() -> None:
    node = helper.make_node("Gemm", ["a", "b"], ["y"], alpha=0.5, transB=1)
    (y,) = backend.run_node(node, [X, Y])
    np.testing.assert_allclose(y, 0.5 * X @ Y.T)


def test_a_node_is_read_at_the_version_that_is_asked_for() -> None:
    node = helper.make_node("Softmax", ["x"], ["y"])
    x = np.ones((1, 2, 3), np.float32)
    np.testing.assert_allclose(backend.run_node(node, [x])[0], 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(backend.run_node(node, [x], opset_version=11)[0], 1 / 6, rtol=1e-6)


def test_an_output_may_be_listed_twice() -> None:
    twice = model("y = Neg(x)", "(float[1, 3] x) => (float[1, 3] y)")
    twice.graph.output.append(twice.graph.output[0])
    outputs = backend.run_model(twice, [X])
    assert len(outputs) == 2
    np.testing.assert_array_equal(outputs.y, -X)
    np.testing.assert_array_equal(outputs.y_1, -X)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X.astype(np.float64), "the input 'x' is given as float64; the model declares FLOAT"),
        (X[0], "the input 'x' is given with the shape [3]; the model declares ['N', 3]"),
        (X[:, :2], "the input 'x' is given with the shape [1, 2]; the model declares ['N', 3]"),
    ],
)
def test_other_types_and_shapes_are_refused(x: np.ndarray, message: str) -> None:
    with pytest.raises(VerificationError, match=re.escape(message)):
        backend.run_model(DIFFERENCE, [x, Y])


def test_a_node_takes_a_sequence() -> None:
    node = helper.make_node("ConcatFromSequence", ["s"], ["y"], axis=0)
    (y,) = backend.run_node(node, [[X, Y]])
    np.testing.assert_array_equal(y, np.concatenate([X, Y]))
    with pytest.raises(VerificationError, match=re.escape("2 inputs are given; the node has 1: ['s']")):
        backend.run_node(node, [X, Y])


def test_the_version_is_that_of_the_nodes_domain() -> None:
    node = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[1.0], scale=[2.0])
    for version in ({}, {"opset_version": 1}, {"opset_version": 5}):
        np.testing.assert_array_equal(backend.run_node(node, [X], **version)[0], (X - 1) * 2)
    tree = helper.make_node("TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml")
    with pytest.raises(UnsupportedModelError, match=r"TreeEnsemble version 3"):
        backend.run_node(tree, [X], opset_version=3)


def test_results_have_the_dtype_that_the_module_gives() -> None:
    """Otherwise the conformance suite would not see a wrong one."""
    prepared = backend.prepare(model("y = Relu(x)", "(float[1, 3] x) => (float[1, 3] y)"))
    prepared.module.forward = lambda x: x.double()
    assert prepared.run([X])[0].dtype == np.float64


def test_a_node_of_another_domain_runs() -> None:
    node = helper.make_node(
        "Quant", ["x", "s", "z", "b"], ["y"], domain="qonnx.custom_op.general", signed=1, narrow=0,
        rounding_mode="ROUND",
    )  # fmt: skip
    scalars = [np.array(v, np.float32) for v in (0.5, 0.0, 3.0)]
    (y,) = backend.run_node(node, [X, *scalars], outputs_info=[(np.dtype("float32"), (1, 3))])
    np.testing.assert_array_equal(y, [[1.0, -2.0, 1.5]])


def test_sequences_and_empty_optionals_go_in_and_out() -> None:
    text = "(seq(float[3]) s, optional(float[3]) o) => (seq(float[3]) t, bool has)"
    prepared = backend.prepare(model("t = SequenceInsert(s, e) has = OptionalHasElement(o) e = Constant"
                                     "<value = float[3] {1, 2, 3}>()", text))  # fmt: skip
    outputs = prepared.run([[X[0], Y[0]], None])
    assert [list(a) for a in outputs.t] == [list(X[0]), list(Y[0]), [1, 2, 3]]
    assert not outputs.has
    assert prepared.run([[X[0]], X[0]]).has


@pytest.mark.parametrize(
    "element_type",
    [TensorProto.BFLOAT16, TensorProto.FLOAT8E5M2, TensorProto.INT4, TensorProto.UINT2],
    ids=TensorProto.DataType.Name,
)
def test_types_that_numpy_lacks_come_back_as_they_went_in(element_type: int) -> None:
    value = helper.make_tensor_value_info("x", element_type, [2])
    result = helper.make_tensor_value_info("y", element_type, [2])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [result])
    x = np.array([1, 0], helper.tensor_dtype_to_np_dtype(element_type))
    (y,) = backend.run_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)]), [x])
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y.astype(np.float32), [1, 0])


def test_devices() -> None:
    assert backend.supports_device("CPU")
    assert backend.supports_device("CUDA") == torch.cuda.is_available()
    assert not backend.supports_device("CUDA:99")
    assert not backend.supports_device("TPU")
    with pytest.raises(VerificationError, match="device 'CUDA:99' is not available"):
        backend.prepare(DIFFERENCE, "CUDA:99")


def test_compatibility() -> None:
    unknown = model("y = RegexFullMatch<pattern = \"a\">(x)", "(string[N] x) => (bool[N] y)")  # fmt: skip
    assert backend.is_compatible(DIFFERENCE)
    assert not backend.is_compatible(unknown)
    assert not backend.is_compatible(DIFFERENCE, "TPU")
    with pytest.raises(UnsupportedModelError, match="RegexFullMatch"):
        backend.prepare(unknown)
