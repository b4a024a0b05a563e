"""The values of one graph while it is built: what each ONNX name stands for in the fx graph."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from onnx import GraphProto, TensorProto, ValueInfoProto
from torch import fx, nn

from qonnx_torch.dtypes import element_type_of, torch_dtype
from qonnx_torch.element_types import ElementTypes
from qonnx_torch.errors import InvalidModelError, UnsupportedModelError, quoted, shortened
from qonnx_torch.graphs import label, subgraphs
from qonnx_torch.names import Names, identifier, parameter_paths
from qonnx_torch.nn.tracing import RepresentationTracer
from qonnx_torch.ops import as_python, as_tensor
from qonnx_torch.ops.standard._numbers import NUMBER_TYPES
from qonnx_torch.ops.standard.movement import aligned
from qonnx_torch.provenance import NodeOrigin
from qonnx_torch.registry import CHANNELS_LAST_DOMAIN, canonical_domain

from .constants import Constant, constant_value, is_constant
from .following import SMALL
from .legacy import Aligned, Literal
from .tensors import TensorStore, element_count

__all__ = ["Scope"]

_PLAIN_NUMBERS = (TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT)
_INTEGERS = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)


class Scope:
    """The names of one graph: its constants and values, and those that it reads from the graph around it.

    Attributes:
        graph: the fx graph under construction.
        root: the module that holds its parameters, buffers and submodules, and the graph in the end.
        constants: name -> initializer, or value of a Constant node.
        values: name -> the fx node that gives it.
        known: nodes whose value is known while importing, because only small constants enter.
        shapes: nodes that give Python numbers: shapes, and what is computed from them.
        counts: those whose numbers count the elements of others: the same in every run.
        types: name -> ONNX element type.
        origins: fx node -> its ONNX node.
        outer: the scope of the graph around this one; None for the main graph.
        captured: name -> the input for a value of the graph around this one.
        borrowed: constants of graphs further out that quantizers here took for their own: name and path.
    """

    def __init__(self, graph: GraphProto, tensors: TensorStore, outer: Scope | None = None) -> None:
        self.graph = fx.Graph(tracer_cls=RepresentationTracer)
        self.root = fx.GraphModule(nn.Module(), self.graph, class_name="ImportedModel")
        self.constants: dict[str, Constant] = {}
        self.values: dict[str, fx.Node] = {}
        self.known: dict[fx.Node, Any] = {}
        self.shapes: set[fx.Node] = set()
        self.counts: set[fx.Node] = set()
        self.types = ElementTypes()
        self.origins: dict[fx.Node, NodeOrigin] = {}
        self.outer = outer
        self.depth: int = 0 if outer is None else outer.depth + 1
        self.captured: dict[str, fx.Node] = {}
        self.borrowed: list[tuple[str, str]] = []
        self._attributes: dict[str, fx.Node] = {}
        self._placeholders = Names()
        self._materialized: dict[str, fx.Node] = {}
        self._collect_constants(graph, tensors)
        self.paths = parameter_paths(self.constants)
        self.module_names = Names(p.partition(".")[0] for p in self.paths.values())
        self._statistics = _statistics(graph)

    def _collect_constants(self, graph: GraphProto, tensors: TensorStore) -> None:
        for proto in graph.initializer:
            if proto.name in self.constants:
                raise InvalidModelError(f"initializer {quoted(proto.name)} occurs twice")
            self.constants[proto.name] = Constant(proto.name, proto, tensors)
        for node in graph.node:
            if is_constant(node):
                if len(node.output) != 1 or not node.output[0] or node.output[0] in self.constants:
                    raise InvalidModelError(f"Constant node {label(node)} needs one output with a new name")
                name = node.output[0]
                self.constants[name] = Constant(name, constant_value(node), tensors, of_node=True)
        for name, constant in self.constants.items():
            self.types[name] = constant.proto.data_type

    # -- what enters -------------------------------------------------------------------------------

    def declare_inputs(
        self,
        graph: GraphProto,
        numbers: Collection[str] = (),
        known: Mapping[str, Any] | None = None,
        types: Mapping[str, int | None] | None = None,
    ) -> None:
        """Adds a placeholder for each graph input that is no initializer: a tensor, sequence or optional.

        Args:
            graph: the graph.
            numbers: inputs that are Python numbers.
            known: values of inputs that are the same in every call.
            types: known element types of inputs; the others have the declared ones.
        """
        for value in graph.input:
            if value.name in self.constants:
                continue
            if value.name in self.values:
                raise InvalidModelError(f"graph input {quoted(value.name)} is declared twice")
            if not value.name:
                raise InvalidModelError("a graph input has no name")
            kind = value.type.WhichOneof("value")
            if kind not in ("tensor_type", "sequence_type", "optional_type", None):
                raise UnsupportedModelError(f"graph input {quoted(value.name)} is no tensor ({kind})")
            if element_type_of(value.type) == TensorProto.STRING:
                raise UnsupportedModelError(f"graph input {quoted(value.name)}: torch has no strings")
            _require_addressable(value)
            node = self._placeholder(value.name)
            self.types[value.name] = (types or {}).get(value.name) or element_type_of(value.type)
            if value.name in numbers:
                self.shapes.add(node)
            if known and value.name in known:
                self.known[node] = known[value.name]

    def capture(self, names: Iterable[str]) -> None:
        """Adds a placeholder for each value of the graph around this one, with what is known of it."""
        for name in names:
            assert self.outer is not None
            node = self.captured[name] = self._placeholder(name)
            self.types[name] = self.outer.types[name]
            if self.outer.is_shape(name):
                self.shapes.add(node)
            value = self.outer.known_value(name)
            if value is not None:
                self.known[node] = value

    def known_value(self, name: str) -> Any:
        """Returns a value that is known while importing: a small constant, or made of such; else None."""
        if name in self.constants:
            constant = self.constants[name]
            return constant.tensor() if constant.numel() <= SMALL else None
        return self.known.get(self.values[name])

    def drop(self, node: fx.Node) -> None:
        """Takes out a placeholder that nothing reads."""
        self.graph.erase_node(node)
        del self.origins[node]

    def quantizer_constant(self, name: str | Literal | Aligned | None, path: str) -> Constant | None:
        """Returns a constant, of this graph or one around it, that becomes a quantizer's own at a path."""
        scope: Scope | None = self
        while scope is not None and isinstance(name, str):
            if name in scope.constants:
                self.adopt([(name, path)], "")
                return scope.constants[name]
            scope = scope.outer if name in scope.captured else None
        return None

    def adopt(self, borrowed: Iterable[tuple[str, str]], prefix: str) -> None:
        """Notes paths of constants in this graph's module; those of graphs around it are kept for them."""
        for name, path in borrowed:
            if name in self.constants:
                self.constants[name].paths.append(prefix + path)
            else:
                self.borrowed.append((name, prefix + path))

    def _placeholder(self, name: str) -> fx.Node:
        node = self.graph.placeholder(identifier(name, self._placeholders, "input"))
        self.place(node, NodeOrigin(-1, "", "", (name,)))
        self.values[name] = node
        return node

    # -- what a name stands for --------------------------------------------------------------------

    def place(self, node: fx.Node, origin: NodeOrigin) -> None:
        """Notes which ONNX node is behind an fx node."""
        self.origins[node] = origin
        node.meta["onnx"] = origin

    def argument(self, name: str) -> fx.Node:
        """Returns the node of a value: a tensor, or Python numbers where it stands in a Shape chain."""
        if name in self.constants:
            return self._attribute(self.constants[name])
        node = self.values[name]
        if node in self.shapes and self.types[name] not in (None, *_PLAIN_NUMBERS):
            return self.tensor(name)  # the numbers alone would not tell its dtype
        return node

    def tensor(self, name: str | Literal | Aligned | None) -> fx.Node:
        """Returns the node of a value as a tensor.

        Raises:
            InvalidModelError: the name of an input that cannot be left out.
        """
        if not isinstance(name, str):
            raise InvalidModelError("a quantizer's inputs cannot be left out")
        if name in self.constants:
            return self._attribute(self.constants[name])
        node = self.values[name]
        return self._as_tensor(name, node) if node in self.shapes else node

    def static(self, name: str) -> Any:
        """Returns a value as Python numbers, or the node that gives it when the module runs."""
        if name in self.constants:
            return self.constants[name].python()
        node = self.values[name]
        if node in self.known:
            return as_python(self.known[node])
        return node

    def number(self, name: str) -> Any:
        """Returns the Python number of a constant 0-d tensor, None of anything else."""
        if name in self.constants:
            return None if self.constants[name].proto.dims else self.constants[name].python()
        value = self.known.get(self.values[name])
        if isinstance(value, torch.Tensor):
            return None if value.dim() else value.item()
        return value if isinstance(value, (bool, int, float)) else None

    def shape_constant(self, name: str) -> Any:
        """Returns a constant as Python numbers where it can stand in a Shape chain, else None."""
        if name in self.constants:
            constant = self.constants[name]
            return constant.python() if len(constant.proto.dims) <= 1 and constant.numel() <= SMALL else None
        value = self.known.get(self.values[name])
        if isinstance(value, torch.Tensor):
            return as_python(value) if value.dim() <= 1 else None
        return value

    def may_be_numbers(self, name: str) -> bool:
        """Whether Python numbers can stand for a value: not for those of other element types."""
        return self.types[name] in (None, *NUMBER_TYPES)

    def is_plain(self, name: str) -> bool:
        """Whether a value has the type that its Python numbers have as a tensor."""
        return self.types[name] in _PLAIN_NUMBERS

    @property
    def first_tensor(self) -> fx.Node | None:
        """The first graph input that is no Python number: its device is the one to compute on."""
        inputs = (n for n in self.graph.nodes if n.op == "placeholder")
        return next((n for n in inputs if n not in self.shapes), None)

    def aligned(self, name: str, other: str, axis: int) -> fx.Node:
        """Returns a value with dimensions of 1 behind its own: it lies beside another's from an axis on."""
        node = self.graph.call_function(aligned, (self.tensor(name), self.tensor(other), axis))
        self.place(node, NodeOrigin(-1, "", "aligned", ()))
        return node

    def is_shape(self, name: str) -> bool:
        """Whether a value is Python numbers."""
        return self.values.get(name) in self.shapes

    def is_number(self, name: str) -> bool:
        """Whether a value can be given on as Python numbers: a shape, or small constant integers."""
        if self.is_shape(name):
            return True
        if name in self.constants:
            proto = self.constants[name].proto
            small = len(proto.dims) <= 1 and self.constants[name].numel() <= SMALL
            return small and proto.data_type in _INTEGERS
        value = self.known.get(self.values[name])
        if isinstance(value, torch.Tensor):
            return value.dim() <= 1 and value.dtype in (torch.int64, torch.int32, torch.bool)
        return value is not None

    def numbers(self, name: str) -> Any:
        """Returns a value that `is_number` as Python numbers, or the node that gives them."""
        return self.values[name] if self.is_shape(name) else self.shape_constant(name)

    def _as_tensor(self, name: str, node: fx.Node) -> fx.Node:
        found = self._materialized.get(name)
        if found is None:
            element_type = self.types[name]
            plain = element_type is None or element_type in _PLAIN_NUMBERS
            args = (node,) if plain else (node, torch_dtype(element_type or 0))
            found = self.graph.call_function(as_tensor, args, {"like": self.first_tensor})
            self.place(found, NodeOrigin(-1, "", "as_tensor", self.origins[node].outputs))
            self._materialized[name] = found
        return found

    def _attribute(self, constant: Constant) -> fx.Node:
        """Returns the get_attr node of a constant, registering its parameter or buffer at first use."""
        node = self._attributes.get(constant.name)
        if node is None:
            path = self.paths[constant.name]
            if not self.is_free(path):  # a quantizer that is called like its constants has one of them there
                path = path.replace(".", "%2E")
            tensor = constant.tensor()
            scope, _, leaf = path.rpartition(".")
            owner = self.module(scope)
            if constant.trains() and constant.name not in self._statistics:
                owner.register_parameter(leaf, nn.Parameter(tensor))
            else:
                owner.register_buffer(leaf, tensor)
            constant.paths.append(path)
            node = self.graph.create_node("get_attr", path)
            self._attributes[constant.name] = node
            if tensor.numel() <= SMALL:
                self.known[node] = tensor
        return node

    def is_free(self, path: str) -> bool:
        """Whether there is nothing at a path, and nothing in the way of a module or tensor there."""
        *outer, leaf = path.split(".")
        owner: nn.Module = self.root
        for name in outer:
            inner = owner._modules.get(name)
            if inner is None:
                return not hasattr(owner, name)
            owner = inner
        return not hasattr(owner, leaf)

    def module(self, path: str) -> nn.Module:
        """Returns the module at a path, made where there is none."""
        owner: nn.Module = self.root
        for name in path.split(".") if path else ():
            inner = owner._modules.get(name)
            if inner is None:
                owner.add_module(name, inner := nn.Module())
            owner = inner
        return owner

    def note_results(
        self,
        names: Sequence[str],
        numbers: Sequence[bool],
        types: Sequence[int | None],
        known: Mapping[int, Any],
    ) -> None:
        """Notes what is known of a node's outputs: which are Python numbers, element types, values."""
        for i, (name, is_number, element_type) in enumerate(zip(names, numbers, types, strict=False)):
            if name:
                self.types[name] = element_type
                if is_number:
                    self.shapes.add(self.values[name])
                if i in known:
                    self.known[self.values[name]] = known[i]

    # -- what leaves -------------------------------------------------------------------------------

    def output(self, names: Sequence[str], numbers: Sequence[bool] | None = None) -> None:
        """Ends the graph with its outputs.

        Args:
            names: of the outputs.
            numbers: for a subgraph, which of them are Python numbers; its results are always a tuple.
        """
        if numbers is None:
            results = [self.tensor(name) for name in names]
            node = self.graph.output(results[0] if len(results) == 1 else tuple(results))
        else:
            pairs = zip(names, numbers, strict=True)
            node = self.graph.output(tuple(self.numbers(n) if is_n else self.tensor(n) for n, is_n in pairs))
        self.place(node, NodeOrigin(-1, "", "", tuple(names)))

    def name_output(self, name: str, node: fx.Node, shape: bool = False) -> None:
        """Gives a node's result its ONNX name."""
        self.values[name] = node
        if shape:
            self.shapes.add(node)

    def used_constants(self) -> Mapping[str, Constant]:
        """Returns the constants that live in the module."""
        return {name: c for name, c in self.constants.items() if c.paths}


def _require_addressable(value: ValueInfoProto) -> None:
    """Refuses an input that is declared with more bytes than a machine can address."""
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim if d.dim_value > 0]
    if element_count(dims) > _MOST_ELEMENTS:
        raise UnsupportedModelError(
            f"graph input {quoted(value.name)} is declared with more elements than memory can have "
            f"({shortened(str(dims))})"
        )


_MOST_ELEMENTS = (1 << 63) // 16  # of the largest type


def _statistics(graph: GraphProto) -> set[str]:
    """Returns the running statistics that BatchNormalization reads, also in subgraphs."""
    found: set[str] = set()
    for node in graph.node:
        batch_norm = node.op_type == "BatchNormalization"
        if batch_norm and canonical_domain(node.domain) in ("", CHANNELS_LAST_DOMAIN):
            found.update(node.input[3:5])
        for subgraph in subgraphs(node).values():
            found |= _statistics(subgraph)
    return found
