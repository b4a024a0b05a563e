"""The bodies of model-local functions in place of their calls: names, attributes, subgraphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto

from qonnx_torch.errors import InvalidModelError, UnsupportedModelError, quoted, shortened
from qonnx_torch.graphs import label, subgraphs
from qonnx_torch.names import Names
from qonnx_torch.registry import canonical_domain

from .reading import tensors_of
from .tensors import TensorStore

__all__ = ["DEEPEST", "Key", "inline_calls", "key_of", "levels", "spelled"]

DEEPEST = 32
"""Graphs within graphs, as in files: what comes after goes down into them."""

Key = tuple[str, str, str]
"""Domain, name and overload of a function."""


def key_of(node: NodeProto) -> Key:
    """Returns which function a node calls, if it calls one."""
    return canonical_domain(node.domain), node.op_type, node.overload


def spelled(key: Key) -> str:
    """Returns how messages name a function."""
    domain, name, overload = key
    return shortened(f"{domain}::{name}") + (f" (overload {quoted(overload)})" if overload else "")


def levels(nodes: Iterable[NodeProto]) -> Iterator[tuple[int, NodeProto]]:
    """Yields nodes and those of their subgraphs, each with the number of graphs around it."""
    waiting = [(0, node) for node in nodes]
    while waiting:
        level, node = waiting.pop()
        yield level, node
        for graph in subgraphs(node).values():
            waiting.extend((level + 1, inner) for inner in graph.node)


def inline_calls(
    graph: GraphProto,
    functions: Mapping[Key, FunctionProto],
    tensors: TensorStore,
    most: int,
    version_of: Callable[[Key, NodeProto], int | None],
    mark: Callable[[NodeProto, int], None],
) -> None:
    """Puts the bodies of functions in place of their calls, in place, with new names for what they compute.

    The time is linear in the nodes that come out. A value between the nodes of a body gets a name that
    nothing else has; so does what its subgraphs compute. An output that is an input or that stands there
    twice is given by an Identity. An attribute that the call leaves out has the function's default, or is
    left out of the body's nodes too.

    Args:
        graph: its nodes are fine: every value that they read is computed, once.
        functions: those that are called, directly or not; none calls itself, and their nodes are fine.
        tensors: counts what is copied.
        most: so many nodes may come out of bodies.
        version_of: the operator set version that a function's node has to be read at; None for the model's.
        mark: notes it on the node.

    Raises:
        InvalidModelError: a call with more inputs or outputs than the function has, or a node that refers to
            an attribute that the function does not have.
        UnsupportedModelError: more nodes or bytes than may be, or graphs too deep in each other.
    """
    bodies = {key: _Body(key, function) for key, function in functions.items()}
    nodes = _Inliner(graph, bodies, tensors, most, version_of, mark).expanded(graph.node, _Scope())
    del graph.node[:]
    graph.node.extend(nodes)


class _Body:
    """A function, and what every call of it needs to know."""

    def __init__(self, key: Key, function: FunctionProto) -> None:
        self.key = key
        self.function = function
        self.inputs = list(function.input)
        if len({"", *self.inputs}) <= len(self.inputs):
            raise InvalidModelError(f"the inputs of the function {spelled(key)} need a name each")
        self.outputs = list(function.output)
        self.computed = dict.fromkeys(o for node in function.node for o in node.output if o)
        self.defaults = {a.name: _Given(a) for a in function.attribute_proto}
        self.attributes = {*function.attribute, *self.defaults}
        graphs = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
        wrong = next((a.name for a in function.attribute_proto if a.type in graphs), None)
        if wrong is not None:
            raise UnsupportedModelError(
                f"the attribute {quoted(wrong)} of the function {spelled(key)} is a graph by default; "
                "write it into the calls"
            )


@dataclass(frozen=True, slots=True)
class _Given:
    """The value of an attribute, in the names of the graph that it comes to stand in.

    Attributes:
        attribute: the value.
        nodes: how many there are in it, where it is a graph.
        height: how many graphs there are in each other.
    """

    attribute: AttributeProto
    nodes: int = 0
    height: int = 0


@dataclass(frozen=True, slots=True)
class _Scope:
    """What names and references mean: in a call of a function (`body`), or in the model's graph.

    Attributes:
        names: old name -> new name, those of the innermost graph first.
        attributes: of the call.
        body: the function.
        depth: the number of graphs around.
    """

    names: tuple[Mapping[str, str], ...] = ()
    attributes: Mapping[str, _Given] | None = None
    body: _Body | None = None
    depth: int = 0

    def name(self, old: str) -> str:
        for names in self.names:
            if old in names:
                return names[old]
        return old

    def knows(self, old: str) -> bool:
        return self.body is None or any(old in names for names in self.names)


class _Inliner:
    def __init__(
        self,
        graph: GraphProto,
        bodies: Mapping[Key, _Body],
        tensors: TensorStore,
        most: int,
        version_of: Callable[[Key, NodeProto], int | None],
        mark: Callable[[NodeProto, int], None],
    ) -> None:
        self.bodies = bodies
        self.tensors = tensors
        self.most = most
        self.version_of = version_of
        self.mark = mark
        self.values = Names(_value_names(graph))
        self.node_names = Names(node.name for _, node in levels(graph.node))
        self.made = 0
        self.placed: set[str] = set()  # locations of tensors in the store

    def expanded(self, nodes: Sequence[NodeProto], scope: _Scope) -> list[NodeProto]:
        """Returns nodes of one graph with the bodies in place of the calls; chains of calls may be long."""
        result: list[NodeProto] = []
        last: list[NodeProto] = []
        path = [(iter(nodes), scope, last)]
        while path:
            waiting, scope, last = path[-1]
            node = next(waiting, None)
            if node is None:
                result += last
                path.pop()
                continue
            body = self.bodies.get(key_of(node))
            if body is None:
                result.append(self._placed(node, scope))
            else:
                inner, last = self._call(node, body, scope)
                path.append((iter(body.function.node), inner, last))
        return result

    def _call(self, node: NodeProto, body: _Body, scope: _Scope) -> tuple[_Scope, list[NodeProto]]:
        """Returns what the names of a body mean in a call, and the nodes that pass on its last outputs."""
        if len(node.input) > len(body.inputs) or len(node.output) > len(body.outputs):
            raise InvalidModelError(
                f"node {label(node)} has {len(node.input)} inputs and {len(node.output)} outputs; the "
                f"function {spelled(body.key)} has {len(body.inputs)} and {len(body.outputs)}"
            )
        actual = (scope.name(name) for name in node.input)
        names = dict(zip_longest(body.inputs, actual, fillvalue=""))
        passed: list[tuple[str, str]] = []
        for name, outer in zip(body.outputs, node.output, strict=False):
            if outer and name in body.computed and name not in names:
                names[name] = scope.name(outer)
            elif outer:
                passed.append((name, scope.name(outer)))
        for name in body.computed:
            if name not in names:
                names[name] = self.values.fresh(name)
        last = []
        for name, outer in passed:
            if not names[name]:
                raise InvalidModelError(
                    f"node {label(node)}: its output {quoted(outer)} is the input {quoted(name)} of the "
                    f"function {spelled(body.key)}, which the node leaves out"
                )
            self._count(1)
            called = self.node_names.fresh(f"{outer}_identity")
            last.append(NodeProto(op_type="Identity", input=[names[name]], output=[outer], name=called))
        attributes = dict(body.defaults)
        for attribute in node.attribute:
            given = self._attribute(attribute, scope)
            if given is not None:
                attributes[attribute.name] = given
        return _Scope((names,), attributes, body, scope.depth), last

    def _placed(self, node: NodeProto, scope: _Scope) -> NodeProto:
        """Returns a node that is no call as it stands in the model in the end."""
        inside = scope.body is not None
        if not inside and not any(key_of(n) in self.bodies for _, n in levels([node])):
            return node
        result = NodeProto(op_type=node.op_type, domain=node.domain, doc_string=node.doc_string)
        result.name = self.node_names.fresh(node.name) if inside and node.name else node.name
        result.overload = node.overload
        result.metadata_props.extend(node.metadata_props)
        result.input.extend([scope.name(name) for name in node.input])
        result.output.extend([scope.name(name) for name in node.output])
        for attribute in node.attribute:
            given = self._attribute(attribute, scope)
            if given is not None:
                result.attribute.add().CopyFrom(given.attribute)
        if scope.body is not None:
            self._count(1)
            key = scope.body.key
            growth = result.ByteSize() - node.ByteSize()
            if growth > 0:  # what the body itself has is counted before
                self.tensors.charge(growth, f"the body of the function {spelled(key)}")
            version = self.version_of(key, node)
            if version is not None:
                self.mark(result, version)
        return result

    def _attribute(self, attribute: AttributeProto, scope: _Scope) -> _Given | None:
        """Returns an attribute of a node, None where it refers to one that the call does not have."""
        body, reference = scope.body, attribute.ref_attr_name
        if reference and body is not None and scope.attributes is not None:
            given = scope.attributes.get(reference)
            if given is None:
                if reference not in body.attributes:
                    raise InvalidModelError(
                        f"the function {spelled(body.key)} refers to an attribute {quoted(reference)}, which "
                        "it does not have"
                    )
                return None
            self._count(given.nodes)
            self._require_shallow(scope.depth + given.height)
            copy = AttributeProto()
            copy.CopyFrom(given.attribute)
            copy.name = attribute.name
            self._own(tensors_of(copy.g))
            return replace(given, attribute=copy)
        if attribute.type != AttributeProto.GRAPH:
            return _Given(attribute)
        before = self.made
        copy = AttributeProto(name=attribute.name, type=attribute.type, doc_string=attribute.doc_string)
        self._fill(copy.g, attribute.g, scope)
        height = 1 + max((level for level, _ in levels(copy.g.node)), default=0)
        return _Given(copy, self.made - before, height)

    def _fill(self, result: GraphProto, graph: GraphProto, scope: _Scope) -> None:
        """Writes a subgraph as it stands in the model in the end."""
        self._require_shallow(scope.depth + 1)
        own: dict[str, str] = {}
        if scope.body is not None:
            given = (value.name for value in (*graph.input, *graph.initializer))
            computed = (name for node in graph.node for name in node.output)
            own = {name: self.values.fresh(name) for name in dict.fromkeys((*given, *computed)) if name}
        inner = replace(scope, names=(own, *scope.names), depth=scope.depth + 1)
        header = GraphProto()
        for descriptor, value in graph.ListFields():
            if descriptor.name in ("name", "doc_string"):
                setattr(header, descriptor.name, value)
            elif descriptor.name != "node":
                getattr(header, descriptor.name).extend(value)
        for values in (header.input, header.output, header.initializer):
            for value in values:
                value.name = inner.name(value.name)
        if scope.body is not None:
            _rename_notes(header, graph, inner)
        result.CopyFrom(header)
        result.node.extend(self.expanded(graph.node, inner))

    def _own(self, tensors: Iterable[TensorProto]) -> None:
        """Gives the tensors of a graph that is used again data of their own."""
        for tensor in tensors:
            if tensor in self.tensors:
                location = tensor.external_data[0].value
                if location in self.placed:
                    self.tensors.again(tensor, f"tensor {quoted(tensor.name)}")
                self.placed.add(location)

    def _count(self, nodes: int) -> None:
        self.made += nodes
        if self.made > self.most:
            raise UnsupportedModelError(
                f"the model's functions would be inlined into more than {self.most} nodes"
            )

    def _require_shallow(self, depth: int) -> None:
        if depth > DEEPEST:
            raise UnsupportedModelError(
                f"inlining the model's functions nests graphs more than {DEEPEST} deep"
            )


def _rename_notes(result: GraphProto, graph: GraphProto, scope: _Scope) -> None:
    """Writes what a subgraph says of its values, those that there are, by their new names."""
    del result.value_info[:]
    for info in graph.value_info:
        if scope.knows(info.name):
            result.value_info.add().CopyFrom(info)
            result.value_info[-1].name = scope.name(info.name)
    del result.quantization_annotation[:]
    for annotation in graph.quantization_annotation:
        if scope.knows(annotation.tensor_name):
            copy = result.quantization_annotation.add()
            copy.CopyFrom(annotation)
            copy.tensor_name = scope.name(annotation.tensor_name)
            for entry in copy.quant_parameter_tensor_names:
                entry.value = entry.value if entry.key == "finn_datatype" else scope.name(entry.value)


def _value_names(graph: GraphProto) -> Iterator[str]:
    """Yields the names of all values of a graph, of those that it only speaks of, and of its subgraphs'."""
    waiting = [graph]
    while waiting:
        graph = waiting.pop()
        yield from (v.name for v in (*graph.input, *graph.output, *graph.initializer, *graph.value_info))
        for annotation in graph.quantization_annotation:
            yield annotation.tensor_name
            yield from (entry.value for entry in annotation.quant_parameter_tensor_names)
        for node in graph.node:
            yield from node.input
            yield from node.output
            waiting += subgraphs(node).values()
