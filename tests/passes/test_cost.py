"""Cost against the reference, and by hand where the reference has no formula."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from onnx import TensorProto, helper
from qonnx.util.inference_cost import inference_cost as reference_cost

import qonnx_torch as qt

MODELS = Path(__file__).parent.parent / "models"
SAME = [
    "brevitas_mlp_w2a2",
    "brevitas_conv_per_channel",
    "brevitas_conv_trunc",
    "brevitas_bipolar_mlp",
    "brevitas_fp8",
    "brevitas_attention",
]


@pytest.mark.parametrize("discount_sparsity", [True, False])
@pytest.mark.parametrize("name", SAME)
def test_equals_the_reference(name: str, discount_sparsity: bool) -> None:
    path = MODELS / f"{name}.onnx"
    expected = reference_cost(str(path), discount_sparsity=discount_sparsity)["total_cost"]
    found = qt.inference_cost(qt.import_model(path), discount_sparsity=discount_sparsity).to_dict()
    total = found["total_cost"]
    assert total["discount_sparsity"] == discount_sparsity
    keys = {k for k in expected if k not in ("unsupported", "discount_sparsity")}
    assert {k for k in total if k not in ("unsupported", "discount_sparsity")} == keys
    assert {k: total[k] for k in keys} == pytest.approx({k: expected[k] for k in keys}, rel=1e-12)


def test_layers_add_up() -> None:
    cost = qt.inference_cost(qt.import_model(MODELS / "brevitas_conv_per_channel.onnx"))
    document = json.loads(cost.to_json())
    assert document["total_cost"]["total_macs"] == sum(layer.macs for layer in cost.layers) == cost.macs
    assert sum(c["total_bops"] for c in document["optype_cost"].values()) == cost.bops
    assert len(cost.table().splitlines()) == len(cost.layers) + 2


def test_transposed_convolution_by_hand() -> None:
    """Each of the 1*2*3*3 input elements meets 4 output channels times a 2x2 kernel: 18 * 16 = 288 MACs."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, (2, 4, 2, 2), [1.0] * 32)
    graph = helper.make_graph(
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="up", strides=[2, 2])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 2, 3, 3))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    cost = qt.inference_cost(qt.import_model(model))
    assert cost.macs == 288
    assert cost.bops == 288 * 32 * 32


def test_what_is_not_counted_is_named() -> None:
    cost = qt.inference_cost(qt.import_model(MODELS / "brevitas_attention.onnx"))
    assert {"Softmax", "LayerNormalization"} <= cost.uncounted
