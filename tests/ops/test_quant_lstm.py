"""QuantLSTMCell, bit for bit as Brevitas computes the layers that it exports so; import, training, export."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from brevitas.export.onnx.qonnx.handler import BrevitasQuantLSTMLayerHandler
from brevitas.nn import QuantLSTM
from onnx import ModelProto, helper, numpy_helper
from torch import Tensor

import qonnx_torch as qt
from qonnx_torch.ops.qonnx.quant_lstm import quant_lstm_cell
from qonnx_torch.registry import QONNX_DOMAIN, REGISTRY

CELL = REGISTRY.get(QONNX_DOMAIN, "QuantLSTMCell", 1)
LAYERS: dict[str, tuple[dict[str, Any], int]] = {
    "plain": ({}, 0),
    "no bias": ({"bias": False, "bias_quant": None}, 0),
    "batch first": ({"batch_first": True}, 0),
    "coupled gates": ({"coupled_input_forget_gates": True}, 0),
    "backwards": ({"bidirectional": True}, 1),
    "backwards, coupled, batch first": (
        {"bidirectional": True, "coupled_input_forget_gates": True, "batch_first": True},
        1,
    ),
}


def exported(name: str) -> tuple[list[Tensor], dict[str, Any], list[Tensor]]:
    """Returns the inputs, attributes and outputs of the node that Brevitas writes for a layer."""
    torch.manual_seed(0)
    options, direction = LAYERS[name]
    model = QuantLSTM(5, 4, **options)
    for _ in range(3):
        model(torch.randn(6, 3, 5))  # the scales of activations are learned
    model.eval()
    layer = model.layers[0][direction]
    calls: list[Any] = []
    hook = layer.fast_cell.register_forward_hook(lambda *call: calls.append(call[1:]), with_kwargs=True)
    with torch.no_grad():
        states = torch.randn(2, 3, 4)
        layer(torch.randn(6, 3, 5) if not layer.cell.batch_first else torch.randn(3, 6, 5), *states)
    hook.remove()
    positional, keywords, (outputs, hidden, cell) = calls[0]
    handler = BrevitasQuantLSTMLayerHandler()
    handler.prepare_for_export(layer)
    written = {k: int(v) if isinstance(v, bool) else v for k, v in handler.symbolic_kwargs.items()}
    tensors = {k: v for k, v in written.items() if isinstance(v, Tensor)}
    attributes = {k.replace("_narrow_range", "_narrow"): v for k, v in written.items() if k not in tensors}
    attributes["output_sigmoid_narrow_range"] = attributes.pop("output_sigmoid_narrow")
    values = [*positional, *(keywords[n] for n in CELL.inputs[3:15]), *(tensors[n] for n in CELL.inputs[15:])]
    order = reversed(outputs) if layer.cell.reverse_input else outputs
    sequence = torch.stack([state[0] for state in order], 1 if layer.cell.batch_first else 0)
    return [v.detach() for v in values], attributes, [sequence, hidden[0], cell[0]]


def node_model(values: list[Tensor], attributes: dict[str, Any]) -> ModelProto:
    names = [n if n in CELL.inputs[:3] else f"lstm.{n}" for n in CELL.inputs]
    outputs = ["sequence", "hidden", "cell"]
    graph = helper.make_graph(
        [helper.make_node("QuantLSTMCell", names, outputs, domain=QONNX_DOMAIN, **attributes)],
        "one",
        [helper.make_tensor_value_info(n, 1, v.shape) for n, v in zip(names[:3], values, strict=False)],
        [helper.make_tensor_value_info(n, 1, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in zip(names[3:], values[3:], strict=True)],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(QONNX_DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


@pytest.mark.filterwarnings("ignore:Keyword arguments are being passed")
@pytest.mark.parametrize("name", LAYERS)
def test_equals_brevitas(name: str) -> None:
    values, attributes, expected = exported(name)
    for actual, golden in zip(quant_lstm_cell(*values, **attributes), expected, strict=True):
        assert torch.equal(actual, golden)


def test_imports_trains_and_exports() -> None:
    values, attributes, expected = exported("plain")
    model = node_model(values, attributes)
    module = qt.import_model(model)
    found = module(*values[:3])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    # Scales, zero points and bit widths are numbers: nothing that an optimizer would move.
    assert {n for n, _ in module.named_parameters()} == {f"lstm.{n}" for n in CELL.inputs[3:15]}
    found[0].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    assert qt.export_qonnx(module).graph.node[0] == model.graph.node[0]

    end = module.graph.output_node()
    with module.graph.inserting_before(end):
        end.args = (module.graph.call_function(torch.neg, (end.args[0][0],)),)
    module.recompile()
    edited = qt.import_model(qt.export_qonnx(module))
    assert torch.equal(edited(*values[:3]), -expected[0])
