"""A graph of a file while nodes are fused in it: who gives and who reads each value, and edits in place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, MutableSequence
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx import shape_inference as onnx_shape_inference
from torch import Tensor

from qonnx_torch.dtypes import onnx_element_type, to_array
from qonnx_torch.element_types import ElementTypes
from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.graphs import default_opset, free_names, subgraphs
from qonnx_torch.names import Names

from ..constants import constant_value, is_constant
from ..data import InTensor
from ..dialects import marked_version
from ..skeleton import skeleton
from ..tensors import LARGE, TensorStore, element_count
from .chains import MOST_ELEMENTS, made_of_constants

__all__ = ["Graph"]

_SAME_TYPE = ("Quant", "IntQuant", "BipolarQuant", "Trunc", "FloatQuant", "MultiThreshold")


_NEWEST = 1 << 30  # what a model that imports no ai.onnx is read as


class Graph:
    """One graph, indexed. Edits are made in place; `finish` takes out what nothing reads any more.

    Attributes:
        version: the ai.onnx operator set.
        nodes: its nodes, by their positions at the beginning.
        readers: value name -> positions of the nodes that read it, in order, and as which inputs.
        givers: value name -> position of the node that gives it.
        constants: name -> initializer, or value of a Constant node.
        names: the names of the model.
        is_sound: whether each value has one giver. The builder refuses graphs where that is not so.
    """

    def __init__(
        self, model: ModelProto, proto: GraphProto, outer: Graph | None, names: Names, tensors: TensorStore
    ) -> None:
        self.version = default_opset(model) or _NEWEST
        self.nodes: list[NodeProto] = list(proto.node)
        self.readers: dict[str, dict[int, list[int]]] = defaultdict(dict)
        self.givers: dict[str, int] = {}
        self.constants: dict[str, TensorProto] = {i.name: i for i in proto.initializer}
        self.names = names
        self.is_sound = True
        self._model, self._proto, self._outer, self._tensors = model, proto, outer, tensors
        self._types = ElementTypes()
        self._inputs = {v.name for v in proto.input}
        self._ends = {o.name for o in proto.output}
        self._captured: set[str] = set()
        self._ranks = _declared_ranks((*proto.input, *proto.output, *proto.value_info))
        self._removed: set[int] = set()
        self._unread: set[str] = set()  # what nodes read before they were changed
        self._retyped: set[str] = set()
        self._reshaped: dict[tuple[str, tuple[int, ...]], str] = {}
        self._numbers: dict[str, str] = {}
        self._small: dict[str, Tensor] = {}
        self._computed: dict[str, Tensor | None] = {}
        self._index()

    def _index(self) -> None:
        for value in (*self._proto.value_info, *self._proto.input):
            self._types[value.name] = value.type.tensor_type.elem_type
        for name, proto in self.constants.items():
            self._types[name] = proto.data_type
        for i, node in enumerate(self.nodes):
            if is_constant(node):
                self._index_constant(node)
                continue
            self._read(i)
            for name in filter(None, node.output):
                self.is_sound &= name not in self.givers and name not in self.constants
                self.givers[name] = i
            for inner in subgraphs(node).values():
                self._captured.update(free_names(inner))
            if node.domain in ("", "ai.onnx"):
                version = marked_version(node) or self.version
                asked = {a.name: a.i for a in node.attribute if a.name in ("to", "dtype", "output_dtype")}
                self._types.infer(node.op_type, version, node.input, node.output, asked)
            elif node.op_type in _SAME_TYPE and node.input and node.output:
                self._types[node.output[0]] = self._types[node.input[0]]

    def _index_constant(self, node: NodeProto) -> None:
        try:
            proto = constant_value(node) if len(node.output) == 1 else None
        except QonnxTorchError:
            proto = None
        if proto is None or node.output[0] in self.constants or node.output[0] in self.givers:
            self.is_sound = False  # the builder says what is wrong with it
            return
        self.constants[node.output[0]] = proto
        self._types[node.output[0]] = proto.data_type

    def _read(self, position: int) -> None:
        for slot, name in enumerate(self.nodes[position].input):
            if name:
                self.readers[name].setdefault(position, []).append(slot)

    def _forget(self, position: int) -> None:
        for name in set(self.nodes[position].input) - {""}:
            self.readers[name].pop(position, None)
            self._unread.add(name)

    # -- what is known of values -------------------------------------------------------------------

    def constant(self, name: str) -> Tensor | None:
        """Returns the value of a constant of this graph or of one around it; None of any other value.

        What nodes compute from constants alone is constant, too.
        """
        if name in self._small:
            return self._small[name]
        if name in self.constants:
            value: Tensor = self._tensors.tensor(self.constants[name], name)
            if value.numel() == 1:  # scales and zero points, which many nodes read
                self._small[name] = value
            return value
        if name in self.givers:
            return self._follow(name)
        if self._outer is None or name in self._inputs:
            return None
        return self._outer.constant(name)

    def _follow(self, name: str) -> Tensor | None:
        """Returns what nodes of this graph compute from constants alone, each computed once; else None."""
        waiting = [name]
        entered: set[int] = set()  # a broken file may have a cycle
        while waiting:
            value = waiting[-1]
            position = self.givers[value]
            if position in entered or value in self._computed:
                waiting.pop()
                if value not in self._computed:
                    self._compute(position)
            else:
                entered.add(position)
                waiting += [n for n in self.nodes[position].input if n in self.givers]
        return self._computed[name]

    def _compute(self, position: int) -> None:
        node = self.nodes[position]
        values = {n: self._followed_constant(n) for n in node.input if n}
        given = bool(values) and all(v is not None for v in values.values())
        version = marked_version(node) or self.version
        results = made_of_constants(node, version, values.__getitem__) if given else None
        known = dict.fromkeys(node.output) | dict(zip(node.output, results or (), strict=False))
        self._computed |= known
        for name, value in known.items():
            if value is not None and value.is_floating_point() and value.itemsize > 1:
                self._types[name] = onnx_element_type(value.dtype)

    def _followed_constant(self, name: str) -> Tensor | None:
        if name in self.givers:
            return self._computed.get(name)
        large = name in self.constants and element_count(self.constants[name].dims) > MOST_ELEMENTS
        return None if large else self.constant(name)

    def element_type(self, name: str) -> int | None:
        """Returns the element type of a value, of the graphs around too; None where it is not known."""
        return self._types[name] or (self._outer.element_type(name) if self._outer else None)

    def rank(self, name: str) -> int | None:
        """Returns the number of dimensions of a value, or None where the file does not tell."""
        if name in self.constants:
            return len(self.constants[name].dims)
        return self._ranks.get(name)

    def infer_ranks(self) -> None:
        """Infers ranks that the file does not declare, while there are only nodes that onnx knows."""
        if self._outer is None and any(name not in self._ranks for name in self.givers):
            self._ranks = _inferred_ranks(self._model, self._tensors) | self._ranks

    def is_output(self, name: str) -> bool:
        """Returns whether a value is an output of the graph."""
        return name in self._ends

    def present(self) -> Iterator[tuple[int, NodeProto]]:
        """Yields the nodes that are there, with their positions."""
        return ((i, node) for i, node in enumerate(self.nodes) if i not in self._removed)

    def is_captured(self, name: str) -> bool:
        """Returns whether a subgraph reads a value."""
        return name in self._captured

    # -- edits of nodes ----------------------------------------------------------------------------

    def replace(self, position: int, node: NodeProto) -> None:
        """Puts another node in the place of one."""
        if position in self._removed:
            self._removed.remove(position)
        else:
            self._forget(position)
        self.nodes[position].CopyFrom(node)
        self._read(position)

    def append(self, node: NodeProto) -> int:
        """Adds a node, and returns its position. The builder sorts the nodes."""
        self._proto.node.append(node)
        self.nodes.append(self._proto.node[-1])
        position = len(self.nodes) - 1
        self._read(position)
        self.givers.update((name, position) for name in node.output if name)
        return position

    def remove(self, position: int) -> None:
        """Takes a node out."""
        self._forget(position)
        self._removed.add(position)

    def substitute(self, position: int, old: str, new: str) -> None:
        """Removes the node that gives `old`: what reads that reads `new`.

        A graph output, and what a subgraph reads, keeps its name, and the node becomes an Identity.
        """
        if self.is_output(old) or self.is_captured(old):
            name = self.nodes[position].name
            self.replace(position, helper.make_node("Identity", [new], [old], name=name))
            return
        self.remove(position)
        for reader in list(self.readers[old]):
            self.redirect(reader, old, new)

    def redirect(self, position: int, old: str, new: str) -> None:
        """Lets a node read another value."""
        slots = self.readers[old].pop(position)
        for slot in slots:
            self.nodes[position].input[slot] = new
        self._unread.add(old)
        self.readers[new].setdefault(position, []).extend(slots)

    def rename_output(self, position: int, old: str, new: str) -> None:
        """Gives an output of a node another name; its readers stay as they are."""
        outputs = self.nodes[position].output
        outputs[list(outputs).index(old)] = new

    def retype(self, name: str) -> None:
        """Notes that a value has another element type now."""
        self._retyped.add(name)

    # -- edits of constants ------------------------------------------------------------------------

    def number(self, name: str, value: float, element_type: int = TensorProto.FLOAT) -> str:
        """Returns the name of a 0-d constant, the same for each call with a name."""
        if name not in self._numbers:
            array = np.array(value, helper.tensor_dtype_to_np_dtype(element_type))
            self._numbers[name] = self._add(name, array)
        return self._numbers[name]

    def new_constant(self, name: str, value: Tensor, element_type: int | None = None) -> str:
        """Adds a constant that is called like another, with a number behind; returns its name."""
        own = self._add(name, np.zeros((), np.float32))
        self.set_constant(own, value, element_type)
        return own

    def _add(self, name: str, array: np.ndarray[Any, Any]) -> str:
        proto = self._proto.initializer.add()
        proto.CopyFrom(numpy_helper.from_array(array, self.names.fresh(name)))
        own: str = proto.name
        self.constants[own] = proto
        self._types[own] = proto.data_type
        return own

    def set_constant(self, name: str, value: Tensor, element_type: int | None = None) -> None:
        """Gives a constant of this graph another value, of any shape and type."""
        proto = self.constants[name]
        own = proto.name
        self._small.pop(name, None)
        if value.nbytes < LARGE:
            proto.CopyFrom(numpy_helper.from_array(to_array(value, element_type), own))
        else:
            proto.CopyFrom(self._tensors.pointer(InTensor(value)))
            proto.name, proto.data_type = own, onnx_element_type(value.dtype)
            proto.dims.extend(value.shape)
        self._types[name] = proto.data_type

    def in_shape(self, name: str, shape: tuple[int, ...]) -> str:
        """Returns the name of a constant of this graph that has the elements of another, in a shape.

        Where nothing reads the other in the end, it has that one's name.
        """
        if name in self.constants and tuple(self.constants[name].dims) == shape:
            return name
        if (name, shape) not in self._reshaped:
            value, element_type = self.constant(name), self.element_type(name)
            assert value is not None
            self._reshaped[name, shape] = self._add(name, to_array(value.reshape(shape), element_type))
        return self._reshaped[name, shape]

    # -- the end -----------------------------------------------------------------------------------

    def finish(self) -> None:
        """Takes out the nodes, constants and declarations that no longer belong there."""
        if not self.is_sound:
            return
        self._remove_unread_chains()
        gone = self._retyped | {name for i in self._removed for name in self.nodes[i].output}
        _delete(self._proto.node, self._removed)
        read = {name for node in self._proto.node for name in node.input} | self._captured | self._ends
        dropped = {name for name in self._unread - read if name in self.constants}
        for values in (self._proto.initializer, self._proto.input):  # old files list them in both
            _delete(values, [i for i, v in enumerate(values) if v.name in dropped])
        nodes = enumerate(self._proto.node)
        _delete(self._proto.node, [i for i, n in nodes if is_constant(n) and n.output[0] in dropped])
        self._restore_names(dropped | gone)
        infos = self._proto.value_info
        _delete(infos, [i for i, v in enumerate(infos) if v.name in gone | dropped])

    def _remove_unread_chains(self) -> None:
        """Takes out the nodes that computed constants which nothing reads any more."""
        waiting = list(self._unread)
        while waiting:
            name = waiting.pop()
            position = self.givers.get(name)
            if position is None or position in self._removed or self._computed.get(name) is None:
                continue
            outputs = self.nodes[position].output
            if not any(self.readers[o] or self.is_output(o) or self.is_captured(o) for o in outputs):
                waiting += self.nodes[position].input
                self.remove(position)

    def _restore_names(self, dropped: set[str]) -> None:
        """Gives reshaped constants the names of those whose place they take."""
        new: dict[str, str] = {}
        for (name, _), reshaped in self._reshaped.items():
            if name in dropped and self.readers[reshaped]:
                new |= {reshaped: name} if name not in new.values() else {}
        for reshaped, name in new.items():
            self.constants[reshaped].name = name
            for position, slots in self.readers[reshaped].items():
                for slot in slots:
                    self.nodes[position].input[slot] = name


def _delete(values: MutableSequence[object], positions: Iterable[int]) -> None:
    for position in sorted(positions, reverse=True):
        del values[position]


def _declared_ranks(values: Iterable[ValueInfoProto]) -> dict[str, int]:
    return {
        v.name: len(v.type.tensor_type.shape.dim)
        for v in values
        if v.type.HasField("tensor_type") and v.type.tensor_type.HasField("shape")
    }


def _inferred_ranks(model: ModelProto, tensors: TensorStore) -> dict[str, int]:
    """Returns what onnx infers from a model without the data of its larger tensors."""
    large = {i.name for i in model.graph.initializer if len(i.dims) > 1}
    try:
        inferred = onnx_shape_inference.infer_shapes(skeleton(model, large, tensors=tensors))
    except (onnx_shape_inference.InferenceError, ValueError, RuntimeError):
        return {}
    return _declared_ranks(inferred.graph.value_info)
