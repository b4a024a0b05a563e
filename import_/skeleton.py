"""What a faithful export needs of a file beside the module: all but the data that live in the module."""

from __future__ import annotations

from collections.abc import Container

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from qonnx_torch.ordering import subgraphs

from .constants import is_constant

__all__ = ["skeleton"]

_HEADER = ("name", "data_type", "doc_string")


def skeleton(model: ModelProto, live: Container[str]) -> ModelProto:
    """Returns a model without the data of the tensors named in `live`, and without the nodes' subgraphs.

    Nothing of what is left out is copied on the way: the data may be gigabytes. Subgraphs live in modules of
    their own, which have skeletons of their own.
    """
    result = ModelProto()
    for descriptor, value in model.ListFields():
        if descriptor.name != "graph":
            _copy_field(result, descriptor, value)
    _copy_graph(model.graph, result.graph, live)
    return result


def _copy_graph(graph: GraphProto, result: GraphProto, live: Container[str]) -> None:
    for descriptor, value in graph.ListFields():
        if descriptor.name not in ("node", "initializer"):
            _copy_field(result, descriptor, value)
    for node in graph.node:
        copy = result.node.add()
        constant = is_constant(node) and node.output[0] in live and node.attribute[0].name == "value"
        if constant or subgraphs(node):
            _copy_node(node, copy)
        else:
            copy.CopyFrom(node)
    for tensor in graph.initializer:
        copy_tensor = result.initializer.add()
        if tensor.name in live:
            _copy_header(tensor, copy_tensor)
        else:
            copy_tensor.CopyFrom(tensor)


def _copy_node(node: NodeProto, result: NodeProto) -> None:
    """Copies a node without the data of its tensor, or without its subgraphs."""
    for descriptor, value in node.ListFields():
        if descriptor.name != "attribute":
            _copy_field(result, descriptor, value)
    graphs = subgraphs(node)
    for attribute in node.attribute:
        copy = result.attribute.add()
        for descriptor, value in attribute.ListFields():
            if descriptor.name == "g" and attribute.name in graphs:
                copy.g.name = value.name
            elif descriptor.name == "t" and not graphs:
                _copy_header(value, copy.t)
            else:
                _copy_field(copy, descriptor, value)


def _copy_header(tensor: TensorProto, result: TensorProto) -> None:
    for field in _HEADER:
        if tensor.HasField(field):
            setattr(result, field, getattr(tensor, field))
    result.dims.extend(tensor.dims)
    result.metadata_props.extend(tensor.metadata_props)


def _copy_field(result: object, descriptor: object, value: object) -> None:
    """Copies one field of a message, whatever its kind."""
    name = descriptor.name  # type: ignore[attr-defined]
    if hasattr(value, "extend") or (hasattr(value, "MergeFrom") and hasattr(value, "__len__")):
        getattr(result, name).extend(value)
    elif hasattr(value, "CopyFrom"):
        getattr(result, name).CopyFrom(value)
    else:
        setattr(result, name, value)
