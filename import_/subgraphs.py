"""Nodes with subgraphs: each graph becomes a module of its own, called with what it reads from around it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from onnx import GraphProto, NodeProto, TensorProto
from torch import fx

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.names import identifier
from qonnx_torch.ordering import free_names, subgraphs
from qonnx_torch.registry import Operator

from .scope import Scope

__all__ = ["Results", "SubgraphBuilder", "check_subgraphs", "subgraph_call"]

_FOLLOWED_DEPTH = 3
"""Loops inside at most so many graphs count in Python numbers: each may build its body a few times over."""

_FOLLOWED_ROUNDS = 3


class SubgraphBuilder(Protocol):
    """What is asked of the builder of a subgraph: first convert, then end, then module."""

    scope: Scope

    def convert(
        self,
        captured: Sequence[str] = (),
        numbers: Collection[str] = (),
        types: Mapping[str, int | None] | None = None,
    ) -> None:
        """Converts the nodes.

        Args:
            captured: values of the graph around it that become inputs after its own.
            numbers: formal inputs that are Python numbers.
            types: element types of formal inputs, for those that declare none.
        """

    def end(self, numbers: Sequence[bool]) -> None:
        """Ends the graph with its outputs as a tuple, those that are marked as Python numbers."""

    def module(self) -> fx.GraphModule:
        """Returns the module, with its provenance."""


@dataclass(frozen=True, slots=True)
class Results:
    """What a node with subgraphs gives, output by output.

    Attributes:
        numbers: whether it is Python numbers.
        types: its element type, None where it is not known.
        known: its value, by position, where it is known.
    """

    numbers: Sequence[bool]
    types: Sequence[int | None]
    known: Mapping[int, Any] = field(default_factory=dict)


def check_subgraphs(node: NodeProto, operator: Operator) -> None:
    """Refuses graphs that an operator does not have, and missing ones.

    Raises:
        InvalidModelError: either of them.
    """
    given = set(subgraphs(node))
    unknown = sorted(given - operator.subgraphs)
    if unknown:
        raise InvalidModelError(f"{operator} has no attribute {unknown[0]!r} that is a graph")
    missing = sorted((operator.required & operator.subgraphs) - given)
    if missing:
        raise InvalidModelError(f"{operator} needs the attribute {missing[0]!r}, a graph")


def subgraph_call(
    scope: Scope,
    node: NodeProto,
    operator: Operator,
    module_class: type[Any],
    attributes: Mapping[str, Any],
    builder_of: Callable[[GraphProto], SubgraphBuilder],
) -> tuple[fx.Node, Results]:
    """Returns the call of the module of a node with subgraphs, which it adds to the scope, and its results.

    The module is called with the node's inputs (None where absent) and then with the values that the
    subgraphs read from the graph around them; these become inputs of every subgraph after its own.

    Args:
        scope: the graph around.
        node: the node.
        operator: what it computes.
        module_class: the operator's class.
        attributes: those that are no graphs.
        builder_of: gives the builder of a subgraph.

    Raises:
        InvalidModelError: inputs or outputs of a subgraph that do not fit the node.
    """
    graphs = subgraphs(node)
    captured = list(dict.fromkeys(name for graph in graphs.values() for name in free_names(graph)))
    call = _Call(scope, node, graphs, captured, builder_of)
    children, arguments, results = call.convert(operator.op_type, attributes)
    read = _drop_unread(captured, children)
    name = identifier(node.name or node.output[0], scope.module_names, operator.op_type)
    for key, child in children.items():
        scope.adopt(child.scope.borrowed, f"{name}.{key}.")
    modules = {key: child.module() for key, child in children.items()}
    scope.root.add_module(name, module_class(**attributes, **modules, captured=len(read)))
    outer = [scope.values[n] if scope.is_shape(n) else scope.argument(n) for n in read]
    return scope.graph.call_module(name, (*arguments, *outer)), results


@dataclass(slots=True)
class _Call:
    """A node with subgraphs while these are built."""

    scope: Scope
    node: NodeProto
    graphs: Mapping[str, GraphProto]
    captured: Sequence[str]
    builder_of: Callable[[GraphProto], SubgraphBuilder]

    def convert(
        self, op_type: str, attributes: Mapping[str, Any]
    ) -> tuple[dict[str, SubgraphBuilder], list[Any], Results]:
        """Returns the ended subgraphs, the arguments before the captured values, and the results."""
        inputs = list(self.node.input)
        if op_type == "If":
            self._check("then_branch", 0, len(self.node.output))
            self._check("else_branch", 0, len(self.node.output))
            return self._branches()
        if op_type == "Loop":
            inputs += [""] * (2 - len(inputs))
            self._check("body", len(inputs), max(len(inputs) - 1, len(self.node.output) + 1))
            return self._loop(inputs)
        if op_type == "Scan":
            before = 1 if "directions" in attributes or self.node.input and not inputs[0] else 0
        for key in self.graphs:
            self._check(key, self._formal_count(op_type, attributes), 1)
        return self._tensors(op_type)
