"""Parameters on a fixed-point grid, beside qonnx's FixedPointQuantizeParams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.transformation.fixedpt_quantize import FixedPointQuantizeParams, FixedPointQuantizeParamsFromDict

import qonnx_torch as qt
from qonnx_torch.passes.quantization.fixed_point import quantize_parameters

Maker = Callable[..., onnx.ModelProto]


@pytest.fixture
def model(make_model: Maker) -> onnx.ModelProto:
    """y = (x + a) * m @ w, with ties of a grid of 1/16 among a."""
    rng = np.random.default_rng(0)
    weights = {
        "a": np.array([1 / 32, 3 / 32, -1 / 32, -3 / 32], np.float32),
        "m": rng.normal(size=4).astype(np.float32),
        "w": rng.normal(size=(4, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Add", ["x", "a"], ["s"]),
        helper.make_node("Mul", ["s", "m"], ["t"]),
        helper.make_node("MatMul", ["t", "w"], ["y"]),
    ]
    return make_model(nodes, initializers=weights)


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def compare(module: Any, errors: dict[str, float], transformed: ModelWrapper, theirs: dict[str, Any]) -> None:
    assert errors == pytest.approx({n: float(e) for n, e in theirs.items()}, rel=1e-6)
    expected = initializers(transformed.model)
    exported = qt.export_qonnx(module)
    found, datatypes = initializers(exported), ModelWrapper(exported)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value.astype(np.float32))
        assert datatypes.get_tensor_datatype(name) == transformed.get_tensor_datatype(name)


@pytest.mark.parametrize("mode", ["ROUND", "CEIL", "FLOOR", "UP", "DOWN", "HALF_UP", "HALF_DOWN"])
def test_by_operator_type(model: onnx.ModelProto, mode: str) -> None:
    transformation = FixedPointQuantizeParams("FIXED<8,4>", rounding_mode=mode)
    transformed = ModelWrapper(model).transform(transformation)
    module = qt.import_model(model)
    errors = quantize_parameters(module, "FIXED<8,4>", rounding_mode=mode)
    assert set(errors) == {"a", "m"}
    compare(module, errors, transformed, transformation.max_err)


def test_by_name(model: onnx.ModelProto) -> None:
    types = {"w": "FIXED<6,3>", "a": "FIXED<10,2>"}
    transformation = FixedPointQuantizeParamsFromDict(types)
    transformed = ModelWrapper(model).transform(transformation)
    module = qt.import_model(model)
    compare(module, quantize_parameters(module, types), transformed, transformation.max_err)


def test_patterns_and_other_types(model: onnx.ModelProto) -> None:
    assert set(quantize_parameters(qt.import_model(model), "FIXED<8,4>", op_types=("MatMul",))) == {"w"}
    assert set(quantize_parameters(qt.import_model(model), "FIXED<8,4>", names=("[aw]",))) == {"a", "w"}


def test_values_outside_are_clipped(model: onnx.ModelProto) -> None:
    """FIXED<4,1>: -1 to 0.875 in steps of 0.125. (qonnx 1.0.0 fails while it words its warning.)"""
    module = qt.import_model(model)
    w = module.w.detach().clone()
    with pytest.warns(
        UserWarning, match=r"w: \[.*\] does not fit into FIXED<4,1> \[-1, 0\.875\] and is clipped"
    ):
        errors = quantize_parameters(module, "FIXED<4,1>", names=("w",))
    expected = (w * 8).round().clamp(-8, 7) / 8
    assert (module.w == expected).all()
    assert errors == {"w": float((w - expected).abs().max())}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"datatype": "INT8"}, "'INT8' is no fixed-point type"),
        ({"datatype": "FIXED<4,4>"}, "'FIXED<4,4>' is no fixed-point type"),
        ({"datatype": "FIXED<8,4>", "names": ("q",)}, "no float parameter is called 'q'; there are a, m, w"),
        ({"datatype": "FIXED<8,4>", "op_types": ("Plus",)}, "operator type 'Plus' does not exist"),
    ],
)
def test_refusals(model: onnx.ModelProto, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(qt.QonnxTorchError, match=message):
        quantize_parameters(qt.import_model(model), **arguments)
