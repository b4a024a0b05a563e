"""What stays unfused and stops the training of weights, told in one sentence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from onnx import NodeProto

from qonnx_torch.graphs import free_names, label, subgraphs
from qonnx_torch.registry import PROJECT_DOMAIN, QONNX_DOMAIN

from ..constants import TRAINED_TYPES
from ..tensors import element_count
from .choices import choose, is_grid_type, type_bounds
from .graph import Graph
from .grids import DEQUANTIZE, DYNAMIC, QUANTIZE, is_linear, quantized_grid
from .moving import MOVES

__all__ = ["what_stays"]

_KEEPS_INTEGERS = MOVES | {"Clip", "Concat", "Max", "MaxPool", "Min", "Pad", "Where"}


def what_stays(graphs: Iterable[tuple[Graph, Graph | None]]) -> str | None:
    """Returns what to warn of: QuantizeLinear nodes through which weights would have a gradient if fused.

    None where there are none. Those whose integers are computed on are none: a network of integer operators
    is not meant to be trained as it stands.

    Args:
        graphs: each after the graph around it, which comes with it; what can be fused is.
    """
    found: list[tuple[Graph, int]] = []
    reached: dict[int, set[str]] = {}
    for graph, outer in graphs:
        reached[id(graph)] = _trained_values(graph, set() if outer is None else reached[id(outer)])
        if not graph.is_sound:
            continue
        for position, node in graph.present():
            if _quantizes(node) and node.input[0] in reached[id(graph)] and _ends(graph, node):
                found.append((graph, position))
    if not found:
        return None
    graph, position = found[0]
    node = graph.nodes[position]
    count = "1 QuantizeLinear stays" if len(found) == 1 else f"{len(found)} QuantizeLinear stay"
    first = "the first: " if len(found) > 1 else ""
    return (
        f"{count} in the graph with a DequantizeLinear behind; the weights before do not learn through "
        f"integers or small floats ({first}node {label(node)}, {_reason(graph, node)})"
    )


def _quantizes(node: NodeProto) -> bool:
    dynamic = node.op_type == DYNAMIC and node.input and node.output and node.output[0]
    return is_linear(node, QUANTIZE) or bool(dynamic)


def _trained_values(graph: Graph, outer: set[str]) -> set[str]:
    """Returns the values that depend on floats that train, up to the nodes that make integers of them."""
    readers: dict[str, list[int]] = defaultdict(list)
    for position, node in graph.present():
        parameters = is_linear(node, DEQUANTIZE) or node.domain in (QONNX_DOMAIN, PROJECT_DOMAIN)
        inner = [name for g in subgraphs(node).values() for name in free_names(g)]
        for name in node.input[:1] if parameters else [*node.input, *inner]:
            readers[name].append(position)
    constants = graph.constants.items()
    weights = {n for n, p in constants if p.data_type in TRAINED_TYPES and element_count(p.dims) > 1}
    found: set[str] = set()
    waiting = [name for name in readers if name and name in weights | outer]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for node in map(graph.nodes.__getitem__, readers[name]):
            if not _quantizes(node):
                waiting += filter(None, node.output)
    return found


def _ends(graph: Graph, node: NodeProto) -> list[NodeProto]:
    """Returns the DequantizeLinear nodes behind one, past operators that leave the grid as it is."""
    ends: list[NodeProto] = []
    found: set[str] = set()
    waiting = [node.output[0]]
    while waiting:
        name = waiting.pop()
        found.add(name)
        for reader in map(graph.nodes.__getitem__, graph.readers[name]):
            if is_linear(reader, DEQUANTIZE) and reader.input[0] == name:
                ends.append(reader)
            elif reader.op_type in _KEEPS_INTEGERS:
                waiting += [o for o in reader.output if o and o not in found]
    return ends


def _reason(graph: Graph, node: NodeProto) -> str:
    grid = quantized_grid(graph, node) if is_linear(node, QUANTIZE) else None
    if grid is None or not is_grid_type(grid.element_type):
        return "which does more than to round to a grid, or between types that are not known"
    scale, rank = graph.constant(grid.scale), graph.rank(node.input[0])
    if scale is None or grid.zero_points(graph) is None:
        return "whose scale or zero point is computed from data"
    if choose(graph, grid, type_bounds(grid.element_type), rank) is None:
        if not scale.is_floating_point() or not bool((scale.isfinite() & (scale > 0)).all()):
            return "whose scale is not positive and finite"
        if rank is None and scale.numel() > 1:
            return "of a tensor whose number of dimensions the file does not tell"
        return "whose grid no quantizer has (its parameters' shapes, or small floats in blocks)"
    if any(end.input[0] == node.output[0] for end in _ends(graph, node)):
        return "whose DequantizeLinear has other parameters"
    return "behind which another operator comes before the DequantizeLinear"
