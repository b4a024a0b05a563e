"""Torch functions and modules that users put into imported graphs by hand, as ONNX operators."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from qonnx_torch.errors import ExportError

__all__ = ["FOREIGN"]

Translation = Callable[[nn.Module | None, fx.Node], tuple[str, list[Any], dict[str, Any]]]


def _simple(op_type: str, inputs: int) -> Translation:
    def translate(module: nn.Module | None, node: fx.Node) -> tuple[str, list[Any], dict[str, Any]]:
        extra = {k: v for k, v in node.kwargs.items() if k != "inplace"}
        if len(node.args) != inputs or extra:
            raise ExportError(f"{op_type} is written only from {inputs} positional arguments")
        return op_type, list(node.args), {}

    return translate


def _flatten(module: nn.Module | None, node: fx.Node) -> tuple[str, list[Any], dict[str, Any]]:
    options: dict[str, Any] = {"start_dim": 0, "end_dim": -1}
    if isinstance(module, nn.Flatten):
        options = {"start_dim": module.start_dim, "end_dim": module.end_dim}
    options |= dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | dict(node.kwargs)
    if options["end_dim"] != -1 or options["start_dim"] != 1:
        raise ExportError("flatten is written only with start_dim=1 and end_dim=-1")
    return "Flatten", [node.args[0]], {"axis": 1}


FOREIGN: dict[Any, Translation] = {
    **dict.fromkeys((torch.relu, F.relu, nn.ReLU), _simple("Relu", 1)),
    **dict.fromkeys((torch.sigmoid, nn.Sigmoid), _simple("Sigmoid", 1)),
    **dict.fromkeys((torch.tanh, nn.Tanh), _simple("Tanh", 1)),
    **dict.fromkeys((torch.abs, operator.abs), _simple("Abs", 1)),
    **dict.fromkeys((torch.neg, operator.neg), _simple("Neg", 1)),
    **dict.fromkeys((torch.add, operator.add), _simple("Add", 2)),
    **dict.fromkeys((torch.sub, operator.sub), _simple("Sub", 2)),
    **dict.fromkeys((torch.mul, operator.mul), _simple("Mul", 2)),
    **dict.fromkeys((torch.div, operator.truediv), _simple("Div", 2)),
    **dict.fromkeys((torch.matmul, operator.matmul), _simple("MatMul", 2)),
    **dict.fromkeys((nn.Identity, nn.Dropout), _simple("Identity", 1)),
    **dict.fromkeys((torch.flatten, nn.Flatten), _flatten),
}
"""Function or module class -> (operator type, inputs, attributes) of an fx node that calls it."""
