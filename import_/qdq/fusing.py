"""The rewriting itself: quantizers in the place of nodes and integer constants."""

from __future__ import annotations

from typing import Any

import torch
from onnx import ModelProto, NodeProto, TensorProto, helper

from qonnx_torch.dtypes import PACKED_TYPES
from qonnx_torch.errors import QonnxTorchError, UnsupportedModelError
from qonnx_torch.graphs import check_nodes, graphs_of, label, value_names_of
from qonnx_torch.ops.standard.quantize_linear import dequantize_linear, quantize_linear
from qonnx_torch.registry import PROJECT_DOMAIN, QONNX_DOMAIN, REGISTRY

from ..tensors import TensorStore
from .choices import Choice, choose, is_grid_type, type_bounds
from .graph import Graph
from .grids import DEQUANTIZE, DYNAMIC, QUANTIZE, Grid, dequantized_grid, is_linear, quantized_grid
from .inserting import Inserter
from .levels import Level, levels_of
from .staying import what_stays

__all__ = ["fuse_qdq", "refuse_own_operators"]


def fuse_qdq(model: ModelProto, tensors: TensorStore) -> str | None:
    """Rewrites a model's QuantizeLinear and DequantizeLinear into quantizers, in place, where they are such.

    The docstring of `import_.qdq` says which, and into what.

    Args:
        model: the model.
        tensors: the data of its large tensors; those of new ones are added.

    Returns:
        What to warn of: pairs that stay and stop the training of weights; None where there are none.
    """
    graphs = list(graphs_of(model.graph))
    if not any(is_linear(node, DEQUANTIZE) for proto, _ in graphs for node in proto.node):
        return None
    values = [v.name for v in (*model.graph.input, *model.graph.initializer)]
    check_nodes(model.graph.node, values, [o.name for o in model.graph.output])
    names = value_names_of(model)
    indexed: dict[int, Graph] = {}
    for proto, outer in graphs:
        around = None if outer is None else indexed[id(outer)]
        indexed[id(proto)] = Graph(model, proto, around, names, tensors)
        _Fusing(indexed[id(proto)]).run()
    warning = what_stays((indexed[id(p)], None if o is None else indexed[id(o)]) for p, o in graphs)
    for graph in reversed(indexed.values()):
        graph.finish()
    if all(o.domain != QONNX_DOMAIN for o in model.opset_import):
        model.opset_import.add(domain=QONNX_DOMAIN, version=1)
    return warning


def refuse_own_operators(model: ModelProto) -> None:
    """Refuses files with operators that only imported graphs have.

    Raises:
        UnsupportedModelError: names the first of them.
    """
    for proto, _ in graphs_of(model.graph):
        for node in proto.node:
            if node.domain == PROJECT_DOMAIN and REGISTRY.find(PROJECT_DOMAIN, node.op_type, 1):
                raise UnsupportedModelError(
                    f"node {label(node)}: {PROJECT_DOMAIN}::{node.op_type} stands in imported graphs for "
                    "QuantizeLinear and DequantizeLinear; it is no operator of files"
                )


