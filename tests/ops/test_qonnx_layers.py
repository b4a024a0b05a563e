"""QONNX's layers besides the quantizers, bit for bit as qonnx executes them, and back out again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, helper
from qonnx.core.datatype import DataType
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx

import qonnx_torch as qt
from qonnx_torch.ops.qonnx import layers as qonnx_layers
from qonnx_torch.registry import CHANNELS_LAST_DOMAIN, QONNX_DOMAIN

RNG = np.random.default_rng(0)


def integers(low: int, high: int, *shape: int) -> np.ndarray:
    return RNG.integers(low, high, shape).astype(np.float32)


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


IMAGE = integers(-8, 8, 1, 9, 8, 3)
WINDOW: dict[str, Any] = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 0]}
ROWS: list[tuple[str, str, dict[str, Any], list[np.ndarray]]] = [
    ("XnorPopcountMatMul", "", {}, [integers(0, 2, 5, 7), integers(0, 2, 7, 3)]),
    ("XnorPopcountMatMul", "", {}, [integers(0, 2, 2, 5, 7), integers(0, 2, 7, 3)]),
    ("DebugMarker", "", {"export_debug_name": "here"}, [floats(2, 3)]),
    ("MaxPoolNHWC", "", WINDOW, [IMAGE]),
    ("MaxPoolNHWC", "", {**WINDOW, "ceil_mode": 1}, [floats(2, 8, 7, 3)]),
    ("MaxPool", CHANNELS_LAST_DOMAIN, WINDOW, [floats(2, 8, 7, 3)]),
    (
        "MaxPool",
        CHANNELS_LAST_DOMAIN,
        {"kernel_shape": [2], "strides": [2], "pads": [1, 1]},
        [floats(2, 7, 3)],
    ),
]
for depthwise in (0, 1):
    for more in ({}, {"pad_amount": [1, 0, 2, 1]}, {"pad_amount": [1, 1, 1, 1], "pad_value": -3},
                 {"dilations": [2, 3]}):  # fmt: skip
        attributes = {"stride": [2, 1], "kernel_size": [3, 2], "input_shape": "(1, 9, 8, 3)", **more}
        ROWS.append(("Im2Col", "", {**attributes, "depthwise": depthwise}, [IMAGE]))
for layout in ("NCHW", "NHWC"):
    for kernel, stride, ibits, obits, signed in ((2, 2, 4, 4, 0), (3, 1, 8, 5, 1), (2, 3, 2, 8, 0)):
        numbers = integers(-(2**ibits) if signed else 0, 2**ibits, 2, 8, 8, 8)
        attributes = {"kernel": kernel, "stride": stride, "ibits": ibits, "obits": obits, "signed": signed}
        ROWS.append(("QuantAvgPool2d", "", {**attributes, "data_layout": layout}, [numbers]))
for layout, shape in (("NHWC", (2, 4, 5, 3)), ("NCHW", (2, 3, 4, 5)), ("", (2, 3, 4, 5)), ("", (2, 4, 3)),
                      ("NCW", (2, 3, 4)), ("", (4, 3)), ("", (2, 3, 2, 2, 2)),
                      ("NDHWC", (2, 2, 2, 2, 3))):  # fmt: skip
    for rows in (1, 3):
        attributes = {"out_dtype": "INT4", "out_scale": 0.3, "out_bias": -1.7, "data_layout": layout}
        inputs = [np.round(floats(*shape) * 4) / 4, np.sort(np.round(floats(rows, 7) * 4) / 4)]
        ROWS.append(("MultiThreshold", "", attributes, inputs))


def model_of(op_type: str, domain: str, attributes: dict[str, Any], inputs: list[np.ndarray]) -> ModelProto:
    names = [f"in{i}" for i in range(len(inputs))]
    node = helper.make_node(op_type, names, ["out"], name="node", domain=domain or QONNX_DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(n, 1, v.shape) for n, v in zip(names, inputs, strict=True)],
        [helper.make_tensor_value_info("out", 1, None)],
    )
    imports = [("", 13), (QONNX_DOMAIN, 1), (CHANNELS_LAST_DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*i) for i in imports], ir_version=8)


def as_qonnx_has_it(model: ModelProto, inputs: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    wrapper = ModelWrapper(model)
    if model.graph.node[0].op_type == "Im2Col":  # it looks whether the type allows its padding
        wrapper.set_tensor_datatype("in0", DataType["INT8"])
    wrapper.set_tensor_shape("out", shape)
    feed = {value.name: array for value, array in zip(model.graph.input, inputs, strict=True)}
    return execute_onnx(wrapper, feed)["out"]


@pytest.mark.parametrize(("op_type", "domain", "attributes", "inputs"), ROWS)
def test_equals_qonnx(
    op_type: str,
    domain: str,
    attributes: dict[str, Any],
    inputs: list[np.ndarray],
    assert_same_bits: Callable[[torch.Tensor, np.ndarray], None],
) -> None:
    model = model_of(op_type, domain, attributes, inputs)
    module = qt.import_model(model)
    given = [torch.from_numpy(v) for v in inputs]
    actual = module(*given)
    assert_same_bits(actual, as_qonnx_has_it(model, inputs, tuple(actual.shape)))
    unchanged = qt.export_qonnx(module)
    assert unchanged.graph.node[0] == model.graph.node[0]
    end = module.graph.output_node()
    with module.graph.inserting_before(end):
        end.args = (module.graph.call_function(torch.relu, end.args),)
    module.recompile()
    edited = qt.import_model(qt.export_qonnx(module))
    assert torch.equal(edited(*given), actual.relu())


def test_im2col_keeps_the_samples_of_a_batch_apart() -> None:
    """qonnx mixes them up: its columns have the samples fastest, and it reads them as slowest."""
    x = torch.from_numpy(floats(3, 5, 5, 2))
    whole = qonnx_layers.im2col(x, stride=(1, 1), kernel_size=(2, 3))
    single = [qonnx_layers.im2col(x[i : i + 1], stride=(1, 1), kernel_size=(2, 3)) for i in range(3)]
    assert torch.equal(whole, torch.cat(single))


def test_gradient_of_quant_avg_pool_passes_the_rounding() -> None:
    """kernel 2: each input counts once, over 2^shift; 4 * 15 has 6 bits, so with obits 4 the shift is 2."""
    x = torch.arange(16.0).reshape(1, 1, 4, 4).requires_grad_()
    qonnx_layers.quant_avg_pool_2d(x, kernel=2, stride=2, ibits=4, obits=4, signed=0).sum().backward()
    assert torch.equal(x.grad, torch.full((1, 1, 4, 4), 0.25))


def test_another_layout_is_refused() -> None:
    with pytest.raises(qt.InvalidModelError, match="data_layout 'NCWH': NCHW or NHWC"):
        qonnx_layers.quant_avg_pool_2d(torch.zeros(1, 1, 2, 2), data_layout="NCWH")
