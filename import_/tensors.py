"""The tensors of a file: small ones in their messages, the data of large ones where they lie until wanted."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from onnx import TensorProto, numpy_helper

from qonnx_torch.dtypes import PACKED_TYPES, element_bits, element_type_name, from_array, torch_dtype
from qonnx_torch.errors import InvalidModelError, UnsupportedModelError, quoted
from qonnx_torch.provenance import TENSOR_ENCODINGS

__all__ = [
    "LARGE",
    "Data",
    "InBytes",
    "InFile",
    "InMessage",
    "InTensor",
    "Mapped",
    "TensorStore",
    "byte_count",
    "data_field",
    "element_count",
    "identity",
    "tensor_of",
]

LARGE = 1 << 16
"""Tensors from this many bytes on are not carried about in messages: protobuf copies them at every turn."""


def data_field(proto: TensorProto) -> str:
    """Returns the field of a message that holds its data."""
    return next((f for f in TENSOR_ENCODINGS if getattr(proto, f)), "raw_data")


def element_count(dims: Iterable[int]) -> int:
    """Returns the number of elements of a shape; 2**63 where there are more, which no memory holds."""
    sizes = list(dims)
    count = 0 if 0 in sizes else 1
    for size in sizes:
        count = min(count * size, _TOO_MANY)
        if count in (0, _TOO_MANY):
            break
    return count


_TOO_MANY = 1 << 63


def byte_count(proto: TensorProto, name: str) -> int:
    """Returns how many bytes the data of a tensor are as raw bytes: what its shape and type ask for.

    Raises:
        InvalidModelError: a negative dimension, or more elements than there can be.
        UnsupportedModelError: the element type is not supported.
    """
    try:
        bits = element_bits(proto.data_type)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"tensor {quoted(name)}: {error}") from None
    if any(d < 0 for d in proto.dims):
        raise InvalidModelError(f"tensor {quoted(name)}: negative dimension in {_shape(proto)}")
    elements = element_count(proto.dims)
    if elements == _TOO_MANY:
        raise InvalidModelError(f"tensor {quoted(name)}: {_shape(proto)} are more elements than there can be")
    return -(-elements * bits // 8)


def tensor_of(proto: TensorProto, name: str = "") -> torch.Tensor:
    """Returns a TensorProto that holds its data as a torch tensor that owns its memory.

    Raises:
        InvalidModelError: the data do not fit the declared shape and type, or are not in the message.
        UnsupportedModelError: the element type is not supported.
    """
    name = name or proto.name
    expected = byte_count(proto, name)
    if proto.data_location == TensorProto.EXTERNAL:
        raise InvalidModelError(f"tensor {quoted(name)}: its data are in another file")
    if proto.HasField("raw_data") and len(proto.raw_data) != expected:
        raise _misfit(proto, name, f"{len(proto.raw_data)} bytes instead of {expected}")
    try:
        array = numpy_helper.to_array(proto)
    except (ValueError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise _misfit(proto, name, str(error).partition("\n")[0]) from None
    if array.dtype == np.bool_:
        array = array.view(np.uint8) != 0  # torch relies on there being 0 and 1 only
    try:
        return from_array(array, proto.data_type)
    except RuntimeError as error:  # without elements, but with dimensions whose strides overflow
        raise _misfit(proto, name, str(error).partition("\n")[0]) from None


def _shape(proto: TensorProto) -> str:
    dims = list(proto.dims[:65])
    return str(dims) if len(dims) <= 64 else f"{str(dims[:8])[:-1]}, ... ({len(proto.dims)} dimensions)]"


def _misfit(proto: TensorProto, name: str, reason: str) -> InvalidModelError:
    return InvalidModelError(
        f"tensor {quoted(name)}: its data do not fit shape {_shape(proto)} and type "
        f"{element_type_name(proto.data_type)} ({reason})"
    )


class Data(Protocol):
    """Where the data of a tensor lie. They are little-endian, except in a message."""

    @property
    def field(self) -> str:
        """The TensorProto field that they are written in."""

    @property
    def length(self) -> int:
        """Their number of bytes."""

    def content(self) -> bytes:
        """Returns a copy of them."""

    def tensor(self, dtype: torch.dtype, count: int) -> torch.Tensor:
        """Returns them as `count` elements of a type with whole bytes."""


@dataclass(frozen=True, slots=True)
class InBytes:
    """In a serialized model that the caller has.

    Attributes:
        whole: the serialized model.
        offset: of the data, in bytes.
        length: of the data, in bytes.
        field: the TensorProto field that they are written in.
    """

    whole: bytes
    offset: int
    length: int
    field: str = "raw_data"

    def content(self) -> bytes:
        """Returns a copy of the data."""
        return self.whole[self.offset : self.offset + self.length]

    def tensor(self, dtype: torch.dtype, count: int) -> torch.Tensor:
        """Returns a copy of the data."""
        result = torch.empty(count, dtype=dtype)
        part = memoryview(self.whole)[self.offset : self.offset + self.length]
        result.view(torch.uint8).numpy()[:] = np.frombuffer(part, np.uint8)
        return result


Identity = tuple[int, int, int, int]


def identity(status: os.stat_result) -> Identity:
    """Returns what tells a file from another, and from itself after a change."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@dataclass(frozen=True, slots=True)
