"""What a model says of a value at a node: element type, rank, constant value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, numpy_helper, shape_inference

from qonnx_torch.graphs import is_constant

__all__ = ["Body", "Known", "Scope", "all_nodes", "infer", "scoped_nodes"]

Body = onnx.GraphProto | onnx.FunctionProto


@dataclass(frozen=True, slots=True)
class Known:
    """Element type of a value, and its rank if known."""

    elem_type: int
    rank: int | None


class Scope:
    """Types and constants of one graph or function body; the enclosing graph and inference are asked last."""

    def __init__(
        self, body: Body, inference: Callable[[], Mapping[str, Known]], outer: Scope | None = None
    ) -> None:
        self._known: dict[str, Known] = {}
        self._constants: dict[str, TensorProto] = {}
        self._inference = inference
        self._outer = outer
        if isinstance(body, onnx.GraphProto):
            self._known = _declared(body)
            overridable = {info.name for info in body.input}
            self._constants = {t.name: t for t in body.initializer if t.name not in overridable}
        for node in body.node:
            if (tensor := _constant_value(node)) is not None:
                self._constants[node.output[0]] = tensor
                self._known[node.output[0]] = Known(tensor.data_type, len(tensor.dims))

    def inner(self, body: Body) -> Scope:
        """Returns the scope of a graph nested in this one."""
        return Scope(body, self._inference, self)

    def declared(self, name: str) -> Known | None:
        """Returns what the model itself says of a value."""
        return self._known.get(name) or (self._outer.declared(name) if self._outer else None)

    def known(self, name: str) -> Known | None:
        """Returns what the model says of a value or, failing that, what shape inference finds."""
        return self.declared(name) or self._inference().get(name)

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """Returns a value that no run can change; None for computed, overridable and external ones."""
        tensor = self._constants.get(name)
        if tensor is None:
            hidden = name in self._known
            return self._outer.constant(name) if self._outer and not hidden else None
        return None if tensor.data_location == TensorProto.EXTERNAL else numpy_helper.to_array(tensor)


def infer(model: onnx.ModelProto, is_elementwise: Callable[[NodeProto], bool]) -> Mapping[str, Known]:
    """Returns what shape inference finds, with stand-ins for elementwise nodes; nothing where it fails.

    Large initializers become inputs: only their type and shape matter here, and they would be copied twice.
    """
    graph = onnx.GraphProto(
        name=model.graph.name,
        node=model.graph.node,
        input=model.graph.input,
        output=model.graph.output,
        value_info=model.graph.value_info,
    )
    inputs = {info.name for info in graph.input}
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims) <= 64:
            graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            graph.input.append(info)
    for node in all_nodes(graph):
        if is_elementwise(node):
            node.CopyFrom(onnx.helper.make_node("Identity", node.input[:1], node.output[:1]))
    light = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions, graph=graph
    )
    try:
        inferred = shape_inference.infer_shapes(light)
    except shape_inference.InferenceError:
        return {}
    known: dict[str, Known] = {}
    for body in _graphs(inferred.graph):
        known = {**_declared(body), **known}
    return known


def all_nodes(body: Body) -> Iterator[NodeProto]:
    """Yields the nodes of a body and of all graphs nested in it."""
    for node in body.node:
        yield node
        for subgraph in _subgraphs(node):
            yield from all_nodes(subgraph)


def scoped_nodes(body: Body, scope: Scope) -> Iterator[tuple[NodeProto, Scope]]:
    """Yields the nodes of a body and of all graphs nested in it, each with the scope it stands in."""
    for node in body.node:
        yield node, scope
        for subgraph in _subgraphs(node):
            yield from scoped_nodes(subgraph, scope.inner(subgraph))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yields a graph and all graphs nested in it."""
    yield graph
    for node in graph.node:
        for subgraph in _subgraphs(node):
            yield from _graphs(subgraph)


def _subgraphs(node: NodeProto) -> Iterator[onnx.GraphProto]:
    """Yields the graphs that a node has as attributes."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def _declared(graph: onnx.GraphProto) -> dict[str, Known]:
    """Returns what the inputs, outputs, value_info and initializers of one graph declare."""
    known = {}
    for info in (*graph.value_info, *graph.output, *graph.input):
        tensor_type = info.type.tensor_type
        if tensor_type.elem_type != TensorProto.UNDEFINED:
            rank = len(tensor_type.shape.dim) if tensor_type.HasField("shape") else None
            known[info.name] = Known(tensor_type.elem_type, rank)
    for tensor in graph.initializer:
        known[tensor.name] = Known(tensor.data_type, len(tensor.dims))
    return known


def _constant_value(node: NodeProto) -> TensorProto | None:
    """Returns the tensor of a Constant node."""
    for attribute in node.attribute if is_constant(node) else ():
        value = onnx.helper.get_attribute_value(attribute)
        match attribute.name:
            case "value":
                tensor: TensorProto = attribute.t
                return tensor
            case "value_float" | "value_floats":
                return numpy_helper.from_array(np.asarray(value, np.float32))
            case "value_int" | "value_ints":
                return numpy_helper.from_array(np.asarray(value, np.int64))
    return None
