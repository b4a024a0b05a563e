"""Copies of models without the data of their tensors: what is left out is not copied on the way either."""

from __future__ import annotations

from collections.abc import Callable, Container

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from qonnx_torch.graphs import subgraphs

from .constants import is_constant
from .data import InMessage
from .tensors import LARGE, TensorStore, element_count

__all__ = ["copy_without_data", "skeleton"]

_HEADER = ("name", "data_type", "doc_string")

_CopyTensor = Callable[[TensorProto, TensorProto, str], None]


def skeleton(
    model: ModelProto,
    live: Container[str],
    graph: GraphProto | None = None,
    tensors: TensorStore | None = None,
) -> ModelProto:
    """Returns what a faithful export needs of a file beside the module: all but what lives in the module.

    That are the data of the tensors named in `live`, and the nodes' subgraphs, which live in modules of their
    own and have skeletons of their own.

    Args:
        model: the model.
        live: names of initializers and Constant nodes.
        graph: a subgraph, in place of the model's graph.
        tensors: the data of the model's large tensors; without it, those not in `live` come without them.
    """

    def copy_tensor(tensor: TensorProto, result: TensorProto, name: str) -> None:
        if name in live:
            _copy_header(tensor, result)
        else:
            result.CopyFrom(tensor)
            if tensors is not None:
                tensors.complete(result)

    result = ModelProto()
    _copy_model_fields(model, result)
    _copy_graph(model.graph if graph is None else graph, result.graph, copy_tensor, into_subgraphs=False)
    return result


def copy_without_data(model: ModelProto, tensors: TensorStore) -> ModelProto:
    """Returns a copy of the caller's model; its large tensors are noted in a store and not copied."""

    def copy_tensor(tensor: TensorProto, result: TensorProto, name: str) -> None:
        if element_count(tensor.dims) < LARGE or tensor.data_location == TensorProto.EXTERNAL:
            result.CopyFrom(tensor)
        else:
            _copy_header(tensor, result)
            result.MergeFrom(tensors.pointer(InMessage(tensor)))

    result = ModelProto()
    _copy_model_fields(model, result)
    if model.HasField("graph"):
        _copy_graph(model.graph, result.graph, copy_tensor, into_subgraphs=True)
    return result


def _copy_model_fields(model: ModelProto, result: ModelProto) -> None:
    for descriptor, value in model.ListFields():
        if descriptor.name != "graph":
            _copy_field(result, descriptor, value)


def _copy_graph(
    graph: GraphProto, result: GraphProto, copy_tensor: _CopyTensor, *, into_subgraphs: bool
) -> None:
    for descriptor, value in graph.ListFields():
        if descriptor.name not in ("node", "initializer"):
            _copy_field(result, descriptor, value)
    for node in graph.node:
        copy = result.node.add()
        if is_constant(node) or subgraphs(node):
            _copy_node(node, copy, copy_tensor, into_subgraphs=into_subgraphs)
        else:
            copy.CopyFrom(node)
    for tensor in graph.initializer:
        copy_tensor(tensor, result.initializer.add(), tensor.name)


def _copy_node(node: NodeProto, result: NodeProto, copy_tensor: _CopyTensor, *, into_subgraphs: bool) -> None:
    """Copies a node with a tensor or with subgraphs, without their data."""
    for descriptor, value in node.ListFields():
        if descriptor.name != "attribute":
            _copy_field(result, descriptor, value)
    constant, graphs = is_constant(node), subgraphs(node)
    for attribute in node.attribute:
        copy = result.attribute.add()
        for descriptor, value in attribute.ListFields():
            if descriptor.name == "g" and attribute.name in graphs:
                if into_subgraphs:
                    _copy_graph(value, copy.g, copy_tensor, into_subgraphs=True)
                else:
                    copy.g.name = value.name
            elif descriptor.name == "t" and constant and node.output:
                copy_tensor(value, copy.t, node.output[0])
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
