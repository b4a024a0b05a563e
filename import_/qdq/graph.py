"""A graph of a file while nodes are fused in it: who gives and who reads each value."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, shape_inference
from torch import Tensor

from qonnx_torch.element_types import ElementTypes
from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.ordering import free_names, subgraphs

from ..constants import constant_value, is_constant
from ..reading import tensor_of

__all__ = ["Graph", "Names", "default_version", "graphs_of"]


def default_version(model: ModelProto) -> int:
    """Returns the ai.onnx operator set of a model, the newest where it names none."""
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    return max(versions, default=1 << 30)


class Names:
    """The names that a model uses, in all its graphs: a new one must be new in each."""

    def __init__(self, model: ModelProto) -> None:
        self._taken: set[str] = set()
        for graph, _ in graphs_of(model.graph):
            self._taken.update(v.name for v in (*graph.input, *graph.initializer))
            self._taken.update(name for node in graph.node for name in (*node.input, *node.output))

    def fresh(self, wanted: str) -> str:
        """Returns a name that nothing has yet, and takes it."""
        name, count = wanted, 0
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name


def graphs_of(graph: GraphProto) -> Iterator[tuple[GraphProto, GraphProto | None]]:
    """Yields a graph and all its subgraphs, each with the graph around it."""
    waiting: list[tuple[GraphProto, GraphProto | None]] = [(graph, None)]
    while waiting:
        found = waiting.pop()
        yield found
        waiting += [(inner, found[0]) for node in found[0].node for inner in subgraphs(node).values()]


class Graph:
    """One graph, indexed; edits are made in place and `finish` takes out what nothing reads any more.

    Attributes:
        nodes: its nodes at first; `taken_out` holds the positions of those that are gone.
        readers: value name -> positions of the nodes that read it.
        types: value name -> element type, as far as it is known.
    """

    def __init__(self, model: ModelProto, graph: GraphProto, outer: Graph | None, names: Names) -> None:
        self.proto = graph
        self.outer = outer
        self.names = names
        self.nodes: list[NodeProto] = list(graph.node)
        self.taken_out: set[int] = set()
        self.readers: dict[str, list[int]] = defaultdict(list)
        self.constants: dict[str, TensorProto] = {i.name: i for i in graph.initializer}
        self.types = ElementTypes()
        self._model = model
        self._captured: set[str] = set()
        self._ends = {o.name for o in graph.output}
        self._tensors: dict[str, Tensor | None] = {}
        self._ranks: dict[str, int] | None = None
        self._changed: set[str] = set()  # values that have another type now
        self._derived: dict[tuple[str, tuple[int, ...]], str] = {}
        self._stale: set[str] = set()  # names that nodes read before they were rewritten
        self._index()

    def _index(self) -> None:
        for value in (*self.proto.value_info, *self.proto.input):
            self.types[value.name] = value.type.tensor_type.elem_type
        version = default_version(self._model)
        for name, proto in self.constants.items():
            self.types[name] = proto.data_type
        for i, node in enumerate(self.nodes):
            if is_constant(node) and node.output and node.attribute:
                self._add_constant_node(node)
                continue
            for name in set(node.input):
                self.readers[name].append(i)
            for inner in subgraphs(node).values():
                self._captured.update(free_names(inner))
            self._infer_type(node, version)

    def _add_constant_node(self, node: NodeProto) -> None:
        try:
            proto = constant_value(node)
        except QonnxTorchError:
            return  # the builder says what is wrong with it
        self.constants[node.output[0]] = proto
        self.types[node.output[0]] = proto.data_type

    def _infer_type(self, node: NodeProto, version: int) -> None:
        if node.domain in ("", "ai.onnx"):
            attributes = {a.name: a.i for a in node.attribute if a.name in ("to", "dtype", "output_dtype")}
            self.types.infer(node.op_type, version, node.input, node.output, attributes)
        elif node.op_type in ("Quant", "IntQuant", "BipolarQuant", "Trunc", "FloatQuant") and node.input:
            self.types[node.output[0]] = self.types[node.input[0]]

    # -- what is known of values -------------------------------------------------------------------

    def constant(self, name: str) -> Tensor | None:
        """Returns the value of a constant of this graph or of one around it, else None."""
        if name in self.constants:
            if name not in self._tensors:
                self._tensors[name] = tensor_of(self.constants[name], name)
            return self._tensors[name]
        known = name in self.types or any(name in node.output for node in ())
        return None if known or self.outer is None else self.outer.constant(name)

    def element_type(self, name: str) -> int | None:
        """Returns the element type of a value, also of the graphs around."""
        return self.types[name] or (self.outer.element_type(name) if self.outer else None)

    def rank(self, name: str) -> int | None:
        """Returns the number of dimensions of a value, or None where the file does not tell."""
        if name in self.constants:
            return len(self.constants[name].dims)
        if self._ranks is None:
            declared = (*self.proto.input, *self.proto.output, *self.proto.value_info)
            self._ranks = _declared_ranks(declared)
        if name not in self._ranks and self.outer is None:
            self._ranks = _inferred_ranks(self._model) | self._ranks
            self._ranks.setdefault(name, -1)  # asked once
        found = self._ranks.get(name, -1)
        return found if found >= 0 else None

    def is_output(self, name: str) -> bool:
        """Returns whether a value is an output of the graph."""
        return name in self._ends

    def is_captured(self, name: str) -> bool:
        """Returns whether a subgraph reads a value."""
        return name in self._captured

    # -- edits -------------------------------------------------------------------------------------

    def replace(self, position: int, node: NodeProto) -> None:
        """Puts another node in the place of one."""
        old = self.nodes[position]
        for name in set(old.input):
            self.readers[name].remove(position)
            self._stale.add(name)
        old.CopyFrom(node)
        for name in set(old.input):
            self.readers[name].append(position)

    def take_out(self, position: int) -> None:
        """Removes a node."""
        for name in set(self.nodes[position].input):
            self.readers[name].remove(position)
            self._stale.add(name)
        self.taken_out.add(position)

    def rename(self, position: int, old: str, new: str) -> None:
        """Lets everything that reads the output `old` of a node read `new`; the node is removed.

        A graph output, and what a subgraph reads, keeps its name: the node becomes an Identity.
        """
        if self.is_output(old) or self.is_captured(old):
            name = self.nodes[position].name
            self.replace(position, helper.make_node("Identity", [new], [old], name=name))
            return
        self.take_out(position)
        for reader in self.readers.pop(old, ()):
            _substitute(self.nodes[reader].input, old, new)
            self.readers[new].append(reader)

    def rename_output(self, position: int, old: str, new: str) -> None:
        """Gives an output of a node another name; what reads it is left as it is."""
        _substitute(self.nodes[position].output, old, new)

    def read_instead(self, positions: Iterable[int], old: str, new: str) -> None:
        """Lets nodes read another value."""
        for position in positions:
            _substitute(self.nodes[position].input, old, new)
            self.readers[old].remove(position)
            self.readers[new].append(position)

    def changed(self, name: str) -> None:
        """Notes that a value has another element type now."""
        self._changed.add(name)

    def add_constant(self, name: str, value: Tensor) -> str:
        """Adds an initializer, under a name that is like the one given; returns its name."""
        own = self.names.fresh(name)
        proto = self.proto.initializer.add()
        fill_proto(proto, own, value)
        self.constants[own] = proto
        self._tensors[own] = value
        return own

    def set_constant(self, name: str, value: Tensor) -> None:
        """Gives a constant another value, of any shape and type."""
        fill_proto(self.constants[name], self.constants[name].name, value)
        self.types[name] = self.constants[name].data_type
        self._tensors[name] = None

    def as_shape(self, name: str, shape: tuple[int, ...], element_type: int | None = None) -> str:
        """Returns the name of a constant of this graph with the elements of another, in a shape.

        Where nothing reads the other in the end, it has that one's name.
        """
        own = self.constants.get(name)
        if own is not None and tuple(own.dims) == shape:
            return name
        if (name, shape) not in self._derived:
            value = self.constant(name)
            assert value is not None
            derived = self.add_constant(name, value.reshape(shape))
            proto = self.constants[derived]
            wanted = element_type or self.element_type(name)
            if wanted is not None and wanted != proto.data_type:
                fill_proto(proto, derived, value.reshape(shape), wanted)
            self._derived[name, shape] = derived
        return self._derived[name, shape]

    def finish(self) -> None:
        """Takes out nodes, constants and declarations that no longer belong there."""
        for position in sorted(self.taken_out, reverse=True):
            del self.proto.node[position]
        read = {name for node in self.proto.node for name in node.input} | self._captured | self._ends
        unread = (self._stale | set(self._derived.values())) - read
        self._drop_constants(unread)
        self._restore_names(read)
        gone = self._changed | {o for i in self.taken_out for o in self.nodes[i].output}
        for i in reversed(range(len(self.proto.value_info))):
            if self.proto.value_info[i].name in gone:
                del self.proto.value_info[i]

    def _drop_constants(self, names: set[str]) -> None:
        for values in (self.proto.initializer, self.proto.input):
            for i in reversed(range(len(values))):
                if values[i].name in names and values[i].name in self.constants:
                    del values[i]  # old files list initializers among the inputs, too
        for i in reversed(range(len(self.proto.node))):
            if is_constant(self.proto.node[i]) and self.proto.node[i].output[0] in names:
                del self.proto.node[i]
        for name in names:
            self.constants.pop(name, None)

    def _restore_names(self, read: set[str]) -> None:
        """Lets reshaped constants have the names of those that they replace."""
        shapes: dict[str, list[str]] = defaultdict(list)
        for (name, _), derived in self._derived.items():
            if derived in read:
                shapes[name].append(derived)
        new = {found[0]: name for name, found in shapes.items() if len(found) == 1 and name not in read}
        if not new or self.outer is not None:
            return
        for node in self.proto.node:
            for i, name in enumerate(node.input):
                if name in new:
                    node.input[i] = new[name]
        for proto in self.proto.initializer:
            proto.name = new.get(proto.name, proto.name)


def fill_proto(proto: TensorProto, name: str, value: Tensor, element_type: int | None = None) -> None:
    """Writes a tensor into a TensorProto, in place of what is there."""
    from onnx import numpy_helper

    from qonnx_torch.dtypes import to_array

    proto.CopyFrom(numpy_helper.from_array(to_array(value, element_type), name))


def _substitute(names: Iterable[str], old: str, new: str) -> None:
    for i, name in enumerate(names):
        if name == old:
            names[i] = new  # type: ignore[index]


def _declared_ranks(values: Iterable[ValueInfoProto]) -> dict[str, int]:
    return {
        v.name: len(v.type.tensor_type.shape.dim)
        for v in values
        if v.type.HasField("tensor_type") and v.type.tensor_type.HasField("shape")
    }


def _inferred_ranks(model: ModelProto) -> dict[str, int]:
    """Returns what onnx infers from the model without the data of its large tensors."""
    from ..skeleton import skeleton

    large = {i.name for i in model.graph.initializer if len(i.dims) > 1}
    try:
        inferred = shape_inference.infer_shapes(skeleton(model, large))
    except (shape_inference.InferenceError, ValueError, RuntimeError):
        return {}
    return _declared_ranks(inferred.graph.value_info)


_ = torch
