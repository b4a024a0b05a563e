"""Operators that only move elements, so that they do to integers what they do to the floats behind them."""

from __future__ import annotations

from onnx import AttributeProto, NodeProto, helper

from .graph import Graph
from .grids import Grid

__all__ = ["MOVES", "moved_values", "moves_elements"]

MOVES = frozenset(
    [
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    ]
)
"""Operators that choose, repeat and arrange elements."""


def moves_elements(graph: Graph, node: NodeProto, name: str, grid: Grid) -> bool:
    """Returns whether a node only moves the elements of its input `name`, a value on a grid.

    1. Operators that choose, repeat and arrange elements.
    2. MaxPool, since a positive scale keeps the order; without a ceil_mode, or dilations in a padding, where
       a window may hold nothing but padding, which is another number in integers.
    3. Pad that repeats elements, or pads with 0 where the zero point is 0.
    """
    if node.domain not in ("", "ai.onnx") or list(node.input).count(name) != 1 or node.input[0] != name:
        return False
    if node.op_type in MOVES:
        return True
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.type in _SIMPLE}
    if node.op_type == "MaxPool":
        padded = any(attributes.get("pads", ())) or attributes.get("auto_pad", b"NOTSET") != b"NOTSET"
        dilated = any(d != 1 for d in attributes.get("dilations", ()))
        return not attributes.get("ceil_mode") and not (padded and dilated)
    if node.op_type == "Pad":
        repeats = attributes.get("mode", b"constant") != b"constant"
        zero_point = grid.zero_points(graph)
        zero = zero_point is not None and not bool(zero_point.any())
        return repeats or (zero and len(node.input) < 3)
    return False


_SIMPLE = (AttributeProto.INT, AttributeProto.INTS, AttributeProto.STRING)


def moved_values(node: NodeProto) -> list[str]:
    """Returns the outputs that hold moved elements (not MaxPool's indices)."""
    return [name for name in (node.output[:1] if node.op_type == "MaxPool" else node.output) if name]
