"""Torch tensors as TensorProtos."""

from __future__ import annotations

from typing import Any

import torch
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper

from qonnx_torch.dtypes import PACKED_TYPES, element_type_of, onnx_element_type, to_array
from qonnx_torch.element_types import ElementTypes
from qonnx_torch.errors import ExportError
from qonnx_torch.graphs import default_opset, is_constant

__all__ = ["constant_proto", "fill", "packed_types", "tensor_proto"]


def tensor_proto(tensor: torch.Tensor, name: str, element_type: int | None = None) -> TensorProto:
    """Returns a tensor as a TensorProto with raw data.

    Args:
        tensor: any shape and dtype that ONNX has.
        name: its ONNX name.
        element_type: one narrower than a byte, which the tensor's dtype holds; else the dtype's own.
    """
    element_type = element_type if _holds(tensor, element_type) else onnx_element_type(tensor.dtype)
    proto = numpy_helper.from_array(to_array(tensor, element_type), name)
    if not proto.HasField("raw_data"):  # no elements
        proto.raw_data = b""
    return proto


def fill(proto: TensorProto, tensor: torch.Tensor, encoding: str) -> None:
    """Writes a tensor into a TensorProto that has only its header, in the field that the source file used.

    Where the shape or type has changed, or the field does not suit, the data are written as raw bytes.
    """
    own = proto.data_type
    element_type = own if _holds(tensor, own) else onnx_element_type(tensor.dtype)
    same = element_type == own and list(proto.dims) == list(tensor.shape)
    if encoding != "raw_data" and same:
        typed = helper.make_tensor(
            proto.name, element_type, list(tensor.shape), to_array(tensor, element_type).reshape(-1)
        )
        if getattr(typed, encoding) and not typed.raw_data:
            getattr(proto, encoding).extend(getattr(typed, encoding))
            return
    raw = tensor_proto(tensor, proto.name, element_type)
    proto.data_type = element_type
    del proto.dims[:]
    proto.dims.extend(tensor.shape)
    proto.raw_data = raw.raw_data


def packed_types(model: ModelProto, subgraph: GraphProto | None = None) -> dict[str, int]:
    """Returns the values narrower than a byte and their ONNX element types, which no torch dtype shows.

    Args:
        model: the model.
        subgraph: a graph in it, in place of the model's.
    """
    graph = model.graph if subgraph is None else subgraph
    opset = default_opset(model) or 1
    types = ElementTypes()
    names = []
    for initializer in graph.initializer:
        types[initializer.name] = initializer.data_type
        names.append(initializer.name)
    for value in graph.input:
        types[value.name] = element_type_of(value.type)
        names.append(value.name)
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        if is_constant(node) and node.attribute and node.attribute[0].HasField("t"):
            types[node.output[0]] = node.attribute[0].t.data_type
        else:
            attributes = {a.name: a.i for a in node.attribute if a.type == AttributeProto.INT}
            types.infer(node.op_type, opset, node.input, node.output, attributes)
        names += node.output
    return {name: t for name in names if (t := types[name]) in PACKED_TYPES and t is not None}


def _holds(tensor: torch.Tensor, element_type: int | None) -> bool:
    """Whether a tensor's dtype holds an element type narrower than a byte."""
    return element_type is not None and PACKED_TYPES.get(element_type) is tensor.dtype


def constant_proto(value: Any, name: str, *, like: torch.dtype | None = None) -> TensorProto:
    """Returns Python numbers as a TensorProto of the given dtype; without one int64, bool or float32.

    Raises:
        ExportError: an integer dtype that cannot hold the numbers.
    """
    first = value[0] if isinstance(value, (tuple, list)) and value else value
    if like is None:
        like = (
            torch.bool
            if isinstance(first, bool)
            else torch.float32
            if isinstance(first, float)
            else torch.int64
        )
    try:
        tensor = torch.tensor(value, dtype=like)
        exact = like.is_floating_point or bool((tensor == torch.tensor(value)).all())
    except (RuntimeError, OverflowError, TypeError):
        exact = False
    if not exact:
        raise ExportError(f"the constant {value!r} is no {like} value, which the tensor beside it is")
    return tensor_proto(tensor, name)
