"""Python numbers beside tensors, in graphs edited by hand."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import qonnx_torch as qt
from qonnx_torch.ops.standard.elementwise import add, clip

FLOAT, DOUBLE, INT32, INT64 = (getattr(TensorProto, name) for name in ("FLOAT", "DOUBLE", "INT32", "INT64"))
Call = Callable[[torch.fx.Node, torch.fx.Node], tuple[Any, ...]]


@pytest.fixture
def edited(make_model: Callable[..., onnx.ModelProto]) -> Callable[[int, Any, Call], torch.fx.GraphModule]:
    """Makes y = x * w, x (1, 4) and w (4,) of one element type, with one more call at the end."""

    def make(element_type: int, target: Any, arguments: Call) -> torch.fx.GraphModule:
        w = np.array([1, 2, 3, 4], helper.tensor_dtype_to_np_dtype(element_type))
        mul = helper.make_node("Mul", ["x", "w"], ["y"])
        module = qt.import_model(make_model([mul], input_type=element_type, initializers={"w": w}))
        output = next(n for n in module.graph.nodes if n.op == "output")
        weight = next(n for n in module.graph.nodes if n.op == "get_attr")
        with module.graph.inserting_before(output):
            output.args = (module.graph.call_function(target, arguments(output.args[0], weight)),)
        module.recompile()
        return module

    return make


@pytest.mark.parametrize(
    ("element_type", "target", "arguments"),
    [
        (FLOAT, operator.add, lambda y, w: (y, True)),
        (FLOAT, operator.mul, lambda y, w: (y, 2)),
        (DOUBLE, torch.sub, lambda y, w: (y, 0.1)),
        (INT32, operator.add, lambda y, w: (y, 3)),
        (INT32, operator.mul, lambda y, w: (y, True)),
        (FLOAT, operator.sub, lambda y, w: (1, w)),
        (DOUBLE, operator.sub, lambda y, w: (1, w)),
        (FLOAT, add, lambda y, w: (y, 2)),
        (FLOAT, add, lambda y, w: (2, y)),
        (INT32, clip, lambda y, w: (y, 1, 3)),
    ],
)
def test_constants_take_the_type_of_the_tensor_beside_them(edited, element_type, target, arguments) -> None:
    module = edited(element_type, target, arguments)
    model = qt.export_qonnx(module)
    onnx.checker.check_model(model, full_check=True)
    x = torch.tensor([[1, -2, 3, 0]]).to(module.w.dtype)
    with torch.no_grad():
        expected, found = module(x), qt.import_model(model)(x)
    assert found.dtype is expected.dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("element_type", "target", "arguments", "message"),
    [
        (INT64, operator.add, lambda y, w: (y, 0.5), "Add of torch.int64 gives torch.float32"),
        (INT64, operator.truediv, lambda y, w: (y, 2), "Div of torch.int64 gives torch.float32"),
        (INT64, torch.sigmoid, lambda y, w: (y,), "Sigmoid of torch.int64 gives torch.float32"),
    ],
)
def test_results_of_another_type_are_refused(edited, element_type, target, arguments, message: str) -> None:
    with pytest.raises(qt.ExportError, match=f"{message}: ONNX converts nothing by itself"):
        qt.export_qonnx(edited(element_type, target, arguments))


def test_a_constant_that_the_type_cannot_hold_is_refused(edited) -> None:
    module = edited(INT32, clip, lambda y, w: (y, 1, 2.5))
    with pytest.raises(qt.ExportError, match=r"the constant 2\.5 is no torch\.int32 value"):
        qt.export_qonnx(module)
