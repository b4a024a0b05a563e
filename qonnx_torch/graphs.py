"""What ONNX graphs say: how their nodes are called, what they read, the order in which they can run."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from qonnx_torch.errors import InvalidModelError, quoted, shortened
from qonnx_torch.names import Names

__all__ = [
    "all_nodes",
    "check_nodes",
    "default_opset",
    "free_names",
    "graphs_of",
    "is_constant",
    "label",
    "reads",
    "sorted_nodes",
    "subgraphs",
    "value_names_of",
]


def label(node: NodeProto) -> str:
    """Returns how messages name a node: its name, or its first output where it has none."""
    name = node.name or next((o for o in node.output if o), "")
    return f"{quoted(name)} ({shortened(node.op_type)})"


def graphs_of(graph: GraphProto) -> Iterator[tuple[GraphProto, GraphProto | None]]:
    """Yields a graph and all its subgraphs, each after the graph around it, which comes with it."""
    waiting: list[tuple[GraphProto, GraphProto | None]] = [(graph, None)]
    while waiting:
        found, outer = waiting.pop()
        yield found, outer
        waiting += [(inner, found) for node in found.node for inner in subgraphs(node).values()]


def value_names_of(model: ModelProto) -> Names:
    """Returns the names of values in all graphs of a model."""
    names = Names()
    for graph, _ in graphs_of(model.graph):
        names.update(v.name for v in (*graph.input, *graph.initializer))
        names.update(name for node in graph.node for name in (*node.input, *node.output))
    return names


def default_opset(model: ModelProto) -> int:
    """Returns the version of ai.onnx that a model imports, or 0 where it imports none."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def is_constant(node: NodeProto) -> bool:
    """Returns whether a node is ai.onnx's Constant."""
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def subgraphs(node: NodeProto) -> dict[str, GraphProto]:
    """Returns the graphs among a node's attributes (the branches of an If, the body of a Loop)."""
    return {a.name: a.g for a in node.attribute if a.type == AttributeProto.GRAPH}


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Yields the nodes of a graph and of the subgraphs in it, at any depth; a node before those in it."""
    for node in graph.node:
        yield node
        for subgraph in subgraphs(node).values():
            yield from all_nodes(subgraph)


def free_names(graph: GraphProto) -> list[str]:
    """Returns the values that a subgraph reads from the graphs around it, in the order of their first use."""
    own = {i.name for i in graph.input} | {i.name for i in graph.initializer}
    own.update(o for node in graph.node for o in node.output)
    read = [name for node in graph.node for name in reads(node)]
    read += [o.name for o in graph.output]
    return [name for name in dict.fromkeys(read) if name not in own]


def reads(node: NodeProto) -> list[str]:
    """Returns the values that a node reads: its inputs, and what its subgraphs read from around them."""
    names = [name for name in node.input if name]
    for graph in subgraphs(node).values():
        names += free_names(graph)
    return names


def check_nodes(nodes: Sequence[NodeProto], known: Iterable[str], outputs: Iterable[str]) -> None:
    """Refuses nodes that cannot run in any order, here or in a subgraph.

    Args:
        nodes: the nodes of a graph or function.
        known: values that exist before any of them runs, those of graphs around included.
        outputs: values that must exist in the end.

    Raises:
        InvalidModelError: a value produced twice, a value that nothing produces, or a cycle.
    """
    waiting = [(nodes, set(known), list(outputs))]
    while waiting:
        nodes, inside, ends = waiting.pop()
        sorted_nodes(nodes, inside, ends)
        graphs = [graph for node in nodes for graph in subgraphs(node).values()]
        if graphs:
            around = inside.union(name for node in nodes for name in node.output)
            for graph in graphs:
                own = {value.name for value in (*graph.input, *graph.initializer)}
                own.update(name for name in free_names(graph) if name in around)
                waiting.append((graph.node, own, [o.name for o in graph.output]))


def sorted_nodes(nodes: Sequence[NodeProto], known: Iterable[str], outputs: Iterable[str]) -> list[int]:
    """Returns the positions of the nodes in an order in which every input exists; file order where it can be.

    Args:
        nodes: the nodes of a graph.
        known: values that exist before any node runs (inputs and initializers).
        outputs: values that must exist in the end.

    Raises:
        InvalidModelError: a value produced twice, a value that nothing produces, or a cycle.
    """
    known = set(known)
    producer: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name in producer or name in known:
                raise InvalidModelError(
                    f"value {quoted(name)} is produced twice (again by node {label(node)})"
                )
            producer[name] = i
    needs: list[set[int]] = []
    for node in nodes:
        names = reads(node)
        unknown = next((n for n in names if n not in producer and n not in known), None)
        if unknown is not None:
            raise InvalidModelError(f"node {label(node)} reads {quoted(unknown)}, which nothing produces")
        needs.append({producer[n] for n in names if n in producer})
    for name in outputs:
        if name not in producer and name not in known:
            raise InvalidModelError(f"graph output {quoted(name)} is produced by nothing")
    if all(before < i for i, needed in enumerate(needs) for before in needed):
        return list(range(len(nodes)))

    waiting = [len(needed) for needed in needs]
    consumers: dict[int, list[int]] = defaultdict(list)
    for i, needed in enumerate(needs):
        for j in needed:
            consumers[j].append(i)
    ready = deque(i for i, count in enumerate(waiting) if count == 0)
    order = []
    while ready:
        i = ready.popleft()
        order.append(i)
        for j in consumers[i]:
            waiting[j] -= 1
            if waiting[j] == 0:
                ready.append(j)
    if len(order) < len(nodes):
        stuck = [label(nodes[i]) for i, count in enumerate(waiting) if count > 0][:5]
        raise InvalidModelError(f"the graph has a cycle through or before {', '.join(stuck)}")
    return order
