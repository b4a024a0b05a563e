"""Older operator forms whose expected values are derived by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import qonnx_torch as qt


def one_node(
    node: onnx.NodeProto, shape: tuple[int, ...], opset: int, **constants: np.ndarray
) -> torch.fx.GraphModule:
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return qt.import_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    )


@pytest.mark.parametrize("shape", [(2, 4, 4, 4), (2, 4, 3, 5), (2, 4)])
def test_prelu_6_slope_is_per_channel(shape: tuple[int, ...]) -> None:
    """-1 in channel c becomes -slope[c]: PRelu-6 has no broadcasting, its slope is one or one per channel."""
    slope = np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32)
    module = one_node(helper.make_node("PRelu", ["x", "slope"], ["y"]), shape, 6, slope=slope)
    y = module(-torch.ones(shape)).detach().numpy()
    expected = np.broadcast_to(-slope.reshape(1, 4, *[1] * (len(shape) - 2)), shape)
    np.testing.assert_array_equal(y, expected)
    newer = qt.import_model(qt.export_qonnx(module, opset_version=17))
    np.testing.assert_array_equal(newer(-torch.ones(shape)).detach().numpy(), expected)


def test_dropout_takes_a_seed() -> None:
    module = one_node(helper.make_node("Dropout", ["x"], ["y"], seed=3), (4,), 13)
    assert torch.equal(module(torch.ones(4)), torch.ones(4))


def test_range_keeps_its_element_type() -> None:
    start, limit, delta = (torch.tensor(v, dtype=torch.float16) for v in (1, 5, 2))
    assert qt.ops.shape.range_(start, limit, delta).dtype == torch.float16


def test_conv_with_a_wrong_number_of_pads_is_refused() -> None:
    weight = np.ones((1, 1, 3, 3), dtype=np.float32)
    module = one_node(helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1]), (1, 1, 5, 5), 13, w=weight)
    with pytest.raises(qt.InvalidModelError, match="2 spatial dimensions need 4 values"):
        module(torch.ones(1, 1, 5, 5))
