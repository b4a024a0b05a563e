"""Which quantizer computes the numbers of a grid, and the node that it becomes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from onnx import NodeProto, TensorProto, helper
from torch import Tensor

from qonnx_torch.dtypes import FLOAT4E2M1, INT2, UINT2, integer_range
from qonnx_torch.ops import float_quant, quant, quantize_dequantize_linear
from qonnx_torch.registry import PROJECT_DOMAIN, QONNX_DOMAIN

from .graph import Graph
from .grids import Grid

__all__ = ["Choice", "choose", "is_grid_type", "type_bounds"]

_HALF = (torch.float16, torch.bfloat16)

_FLOATS: dict[int, tuple[float, float, float, float, int, int]] = {
    TensorProto.FLOAT8E4M3FN: (4, 3, 7, 448, 0, 1),
    TensorProto.FLOAT8E4M3FNUZ: (4, 3, 8, 240, 0, 1),
    TensorProto.FLOAT8E5M2: (5, 2, 15, 57344, 1, 1),
    TensorProto.FLOAT8E5M2FNUZ: (5, 2, 16, 57344, 0, 1),
    FLOAT4E2M1: (2, 1, 1, 6, 0, 0),
}
"""Element type -> bits of exponent and mantissa, bias, largest value, has_inf, has_nan."""

_FLOAT_NAMES = ("exponent_bit_width", "mantissa_bit_width", "exponent_bias", "max_val")
_INTEGERS = (
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT16,
    TensorProto.UINT16,
    TensorProto.INT32,
    TensorProto.INT4,
    TensorProto.UINT4,
    INT2,
    UINT2,
)


def type_bounds(element_type: int) -> tuple[int, int] | None:
    """Returns the smallest and the largest integer of a type; None of a type of floats."""
    return integer_range(element_type) if element_type in _INTEGERS else None


def is_grid_type(element_type: int) -> bool:
    """Returns whether a quantizer may give this element type."""
    return element_type in _INTEGERS or element_type in _FLOATS


@dataclass(frozen=True, slots=True)
class Choice:
    """A quantizer for a grid.

    Attributes:
        op_type: Quant, FloatQuant or QuantizeDequantizeLinear.
        grid: the grid; its axis counts from the end.
        shape: the shape in which the scale broadcasts to the tensor (in blocks); None of a computed one.
        low: smallest integer.
        high: largest integer.
        bits: of a Quant: bit width, signed, narrow.
    """

    op_type: str
    grid: Grid
    shape: tuple[int, ...] | None
    low: int = 0
    high: int = 0
    bits: tuple[int, bool, bool] = (8, True, False)

    def quantized(self, graph: Graph, x: Tensor) -> Tensor:
        """Returns what the quantizer makes of a tensor."""
        scale, zero_point = graph.constant(self.grid.scale), self.grid.zero_points(graph)
        assert scale is not None
        assert zero_point is not None
        assert self.shape is not None
        scale = scale.reshape(self.shape)
        if self.op_type == "Quant":
            bits, signed, narrow = self.bits
            return quant(x, scale, 0.0, bits, signed=signed, narrow=narrow)
        if self.op_type == "FloatQuant":
            return float_quant(x, scale, *_FLOATS[self.grid.element_type][:4])
        return quantize_dequantize_linear(
            x,
            scale,
            zero_point.reshape(self._shape_of(zero_point)),
            low=self.low,
            high=self.high,
            axis=self.grid.axis,
            block_size=self.grid.block_size,
        )

    def _shape_of(self, zero_point: Tensor) -> tuple[int, ...]:
        assert self.shape is not None
        return () if zero_point.numel() == 1 else self.shape

    def node(self, graph: Graph, x: str, y: str, name: str) -> NodeProto:
        """Returns the quantizer's node; its constants are added to the graph."""
        if self.op_type == "Quant":
            bits, signed, narrow = self.bits
            parameters = [
                self._scale(graph),
                graph.number("zero_point", 0.0),
                graph.number(f"bit_width_{bits}", float(bits)),
            ]
            attributes: dict[str, Any] = {
                "signed": int(signed),
                "narrow": int(narrow),
                "rounding_mode": "ROUND",
            }
            return self._node([x, *parameters], y, name, QONNX_DOMAIN, attributes)
        if self.op_type == "FloatQuant":
            *numbers, has_inf, has_nan = _FLOATS[self.grid.element_type]
            pairs = zip(_FLOAT_NAMES, numbers, strict=True)
            parameters = [self._scale(graph), *(graph.number(f"{n}_{v:g}", float(v)) for n, v in pairs)]
            flags = {"has_inf": has_inf, "has_nan": has_nan, "has_subnormal": 1, "saturation": 1}
            attributes = {**flags, "rounding_mode": "ROUND"}
            return self._node([x, *parameters], y, name, QONNX_DOMAIN, attributes)
        attributes = {
            "low": self.low,
            "high": self.high,
            "element_type": self.grid.element_type,
            "axis": self.grid.axis,
            "block_size": self.grid.block_size,
        }
        inputs = [x, self._scale(graph), self._zero_point(graph)]
        return self._node(inputs, y, name, PROJECT_DOMAIN, attributes)

    def _node(
        self, inputs: list[str], y: str, name: str, domain: str, attributes: dict[str, Any]
    ) -> NodeProto:
        return helper.make_node(self.op_type, inputs, [y], name=name, domain=domain, **attributes)

    def _scale(self, graph: Graph) -> str:
        return self.grid.scale if self.shape is None else graph.in_shape(self.grid.scale, self.shape)

    def _zero_point(self, graph: Graph) -> str:
        if not self.grid.zero_point:
            return graph.number(f"zero_point_{self.grid.element_type}", 0, self.grid.element_type)
        value = graph.constant(self.grid.zero_point)
        if value is None:
            return self.grid.zero_point
        return graph.in_shape(self.grid.zero_point, self._shape_of(value))


