"""Nodes with subgraphs: each graph becomes a module of its own, called with what it reads from around it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from onnx import GraphProto, NodeProto, TensorProto
from torch import fx

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.graphs import free_names, subgraphs
from qonnx_torch.names import identifier
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
        known: Mapping[str, Any] | None = None,
        types: Mapping[str, int | None] | None = None,
    ) -> None:
        """Converts the nodes.

        Args:
            captured: values of the graph around it that become inputs after its own.
            numbers: formal inputs that are Python numbers.
            known: values of formal inputs that are the same in every call.
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
        known: values that are known while importing, by position.
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
    children, arguments, results = call.convert(operator, attributes)
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
        self, operator: Operator, attributes: Mapping[str, Any]
    ) -> tuple[dict[str, SubgraphBuilder], list[Any], Results]:
        """Returns the ended subgraphs, the arguments before the captured values, and the results."""
        inputs, given = list(self.node.input), len(self.node.output)
        if operator.op_type == "If":
            self._check(0, given)
            if len({len(graph.output) for graph in self.graphs.values()}) > 1:
                raise InvalidModelError("its branches have different numbers of outputs")
            return self._branches()
        if operator.op_type == "Loop":
            inputs += [""] * (2 - len(inputs))
            _require_given(inputs[2:])
            self._check(len(inputs), max(len(inputs) - 1, given + 1))
            return self._loop(inputs)
        if operator.op_type == "Scan":
            inputs = inputs[1:] if operator.since_version == 8 else inputs
            _require_given(inputs)
            scanned = attributes["num_scan_inputs"]
            if not 0 < scanned <= len(inputs):
                raise InvalidModelError(f"num_scan_inputs is {scanned}, of {len(inputs)} inputs")
            self._check(len(inputs), max(len(inputs) - scanned, given))
        elif operator.op_type == "SequenceMap":
            _require_given(inputs)
            self._check(len(inputs), given)
        else:
            self._check(1, 1)
            inputs = []
        return self._tensors(inputs)

    def _check(self, inputs: int, outputs: int) -> None:
        for key, graph in self.graphs.items():
            formal = _formal_inputs(graph)
            if len(formal) != inputs or len(graph.output) < outputs:
                raise InvalidModelError(
                    f"its subgraph {key} has {len(formal)} inputs and {len(graph.output)} outputs; "
                    f"it must have {inputs} inputs and at least {outputs} outputs"
                )

    def _branches(self) -> tuple[dict[str, SubgraphBuilder], list[Any], Results]:
        """Gives numbers where the condition does not hang on data and both branches give them."""
        children = {key: self.builder_of(graph) for key, graph in self.graphs.items()}
        for child in children.values():
            child.convert(self.captured)
        condition = self.scope.static(self.node.input[0])
        outputs = [[o.name for o in self.graphs[key].output] for key in children]
        numbers = [False] * len(outputs[0])
        if not isinstance(condition, fx.Node) or condition in self.scope.shapes:
            pairs = zip(*outputs, strict=True)
            scopes = [child.scope for child in children.values()]
            numbers = [all(s.is_number(n) for s, n in zip(scopes, pair, strict=True)) for pair in pairs]
        for child in children.values():
            child.end(numbers)
        types = [children["then_branch"].scope.types[o.name] for o in self.graphs["then_branch"].output]
        known: dict[int, Any] = {}
        if not isinstance(condition, fx.Node):
            key = "then_branch" if _truth(condition) else "else_branch"
            values = [children[key].scope.known_value(o.name) for o in self.graphs[key].output]
            known = {i: value for i, value in enumerate(values) if value is not None}
        return children, [condition], Results(numbers, types, known)

    def _loop(self, inputs: Sequence[str]) -> tuple[dict[str, SubgraphBuilder], list[Any], Results]:
        """Follows the condition, and carried integers, in Python numbers where they hang on no data.

        The condition that the body is given is always true. What it is given as numbers it must give back as
        numbers; where it does not, it is built again, with tensors.
        """
        scope, body = self.scope, self.graphs["body"]
        formal, outputs = _formal_inputs(body), [o.name for o in body.output]
        iteration, condition, *_ = formal
        types = {name: scope.types[v] for name, v in zip(formal, inputs, strict=True) if v}
        types |= {iteration: TensorProto.INT64, condition: TensorProto.BOOL}
        candidates: set[str] = set()
        if scope.depth < _FOLLOWED_DEPTH and all(not v or scope.is_number(v) for v in inputs[:2]):
            candidates = {n for n, v in zip(formal[2:], inputs[2:], strict=True) if v and scope.is_number(v)}
        for rounds_left in reversed(range(_FOLLOWED_ROUNDS)):
            child = self.builder_of(body)
            child.convert(self.captured, {iteration, condition, *candidates}, {condition: True}, types)
            gives = zip(formal[2:], outputs[1:], strict=False)
            wrong = {name for name, o in gives if name in candidates and not child.scope.is_number(o)}
            follows = child.scope.is_number(outputs[0])
            if not candidates or (follows and not wrong):
                break
            candidates = candidates - wrong if follows and rounds_left > 1 else set()
        scanned = [False] * (len(outputs) - len(formal) + 1)
        numbers = [*(name in candidates for name in formal[2:]), *scanned]
        child.end([follows, *numbers])
        arguments = [scope.static(v) if v else None for v in inputs[:2]]
        for name, value in zip(formal[2:], inputs[2:], strict=True):
            arguments.append(scope.numbers(value) if name in candidates else scope.tensor(value))
        return {"body": child}, arguments, Results(numbers, [child.scope.types[o] for o in outputs[1:]])

    def _tensors(self, inputs: Sequence[str]) -> tuple[dict[str, SubgraphBuilder], list[Any], Results]:
        """Gives tensors and sequences, whatever the subgraphs compute."""
        children = {key: self.builder_of(graph) for key, graph in self.graphs.items()}
        types: list[int | None] = []
        for key, child in children.items():
            formal = _formal_inputs(self.graphs[key])
            own = {name: self.scope.types[v] for name, v in zip(formal, inputs, strict=False) if v}
            child.convert(self.captured, types=own)
            outputs = [o.name for o in self.graphs[key].output]
            child.end([False] * len(outputs))
            types = [child.scope.types[name] for name in outputs]
        arguments = [self.scope.tensor(name) if name else None for name in self.node.input]
        return children, arguments, Results([False] * len(self.node.output), types)


def _require_given(inputs: Sequence[str]) -> None:
    if "" in inputs:
        raise InvalidModelError(f"a value that its subgraph needs is left out of its inputs {list(inputs)}")


def _formal_inputs(graph: GraphProto) -> list[str]:
    constants = {i.name for i in graph.initializer}
    return [value.name for value in graph.input if value.name not in constants]


def _truth(condition: Any) -> bool:
    return bool(condition[0] if isinstance(condition, tuple) and condition else condition)


def _drop_unread(captured: Sequence[str], children: Mapping[str, SubgraphBuilder]) -> list[str]:
    """Returns the captured values that a subgraph reads when it runs; takes out the inputs for the others.

    A constant that became a Python number, or a quantizer's own, is not read any more.
    """
    scopes = [child.scope for child in children.values()]
    read = [name for name in captured if any(scope.captured[name].users for scope in scopes)]
    for name in set(captured) - set(read):
        for scope in scopes:
            scope.drop(scope.captured[name])
    return read
