"""Sparse initializers and constants: dense from reading on, in both forms of indices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper

import qonnx_torch as qt
from qonnx_torch.errors import InvalidModelError, UnsupportedModelError


def sparse(values: Any, indices: Any, dims: Sequence[int], name: str = "w") -> SparseTensorProto:
    return SparseTensorProto(
        values=numpy_helper.from_array(np.asarray(values), name),
        indices=numpy_helper.from_array(np.asarray(indices, dtype=np.int64), "indices"),
        dims=dims,
    )


def model(tensor: SparseTensorProto, where: str, kind: int = TensorProto.FLOAT) -> ModelProto:
    """x + w, where w is sparse: an initializer or constant, here, in a branch or in a function."""
    add = helper.make_node("Add", ["x", "w"], ["y"])
    constant = helper.make_node("Constant", [], ["w"], sparse_value=tensor)
    x, y = (helper.make_tensor_value_info(n, kind, ["N", *tensor.dims]) for n in "xy")
    sets = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    functions = []
    nodes = [constant, add] if where == "constant" else [add]
    if where == "branch":
        branch = helper.make_graph([helper.make_node("Add", ["x", "w"], ["z"])], "b", [], [y])
        branch.output[0].name = "z"
        branch.sparse_initializer.append(tensor)
        flag = helper.make_node(
            "Constant", [], ["f"], value=helper.make_tensor("", TensorProto.BOOL, (), [True])
        )
        nodes = [flag, helper.make_node("If", ["f"], ["y"], then_branch=branch, else_branch=branch)]
    if where in ("function", "attribute"):
        call = helper.make_node("f", ["x"], ["y"], domain="local")
        if where == "attribute":
            call.attribute.append(helper.make_attribute("s", tensor))
            del constant.attribute[:]
            kind = onnx.AttributeProto.SPARSE_TENSOR
            constant.attribute.add(name="sparse_value", type=kind, ref_attr_name="s")
        nodes = [call]
        names = ["s"] if where == "attribute" else []
        functions = [
            helper.make_function("local", "f", ["x"], ["y"], [constant, add], sets, attributes=names)
        ]
    graph = helper.make_graph(nodes, "g", [x], [y])
    if where == "initializer":
        graph.sparse_initializer.append(tensor)
    return helper.make_model(graph, opset_imports=sets, functions=functions, ir_version=10)


@pytest.mark.parametrize("indices", [[0, 4, 5], [[0, 0], [1, 1], [1, 2]]], ids=["linear", "coordinates"])
@pytest.mark.parametrize("where", ["initializer", "constant", "branch", "function", "attribute"])
def test_sparse_tensors_run_train_and_go_out_dense(where: str, indices: Any) -> None:
    file = model(sparse(np.float32([1, -2, 3]), indices, [2, 3]), where)
    module = qt.import_model(file)
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 2, 3)
    expected = x + np.float32([[1, 0, 0], [0, -2, 3]])
    if where in ("initializer", "constant"):
        session = ort.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], expected)
    y = module(torch.from_numpy(x))
    np.testing.assert_array_equal(y.detach(), expected)
    if where == "initializer":
        y.sum().backward()
        assert torch.equal(module.w.grad, torch.full((2, 3), 2.0))
    written = qt.export_qonnx(module)
    assert not written.graph.sparse_initializer
    session = ort.InferenceSession(written.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], expected)


@pytest.mark.parametrize(
    "dtype", ["float64", "float16", "int64", "int32", "uint8", "bfloat16", "bool"]
)  # bool is added by Or
def test_element_types(dtype: str) -> None:
    kind = {"bfloat16": TensorProto.BFLOAT16, "bool": TensorProto.BOOL}.get(dtype)
    kind = kind or helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    values = np.array([1, 1]).astype(helper.tensor_dtype_to_np_dtype(kind))
    for length in (5, 100_000):  # large ones are kept beside the messages
        file = model(sparse(values, [1, 4], [length]), "initializer", kind)
        if dtype == "bool":
            file.graph.node[0].op_type = "Or"
        module = qt.import_model(file)
        y = module(torch.zeros(1, length, dtype=getattr(torch, dtype)))
        expected = torch.zeros(1, length)
        expected[0, [1, 4]] = 1
        assert torch.equal(y.float(), expected)
        assert torch.equal(qt.import_model(qt.export_qonnx(module))(torch.zeros_like(y)), y)


def test_a_tensor_without_values() -> None:
    module = qt.import_model(model(sparse(np.zeros(0, np.float32), np.zeros((0, 2)), [2, 3]), "initializer"))
    assert module(torch.ones(1, 2, 3)).tolist() == [[[1.0] * 3] * 2]


def test_values_in_another_file(tmp_path: Path) -> None:
    file = model(sparse(np.float32([1, 2]), [0, 2], [3]), "initializer")
    values = file.graph.sparse_initializer[0].values
    (tmp_path / "data.bin").write_bytes(values.raw_data)
    values.ClearField("raw_data")
    values.data_location = TensorProto.EXTERNAL
    values.external_data.add(key="location", value="data.bin")
    (tmp_path / "m.onnx").write_bytes(file.SerializeToString())
    assert qt.import_model(tmp_path / "m.onnx")(torch.zeros(1, 3)).tolist() == [[1.0, 0.0, 2.0]]


@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        ([0, 6], r"initializer 'w': an index is out of range for the shape \[2, 3\]"),
        ([-1, 2], "an index is out of range"),
        ([[0, 0], [0, 3]], "an index is out of range"),
        ([4, 2], "its indices are not in ascending order, each once"),
        ([2, 2], "its indices are not in ascending order, each once"),
        ([[1, 0], [0, 1]], "its indices are not in ascending order, each once"),
        ([1, 2, 3], r"its indices have the shape \[3\]; with 2 values it must be \[2\] or \[2, 2\]"),
        ([[1], [2]], r"its indices have the shape \[2, 1\]"),
    ],
)
def test_indices_that_do_not_fit(indices: Any, expected: str) -> None:
    with pytest.raises(InvalidModelError, match=expected):
        qt.import_model(model(sparse(np.float32([1, 2]), indices, [2, 3]), "initializer"))


def test_parts_that_are_none() -> None:
    wrong = sparse(np.float32([[1, 2]]), [0, 1], [3])
    with pytest.raises(InvalidModelError, match="its values have 2 dimensions"):
        qt.import_model(model(wrong, "initializer"))
    wrong = sparse(np.float32([1, 2]), [0, 1], [3])
    wrong.indices.CopyFrom(numpy_helper.from_array(np.float32([0, 1]), "indices"))
    with pytest.raises(InvalidModelError, match="'w' is sparse, and its indices are no INT64"):
        qt.import_model(model(wrong, "initializer"))


@pytest.mark.parametrize("where", ["initializer", "constant"])
@pytest.mark.parametrize("dims", [[1 << 20, 1 << 20], [1 << 28]])
def test_a_tensor_that_would_be_huge(where: str, dims: list[int]) -> None:
    with pytest.raises(UnsupportedModelError, match=r"'w' is sparse and would take [0-9]+ bytes"):
        qt.import_model(model(sparse(np.float32([1]), [0], dims), where))


def test_many_tensors_that_would_be_huge_together() -> None:
    file = model(sparse(np.float32([1]), [0], [1 << 22]), "initializer")
    for i in range(40):
        file.graph.sparse_initializer.append(sparse(np.float32([1]), [0], [1 << 22], f"w{i}"))
    with pytest.raises(UnsupportedModelError, match="is sparse and would take 16777216 bytes"):
        qt.import_model(file)
