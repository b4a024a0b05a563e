"""The order in which nodes can run, and the errors of a graph that has none."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence

from onnx import NodeProto

from qonnx_torch.errors import InvalidModelError

__all__ = ["label", "sorted_nodes"]


def label(node: NodeProto) -> str:
    """Returns how messages name a node: its name, or its first output where it has none."""
    name = node.name or next((o for o in node.output if o), "")
    return f"{name!r} ({node.op_type})"


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
                raise InvalidModelError(f"value {name!r} is produced twice (again by node {label(node)})")
            producer[name] = i
    for node in nodes:
        for name in filter(None, node.input):
            if name not in producer and name not in known:
                raise InvalidModelError(f"node {label(node)} reads {name!r}, which nothing produces")
    for name in outputs:
        if name not in producer and name not in known:
            raise InvalidModelError(f"graph output {name!r} is produced by nothing")

    waiting = [len({producer[n] for n in node.input if n in producer}) for node in nodes]
    consumers: dict[int, list[int]] = defaultdict(list)
    for i, node in enumerate(nodes):
        for j in {producer[n] for n in node.input if n in producer}:
            consumers[j].append(i)
    if all(all(producer[n] < i for n in node.input if n in producer) for i, node in enumerate(nodes)):
        return list(range(len(nodes)))
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
