"""GenericPartition: the models beside the model take the place of the nodes; nothing else is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, NodeProto, helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx

import qonnx_torch as qt
from qonnx_torch.errors import InvalidModelError, UnsupportedModelError

DOMAIN = "qonnx.custom_op.general"
MakeModel = Callable[..., ModelProto]


def partition(file: str, inputs: list[str], outputs: list[str], name: str = "part") -> NodeProto:
    return helper.make_node("GenericPartition", inputs, outputs, name=name, domain=DOMAIN, model=file)


def scaled(make_model: MakeModel, factor: float) -> ModelProto:
    """b = a * factor, whose initializer is called as one of the outer model."""
    node = helper.make_node("Mul", ["a", "w"], ["b"], name="node")
    return make_model(
        [node], inputs={"a": (1, 4)}, outputs=("b",), initializers={"w": np.full(4, factor, np.float32)}
    )


def test_equals_qonnx_and_trains(make_model: MakeModel, tmp_path: Path) -> None:
    onnx.save(scaled(make_model, 3.0), tmp_path / "inner.onnx")
    nodes = [
        helper.make_node("Add", ["x", "w"], ["t"], name="node"),
        partition(str(tmp_path / "inner.onnx"), ["t"], ["u"], "first"),
        partition(str(tmp_path / "inner.onnx"), ["u"], ["y"], "second"),
    ]
    model = make_model(nodes, initializers={"w": np.ones(4, np.float32)})
    onnx.save(model, tmp_path / "outer.onnx")
    module = qt.import_model(tmp_path / "outer.onnx")
    x = torch.arange(4.0).reshape(1, 4)
    for file in ("inner", "outer"):  # qonnx wants to know all shapes
        wrapper = ModelWrapper(str(tmp_path / f"{file}.onnx"))
        wrapper.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        for name in ("b",) if file == "inner" else ("t", "u", "y"):
            wrapper.set_tensor_shape(name, (1, 4))
        wrapper.save(str(tmp_path / f"{file}.onnx"))
    np.testing.assert_array_equal(module(x).detach(), execute_onnx(wrapper, {"x": x.numpy()})["y"])
    module(x).sum().backward()
    grads = {n: p.grad.tolist() for n, p in module.named_parameters()}
    assert grads == {"w": [9.0] * 4, "first_w": [3.0, 6.0, 9.0, 12.0], "second_w": [3.0, 6.0, 9.0, 12.0]}
    exported = qt.export_qonnx(module)
    assert [n.op_type for n in exported.graph.node] == ["Add", "Mul", "Mul"]
    assert torch.equal(qt.import_model(exported)(x), module(x))


def test_partitions_in_partitions_and_values_passed_on(make_model: MakeModel, tmp_path: Path) -> None:
    onnx.save(scaled(make_model, 2.0), tmp_path / "inner.onnx")
    middle = make_model([partition("elsewhere/inner.onnx", ["x"], ["y"])], outputs=("y", "x", "y"))
    onnx.save(middle, tmp_path / "middle.onnx")
    outer = [
        partition("middle.onnx", ["x"], ["a", "b", "c"]),
        helper.make_node("Sum", ["a", "b", "c"], ["y"]),
    ]
    onnx.save(make_model(outer), tmp_path / "outer.onnx")
    module = qt.import_model(tmp_path / "outer.onnx")
    assert torch.equal(module(torch.ones(1, 4)), torch.full((1, 4), 5.0))
    assert [n for n, _ in module.named_parameters()] == ["part_part_w"]


def test_a_file_outside_the_folder_is_never_read(make_model: MakeModel, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    onnx.save(scaled(make_model, 2.0), tmp_path / "secret.onnx")
    os.symlink(tmp_path / "secret.onnx", inside / "link.onnx")
    for file in (
        "../secret.onnx",
        str(tmp_path / "secret.onnx"),
        "link.onnx",
        "",
        "no\0name",
        ".",
        "/dev/zero",
    ):
        onnx.save(make_model([partition(file, ["x"], ["y"])]), inside / "outer.onnx")
        with pytest.raises(UnsupportedModelError, match=r"'part' .*is not in the model's folder"):
            qt.import_model(inside / "outer.onnx")


def test_a_model_without_a_folder_has_no_partitions(make_model: MakeModel) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"is in the file 'inner.onnx'; import the model by its path"
    ):
        qt.import_model(make_model([partition("inner.onnx", ["x"], ["y"])]))


def test_what_does_not_fit_is_refused_by_name(make_model: MakeModel, tmp_path: Path) -> None:
    def refused(error: type[Exception], match: str, inner: ModelProto, inputs: list[str]) -> None:
        onnx.save(inner, tmp_path / "inner.onnx")
        onnx.save(make_model([partition("inner.onnx", inputs, ["y"])]), tmp_path / "outer.onnx")
        with pytest.raises(error, match=match):
            qt.import_model(tmp_path / "outer.onnx")

    refused(
        InvalidModelError,
        "has 2 inputs and 1 outputs, its partition 1 and 1",
        scaled(make_model, 1),
        ["x", "x"],
    )
    refused(InvalidModelError, "has 0 inputs", scaled(make_model, 1), [])
    itself = make_model([partition("inner.onnx", ["x"], ["y"])])
    refused(InvalidModelError, "'inner.onnx' contains itself", itself, ["x"])
    newer = make_model([helper.make_node("Relu", ["x"], ["y"])], imports={"": 21})
    refused(UnsupportedModelError, "is written for ai.onnx 21, the model for 13", newer, ["x"])


def test_partitions_that_multiply_end(make_model: MakeModel, tmp_path: Path) -> None:
    onnx.save(scaled(make_model, 1.0), tmp_path / "p0.onnx")
    for i in range(1, 40):
        twice = [
            partition(f"p{i - 1}.onnx", ["x"], ["t"], "a"),
            partition(f"p{i - 1}.onnx", ["t"], ["y"], "b"),
        ]
        onnx.save(make_model(twice), tmp_path / f"p{i}.onnx")
    with pytest.raises(UnsupportedModelError, match="more than 1000 partitions"):
        qt.import_model(tmp_path / "p39.onnx")


def test_partitions_in_subgraphs(make_model: MakeModel, tmp_path: Path) -> None:
    """Their tensors become the main graph's, one for each use."""
    onnx.save(scaled(make_model, 2.0), tmp_path / "inner.onnx")
    branches = {
        key: helper.make_graph(
            [
                partition("inner.onnx", ["x"], [f"{key}_t"], "part"),
                helper.make_node(op_type, [f"{key}_t"], [key]),
            ],
            key,
            [],
            [helper.make_tensor_value_info(key, onnx.TensorProto.FLOAT, None)],
        )
        for key, op_type in (("then_branch", "Neg"), ("else_branch", "Exp"))
    }
    model = make_model([helper.make_node("If", ["c"], ["y"], **branches)])
    model.graph.input.append(helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, ()))
    onnx.save(model, tmp_path / "outer.onnx")
    module = qt.import_model(tmp_path / "outer.onnx")
    x = torch.ones(1, 4)
    assert torch.equal(module(x, torch.tensor(True)), -2 * x)
    assert torch.equal(module(x, torch.tensor(False)), (2 * x).exp())
    assert [n for n, _ in module.named_parameters()] == ["part_w", "part_2_w"]
