"""Element types that a schema does not allow, as far as they are known while importing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx import TensorProto as T

import qonnx_torch as qt

node = helper.make_node


def graph(name: str, *nodes: NodeProto, outputs: list[onnx.ValueInfoProto]) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), name, [], outputs)


def make(
    nodes: list[NodeProto],
    constants: dict[str, Any] | None = None,
    output: int = T.UNDEFINED,
    opset: int = 21,
) -> ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(v), name) for name, v in (constants or {}).items()]
    x = helper.make_tensor_value_info("x", T.FLOAT, [2, 2])
    y = helper.make_tensor_value_info("y", output, None)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y], tensors), opset_imports=imports)


Y = [helper.make_tensor_value_info("b", T.FLOAT, [2, 2])]
BRANCHES = {
    "then_branch": graph("t", node("Relu", ["x"], ["b"]), outputs=Y),
    "else_branch": graph("e", node("Neg", ["x"], ["b"]), outputs=Y),
}
SAME = r"its inputs 'x' and 'c' are of the types FLOAT and {}; they must have the same"


# onnxruntime refuses every one of them.
@pytest.mark.parametrize(("broken", "constant", "match"), [
    (node("Add", ["x", "c"], ["y"]), np.array([1, 2]), SAME.format("INT64")),
    (node("Mul", ["x", "c"], ["y"]), np.array([1.0, 2.0]), SAME.format("DOUBLE")),
    (node("Concat", ["x", "c"], ["y"], axis=0), np.array([[1, 2]]), SAME.format("INT64")),
    (node("Gather", ["x", "c"], ["y"]), np.float32([1.7]),
     r"ai.onnx::Gather-\d+: its input 'c' \(indices\) is of type FLOAT, not INT32 or INT64"),
    (node("Where", ["c", "x", "x"], ["y"]), np.array([1, 2]), r"\(condition\) is of type INT64, not BOOL"),
    (node("Reshape", ["x", "c"], ["y"]), np.float32([4]), r"'c' \(shape\) is of type FLOAT, not INT64"),
    (node("If", ["c"], ["y"], **BRANCHES), np.float32(0.5), r"'c' \(cond\) is of type FLOAT, not BOOL"),
    (node("Not", ["x"], ["y"]), np.array(1), r"'x' \(X\) is of type FLOAT, not BOOL"),
    (node("ArrayFeatureExtractor", ["x", "c"], ["y"], domain="ai.onnx.ml"), np.float32([1]),
     r"'c' \(Y\) is of type FLOAT, not INT64"),
])  # fmt: skip
def test_types_that_no_version_allows(broken: NodeProto, constant: Any, match: str) -> None:
    with pytest.raises(qt.InvalidModelError, match=rf"node 'y' \({broken.op_type}\): .*{match}"):
        qt.import_model(make([broken], {"c": constant}))


def test_types_follow_from_those_before() -> None:
    nodes = [node("Shape", ["x"], ["s"]), node("Relu", ["x"], ["r"]), node("Add", ["r", "s"], ["y"])]
    with pytest.raises(qt.InvalidModelError, match="'r' and 's' are of the types FLOAT and INT64"):
        qt.import_model(make(nodes))


def test_types_in_a_subgraph() -> None:
    broken = graph("t", node("Add", ["x", "c"], ["b"]), outputs=Y)
    branches = {"then_branch": broken, "else_branch": BRANCHES["else_branch"]}
    with pytest.raises(qt.InvalidModelError, match=r"node 'b' \(Add\): .* FLOAT and INT64"):
        qt.import_model(make([node("If", ["k"], ["y"], **branches)], {"k": True, "c": np.array([1, 2])}))


def test_an_output_declared_with_another_type() -> None:
    with pytest.raises(
        qt.InvalidModelError, match="graph output 'y' is declared as INT64; it is of type FLOAT"
    ):
        qt.import_model(make([node("Relu", ["x"], ["y"])], output=T.INT64))


def test_inner_declarations_do_not_count() -> None:
    model = make([node("Relu", ["x"], ["r"]), node("Neg", ["r"], ["y"])], output=T.FLOAT)
    model.graph.value_info.append(helper.make_tensor_value_info("r", T.INT64, [2, 2]))
    x = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    assert torch.equal(qt.import_model(model)(x), -x.relu())


@pytest.mark.parametrize(("nodes", "constants"), [
    # Pow has its exponent's type for itself since version 12, Conv bfloat16 since version 22
    ([node("Pow", ["x", "c"], ["y"])], {"c": np.array(2)}),
    ([node("Cast", ["x"], ["h"], to=T.BFLOAT16), node("Relu", ["h"], ["r"]),
      node("Cast", ["r"], ["y"], to=T.FLOAT)], {}),
])  # fmt: skip
def test_types_that_a_newer_version_allows(nodes: list[NodeProto], constants: dict[str, Any]) -> None:
    y = qt.import_model(make(nodes, constants, output=T.FLOAT, opset=11))(torch.ones(2, 2))
    assert torch.equal(y, torch.ones(2, 2))


def test_carried_values_of_several_types() -> None:
    """The outputs of a Loop have types of their own, not all that of its first carried value."""
    inner = [helper.make_tensor_value_info(n, t, None) for n, t in (("i", T.INT64), ("k", T.BOOL),
             ("a", T.FLOAT), ("b", T.INT64))]  # fmt: skip
    outer = [helper.make_tensor_value_info(n, t, None) for n, t in (("k2", T.BOOL), ("a2", T.FLOAT),
             ("b2", T.INT64))]  # fmt: skip
    nodes = [node("Identity", ["k"], ["k2"]), node("Neg", ["a"], ["a2"]), node("Add", ["b", "i"], ["b2"])]
    body = helper.make_graph(nodes, "body", inner, outer)
    loop = node("Loop", ["n", "", "x", "zero"], ["f", "s"], body=body)
    model = make([loop, node("Add", ["s", "one"], ["y"])],
                 {"n": np.array(3), "zero": np.array(0), "one": np.array(1)}, output=T.INT64)  # fmt: skip
    assert qt.import_model(model)(torch.ones(2, 2)).item() == 4
