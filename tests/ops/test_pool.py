"""Pools whose results depend on the graph around them."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import ModelProto, TensorProto, helper, numpy_helper

import qonnx_torch as qt


def pool_and_back(shape: tuple[int, ...]) -> ModelProto:
    window = {"kernel_shape": [2] * (len(shape) - 2), "strides": [2] * (len(shape) - 2)}
    graph = helper.make_graph(
        [
            helper.make_node("MaxPool", ["x"], ["pooled", "indices"], **window),
            helper.make_node("MaxUnpool", ["pooled", "indices", "shape"], ["y"], **window),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(shape), "shape")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("shape", [(1, 1, 5, 5), (1, 1, 2, 5), (1, 1, 4, 6), (1, 1, 7), (1, 1, 3, 4, 5)])
def test_indices_of_a_max_pool_count_in_what_it_pooled(shape: tuple[int, ...]) -> None:
    """As in onnxruntime and torch: everything goes back to where it was, also where a row is left over."""
    model = pool_and_back(shape)
    module = qt.import_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    max_pool, max_unpool = (getattr(F, f"{name}{len(shape) - 2}d") for name in ("max_pool", "max_unpool"))
    for seed in range(5):
        x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        pooled, indices = max_pool(torch.from_numpy(x), 2, 2, return_indices=True)
        expected = max_unpool(pooled, indices, 2, 2, output_size=shape)
        (theirs,) = session.run(None, {"x": x})
        assert torch.equal(expected, torch.from_numpy(theirs))
        assert torch.equal(module(torch.from_numpy(x)), expected)
        again = qt.import_model(qt.export_qonnx(module))
        assert torch.equal(again(torch.from_numpy(x)), expected)
