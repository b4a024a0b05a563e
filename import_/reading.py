"""Bytes to ModelProto: every way in which a file can be unreadable becomes one clear error."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError, EncodeError
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, SparseTensorProto, TensorProto

from qonnx_torch.errors import InvalidModelError, UnsupportedModelError, quoted

from .constants import is_constant
from .data import Copied, InBytes, InFile, identity
from .dialects import check_versions
from .external import ExternalFiles
from .outline import outline
from .skeleton import copy_without_data
from .sparse import make_dense
from .tensors import LARGE, TensorStore
from .texts import require_text

__all__ = ["ModelSource", "open_model", "read_model", "tensors_of"]

ModelSource = ModelProto | bytes | str | os.PathLike[str]

_DEEPEST = 32  # graphs within graphs; protobuf writes no deeper ones
_WORTH_AN_OUTLINE = 1 << 20


def open_model(source: ModelSource, tensors: TensorStore | None = None) -> tuple[ModelProto, TensorStore]:
    """Returns the model of a file, serialized bytes or a ModelProto, and the data of its large tensors.

    The model is a copy that the caller may change. Large initializers and Constant nodes in it have no data;
    the store has them, or knows where they lie.

    Args:
        source: the model.
        tensors: the store; a new one where absent.

    Raises:
        InvalidModelError: no such file, no ONNX protobuf, no graph, names that are no text, or unusable
            external data, or operator set versions that cannot be.
        UnsupportedModelError: graphs nested deeper than protobuf itself allows.
    """
    tensors = tensors or TensorStore()
    path: Path | None = None
    if isinstance(source, ModelProto):
        model, name = _copied(source, tensors), "the model"
    elif isinstance(source, bytes):
        model, name = _parse(_outlined(source, tensors), "the model"), "the model"
    else:
        path = Path(source)
        model, name = _parse(_content(path, tensors), str(path)), str(path)
    if not model.HasField("graph") or not model.graph.output:
        raise InvalidModelError(f"{name}: not an ONNX model (it holds no graph with outputs)")
    if path is not None or isinstance(source, bytes):
        _require_shallow(model)
        require_text(model, name)
    tensors.add_bytes(model.ByteSize())
    check_versions(model)
    _find_external_data(model, name, path, tensors)
    make_dense(model, tensors)
    return model, tensors


def read_model(source: ModelSource) -> ModelProto:
    """Returns the model of a file, serialized bytes or a ModelProto, with all its data in it.

    Raises:
        InvalidModelError: as `open_model`.
    """
    model, tensors = open_model(source)
    for _, _, tensor in _tensors(model.graph):
        tensors.complete(tensor)
    return model


def _copied(source: ModelProto, tensors: TensorStore) -> ModelProto:
    _require_shallow(source)
    require_text(source, "the model")
    try:
        return copy_without_data(source, tensors)
    except (EncodeError, DecodeError) as error:  # it copies by way of bytes
        raise InvalidModelError(f"the model: no ONNX protobuf can hold it ({error})") from None


def _content(path: Path, tensors: TensorStore) -> bytes:
    """Returns a file's serialized model, that of a large file without the data of large tensors."""
    try:
        status = path.stat()
        if stat.S_ISFIFO(status.st_mode):
            return _outlined(path.read_bytes(), tensors)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidModelError(f"{path}: cannot be read (it is no ordinary file)")
        with path.open("rb", buffering=0) as file:
            size, state = status.st_size, identity(os.fstat(file.fileno()))
            if size >= _WORTH_AN_OUTLINE:

                def read(start: int, end: int) -> bytes:
                    file.seek(start)
                    return bytes(file.read(end - start) or b"")

                def found(start: int, end: int, field: str) -> bytes:
                    return tensors.serialized_pointer(InFile(path, state, start, end - start, field))

                short = outline(read, size, found)
                if short is not None:
                    return short
                file.seek(0)
            return bytes(file.readall())
    except (OSError, ValueError) as error:  # ValueError: no path at all
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidModelError(f"{path}: cannot be read ({reason})") from None