class _Fusing:
    """Fuses what is in one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.inserter = Inserter(graph)

    def run(self) -> None:
        """Goes through the nodes, then through the integer constants."""
        graph = self.graph
        if not graph.is_sound:
            return
        if any(is_linear(n, QUANTIZE) and self._is_vector(n.input[1]) for n in graph.nodes):
            graph.infer_ranks()
        for position, node in enumerate(graph.nodes):
            if is_linear(node, QUANTIZE):
                self._fuse_pair(position, quantized_grid(graph, node))
            elif node.op_type == DYNAMIC and node.domain in ("", "ai.onnx") and _is_whole(node):
                self._fuse_pair(position, Grid(node.output[1], node.output[2], TensorProto.UINT8, 1, 0))
        for name, proto in list(graph.constants.items()):
            if is_grid_type(proto.data_type) and graph.readers[name]:
                self._fuse_constant(name, proto)

    def _is_vector(self, name: str) -> bool:
        scale = self.graph.constant(name)
        return scale is not None and scale.dim() == 1 and scale.numel() > 1

    def _fuse_pair(self, position: int, grid: Grid | None) -> None:
        """Fuses a QuantizeLinear (or the dynamic one) with each DequantizeLinear of the same grid."""
        graph, node = self.graph, self.graph.nodes[position]
        if grid is None or not is_grid_type(grid.element_type):
            return
        x = node.input[0]
        rank = graph.rank(x)
        bounds = type_bounds(grid.element_type)
        levels, _ = levels_of(graph, node.output[0], grid, grid.element_type, bounds, rank)
        used = [level for level in levels if level.is_used]
        if not used:
            return
        choices = [choose(graph, grid, level.bounds, rank) for level in used]
        stays = node.op_type == DYNAMIC or any(level.others for level in levels) or None in choices
        for level, choice in zip(used, choices, strict=True):
            if choice is not None:
                self.inserter.insert(level, choice, x, None if stays else position, alone=len(used) == 1)
        self.inserter.drop_unread(levels)
        if len(used) > 1 and not stays:
            graph.remove(position)

    def _fuse_constant(self, name: str, proto: TensorProto) -> None:
        """Makes an integer constant the floats that it stands for, with a quantizer behind them.

        Where it stands for several, as with a bias of zeros that other layers have too, each is a constant.
        """
        graph, rank, element_type = self.graph, len(proto.dims), proto.data_type
        if graph.is_output(name) or graph.is_captured(name):
            return
        bounds = type_bounds(element_type)
        levels, grid = levels_of(graph, name, None, element_type, bounds, rank)
        if grid is None:
            return
        if not self._is_parameter(levels):
            self._fuse_weights(name, element_type, levels, grid, rank)
        for ends, other in self._other_grids(name, element_type, grid, rank):
            level = Level(name, bounds, ends=ends, others=len(graph.readers[name]) > len(ends))
            if not self._is_parameter([level]):
                self._fuse_weights(name, element_type, [level], other, rank, alone=True)

    def _other_grids(
        self, name: str, element_type: int, grid: Grid, rank: int
    ) -> list[tuple[list[int], Grid]]:
        """Returns the DequantizeLinear nodes that alone read a constant still, by their grids."""
        graph = self.graph
        found: dict[tuple[object, ...], tuple[list[int], Grid]] = {}
        for position in graph.readers[name]:
            node = graph.nodes[position]
            if not is_linear(node, DEQUANTIZE) or node.input[0] != name:
                return []
            other = dequantized_grid(graph, node, element_type)
            if other is not None and not other.same_as(grid, graph, rank):
                found.setdefault(other.key(graph), ([], other))[0].append(position)
        return list(found.values())

    def _is_parameter(self, levels: list[Level]) -> bool:
        """Whether the floats behind are only scales or zero points of others."""
        graph = self.graph
        for name in (graph.nodes[end].output[0] for level in levels for end in level.all_ends()):
            readers = [graph.nodes[r] for r in graph.readers[name]]
            linear = all(is_linear(n, QUANTIZE) or is_linear(n, DEQUANTIZE) for n in readers)
            if not readers or not linear or any(n.input[0] == name for n in readers):
                return False
        return True

    def _fuse_weights(
        self,
        name: str,
        element_type: int,
        levels: list[Level],
        grid: Grid,
        rank: int,
        *,
        alone: bool = False,
    ) -> None:
        """Makes an integer constant, for the nodes of one grid, the floats that it stands for.

        `alone` says that only DequantizeLinear nodes read it.
        """
        graph = self.graph
        used = [level for level in levels if level.is_used]
        if len(used) != 1 or any(level.shared for level in levels):
            return
        (level,) = used
        choice = choose(graph, grid, level.bounds, rank)
        values = None if choice is None else _exact_values(graph, grid, name, level, choice)
        if choice is None or values is None:
            return
        if len(levels) > 1 or not any(level.others for level in levels):
            if any(level.others for level in levels):
                return
            graph.set_constant(name, values)
            self.inserter.insert(level, choice, name, None)
            self.inserter.drop_unread(levels)
            return
        others = (
            []
            if alone
            else [r for r in graph.readers[name] if r not in (*level.ends, *level.moves, level.clip)]
        )
        if all(is_linear(graph.nodes[r], DEQUANTIZE) for r in others):
            self.inserter.insert(level, choice, graph.new_constant(name, values), None)
        else:
            self._quantize_for(others, name, element_type, grid, values, level, choice)

    def _quantize_for(
        self,
        others: list[int],
        name: str,
        element_type: int,
        grid: Grid,
        values: torch.Tensor,
        level: Level,
        choice: Choice,
    ) -> None:
        """Makes an integer constant floats, of which what reads the integers gets them quantized again."""
        graph = self.graph
        integers, scale = graph.constant(name), graph.constant(grid.scale)
        assert integers is not None
        assert scale is not None
        zero_point = grid.zero_points(graph)
        assert zero_point is not None
        shift = zero_point.to(integers.dtype).expand(scale.shape)
        attributes: dict[str, Any] = {"axis": grid.axis} if scale.numel() > 1 else {}
        attributes |= {"block_size": grid.block_size} if grid.block_size else {}
        try:
            found = quantize_linear(values, scale, shift, output_dtype=_packed(element_type), **attributes)
        except (RuntimeError, ValueError, QonnxTorchError):
            return
        wide = torch.float64 if integers.is_floating_point() else torch.int64
        if element_type == TensorProto.INT32 or not torch.equal(found.to(wide), integers.to(wide)):
            return
        domain = graph.nodes[level.all_ends()[0]].domain
        given = grid.zero_point or graph.new_constant(f"{name}_zero_point", shift, element_type)
        output = graph.names.fresh(f"{name}_quantized")
        inputs = [name, grid.scale, given]
        label = self.inserter.unique(output)
        graph.set_constant(name, values)
        self.inserter.insert(level, choice, name, None)
        for reader in others:
            graph.redirect(reader, name, output)
        graph.append(helper.make_node(QUANTIZE, inputs, [output], name=label, domain=domain, **attributes))


def _packed(element_type: int) -> int:
    """Returns what tells quantize_linear a type that its zero point's dtype does not."""
    return element_type if element_type in PACKED_TYPES else 0


def _is_whole(node: NodeProto) -> bool:
    """Whether a DynamicQuantizeLinear has its input and all its outputs."""
    return len(node.input) == 1 and len(node.output) == 3 and all((*node.input, *node.output))


def _exact_values(graph: Graph, grid: Grid, name: str, level: Level, choice: Choice) -> torch.Tensor | None:
    """Returns the floats that a constant stands for, where the quantizer gives back each of them."""
    integers, scale, zero_point = graph.constant(name), graph.constant(grid.scale), grid.zero_points(graph)
    if integers is None or scale is None or zero_point is None:
        return None
    if level.bounds is not None and level.clip is not None:
        integers = torch.clamp(integers.to(torch.int64), *level.bounds)
    shift = zero_point.to(integers.dtype) if grid.zero_point else None
    try:
        values = dequantize_linear(integers, scale, shift, axis=grid.axis, block_size=grid.block_size)
        found = choice.quantized(graph, values)
    except (RuntimeError, ValueError, QonnxTorchError):
        return None  # parameters that do not fit the tensor: it fails when it runs
    return values if values.dtype == found.dtype and torch.equal(values, found) else None
