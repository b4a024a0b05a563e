"""From the script of a variant to its `FunctionProto`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from .pieces import PIECES, Script

__all__ = ["MIN_IR_VERSION", "MIN_OPSET", "build_function"]

MIN_OPSET: Final = 15
"""CastLike, which the bodies use, is there from this operator set on."""
MIN_IR_VERSION: Final = 10
"""Function overloads are there from this IR version on."""

_OUTPUT_TYPE_IS_INPUT: Final = {
    **dict.fromkeys(("Abs", "Ceil", "Floor", "Log", "Neg", "Round", "Sign", "ReduceSum", "Unsqueeze"), 0),
    **dict.fromkeys(("Add", "Div", "Min", "Mul", "Pow", "Sub"), 0),
    "CastLike": 1,
    "Where": 1,
}
"""Operators of the bodies whose output has the element type of an input, and which input."""


@functools.cache
def build_function(maker: Callable[..., Script], arguments: tuple[Any, ...]) -> onnx.FunctionProto:
    """Returns the body that `maker` makes of `arguments`, pieces inlined; copy it before editing."""
    main = maker(*arguments).to_function_proto()
    model = onnx.helper.make_model(
        onnx.helper.make_graph([], "empty", [], []),
        functions=[main, *(piece.to_function_proto() for piece in PIECES)],
        opset_imports=[onnx.helper.make_opsetid("", MIN_OPSET)],
        ir_version=MIN_IR_VERSION,
    )
    inlined = ir.from_proto(model)
    InlinePass(criteria=lambda function: function.name != main.name)(inlined)
    function: onnx.FunctionProto
    (function,) = (f for f in ir.to_proto(inlined).functions if f.name == main.name)
    # Declared types would tie the body to float32, and inliners name nodes anew anyway.
    function.ClearField("value_info")
    for node in function.node:
        node.ClearField("name")
    _drop_idle_casts(function)
    return function


def _drop_idle_casts(function: onnx.FunctionProto) -> None:
    """Removes casts to the type that a value has already: scripts cast wherever a variant may need it."""
    types: dict[str, int] = {}
    same: dict[str, str] = {}
    idle: list[int] = []
    for index, node in enumerate(function.node):
        node.input[:] = [same.get(name, name) for name in node.input]
        elem_type = _output_type(node, types)
        if elem_type is None:
            continue
        types[node.output[0]] = elem_type
        if node.op_type in ("Cast", "CastLike") and types.get(node.input[0]) == elem_type:
            same[node.output[0]] = node.input[0]
            idle.append(index)
    function.output[:] = [same.get(name, name) for name in function.output]
    for index in reversed(idle):
        del function.node[index]


def _output_type(node: onnx.NodeProto, types: Mapping[str, int]) -> int | None:
    """Returns the element type of a node's output, given those of earlier values; None if unknown."""
    for attribute in node.attribute:
        if attribute.name == "to":
            return int(attribute.i)
        if attribute.name == "value":
            return int(attribute.t.data_type)
    position = _OUTPUT_TYPE_IS_INPUT.get(node.op_type)
    return None if position is None else types.get(node.input[position])
