"""Every registered operator goes to ONNX and back: imported, exported, imported again, the same outputs.

Each graph is exported unchanged and, in canonical form, after an edit. The graphs are the onnx package's
cases, the rows of the gradient table, the models in tests/models, and a few that are made here.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, parser
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

import qonnx_torch as qt
from qonnx_torch.backend import QonnxTorchBackendRep, prepare
from qonnx_torch.errors import ExportError
from qonnx_torch.registry import REGISTRY
from qonnx_torch.testing import backend_cases

_FOLDER = Path(__file__).parent
GENERAL, ML, MICROSOFT = "qonnx.custom_op.general", "ai.onnx.ml", "com.microsoft"


def _load(name: str) -> ModuleType:
    """Returns a test module beside this one; test folders are no packages."""
    specification = importlib.util.spec_from_file_location(f"registry_{name}", _FOLDER / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


_gradients = _load("test_gradcheck")
one_node, C, BUILT_IN = _gradients.one_node, _gradients.C, _gradients.BUILT_IN


@dataclass(frozen=True)
class Graph:
    name: str
    model: ModelProto = field(repr=False)
    inputs: tuple[Any, ...] = field(repr=False)

    @property
    def operators(self) -> set[str]:
        return _gradients.operators_of(self.model)


def u8(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


ZERO = np.array(3, np.uint8)
Q = scalar(0.1), ZERO  # scale and zero point
IMAGE = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)
TREE = {
    "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [1, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_values": [0.5, 0.0, 0.0],
    "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
}  # fmt: skip
X = np.array([[0.3, -0.7, 1.1], [0.9, 0.6, -0.2]], np.float32)

# fmt: off
MADE = [
    one_node("Hardmax", X, opset=11),
    one_node("Multinomial", X, seed=1.0),
    one_node("RandomNormal", shape=[2, 3], seed=1.0),
    one_node("RandomUniform", shape=[2, 3], seed=1.0),
    one_node("RandomNormalLike", X, seed=1.0),
    one_node("RandomUniformLike", X, seed=1.0),
    one_node("LabelEncoder", np.array([3, 1], np.int64), domain=ML, opset=2, keys_int64s=[1, 3],
             values_floats=[0.5, 1.5]),
    one_node("OneHotEncoder", np.array([3, 1], np.int64), domain=ML, opset=1, cats_int64s=[1, 2, 3]),
    one_node("TreeEnsembleRegressor", X, domain=ML, opset=1, **TREE, n_targets=1, target_ids=[0, 0],
             target_nodeids=[1, 2], target_treeids=[0, 0], target_weights=[1.5, -2.0]),
    one_node("TreeEnsembleClassifier", X, domain=ML, opset=1, **TREE, class_ids=[0, 1], class_nodeids=[1, 2],
             class_treeids=[0, 0], class_weights=[0.7, 0.4], classlabels_int64s=[5, 7], outputs=2),
    one_node("QuantAvgPool2d", IMAGE.astype(np.float32), domain=GENERAL, stride=2, kernel=2, ibits=4,
             obits=4, signed=0),
    one_node("XnorPopcountMatMul", np.sign(X), np.sign(X.T.copy()), domain=GENERAL),
    one_node("QuantizeLinear", X, scalar(0.1), ZERO, domain=MICROSOFT),
    one_node("QLinearAdd", u8(1, 9), *Q, u8(200, 3), *Q, *Q, domain=MICROSOFT),
    one_node("QLinearMul", u8(1, 9), *Q, u8(200, 3), *Q, *Q, domain=MICROSOFT),
    one_node("QLinearSigmoid", u8(1, 200), *Q, scalar(1 / 256), np.uint8(0), domain=MICROSOFT),
    one_node("QLinearLeakyRelu", u8(1, 200), *Q, *Q, domain=MICROSOFT, alpha=0.2),
    one_node("QLinearSoftmax", u8(1, 20).reshape(1, 2), *Q, scalar(1 / 256), np.uint8(0), domain=MICROSOFT,
             opset=13),
    one_node("QLinearConcat", *Q, u8(1, 9), *Q, u8(200, 3), *Q, domain=MICROSOFT, axis=0),
    one_node("QLinearWhere", np.array([True, False]), u8(1, 9), *Q, u8(200, 3), *Q, *Q, domain=MICROSOFT),
    one_node("QLinearReduceMean", IMAGE, *Q, *Q, domain=MICROSOFT, axes=[2, 3], keepdims=1),
    one_node("QLinearAveragePool", IMAGE, *Q, *Q, domain=MICROSOFT, kernel_shape=[2, 2]),
    one_node("QLinearGlobalAveragePool", IMAGE, *Q, *Q, domain=MICROSOFT),
    one_node("QLinearConv", IMAGE, *Q, IMAGE[:, :, :2, :2], *Q, *Q, domain=MICROSOFT),
    one_node("QGemm", IMAGE[0, 0], *Q, IMAGE[0, 0], *Q, None, *Q, domain=MICROSOFT),
    one_node("MatMulInteger16", IMAGE[0, 0].astype(np.int16), IMAGE[0, 0].astype(np.int16), domain=MICROSOFT),
    one_node("MulInteger", u8(1, 9), ZERO, u8(200, 3), ZERO, domain=MICROSOFT),
    one_node("ReduceSumInteger", IMAGE, domain=MICROSOFT, axes=[2], keepdims=1),
    one_node("DynamicQuantizeMatMul", X, C(np.arange(6).reshape(3, 2), np.uint8), C(0.2, np.float32),
             C(3, np.uint8), domain=MICROSOFT),
    one_node("DynamicQuantizeLSTM", X.reshape(2, 1, 3), C(np.arange(24).reshape(1, 3, 8), np.int8),
             C(np.arange(16).reshape(1, 2, 8), np.int8), None, None, None, None, None, C([0.02], np.float32),
             C([0], np.int8), C([0.03], np.float32), C([0], np.int8), domain=MICROSOFT, hidden_size=2,
             outputs=3),
    one_node("QAttention", IMAGE[0], C(np.arange(48).reshape(4, 12), np.uint8), C(np.arange(12), np.float32),
             scalar(0.1), scalar(0.02), None, ZERO, ZERO, domain=MICROSOFT, num_heads=2),
    one_node("QEmbedLayerNormalization", np.array([[0, 2]], np.int32), None, IMAGE[0, 0], IMAGE[0, 0], None,
             u8(1, 2, 3, 4), u8(4, 3, 2, 1), None, *[scalar(0.1)] * 2, None, *[scalar(0.1)] * 2, *[ZERO] * 2,
             None, *[ZERO] * 2, domain=MICROSOFT, outputs=2),
]
# fmt: on

LENGTH = """
<ir_version: 10, opset_import: ["" : 21]>
agraph (float[2, 3] x) => (int64 y) {
    s = SplitToSequence<axis = 0>(x)
    y = SequenceLength(s)
}
"""

QUANTIZE_DEQUANTIZE = """
<ir_version: 10, opset_import: ["" : 21]>
agraph (float[2, 3] x) => (float[2, 3] y) <float s = {0.1}, uint8 z = {3}> {
    q = QuantizeLinear(x, s, z)
    y = DequantizeLinear(q, s, z)
}
"""


def _lstm_cell() -> Graph:
    """Returns a QuantLSTMCell of 4-bit quantizers."""
    rng = np.random.default_rng(0)
    operator = REGISTRY.get(GENERAL, "QuantLSTMCell", 1)
    shapes = {"quant_input": (3, 1, 2), "quant_hidden_state": (1, 2), "quant_cell_state": (1, 2)}
    given, inputs = [], []
    for name in operator.inputs:
        if name.endswith(("_scale", "_zero_point", "_bit_width")):
            value = {"scale": 0.25, "zero_point": 0.0}.get(name.split("_", name.count("_"))[-1], 4.0)
            given.append(C(0.0 if name.endswith("_zero_point") else value, np.float32))
        elif name in shapes:
            inputs.append(rng.integers(-4, 4, shapes[name]).astype(np.float32) / 4)
            given.append(inputs[-1])
        else:
            shape = (2, 2) if "weight" in name else (2,)
            given.append(C(rng.integers(-4, 4, shape) / 4, np.float32))
    row = one_node("QuantLSTMCell", *given, domain=GENERAL, outputs=3)
    return Graph("QuantLSTMCell", row.model, tuple(inputs))


@cache
def graphs() -> dict[str, list[Graph]]:
    """Returns graphs by operator: up to two each, none where there is none."""
    found: dict[str, list[Graph]] = {name: [] for name in BUILT_IN}

    def add(graph: Graph) -> None:
        for name in graph.operators:
            if name in found and len(found[name]) < 2:
                found[name].append(graph)

    for case in backend_cases():
        if not case.has_strings and len(case.model.graph.node) == 1:
            case = case.with_constants() if case.parameters else case
            add(Graph(case.name, case.model, tuple(case.data_sets[0][0])))
    for row in (*_gradients.ROWS, *MADE):
        add(Graph(row.name, row.model, row.inputs))
    for path in sorted((_FOLDER.parent / "models").glob("*.onnx")):
        arrays = np.load(path.with_suffix(".npz"))
        inputs = [arrays[key] for key in sorted(arrays) if key.startswith("in") and key.endswith("_s0")]
        add(Graph(path.stem, onnx.load(path), tuple(inputs)))
    add(_lstm_cell())
    add(Graph("SequenceLength", parser.parse_model(LENGTH), (X,)))
    pair = Graph("QDQ", parser.parse_model(QUANTIZE_DEQUANTIZE), (X,))
    found["qonnx_torch::QuantizeDequantizeLinear-1"] = [pair]
    return found


def test_every_operator_has_a_graph() -> None:
    assert [name for name, known in graphs().items() if not known] == []


REFUSED = {"ai.onnx::Scan-8": "with a batch, has no form in newer ones"}
"""Operator -> why an edited graph with it is not written."""


@pytest.mark.parametrize("name", BUILT_IN)
def test_it_comes_back(name: str) -> None:
    for graph in graphs()[name]:
        rep = prepare(graph.model)
        arguments = arguments_of(rep, graph)
        if "QuantizeDequantize" in name:
            assert any("QuantizeDequantize" in type(m).__name__ for m in rep.module.modules())
        wanted = run(rep.module, arguments)
        again = qt.export_qonnx(rep.module)
        assert [n.op_type for n in again.graph.node] == [n.op_type for n in graph.model.graph.node]
        assert_same(run(prepare(checked(again, graph)).module, arguments), wanted)
        if name in REFUSED:
            with pytest.raises(ExportError, match=REFUSED[name]):
                qt.export_qonnx(edited(rep.module), args=arguments)
            continue
        written = qt.export_qonnx(edited(rep.module), args=arguments)
        assert_same(run(prepare(checked(written, graph)).module, arguments), wanted)


def arguments_of(rep: QonnxTorchBackendRep, graph: Graph) -> tuple[Any, ...]:
    constants = {i.name for i in graph.model.graph.initializer}
    declared = [v for v in graph.model.graph.input if v.name not in constants]
    arrays = []
    for array, value in zip(graph.inputs, declared, strict=True):
        element_type = value.type.tensor_type.elem_type
        plain = isinstance(array, np.ndarray) and element_type in (TensorProto.FLOAT, TensorProto.DOUBLE)
        arrays.append(array.astype(helper.tensor_dtype_to_np_dtype(element_type)) if plain else array)
    return rep.tensors(arrays)


def run(module: fx.GraphModule, arguments: tuple[Any, ...]) -> list[Any]:
    torch.manual_seed(0)
    with torch.no_grad():
        return tree_leaves(module(*arguments))


def edited(module: fx.GraphModule) -> fx.GraphModule:
    """Returns a copy with an Identity in front of the first output, which is written in canonical form."""
    module = copy.deepcopy(module)
    output = next(n for n in module.graph.nodes if n.op == "output")
    (results,) = output.args
    first, *others = results if isinstance(results, (tuple, list)) else (results,)
    with module.graph.inserting_before(output):
        new = module.graph.call_function(REGISTRY.get("", "Identity", 1).target, (first,))
    output.args = ((new, *others),) if isinstance(results, (tuple, list)) else (new,)
    module.recompile()
    return module


def checked(model: ModelProto, graph: Graph) -> ModelProto:
    """Returns a model that the checker accepts; one whose source it does not accept is let through."""
    try:
        onnx.checker.check_model(graph.model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return model
    onnx.checker.check_model(model, full_check=True)
    return model


def assert_same(found: list[Any], wanted: list[Any]) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert torch.equal(*(_comparable(t) for t in (a, b)))
        else:
            assert a == b


def _comparable(tensor: Tensor) -> Tensor:
    """Returns a tensor of float64 or integers, NaN replaced."""
    if tensor.is_floating_point():
        return torch.nan_to_num(tensor.double(), nan=12345.0)
    return tensor.view(torch.int64) if tensor.dtype == torch.uint64 else tensor.to(torch.int64)
