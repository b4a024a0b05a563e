"""The tensors of a file: small ones in their messages, the data of large ones where they lie until wanted."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from onnx import TensorProto, numpy_helper

from qonnx_torch.dtypes import PACKED_TYPES, element_bits, element_type_name, from_array, torch_dtype
from qonnx_torch.errors import InvalidModelError, UnsupportedModelError, quoted

from .data import Copied, Data, InMessage, InTensor, data_field

__all__ = [
    "LARGE",
    "TensorStore",
    "byte_count",
    "element_count",
    "tensor_of",
]

LARGE = 1 << 16
"""Tensors from this many bytes on are not carried about in messages: protobuf copies them at every turn."""


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


@dataclass(slots=True)
class _Entry:
    data: Data | InMessage
    tensor: torch.Tensor | None = None


_FREE = 1 << 26
_TIMES = 16


class TensorStore:
    """The data of large tensors. The messages have none, but say by `external_data` which entry is theirs.

    So messages may be copied and changed at no cost, while each tensor is made once, from the data where
    they lie. Only what a store has handed out is looked up in it: the key is not to be guessed.

    It also counts how much is copied: a few bytes of a file can ask for the same data a thousand times.

    Attributes:
        copied: how many bytes have been copied from others that stay.
    """

    def __init__(self) -> None:
        self.copied = 0
        self._prefix = f"{secrets.token_hex(8)}/"
        self._entries: list[_Entry] = []
        self._read_bytes = 0
        self._size = (-1, 0)  # what `size` found, and of how many entries

    def add_bytes(self, count: int) -> None:
        """Notes so many bytes of a file beside those that this store points to."""
        self._read_bytes += count

    def size(self) -> int:
        """Returns how many bytes the files have, without what is there several times."""
        counted, total = self._size
        if counted != len(self._entries):
            data = (entry.data for entry in self._entries)
            total = sum(d.length for d in data if not isinstance(d, (Copied, InTensor)))
            self._size = (len(self._entries), total)
        return total + self._read_bytes

    def room(self) -> int:
        """Returns how many bytes what is made of the files may take beside them."""
        return _FREE + _TIMES * self.size()

    def charge(self, count: int, what: str) -> None:
        """Notes a copy of so many bytes of what there is already.

        Raises:
            UnsupportedModelError: the copies are more than 64 MiB and 16 times the files.
        """
        self.copied += count
        if self.copied > _FREE and self.copied > self.room():
            raise UnsupportedModelError(
                f"{what} is another copy of what the model has once; so many copies would take more than "
                f"{self.room() >> 20} MiB, which is {_FREE >> 20} MiB and {_TIMES} times the model"
            )

    def again(self, proto: TensorProto, what: str) -> None:
        """Makes a message that has been copied point to a tensor of its own, with the same data."""
        entry = self._find(proto)
        if entry is not None and not isinstance(entry.data, InMessage):
            self.charge(entry.data.length, what)
            proto.external_data[0].value = self.pointer(Copied(entry.data)).external_data[0].value

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