def choose(graph: Graph, grid: Grid, bounds: tuple[int, int] | None, rank: int | None) -> Choice | None:
    """Returns the quantizer that computes a grid's numbers, or None where there is none.

    Args:
        graph: the graph of the nodes.
        grid: what both nodes have.
        bounds: smallest and largest integer; None of a grid of floats.
        rank: number of dimensions of the tensor, where it is known.
    """
    scale, zero_point = graph.constant(grid.scale), grid.zero_points(graph)
    if bounds is not None and bounds[0] >= bounds[1]:
        return None
    if scale is None or zero_point is None:
        if bounds is None or not _is_computed_scalar(graph, grid):
            return None
        return Choice("QuantizeDequantizeLinear", replace(grid, axis=-1), None, *bounds)
    placed = _placed(scale, zero_point, grid, rank)
    if placed is None or not scale.is_floating_point():
        return None
    if not bool((torch.isfinite(scale) & (scale > 0)).all()):
        return None
    grid, shape = placed
    offset = bool(zero_point.to(torch.float32).any())
    if bounds is None:
        plain = grid.element_type in _FLOATS and scale.dtype is torch.float32 and not offset
        return Choice("FloatQuant", grid, shape) if plain and not grid.block_size else None
    bits = _bit_width(*bounds)
    if scale.dtype is torch.float32 and not offset and not grid.block_size and bits is not None:
        return Choice("Quant", grid, shape, *bounds, bits)
    if scale.dtype is torch.float32 or scale.dtype in _HALF:
        return Choice("QuantizeDequantizeLinear", grid, shape, *bounds)
    return None


def _placed(
    scale: Tensor, zero_point: Tensor, grid: Grid, rank: int | None
) -> tuple[Grid, tuple[int, ...]] | None:
    """Returns the grid with its axis from the end, and the shape in which its scale broadcasts."""
    if zero_point.numel() != 1 and zero_point.shape != scale.shape:
        return None
    if scale.numel() == 1:
        shape = tuple(scale.shape) if scale.dim() <= (rank or 0) else ()
        return replace(grid, axis=-1, block_size=0), shape
    if grid.block_size:
        if (
            grid.block_size < 0
            or rank not in (None, scale.dim())
            or not -scale.dim() <= grid.axis < scale.dim()
        ):
            return None
        axis = grid.axis % scale.dim()
        shape = (*scale.shape[: axis + 1], 1, *scale.shape[axis + 1 :])
        return replace(grid, axis=axis - scale.dim()), shape
    if scale.dim() != 1 or (rank is None and grid.axis >= 0):
        return None
    axis = grid.axis if rank is None or grid.axis < 0 else grid.axis - rank
    if axis >= 0 or (rank is not None and axis < -rank):
        return None
    return replace(grid, axis=axis), (scale.numel(), *[1] * (-axis - 1))


def _is_computed_scalar(graph: Graph, grid: Grid) -> bool:
    """Whether scale and zero point are those that a DynamicQuantizeLinear computes, which are 0-d."""
    for position, name in ((1, grid.scale), (2, grid.zero_point)):
        giver = graph.givers.get(name)
        node = None if giver is None else graph.nodes[giver]
        dynamic = (
            node is not None and node.op_type == "DynamicQuantizeLinear" and node.domain in ("", "ai.onnx")
        )
        if node is None or not dynamic or list(node.output).index(name) != position:
            return False
    return True


def _bit_width(low: int, high: int) -> tuple[int, bool, bool] | None:
    """Returns the bit width of integers from low to high, and whether they are signed and narrow.

    None where no Quant has them. A signed Quant of one bit is bipolar, so it is none of these.
    """
    if low == 0:
        bits, narrow = (high + 1).bit_length() - 1, False
        if high != 2**bits - 1:
            bits, narrow = (high + 2).bit_length() - 1, True
        return (bits, False, narrow) if high == 2**bits - 1 - narrow else None
    bits = (high + 1).bit_length()
    if high != 2 ** (bits - 1) - 1 or bits < 2:
        return None
    narrow = low == -high
    return (bits, True, narrow) if narrow or low == -high - 1 else None
