"""What an fx graph says about its values: names, operator types, and what depends on what."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import getitem
from typing import Any

from torch import fx, nn

from qonnx_torch.ops import as_tensor
from qonnx_torch.provenance import NodeOrigin, computing_nodes, fingerprint, provenance_of, value_names
from qonnx_torch.registry import REGISTRY

__all__ = ["GraphValue", "ancestors", "graph_values", "module_behind", "output_names"]


@dataclass(frozen=True, slots=True)
class GraphValue:
    """One value that a graph computes.

    Attributes:
        node: the fx node that gives it (a `getitem` for one of several outputs).
        name: its ONNX value name, or the fx node's name.
        op_type: the ONNX operator type, or what fx calls.
        node_name: the ONNX node's name; may be empty.
        static: does not depend on the inputs (a quantized weight).
    """

    node: fx.Node
    name: str
    op_type: str
    node_name: str
    static: bool


def _origins(module: fx.GraphModule) -> dict[fx.Node, NodeOrigin]:
    nodes = computing_nodes(module.graph)
    provenance = provenance_of(module)
    if provenance is not None and fingerprint(module) == provenance.fingerprint:
        return dict(zip(nodes, provenance.nodes, strict=True))
    return {node: node.meta["onnx"] for node in nodes if "onnx" in node.meta}


def module_behind(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """Returns the submodule that a node calls, or None where it calls none."""
    return module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _op_type(module: fx.GraphModule, node: fx.Node, origin: NodeOrigin | None) -> str:
    if origin is not None and origin.op_type:
        return origin.op_type
    submodule = module_behind(module, node)
    target: Any = node.target if submodule is None else type(submodule)
    operator = REGISTRY.of_target(target)
    return operator.op_type if operator else str(getattr(target, "__name__", target))


def graph_values(module: fx.GraphModule) -> list[GraphValue]:
    """Returns the values that a graph computes, in graph order; those of getitem under their own names."""
    origins, names = _origins(module), value_names(module)
    static: set[fx.Node] = set()
    values = []
    for node in module.graph.nodes:
        if node.op == "get_attr" or (
            node.op not in ("placeholder", "output") and all(n in static for n in node.all_input_nodes)
        ):
            static.add(node)
        if node.op not in ("call_function", "call_module", "call_method") or node.target is as_tensor:
            continue
        several = any(user.target is getitem for user in node.users)
        if node.target is not getitem and (several or len([n for n in names[node] if n]) != 1):
            continue  # its getitem nodes have the values
        producer = node
        if node.target is getitem and node.all_input_nodes:
            producer = node.all_input_nodes[0]
        origin = origins.get(producer)
        values.append(
            GraphValue(
                node,
                next(n for n in names[node] if n),
                _op_type(module, producer, origin),
                origin.name if origin else "",
                node in static,
            )
        )
    return values


def output_names(module: fx.GraphModule) -> list[str]:
    """Returns the ONNX names of the graph's outputs; `out0`, `out1`, ... where they have none."""
    node = module.graph.output_node()
    results = node.args[0]
    count = len(results) if isinstance(results, (tuple, list)) else 1
    names = value_names(module)[node]
    return list(names) if len(names) == count and names != (node.name,) else [f"out{i}" for i in range(count)]


def ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Returns nodes and everything that they are computed from."""
    found: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return found
