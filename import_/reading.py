"""Bytes to ModelProto: every way in which a file can be unreadable becomes one clear error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, external_data_helper, numpy_helper

from qonnx_torch.dtypes import from_array, torch_dtype
from qonnx_torch.errors import InvalidModelError, UnsupportedModelError

__all__ = ["ModelSource", "read_model", "tensor_of"]

ModelSource = ModelProto | bytes | str | os.PathLike[str]


def read_model(source: ModelSource) -> ModelProto:
    """Returns the model of a file, serialized bytes or a ModelProto, with its external data loaded.

    The result is a copy that the caller may change.

    Raises:
        InvalidModelError: no such file, no ONNX protobuf, no graph, or unusable external data.
    """
    if isinstance(source, ModelProto):
        model, name, folder = ModelProto(), "the model", None
        model.CopyFrom(source)
    elif isinstance(source, bytes):
        model, name, folder = _parse(source, "the model"), "the model", None
    else:
        path = Path(source)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InvalidModelError(f"{path}: cannot be read ({error.strerror})") from None
        model, name, folder = _parse(content, str(path)), str(path), path.parent
    if not model.HasField("graph") or not model.graph.output:
        raise InvalidModelError(f"{name}: not an ONNX model (it holds no graph with outputs)")
    _require_text(model, name)
    _load_external_data(model, name, folder)
    return model


def _require_text(model: ModelProto, name: str) -> None:
    """Refuses names that are no UTF-8, which protobuf hands out as bytes."""
    graph = model.graph
    texts = [v.name for v in (*graph.input, *graph.output, *graph.initializer, *graph.value_info)]
    for node in graph.node:
        texts += [node.name, node.op_type, node.domain, *node.input, *node.output]
        texts += [attribute.name for attribute in node.attribute]
    wrong = next((t for t in texts if not isinstance(t, str)), None)
    if wrong is not None:
        raise InvalidModelError(f"{name}: the name {wrong!r} is not UTF-8")


def _parse(content: bytes, name: str) -> ModelProto:
    model = ModelProto()
    if not content:
        raise InvalidModelError(f"{name}: not an ONNX protobuf (it is empty)")
    try:
        model.ParseFromString(content)
    except DecodeError:
        hint = "truncated, or another kind of file"
        raise InvalidModelError(f"{name}: not an ONNX protobuf ({hint})") from None
    return model


def _load_external_data(model: ModelProto, name: str, folder: Path | None) -> None:
    for kind, tensor in _tensors(model):
        if not external_data_helper.uses_external_data(tensor):
            continue
        try:
            info = external_data_helper.ExternalDataInfo(tensor)
        except ValueError as error:  # an offset or length that is no number
            raise InvalidModelError(
                f"{name}: the external data of initializer {tensor.name!r}: {error}"
            ) from None
        if folder is None:
            raise InvalidModelError(
                f"{name}: {kind} {tensor.name!r} is in the external file {info.location!r}; "
                "import the model by its path"
            )
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise InvalidModelError(
                f"{name}: the external data {info.location!r} of {kind} {tensor.name!r} "
                f"cannot be used: {reason}"
            ) from None
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _tensors(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Yields every tensor of the main graph, and whether it is an initializer or a node's attribute."""
    for tensor in model.graph.initializer:
        yield "initializer", tensor
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield "constant", attribute.t
            for tensor in attribute.tensors:
                yield "constant", tensor


def tensor_of(proto: TensorProto, name: str = "") -> torch.Tensor:
    """Returns a TensorProto as a torch tensor that owns its memory.

    Raises:
        InvalidModelError: the data do not fit the declared shape and type.
        UnsupportedModelError: the element type is not supported.
    """
    name = name or proto.name
    try:
        torch_dtype(proto.data_type)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"tensor {name!r}: {error}") from None
    if any(d < 0 for d in proto.dims):
        raise InvalidModelError(f"tensor {name!r}: negative dimension in {list(proto.dims)}")
    try:
        array = numpy_helper.to_array(proto)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise InvalidModelError(
            f"tensor {name!r}: its data do not fit shape {list(proto.dims)} and type "
            f"{TensorProto.DataType.Name(proto.data_type)} ({error})"
        ) from None
    return from_array(array, proto.data_type)