class InFile:
    """In a model file, from where they are read into the tensor at once.

    Attributes:
        path: the file.
        state: its identity when it was opened first.
        offset: of the data, in bytes.
        length: of the data, in bytes.
        field: the TensorProto field that they are written in.
    """

    path: Path
    state: Identity
    offset: int
    length: int
    field: str = "raw_data"

    def content(self) -> bytes:
        """Returns a copy of the data."""
        buffer = bytearray(self.length)
        self._read(memoryview(buffer))
        return bytes(buffer)

    def tensor(self, dtype: torch.dtype, count: int) -> torch.Tensor:
        """Returns a copy of the data."""
        result = torch.empty(count, dtype=dtype)
        self._read(result.view(torch.uint8).numpy().data)
        return result

    def _read(self, buffer: memoryview) -> None:
        try:
            with self.path.open("rb", buffering=0) as file:
                same = identity(os.fstat(file.fileno())) == self.state
                file.seek(self.offset)
                while same and buffer:
                    count = file.readinto(buffer)
                    same, buffer = bool(count), buffer[count:]
        except OSError as error:
            raise InvalidModelError(f"{self.path}: cannot be read ({error.strerror})") from None
        if not same:
            raise InvalidModelError(f"{self.path}: changed while it was being read")


@dataclass(frozen=True, slots=True)
class Mapped:
    """In a file beside the model, mapped into memory: read when touched, copied where written to.

    Attributes:
        file: the whole file as uint8, mapped privately.
        offset: of the data, in bytes.
        length: of the data, in bytes.
    """

    file: torch.Tensor
    offset: int
    length: int
    field: str = "raw_data"

    def content(self) -> bytes:
        """Returns a copy of the data."""
        return self.file[self.offset : self.offset + self.length].numpy().tobytes()

    def tensor(self, dtype: torch.dtype, count: int) -> torch.Tensor:
        """Returns the data where they lie, with a storage of their own; unaligned ones are copied."""
        part = self.file[self.offset : self.offset + self.length].numpy()
        if self.offset % dtype.itemsize:
            part = part.copy()
        return torch.frombuffer(part.data, dtype=dtype, count=count)


@dataclass(frozen=True, slots=True)
class InTensor:
    """In a tensor that was computed while importing."""

    data: torch.Tensor
    field: str = "raw_data"

    @property
    def length(self) -> int:
        """Their number of bytes."""
        return self.data.nbytes

    def content(self) -> bytes:
        """Returns a copy of the data."""
        return self.data.contiguous().view(torch.uint8).numpy().tobytes()

    def tensor(self, dtype: torch.dtype, count: int) -> torch.Tensor:
        """Returns the tensor itself."""
        return self.data.contiguous()


