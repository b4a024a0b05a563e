"""Constants that several nodes read, and tensors that are gone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

import qonnx_torch as qt
from qonnx_torch.nn import Quant

QUANT = {"domain": "qonnx.custom_op.general", "signed": 1, "narrow": 0, "rounding_mode": "ROUND"}
CONSTANTS = {"s": 0.25, "z": 0.0, "b": 8.0}
X = torch.tensor([[0.3, -1.2, 2.0, 0.1]])


def nodes(quantizer_first: bool) -> list[onnx.NodeProto]:
    quant, mul = (
        helper.make_node("Quant", ["x" if quantizer_first else "m", "s", "z", "b"], ["q"], "quant", **QUANT),
        helper.make_node("Mul", ["q" if quantizer_first else "x", "s"], ["m"], "mul"),
    )
    return [quant, mul] if quantizer_first else [mul, quant]


@pytest.mark.parametrize("quantizer_first", [True, False], ids=["quantizer first", "plain user first"])
def test_a_scale_that_a_plain_node_reads_too_can_be_trained(
    make_model: Callable[..., onnx.ModelProto], quantizer_first: bool
) -> None:
    output = "m" if quantizer_first else "q"
    module = qt.import_model(make_model(nodes(quantizer_first), outputs=[output], initializers=CONSTANTS))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(X).sum().backward()
    optimizer.step()
    model = qt.export_qonnx(module)
    onnx.checker.check_model(model, full_check=True)
    by_type = {n.op_type: list(n.input) for n in model.graph.node}
    assert by_type["Mul"][1] == "s"
    assert by_type["Quant"][1] == "s_1"
    values = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    assert values["s"] != values["s_1"] == np.float32(0.25)
    with torch.no_grad():
        assert torch.equal(qt.import_model(model)(X), module(X))


def delete_parameter(module: torch.fx.GraphModule) -> None:
    del module.s


def delete_scale(module: torch.fx.GraphModule) -> None:
    del module.quant.scale


def delete_quantizer(module: torch.fx.GraphModule) -> None:
    del module.quant


def detach_parameter(module: torch.fx.GraphModule) -> None:
    value = module.s.detach()
    del module.s
    module.s = value


@pytest.mark.parametrize(
    ("remove", "name"),
    [
        (delete_parameter, "s"),
        (detach_parameter, "s"),
        (delete_scale, "quant.scale"),
        (delete_quantizer, "quant"),
    ],
    ids=lambda v: getattr(v, "__name__", v),
)
def test_what_is_gone_is_named(make_model: Callable[..., onnx.ModelProto], remove, name: str) -> None:
    module = qt.import_model(make_model(nodes(True), outputs=["m"], initializers=CONSTANTS))
    assert isinstance(module.quant, Quant)
    remove(module)
    with pytest.raises(
        qt.ExportError, match=rf"no parameter, buffer or module any more: {name}; put it back"
    ):
        qt.export_qonnx(module)


def test_a_scale_that_became_none_is_named(make_model: Callable[..., onnx.ModelProto]) -> None:
    module = qt.import_model(
        make_model(nodes(True), inputs={"x": None}, outputs=["m"], initializers=CONSTANTS)
    )
    module.quant.scale = None
    with pytest.raises(qt.ExportError, match=r"quant\.scale \('s' in the file\) is no parameter or buffer"):
        qt.export_qonnx(module)
