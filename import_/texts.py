"""The strings of a model: protobuf hands out as bytes what is no UTF-8, which nothing later expects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TypeProto, ValueInfoProto

from qonnx_torch.errors import InvalidModelError

__all__ = ["require_text"]


def require_text(model: ModelProto, name: str) -> None:
    """Refuses a model in which a name, or any other string, is not UTF-8.

    Raises:
        InvalidModelError: names the string.
    """
    wrong = next((text for text in _of_model(model) if not isinstance(text, str)), None)
    if wrong is not None:
        shown = repr(wrong[:100]) + ("..." if len(wrong) > 100 else "")
        raise InvalidModelError(f"{name}: the name {shown} is not UTF-8")


def _of_model(model: ModelProto) -> Iterator[Any]:
    yield from (model.producer_name, model.producer_version, model.domain, model.doc_string)
    yield from (entry.domain for entry in model.opset_import)
    yield from _of_properties(model)
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_function(function)


def _of_function(function: FunctionProto) -> Iterator[Any]:
    yield from (function.name, function.domain, function.overload, function.doc_string)
    yield from (*function.input, *function.output, *function.attribute)
    yield from (entry.domain for entry in function.opset_import)
    yield from _of_properties(function)
    yield from _of_values(function.value_info)
    yield from _of_nodes(function.node)


def _of_graph(graph: GraphProto) -> Iterator[Any]:
    yield from (graph.name, graph.doc_string)
    yield from _of_properties(graph)
    for values in (graph.input, graph.output, graph.value_info):
        yield from _of_values(values)
    for tensor in graph.initializer:
        yield from _of_tensor(tensor)
    for annotation in graph.quantization_annotation:
        yield annotation.tensor_name
        for entry in annotation.quant_parameter_tensor_names:
            yield from (entry.key, entry.value)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[NodeProto]) -> Iterator[Any]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, node.overload, node.doc_string)
        yield from node.input
        yield from node.output
        yield from _of_properties(node)
        for attribute in node.attribute:
            yield from (attribute.name, attribute.ref_attr_name, attribute.doc_string)
            if attribute.HasField("t"):
                yield from _of_tensor(attribute.t)
            if attribute.HasField("g"):
                yield from _of_graph(attribute.g)
            for tensor in attribute.tensors:
                yield from _of_tensor(tensor)
            for graph in attribute.graphs:
                yield from _of_graph(graph)


def _of_tensor(tensor: Any) -> Iterator[Any]:
    yield from (tensor.name, tensor.doc_string)
    yield from _of_properties(tensor)
    for entry in tensor.external_data:
        yield from (entry.key, entry.value)


def _of_values(values: Iterable[ValueInfoProto]) -> Iterator[Any]:
    for value in values:
        yield from (value.name, value.doc_string)
        yield from _of_properties(value)
        yield from _of_type(value.type)


def _of_type(declared: TypeProto) -> Iterator[Any]:
    yield declared.denotation
    inner = {"sequence_type": "elem_type", "optional_type": "elem_type", "map_type": "value_type"}
    while (kind := declared.WhichOneof("value")) in inner:
        declared = getattr(getattr(declared, kind), inner[kind])
        yield declared.denotation
    if kind in ("tensor_type", "sparse_tensor_type"):
        for dim in getattr(declared, kind).shape.dim:
            yield from (dim.dim_param, dim.denotation)


def _of_properties(message: Any) -> Iterator[Any]:
    for entry in message.metadata_props:
        yield from (entry.key, entry.value)
