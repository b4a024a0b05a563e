"""QuantizeDequantizeLinear leaves as the nodes that it stands for."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import qonnx_torch as qt
import qonnx_torch.nn as qnn
from qonnx_torch.provenance import provenance_of

T = TensorProto
X = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)) * 4


def file(
    *,
    element_type: int = T.UINT8,
    offset: Any = 3,
    scale: Any = 0.1,
    clip: bool = False,
    opset: int = 21,
    **axis: int,
) -> ModelProto:
    """Relu and a pair, with names of its own."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="act"),
        helper.make_node("QuantizeLinear", ["r", "the_scale", "the_zero"], ["integers"], name="to", **axis),
        helper.make_node("Clip", ["integers", "low", "high"], ["clipped"], name="between"),
        helper.make_node(
            "DequantizeLinear",
            ["clipped" if clip else "integers", "the_scale", "the_zero"],
            ["y"],
            name="back",
            **axis,
        ),
    ]
    if not clip:
        del nodes[2]
    dtype = helper.tensor_dtype_to_np_dtype(element_type)
    constants = {"the_scale": np.asarray(scale, np.float32), "the_zero": np.asarray(offset).astype(dtype)}
    if clip:
        constants |= {"low": np.array(2).astype(dtype), "high": np.array(9).astype(dtype)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", T.FLOAT, X.shape)],
        [helper.make_tensor_value_info("y", T.FLOAT, X.shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10 if opset < 25 else 13
    )


def forget_structure(module: torch.fx.GraphModule) -> None:
    """Makes a module look edited, so that its export is canonical."""
    changed = dataclasses.replace(provenance_of(module), fingerprint="edited")
    object.__setattr__(module, "provenance", changed)


def spelled(node: NodeProto) -> tuple[Any, ...]:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return node.op_type, list(node.input), list(node.output), node.name, attributes


def arrays(model: ModelProto) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def run(model: ModelProto, x: torch.Tensor = X) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    result: np.ndarray = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    return result


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(
    "form",
    [
        {},
        {"scale": [0.1], "offset": [3]},
        {"scale": [0.1, 0.2, 0.3], "offset": [1, 2, 3], "axis": -2},
        {"scale": np.full(8, 0.1), "offset": np.arange(8), "axis": -1},
    ],
    ids=["scalar", "vector", "axis", "last"],
)
def test_the_files_nodes_come_back(form: dict[str, Any], clip: bool) -> None:
    source = file(clip=clip, **form)
    result = qt.export_qonnx(qt.import_model(source))
    onnx.checker.check_model(result, full_check=True)
    found, wanted = list(map(spelled, result.graph.node)), list(map(spelled, source.graph.node))
    for one in (found, wanted):
        for position, (op_type, inputs, *_) in enumerate(one):
            if op_type == "Clip":  # its bounds are new constants
                one[position][1][1:] = []
                assert len(inputs) == 1
    assert found == wanted
    mine, theirs = arrays(result), arrays(source)
    for name in ("the_scale", "the_zero"):
        assert mine[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(mine[name], theirs[name])
    declared = {v.name: v.type.tensor_type for v in result.graph.value_info}
    assert declared["integers"].elem_type == T.UINT8
    assert [d.dim_value for d in declared["integers"].shape.dim] == list(X.shape)
    np.testing.assert_array_equal(run(result), run(source))


def test_blocks_come_back() -> None:
    scale = np.random.default_rng(0).uniform(0.1, 1, (2, 3, 3)).astype(np.float32)
    source = file(
        scale=scale, offset=np.arange(18).reshape(2, 3, 3) % 16, element_type=T.UINT4, axis=2, block_size=3
    )
    result = qt.export_qonnx(qt.import_model(source))
    onnx.checker.check_model(result, full_check=True)
    quantize = result.graph.node[1]
    assert spelled(quantize)[-1] == {"axis": -1, "block_size": 3}
    np.testing.assert_array_equal(arrays(result)["the_scale"], scale)
    assert result.graph.initializer[1].data_type == T.UINT4
    np.testing.assert_array_equal(run(result), run(source))


@pytest.mark.parametrize("canonical", [False, True])
def test_what_was_trained_is_written(canonical: bool) -> None:
    module = qt.import_model(file(scale=[0.1, 0.2, 0.3], offset=[1, 2, 3], axis=1))
    (quantizer,) = (m for m in module.modules() if isinstance(m, qnn.QuantizeDequantizeLinear))
    quantizer.train_parameters(scale="log2", zero_point="learned")
    with torch.no_grad():
        quantizer.scale_training.log2.add_(0.3)
        quantizer.zero_point.add_(4.4)
    if canonical:
        forget_structure(module)
    result = qt.export_qonnx(module)
    onnx.checker.check_model(result, full_check=True)
    found = arrays(result)
    assert found["the_zero"].dtype == np.uint8
    assert found["the_zero"].tolist() == [5, 6, 7]
    np.testing.assert_allclose(found["the_scale"], np.array([0.1, 0.2, 0.3]) * 2**0.3, rtol=1e-6)
    with torch.no_grad():
        np.testing.assert_array_equal(run(result), module(X).numpy())
        assert torch.equal(qt.import_model(result)(X), module(X))


def test_an_edited_graph() -> None:
    module = qt.import_model(file(clip=True))
    output = next(n for n in module.graph.nodes if n.op == "output")
    with module.graph.inserting_before(output):
        output.args = (module.graph.call_function(torch.relu, (output.args[0],)),)
    module.recompile()
    result = qt.export_qonnx(module)
    onnx.checker.check_model(result, full_check=True)
    assert [n.op_type for n in result.graph.node] == [
        "Relu",
        "QuantizeLinear",
        "Clip",
        "DequantizeLinear",
        "Relu",
    ]
    with torch.no_grad():
        np.testing.assert_array_equal(run(result), module(X).numpy())


@pytest.mark.parametrize(
    ("element_type", "opset", "expected"),
    [
        (T.INT4, 21, ["QuantizeLinear", "DequantizeLinear"]),
        (T.INT4, 17, ["QuantizeLinear", "Clip", "DequantizeLinear"]),
        (T.UINT4, 13, ["QuantizeLinear", "Clip", "DequantizeLinear"]),
        (T.UINT2, 21, ["QuantizeLinear", "Clip", "DequantizeLinear"]),
        (T.INT2, 25, ["QuantizeLinear", "DequantizeLinear"]),
        (T.UINT16, 21, ["QuantizeLinear", "DequantizeLinear"]),
        (T.UINT8, 13, ["QuantizeLinear", "DequantizeLinear"]),
    ],
)
def test_types_that_an_operator_set_lacks_are_held_in_bytes(
    element_type: int, opset: int, expected: list[str]
) -> None:
    module = qt.import_model(
        file(element_type=element_type, offset=1, opset=25 if element_type in (T.INT2, T.UINT2) else 21)
    )
    result = qt.export_qonnx(module, opset_version=opset)
    onnx.checker.check_model(result, full_check=True)
    assert result.opset_import[0].version == opset
    assert [n.op_type for n in result.graph.node][1:] == expected
    with torch.no_grad():
        assert torch.equal(qt.import_model(result)(X), module(X))
        if opset <= 21:
            np.testing.assert_array_equal(run(result), module(X).numpy())


def test_what_no_operator_set_below_has_is_refused() -> None:
    module = qt.import_model(file(element_type=T.INT16))
    with pytest.raises(qt.ExportError, match="opset 17 has no QuantizeLinear to INT16; ask for opset 21 or"):
        qt.export_qonnx(module, opset_version=17)
    scale = np.full((2, 3, 2), 0.1)
    blocked = qt.import_model(
        file(element_type=T.INT8, scale=scale, offset=np.zeros((2, 3, 2)), axis=2, block_size=4)
    )
    with pytest.raises(qt.ExportError, match="opset 20 has no QuantizeLinear to INT8 in blocks"):
        qt.export_qonnx(blocked, opset_version=20)


def test_a_scale_that_others_share_stays_as_it_is() -> None:
    """One scale for a Quant along one axis, and for a pair along another."""
    source = file(scale=[0.1, 0.2, 0.3], offset=[1, 2, 3], axis=1)
    graph = source.graph
    graph.initializer.append(numpy_helper.from_array(np.int8([[1, 2, 3], [4, 5, 6]]), "w8"))
    graph.node.extend(
        [
            helper.make_node("DequantizeLinear", ["w8", "the_scale"], ["w"], axis=1),
            helper.make_node("MatMul", ["w", "y"], ["z"]),
            helper.make_node("Mul", ["the_scale", "the_scale"], ["square"]),
        ]
    )
    graph.output.append(helper.make_tensor_value_info("z", T.FLOAT, (2, 2, 8)))
    graph.output.append(helper.make_tensor_value_info("square", T.FLOAT, (3,)))
    module = qt.import_model(source)
    result = qt.export_qonnx(module)
    onnx.checker.check_model(result, full_check=True)
    again = qt.import_model(result)
    for one, other in zip(module(X), again(X), strict=True):
        assert torch.equal(one, other)
    np.testing.assert_array_equal(arrays(result)["the_scale"], np.float32([0.1, 0.2, 0.3]))


def test_a_module_of_ones_own() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = qnn.QuantizeDequantizeLinear(0.05, 7, element_type=T.UINT8)
            scale = torch.tensor([0.1, 0.2, 0.3]).reshape(3, 1)
            self.second = qnn.QuantizeDequantizeLinear(scale, 1, low=-20, high=30)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.relu(self.first(x)))

    module = qt.trace(Net(), (X,))
    result = qt.export_qonnx(module)
    onnx.checker.check_model(result, full_check=True)
    assert [n.op_type for n in result.graph.node] == [
        "QuantizeLinear",
        "DequantizeLinear",
        "Relu",
        "QuantizeLinear",
        "Clip",
        "DequantizeLinear",
    ]
    with torch.no_grad():
        np.testing.assert_array_equal(run(result), module(X).numpy())


def test_parameters_in_a_shape_that_onnx_has_not() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quantizer = qnn.QuantizeDequantizeLinear(torch.full((2, 3, 1), 0.1), 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.quantizer(x)

    module = qt.trace(Net(), (X,))
    with pytest.raises(qt.ExportError, match=r"no parameters of shape \(2, 3, 1\); they are per tensor"):
        qt.export_qonnx(module)


@pytest.mark.parametrize("functions", [False, True])
def test_beside_quantizers_with_function_bodies(functions: bool) -> None:
    source = file(clip=True)
    source.graph.node.append(helper.make_node("QuantizeLinear", ["y", "the_scale"], ["q"], name="second"))
    source.graph.node.append(helper.make_node("DequantizeLinear", ["q", "the_scale"], ["z"], name="end"))
    source.graph.output[0].name = "z"
    module = qt.import_model(source)
    assert sorted(type(m).__name__ for m in module.modules() if isinstance(m, qnn.Quantizer)) == [
        "Quant",
        "QuantizeDequantizeLinear",
    ]
    result = qt.export_qonnx(module, functions=functions)
    if functions:
        with torch.no_grad():
            np.testing.assert_array_equal(run(result), module(X).numpy())
    assert qt.verify(module, X, reference="qonnx").passed
