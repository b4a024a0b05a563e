"""The grid of integers, or of small floats, behind a QuantizeLinear or a DequantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from onnx import AttributeProto, NodeProto, TensorProto
from torch import Tensor

from .graph import Graph

__all__ = ["DEQUANTIZE", "DYNAMIC", "QUANTIZE", "Grid", "dequantized_grid", "is_linear", "quantized_grid"]

QUANTIZE, DEQUANTIZE, DYNAMIC = "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"
_DOMAINS = ("", "ai.onnx", "com.microsoft")
_ATTRIBUTES = {
    QUANTIZE: ("axis", "block_size", "output_dtype", "precision", "saturate"),
    DEQUANTIZE: ("axis", "block_size", "output_dtype"),
}


def is_linear(node: NodeProto, op_type: str) -> bool:
    """Returns whether a node is a QuantizeLinear or DequantizeLinear, of ONNX or of onnxruntime."""
    named = len(node.output) == 1 and len(node.input) in (2, 3) and all((*node.output, *node.input[:2]))
    return node.op_type == op_type and node.domain in _DOMAINS and named


@dataclass(frozen=True, slots=True)
class Grid:
    """Quantization parameters as a node has them.

    Attributes:
        scale: name of the scale.
        zero_point: name of the zero point; empty where there is none.
        element_type: of the integers (or small floats).
        axis: of parameters per axis, or of blocks.
        block_size: elements per block; 0 for none.
    """

    scale: str
    zero_point: str
    element_type: int
    axis: int
    block_size: int

    def same_as(self, other: Grid, graph: Graph, rank: int | None) -> bool:
        """Returns whether two grids are one, as far as their constants tell."""
        if self.element_type != other.element_type or not _equal(self.scale, other.scale, graph):
            return False
        if not _equal(self.zero_point, other.zero_point, graph):
            return False
        scale = graph.constant(self.scale)
        if scale is None or scale.numel() == 1:
            return self.block_size == other.block_size
        axes = [self.axis, other.axis]
        if rank is not None:
            axes = [axis % rank if rank else 0 for axis in axes]
        return axes[0] == axes[1] and self.block_size == other.block_size

    def key(self, graph: Graph) -> tuple[object, ...]:
        """Returns what is equal only of grids that are the same; may differ where `same_as` is generous."""
        values: list[object] = []
        for name in (self.scale, self.zero_point):
            value = graph.constant(name) if name else None
            known = None if value is None else value.contiguous().view(-1).view(torch.uint8)
            values += [name] if value is None or known is None else [value.dtype, bytes(known.numpy())]
        return (*values, self.axis, self.block_size)

    def is_per_tensor(self, graph: Graph) -> bool:
        """Returns whether it has one scale and zero point for all elements."""
        tensors = [graph.constant(n) for n in (self.scale, self.zero_point) if n]
        return not self.block_size and all(t is not None and t.numel() == 1 for t in tensors)

    def zero_points(self, graph: Graph) -> Tensor | None:
        """Returns the zero points: 0 where there are none, None where they are computed."""
        return graph.constant(self.zero_point) if self.zero_point else torch.zeros((), dtype=torch.int32)


def _equal(first: str, second: str, graph: Graph) -> bool:
    """Whether two values are the same: of one name, or equal constants. A missing zero point is 0."""
    if first == second:
        return True
    values = [graph.constant(name) if name else None for name in (first, second)]
    present = [v for v in values if v is not None]
    if not (first and second):
        return bool(present) and not bool(present[0].to(torch.float32).any())
    if len(present) < 2:
        return False
    a, b = present
    if a.numel() == b.numel() == 1:
        a, b = a.reshape(()), b.reshape(())
    return a.dtype == b.dtype and torch.equal(a, b)


def quantized_grid(graph: Graph, node: NodeProto) -> Grid | None:
    """Returns the grid of a QuantizeLinear; None where it does more than to round to one."""
    numbers = _numbers(node)
    if numbers is None:
        return None
    grid = _grid(node, numbers)
    scale_type = graph.element_type(grid.scale)
    if numbers.get("precision", 0) not in (0, scale_type) or not numbers.get("saturate", 1):
        return None
    if graph.element_type(node.input[0]) not in (None, scale_type):
        return None
    given = graph.element_type(grid.zero_point) if grid.zero_point else None
    asked = numbers.get("output_dtype", 0)
    if grid.zero_point and (not given or (asked and asked != given)):
        return None
    return replace(grid, element_type=given or asked or TensorProto.UINT8)


def dequantized_grid(graph: Graph, node: NodeProto, element_type: int) -> Grid | None:
    """Returns the grid that a DequantizeLinear of integers of a type takes; None where it does more."""
    numbers = _numbers(node)
    if numbers is None:
        return None
    grid = _grid(node, numbers)
    if numbers.get("output_dtype", 0) not in (0, graph.element_type(grid.scale)):
        return None
    if grid.zero_point and graph.element_type(grid.zero_point) not in (element_type, None):
        return None
    return replace(grid, element_type=element_type)


def _numbers(node: NodeProto) -> dict[str, int] | None:
    """Returns a node's attributes; None of a node that breaks the specification, as the builder will say."""
    known = _ATTRIBUTES[node.op_type]
    fits = all(a.type == AttributeProto.INT and a.name in known for a in node.attribute)
    return {a.name: a.i for a in node.attribute} if fits else None


def _grid(node: NodeProto, numbers: dict[str, int]) -> Grid:
    zero_point = node.input[2] if len(node.input) > 2 else ""
    return Grid(node.input[1], zero_point, 0, numbers.get("axis", 1), numbers.get("block_size", 0))
