"""Sparse tensors of a file, written out: nothing after reading knows them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    SparseTensorProto,
    TensorProto,
    numpy_helper,
)

from qonnx_torch.dtypes import PACKED_TYPES, to_array
from qonnx_torch.errors import InvalidModelError, UnsupportedModelError, quoted
from qonnx_torch.graphs import subgraphs

from .constants import is_constant
from .data import InTensor
from .tensors import LARGE, TensorStore, byte_count, tensor_of

__all__ = ["make_dense"]

_INDEX_TYPES = (TensorProto.INT64, TensorProto.INT32, TensorProto.INT16, TensorProto.INT8)


def make_dense(model: ModelProto, tensors: TensorStore) -> None:
    """Replaces sparse initializers and sparse constants by dense ones, in place: in all graphs and functions.

    Raises:
        InvalidModelError: indices that are out of range, not ascending or do not fit the values.
        UnsupportedModelError: dense, they would take many times the file; or an unsupported element type.

    Source: onnx.proto, SparseTensorProto; ONNX Constant-11.
    """
    waiting: list[GraphProto | FunctionProto] = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        if isinstance(graph, GraphProto) and graph.sparse_initializer:
            for sparse in graph.sparse_initializer:
                name = sparse.values.name
                graph.initializer.append(_dense(sparse, name, f"initializer {quoted(name)}", tensors))
            del graph.sparse_initializer[:]
        for node in graph.node:
            waiting += subgraphs(node).values()
            if not is_constant(node):
                continue
            for attribute in node.attribute:
                if attribute.type == AttributeProto.SPARSE_TENSOR and attribute.name == "sparse_value":
                    if attribute.ref_attr_name:
                        continue
                    name = next(iter(node.output), "")
                    dense = _dense(attribute.sparse_tensor, name, f"constant {quoted(name)}", tensors)
                    attribute.Clear()
                    attribute.name, attribute.type = "value", AttributeProto.TENSOR
                    attribute.t.CopyFrom(dense)


def _dense(sparse: SparseTensorProto, name: str, called: str, tensors: TensorStore) -> TensorProto:
    """Returns a sparse tensor written out; large ones have their data in the store."""
    kind = sparse.values.data_type
    header = TensorProto(name=name, data_type=kind, dims=sparse.dims)
    length = byte_count(header, name)
    tensors.copied += length
    if tensors.copied > tensors.room():
        raise UnsupportedModelError(
            f"the {called} is sparse and would take {length} bytes when written out; all that is written out "
            f"or copied may take {tensors.room()}, which goes by the size of the model"
        )
    values = tensor_of(sparse.values, name)
    if values.dim() != 1:
        raise InvalidModelError(
            f"the {called}: its values have {values.dim()} dimensions; a sparse tensor's have 1"
        )
    dense = torch.zeros(tuple(sparse.dims), dtype=values.dtype)
    if values.numel():
        positions = _positions(sparse, values.numel(), called)
        _bytes(dense)[torch.from_numpy(positions)] = _bytes(values)
    if kind in PACKED_TYPES:
        result = numpy_helper.from_array(to_array(dense, kind), name)
    else:
        result = tensors.pointer(InTensor(dense))
        result.MergeFrom(header)
        if dense.nbytes < LARGE:
            tensors.complete(result)
    result.doc_string = sparse.values.doc_string
    return result


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the bytes of a tensor, a row an element: torch does not index every type."""
    return tensor.reshape(-1, 1).view(torch.uint8)


def _positions(sparse: SparseTensorProto, count: int, called: str) -> NDArray[np.int64]:
    """Returns where the values stand in the tensor's elements, from its indices of either form.

    The form is (values,) of positions in row-major order, or (values, dimensions) of one index a dimension.
    """
    if sparse.indices.data_type not in _INDEX_TYPES:
        raise InvalidModelError(f"the {called} is sparse, and its indices are no INT64")
    tensor_of(sparse.indices, f"{called} (indices)")  # checks the data
    indices = numpy_helper.to_array(sparse.indices).astype(np.int64)
    dims: Sequence[int] = list(sparse.dims)
    elements = int(np.prod(np.array(dims, dtype=object)))
    if indices.shape == (count,):
        indices, dims = indices[:, None], [elements]
    elif indices.shape != (count, len(dims)):
        raise InvalidModelError(
            f"the {called}: its indices have the shape {list(indices.shape)}; with {count} values it must be "
            f"[{count}] or [{count}, {len(dims)}]"
        )
    if ((indices < 0) | (indices >= np.array(dims, np.int64))).any():
        raise InvalidModelError(f"the {called}: an index is out of range for the shape {list(sparse.dims)}")
    positions = np.zeros(count, np.int64)
    for axis, size in enumerate(dims):
        positions = positions * size + indices[:, axis]
    if (np.diff(positions) <= 0).any():
        raise InvalidModelError(f"the {called}: its indices are not in ascending order, each once")
    return positions
