"""Operators that older operator sets spell otherwise, written whole at another one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import ModelProto, helper, numpy_helper
from torch import fx

import qonnx_torch as qt
from qonnx_torch.errors import ExportError

X = np.random.default_rng(0).normal(size=(1, 4, 6, 6)).astype(np.float32)
GRID = np.random.default_rng(1).uniform(-1.3, 1.3, (1, 3, 3, 2)).astype(np.float32)
BOXES = [np.array([[0, 0.5, 4, 5]], np.float32), np.array([0], np.int64)]
SMALL = np.array([0.5, 2], np.float32)


def edited(op_type: str, opset: int, *constants: Any, outputs: int = 1, **attributes: Any) -> fx.GraphModule:
    """Returns an imported one-node graph with something behind it, so that it is written whole."""
    arrays = [np.asarray(c) for c in constants]
    names = [f"c{i}" for i in range(len(arrays))]
    graph = helper.make_graph(
        [helper.make_node(op_type, ["x", *names], [f"y{i}" for i in range(outputs)], **attributes)],
        "one",
        [helper.make_tensor_value_info("x", 1, X.shape)],
        [helper.make_empty_tensor_value_info(f"y{i}") for i in range(outputs)],
        [numpy_helper.from_array(v, n) for n, v in zip(names, arrays, strict=True)],
    )
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    module = qt.import_model(model)
    end = module.graph.output_node()
    first = end.args[0][0] if outputs > 1 else end.args[0]
    with module.graph.inserting_before(end):
        last = module.graph.call_function(torch.neg, (first,))
        end.args = ((last, *end.args[0][1:]),) if outputs > 1 else (last,)
    module.recompile()
    return module


SAID: list[tuple[str, int, int, list[Any], dict[str, Any]]] = [
    *(
        ("GridSample", 20, new, [GRID], {"mode": mode})
        for mode in ("linear", "nearest", "cubic")
        for new in (16, 22)
    ),
    ("GridSample", 16, 20, [GRID], {"mode": "bicubic"}),
    ("RoiAlign", 10, 13, BOXES, {"output_height": 2}),
    ("RoiAlign", 10, 16, BOXES, {"output_height": 2}),
    ("RoiAlign", 16, 22, BOXES, {"output_height": 2}),
    ("GroupNormalization", 18, 19, [SMALL, SMALL], {"num_groups": 2}),
    ("GroupNormalization", 21, 22, [X[0, :, 0, 0], X[0, :, 0, 1]], {"num_groups": 2}),
    ("Resize", 10, 13, [np.array([1, 1, 1.3, 2.5], np.float32)], {"mode": "nearest"}),
    ("Resize", 10, 13, [np.array([1, 1, 0.6, 0.4], np.float32)], {"mode": "nearest"}),
    ("Resize", 10, 13, [np.array([1, 1, 0.6, 2], np.float32)], {"mode": "linear"}),
    ("Upsample", 9, 13, [np.array([1, 1, 3, 2], np.float32)], {"mode": "nearest"}),
]


@pytest.mark.parametrize(("op_type", "old", "new", "constants", "attributes"), SAID)
def test_means_the_same_there(
    op_type: str, old: int, new: int, constants: list[Any], attributes: dict[str, Any]
) -> None:
    module = edited(op_type, old, *constants, **attributes)
    exported = qt.export_qonnx(module, opset_version=new)
    x = torch.from_numpy(X)
    assert torch.equal(qt.import_model(exported)(x), module(x))


def test_indices_of_max_pool_come_along() -> None:
    module = edited("MaxPool", 13, outputs=2, kernel_shape=[2, 2], strides=[2, 2])
    again = qt.import_model(qt.export_qonnx(module))
    for actual, expected in zip(again(torch.from_numpy(X)), module(torch.from_numpy(X)), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    ("module", "opset", "message"),
    [
        (edited("RoiAlign", 16, *BOXES), 13, "RoiAlign has no half_pixel in opset 13; ask for 16 or newer"),
        (
            edited("GroupNormalization", 18, SMALL, SMALL, num_groups=2),
            21,
            "GroupNormalization has a scale per channel in opset 21; ask for 18 to 20",
        ),
        (
            edited("GroupNormalization", 21, X[0, :, 0, 0], X[0, :, 0, 1], num_groups=2),
            18,
            "GroupNormalization has a scale per group in opset 18; ask for 21 or newer",
        ),
        (
            edited("Resize", 10, np.array([1, 1, 0.6, 2], np.float32), mode="nearest"),
            13,
            "Resize of opset 10 rounds up where it shrinks and down where it grows",
        ),
        (
            edited("BatchNormalization", 9, *[X[0, :, 0, 0]] * 4, outputs=5),
            15,
            "BatchNormalization has no 5 outputs in opset 15",
        ),
    ],
)
def test_what_an_operator_set_cannot_say_is_refused(module: fx.GraphModule, opset: int, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        qt.export_qonnx(module, opset_version=opset)


@pytest.mark.parametrize("opset", [10, 13, 17, 20])
@pytest.mark.parametrize("softmax", [11, 13])
def test_nodes_of_onnxruntime_keep_what_they_were_given(opset: int, softmax: int) -> None:
    """Also what is the default here: onnxruntime requires the `opset` of a QLinearSoftmax."""
    constants = {"s": np.float32(0.1), "z": np.uint8(3), "out": np.float32(1 / 256), "none": np.uint8(0)}
    given = {"axis": 1, "opset": softmax}
    node = helper.make_node(
        "QLinearSoftmax", ["q", "s", "z", "out", "none"], ["y"], domain="com.microsoft", **given
    )
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("q", 2, [2, 3, 5])],
        [helper.make_tensor_value_info("y", 2, [2, 3, 5])],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    q = np.random.default_rng(0).integers(0, 256, (2, 3, 5), dtype=np.uint8)
    module = qt.import_model(model)
    results = [model, qt.export_qonnx(module, functions=True), qt.export_qonnx(module, opset_version=21)]
    for result in results[1:]:
        assert {a.name: a.i for a in result.graph.node[0].attribute} == given
    sessions = [onnxruntime.InferenceSession(m.SerializeToString()) for m in results]
    first, *others = (session.run(None, {"q": q})[0] for session in sessions)
    assert all(np.array_equal(first, other) for other in others)
