"""Attributes that choose among a few values: what else stands there is refused before anything runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

import qonnx_torch as qt
from qonnx_torch.import_.attribute_values import _EVERYWHERE, _VALUES
from qonnx_torch.registry import REGISTRY

WEIGHTS = {"w": np.ones((1, 8, 2), np.float32), "r": np.ones((1, 8, 2), np.float32)}


@pytest.mark.parametrize(("op_type", "attributes", "match"), [
    ("DepthToSpace", {"blocksize": 1, "mode": "XYZ"}, "its attribute 'mode' is 'XYZ', none of 'DCR', 'CRD'"),
    ("LpNormalization", {"p": 3}, "'p' is 3, none of 1, 2"),
    ("MaxPool", {"kernel_shape": [1, 1], "storage_order": 5}, "'storage_order' is 5, none of 0, 1"),
    ("MaxPool", {"kernel_shape": [1, 1], "auto_pad": "SAME"}, "'auto_pad' is 'SAME', none of '', 'NOTSET'"),
    ("Gelu", {"approximate": "erf"}, "'approximate' is 'erf', none of 'none', 'tanh'"),
])  # fmt: skip
def test_unknown_values(op_type: str, attributes: dict[str, Any], match: str, make_model) -> None:
    node = helper.make_node(op_type, ["x"], ["y"], **attributes)
    model = make_model([node], inputs={"x": (1, 1, 2, 2)}, imports={"": 22})
    with pytest.raises(
        qt.InvalidModelError, match=rf"node 'y' \({op_type}\): ai.onnx::{op_type}-\d+: .*{match}"
    ):
        qt.import_model(model)


def lstm(make_model, **attributes: Any):
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], **attributes)
    return make_model([node], inputs={"x": (3, 1, 2)}, initializers=WEIGHTS, imports={"": 22})


def test_a_layout_that_does_not_exist(make_model) -> None:
    with pytest.raises(qt.InvalidModelError, match="'layout' is 3, none of 0, 1"):
        qt.import_model(lstm(make_model, hidden_size=2, layout=3))


def test_a_hidden_size_that_the_weights_do_not_have(make_model) -> None:
    module = qt.import_model(lstm(make_model, hidden_size=3))
    with pytest.raises(qt.InvalidModelError, match=r"hidden_size 3 is not that of R \(1, 8, 2\)"):
        module(torch.ones(3, 1, 2))


def test_older_names_of_values_are_known(make_model) -> None:
    node = helper.make_node("GridSample", ["x", "g"], ["y"], mode="bicubic")
    grid = {"g": np.zeros((1, 1, 1, 2), np.float32)}
    model = make_model([node], inputs={"x": (1, 1, 2, 2)}, initializers=grid, imports={"": 16})
    assert qt.import_model(model)(torch.ones(1, 1, 2, 2)).shape == (1, 1, 1, 1)


def test_the_table_names_what_there_is() -> None:
    """Every operator and attribute in it exists; defaults are among the values."""
    for (domain, op_type), attributes in _VALUES.items():
        operator = REGISTRY.get(domain, op_type, 1 << 20)
        for name, values in attributes.items():
            default = operator.attributes[name]
            assert isinstance(default, type) or default in values, (op_type, name)
    for operator in REGISTRY:
        for name, values in _EVERYWHERE.items():
            assert operator.attributes.get(name, values[0]) in values


def test_operators_are_told_apart_by_domain(make_model) -> None:
    """Operators of other domains that are called like ones of ai.onnx."""

    @qt.register_op("names.test", "Constant")
    def constant(x, *, k: int = 1):
        return x * k

    @qt.register_op("names.test", "BatchNormalization")
    def batch_normalization(x, a, b, w, v):
        return x * a + b + w + v

    ones = {name: np.ones(2, np.float32) for name in "abwv"}
    nodes = [helper.make_node("Constant", ["x"], ["c"], domain="names.test", k=2),
             helper.make_node("BatchNormalization", ["c", *ones], ["y"], domain="names.test")]  # fmt: skip
    model = make_model(nodes, inputs={"x": (2,)}, initializers=ones, imports={"": 21, "names.test": 1})
    module = qt.import_model(model)
    assert sorted(n for n, _ in module.named_parameters()) == ["a", "b", "v", "w"]
    again = qt.import_model(qt.export_qonnx(module))
    for found in (module, again):
        assert found(torch.tensor([1.0, 2.0])).tolist() == [5.0, 7.0]