@dataclass(frozen=True, slots=True)
class InMessage:
    """In a message that the caller has."""

    message: TensorProto

    @property
    def field(self) -> str:
        """The TensorProto field that they are written in."""
        return data_field(self.message)


@dataclass(slots=True)
class _Entry:
    data: Data | InMessage
    tensor: torch.Tensor | None = None


class TensorStore:
    """The data of large tensors. The messages have none, but say by `external_data` which entry is theirs.

    So messages may be copied and changed at no cost, while each tensor is made once, from the data where
    they lie. Only what a store has handed out is looked up in it: the key is not to be guessed.
    """

    def __init__(self) -> None:
        self._prefix = f"{secrets.token_hex(8)}/"
        self._entries: list[_Entry] = []

    def pointer(self, data: Data | InMessage) -> TensorProto:
        """Returns the fields of a message whose data are elsewhere."""
        pointer = TensorProto(data_location=TensorProto.EXTERNAL)
        pointer.external_data.add(key="location", value=f"{self._prefix}{len(self._entries)}")
        self._entries.append(_Entry(data))
        return pointer

    def serialized_pointer(self, data: Data) -> bytes:
        """Returns what a serialized message has in the place of its data."""
        serialized: bytes = self.pointer(data).SerializeToString()
        return serialized

    def __contains__(self, proto: TensorProto) -> bool:
        return self._find(proto) is not None

    def _find(self, proto: TensorProto) -> _Entry | None:
        if proto.data_location != TensorProto.EXTERNAL or not proto.external_data:
            return None
        location = proto.external_data[0].value
        known = location.startswith(self._prefix)
        return self._entries[int(location.removeprefix(self._prefix))] if known else None

    def tensor(self, proto: TensorProto, name: str = "") -> torch.Tensor:
        """Returns a message as a torch tensor, wherever its data are. Large ones are made once and shared.

        Raises:
            InvalidModelError: the data do not fit the declared shape and type, or cannot be read any more.
            UnsupportedModelError: the element type is not supported.
        """
        entry = self._find(proto)
        if entry is None:
            return tensor_of(proto, name)
        if entry.tensor is None:
            entry.tensor = self._read(proto, entry.data, name or proto.name)
        return entry.tensor

    def _read(self, proto: TensorProto, data: Data | InMessage, name: str) -> torch.Tensor:
        if isinstance(data, InMessage):
            return tensor_of(data.message, name)
        expected = byte_count(proto, name)
        dtype = torch_dtype(proto.data_type)
        if proto.data_type in PACKED_TYPES or dtype is torch.bool or sys.byteorder == "big":
            inline = TensorProto(data_type=proto.data_type, dims=proto.dims, raw_data=data.content())
            return tensor_of(inline, name)
        if data.length != expected:
            raise _misfit(proto, name, f"{data.length} bytes instead of {expected}")
        return data.tensor(dtype, element_count(proto.dims)).reshape(tuple(proto.dims))

    def field(self, proto: TensorProto) -> str:
        """Returns the TensorProto field that a tensor's data are written in."""
        entry = self._find(proto)
        return data_field(proto) if entry is None else entry.data.field

    def complete(self, proto: TensorProto) -> None:
        """Puts the data back into a message."""
        entry = self._find(proto)
        if entry is None:
            return
        if isinstance(entry.data, InMessage):
            proto.CopyFrom(entry.data.message)
            return
        proto.ClearField("data_location")
        proto.ClearField("external_data")
        content = entry.data.content()
        if entry.data.field == "raw_data":
            proto.raw_data = content
        else:
            kind = np.float32 if entry.data.field == "float_data" else np.float64
            getattr(proto, entry.data.field).extend(np.frombuffer(content, kind))
