"""Cost against the reference, and by hand where the reference has no formula."""

from __future__ import annotations

import json
from pathlib import Path

import onnx.parser
import pytest
import torch
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


DYNAMIC = {
    # Halved and doubled again: at 2 x 2, the convolution of 3 to 3 channels has one pixel.
    "unet": (
        """(float[N,3,H,W] x) => (float[a,b,c,d] y) <float[4] s = {1,1,2,2}> {
            w = ConstantOfShape <value = float[1] {1}> (k)
            p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
            c = Conv (p, w)
            u = Resize <mode = "nearest"> (c, , s)
            y = Concat <axis = 1> (u, x)
        }""",
        {"N": 1, "H": 2, "W": 2},
        9,
        (torch.zeros(5, 3, 4, 6), 5 * 9 * 2 * 3),
    ),
    # Groups of two rows: 2 x 3 elements, each of 3 products.
    "groups": (
        """(float[N,3] x) => (float[a,b,c] y) <int64[3] s = {-1,2,3}, int64[2] v = {3,3}> {
            w = ConstantOfShape <value = float[1] {1}> (v)
            r = Reshape (x, s)
            y = MatMul (r, w)
        }""",
        {"N": 2},
        18,
        (torch.zeros(8, 3), 72),
    ),
    "any size": (
        """(float[N,3] x) => (float[a,b] y) <int64[2] v = {3,3}> {
            w = ConstantOfShape <value = float[1] {1}> (v)
            y = MatMul (x, w)
        }""",
        {"N": 1},
        9,
        (torch.zeros(8, 3), 72),
    ),
}


@pytest.mark.parametrize("name", DYNAMIC)
def test_dynamic_dimensions_count_the_smallest_size(name: str) -> None:
    text, sizes, macs, (example, macs_of_example) = DYNAMIC[name]
    text = text.replace("<float[4]", "<int64[4] k = {3,3,1,1}, float[4]")
    module = qt.import_model(
        onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> g {text}'), batch="keep"
    )
    cost = qt.inference_cost(module)
    assert (cost.sizes, cost.macs) == (sizes, macs)
    assert cost.table().endswith("at " + ", ".join(f"{name} = {size}" for name, size in sizes.items()))
    cost = qt.inference_cost(module, example)
    assert (cost.sizes, cost.macs) == ({}, macs_of_example)


def test_no_size_that_works_is_an_error_with_the_way_out() -> None:
    text = "(float[N,3] x) => (float[a,b] y) <int64[2] s = {-1,7919}> { y = Reshape (x, s) }"
    module = qt.import_model(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> g {text}'))
    with pytest.raises(
        qt.UnsupportedModelError, match=r"'y' \(Reshape\).*were N = 1 .*give example inputs as args"
    ):
        qt.inference_cost(module)
    assert qt.inference_cost(module, torch.zeros(7919, 3)).macs == 0
