"""The rewriting itself: quantizers in the place of nodes and integer constants."""

from __future__ import annotations

import torch
from onnx import ModelProto, NodeProto, TensorProto

from qonnx_torch.errors import QonnxTorchError, UnsupportedModelError
from qonnx_torch.ops.standard.quantize_linear import dequantize_linear
from qonnx_torch.ordering import check_nodes, label
from qonnx_torch.registry import PROJECT_DOMAIN, QONNX_DOMAIN, REGISTRY

from ..tensors import TensorStore
from .choices import Choice, choose, is_grid_type, type_bounds
from .graph import Graph, Names, graphs_of
from .grids import DEQUANTIZE, QUANTIZE, Grid, is_linear, quantized_grid
from .levels import Level, levels_of

__all__ = ["fuse_qdq", "refuse_own_operators"]

_DYNAMIC = "DynamicQuantizeLinear"


def fuse_qdq(model: ModelProto, tensors: TensorStore) -> None:
    """Rewrites a model's QuantizeLinear and DequantizeLinear into quantizers, in place, where they are such.

    The docstring of `import_.qdq` says which, and into what.

    Args:
        model: the model.
        tensors: the data of its large tensors; those of new ones are added.
    """
    graphs = list(graphs_of(model.graph))
    if not any(is_linear(node, DEQUANTIZE) for proto, _ in graphs for node in proto.node):
        return
    values = [v.name for v in (*model.graph.input, *model.graph.initializer)]
    check_nodes(model.graph.node, values, [o.name for o in model.graph.output])
    names = Names(model)
    indexed: dict[int, Graph] = {}
    for proto, outer in graphs:
        around = None if outer is None else indexed[id(outer)]
        indexed[id(proto)] = Graph(model, proto, around, names, tensors)
        _Fusing(indexed[id(proto)]).run()
    for graph in reversed(indexed.values()):
        graph.finish()
    if all(o.domain != QONNX_DOMAIN for o in model.opset_import):
        model.opset_import.add(domain=QONNX_DOMAIN, version=1)


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
        replaced = (QUANTIZE, DEQUANTIZE, _DYNAMIC)
        self.node_names = {node.name for node in graph.nodes if node.op_type not in replaced}

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
            elif node.op_type == _DYNAMIC and node.domain in ("", "ai.onnx") and _is_whole(node):
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
        stays = node.op_type == _DYNAMIC or any(level.others for level in levels) or None in choices
        for level, choice in zip(used, choices, strict=True):
            if choice is not None:
                self._insert(level, choice, x, None if stays else position, alone=len(used) == 1)
        self._drop_unread(levels)
        if len(used) > 1 and not stays:
            graph.remove(position)

    def _fuse_constant(self, name: str, proto: TensorProto) -> None:
        """Makes an integer constant the floats that it stands for, with a quantizer behind them."""
        graph, rank = self.graph, len(proto.dims)
        bounds = type_bounds(proto.data_type)
        levels, grid = levels_of(graph, name, None, proto.data_type, bounds, rank)
        used = [level for level in levels if level.is_used]
        if grid is None or len(used) != 1 or any(level.others for level in levels):
            return
        (level,) = used
        choice = choose(graph, grid, level.bounds, rank)
        values = None if choice is None else _exact_values(graph, grid, name, level, choice)
        if choice is not None and values is not None:
            graph.set_constant(name, values)
            self._insert(level, choice, name, None)
            self._drop_unread(levels)

    def _drop_unread(self, levels: list[Level]) -> None:
        for level in reversed(levels):  # a Clip comes after the one that it reads
            if level.clip is not None and not self.graph.readers[level.name] and not level.others:
                self.graph.remove(level.clip)

    # -- the quantizer -----------------------------------------------------------------------------

    def _insert(
        self, level: Level, choice: Choice, x: str, quantize: int | None, *, alone: bool = False
    ) -> None:
        """Puts a quantizer between x and what is behind a level.

        Args:
            level: a value on the grid.
            choice: the quantizer.
            x: what it reads.
            quantize: position of the QuantizeLinear, where that goes.
            alone: whether the quantizer takes its place; else it takes that of a DequantizeLinear.
        """
        graph = self.graph
        first = self._first_end(level.ends)
        last = graph.nodes[level.all_ends()[0] if first is None else first]
        source = None if quantize is None else graph.nodes[quantize]
        y = last.output[0] if first is not None else graph.names.fresh(f"{level.name}_dequantized")
        name = self._name((source.name if source is not None else "") or last.name, choice.op_type)
        node = choice.node(graph, x, y, name)
        if choice.op_type == "QuantizeDequantizeLinear" and first is not None:
            _keep_names(node, source, None if level.clip is None else graph.nodes[level.clip], last)
        freed = self._take_ends(level.ends, y)
        for position in level.moves:
            graph.redirect(position, level.name, y)
        for value, ends in level.moved.items():
            freed += self._end_moved(value, ends)
        slot = quantize if quantize is not None and alone else freed[0]
        graph.replace(slot, node)
        graph.givers[y] = slot

    def _take_ends(self, ends: list[int], y: str) -> list[int]:
        """Lets what reads the outputs of DequantizeLinear nodes read y; returns which of the nodes is gone.

        y is the output of one of them, or another value.
        """
        graph, freed = self.graph, []
        for end in ends:
            output = graph.nodes[end].output[0]
            if output == y:
                graph.remove(end)
                freed.append(end)
            else:
                graph.substitute(end, output, y)
        return freed

    def _first_end(self, ends: list[int]) -> int | None:
        """Returns the DequantizeLinear whose output keeps its name: one that must, where there is one."""
        graph = self.graph
        outputs = {end: graph.nodes[end].output[0] for end in ends}
        bound = (end for end in ends if graph.is_output(outputs[end]) or graph.is_captured(outputs[end]))
        return next(bound, ends[0] if ends else None)

    def _end_moved(self, value: str, ends: list[int]) -> list[int]:
        """Lets moved integers be floats, and what DequantizeLinear nodes made of them be they themselves."""
        graph = self.graph
        graph.retype(value)
        first = self._first_end(ends)
        if first is None:
            return []
        name = graph.nodes[first].output[0]
        freed = self._take_ends(ends, name)
        graph.rename_output(graph.givers[value], value, name)
        graph.givers[name] = graph.givers.pop(value)
        for reader in list(graph.readers[value]):
            graph.redirect(reader, value, name)
        return freed

    def _name(self, name: str, op_type: str) -> str:
        """Returns the quantizer's name, after that of a node which it replaces."""
        if not name:
            return ""
        for suffix in (_DYNAMIC, QUANTIZE, DEQUANTIZE):
            if name.endswith(suffix):
                name = name.removesuffix(suffix) + op_type
                break
        unique, count = name, 0
        while unique in self.node_names:
            count += 1
            unique = f"{name}_{count}"
        self.node_names.add(unique)
        return unique


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


def _keep_names(node: NodeProto, quantize: NodeProto | None, clip: NodeProto | None, last: NodeProto) -> None:
    """Notes what the nodes were called that an export will write again."""
    nodes = {"quantize": quantize, "clip": clip, "dequantize": last}
    for kind, source in nodes.items():
        if source is not None:
            node.metadata_props.add(key=kind, value=source.name)
            if source is not last:
                node.metadata_props.add(key=f"{kind}_output", value=source.output[0])