def _outlined(content: bytes, tensors: TensorStore) -> bytes:
    """Returns a serialized model without the data of large tensors, which stay in the caller's bytes."""
    if len(content) < _WORTH_AN_OUTLINE:
        return content

    def found(start: int, end: int, field: str) -> bytes:
        return tensors.serialized_pointer(InBytes(content, start, end - start, field))

    short = outline(lambda start, end: content[start:end], len(content), found)
    return content if short is None else short


def _parse(content: bytes, name: str) -> ModelProto:
    model = ModelProto()
    if not content:
        raise InvalidModelError(f"{name}: not an ONNX protobuf (it is empty)")
    try:
        model.ParseFromString(content)
    except DecodeError:
        hint = "truncated, nested too deeply, or another kind of file"
        raise InvalidModelError(f"{name}: not an ONNX protobuf ({hint})") from None
    return model


def _require_shallow(model: ModelProto) -> None:
    """Refuses nesting that recursion could not follow; protobuf's own limit does so for what it reads."""
    level: list[GraphProto | FunctionProto] = [model.graph, *model.functions]
    for _ in range(_DEEPEST):
        nodes = (node for outer in level for node in outer.node)
        level = [inner for node in nodes for attribute in node.attribute for inner in _graphs(attribute)]
        if not level:
            return
    raise UnsupportedModelError(f"graphs are nested more than {_DEEPEST} deep")


def _graphs(attribute: AttributeProto) -> list[GraphProto]:
    """Returns the graphs in an attribute, also where it says that it is something else."""
    return [*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs]


def _find_external_data(model: ModelProto, name: str, path: Path | None, tensors: TensorStore) -> None:
    """Maps external data, and leaves in the store only what the importer looks up there."""
    files = None if path is None else ExternalFiles(path)
    for kind, called, tensor in _tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL and tensor not in tensors:
            if files is None:
                location = next((e.value for e in tensor.external_data if e.key == "location"), "")
                raise InvalidModelError(
                    f"{name}: {kind} {quoted(called)} is in the external file {quoted(location)}; "
                    "import the model by its path"
                )
            try:
                data = files.find(tensor, kind, called)
            except InvalidModelError as error:
                raise InvalidModelError(f"{name}: {error}") from None
            if isinstance(data, Copied):
                tensors.charge(data.length, f"{name}: {kind} {quoted(called)}")
            tensor.ClearField("external_data")
            tensor.MergeFrom(tensors.pointer(data))
            if data.length < LARGE:
                tensors.complete(tensor)
        if kind == "attribute":
            tensors.complete(tensor)


def tensors_of(graph: GraphProto) -> Iterator[TensorProto]:
    """Yields every tensor of a graph and its subgraphs."""
    return (tensor for _, _, tensor in _tensors(graph))


def _tensors(graph: GraphProto) -> Iterator[tuple[str, str, TensorProto]]:
    """Yields every tensor of a graph and its subgraphs: what it is, its name, and the message."""
    for tensor in graph.initializer:
        yield "initializer", tensor.name, tensor
    for sparse in graph.sparse_initializer:
        yield from _parts(sparse)
    for node in graph.node:
        constant = is_constant(node)
        for attribute in node.attribute:
            if attribute.HasField("t"):
                named = node.output[0] if constant and node.output else attribute.name
                yield "constant" if constant else "attribute", attribute.t.name or named, attribute.t
            for tensor in attribute.tensors:
                yield "attribute", tensor.name or attribute.name, tensor
            if attribute.HasField("sparse_tensor"):
                yield from _parts(attribute.sparse_tensor)
            for inner in _graphs(attribute):
                yield from _tensors(inner)


def _parts(sparse: SparseTensorProto) -> Iterator[tuple[str, str, TensorProto]]:
    for tensor in (sparse.values, sparse.indices):
        yield "attribute", sparse.values.name, tensor
