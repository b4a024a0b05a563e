"""A serialized model without the data of its large tensors, taken from the file without reading those.

Protobuf would copy the data several times (the bytes, the message, each access to a field). So the parts of
the file that lead to large tensors are walked here, and what is left is parsed.

    ModelProto.graph = 7           GraphProto.node = 1         GraphProto.initializer = 5
    NodeProto.attribute = 5        AttributeProto.t = 5        AttributeProto.g = 6, .graphs = 11
    TensorProto.data_type = 2      .float_data = 4             .raw_data = 9             .double_data = 10

Source: onnx.proto, IR version 13; https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from onnx import TensorProto

from .tensors import LARGE

__all__ = ["outline"]

_Read = Callable[[int, int], bytes]
_Found = Callable[[int, int, str], bytes]


class _Kind(Enum):
    MODEL = "model"
    GRAPH = "graph"
    NODE = "node"
    ATTRIBUTE = "attribute"
    TENSOR = "tensor"


_CHILDREN: dict[_Kind, dict[int, _Kind]] = {
    _Kind.MODEL: {7: _Kind.GRAPH},
    _Kind.GRAPH: {1: _Kind.NODE, 5: _Kind.TENSOR},
    _Kind.NODE: {5: _Kind.ATTRIBUTE},
    _Kind.ATTRIBUTE: {5: _Kind.TENSOR, 6: _Kind.GRAPH, 11: _Kind.GRAPH},
}
_DATA = {
    9: "raw_data",
    4: "float_data",
    10: "double_data",
}  # packed floats are raw bytes; integers are not, and stay
_DATA_OF_TYPE = {4: TensorProto.FLOAT, 10: TensorProto.DOUBLE}
_OTHER_DATA = {5, 6, 7, 11, 13, 14}  # integers, strings; external data
_DATA_TYPE = 2
_MOST_FIELDS = 256  # of a tensor; one that has more has data that are not packed
_DEEPEST = 100  # messages within messages, as in protobuf
_BLOCK = 1 << 20


def outline(read: _Read, size: int, found: _Found) -> bytes | None:
    """Returns a serialized model without its large tensors' data; None where it is no well-formed protobuf.

    Args:
        read: gives the bytes from a start to an end (fewer at the end of the file).
        size: of the serialized model (bytes).
        found: called with start, end and field of data that are left out; gives what goes in their place.
    """
    try:
        return _Walk(read, found).message(_Kind.MODEL, 0, size, 0)
    except (_MalformedError, IndexError):
        return None


class _MalformedError(Exception):
    pass


class _Walk:
    def __init__(self, read: _Read, found: _Found) -> None:
        self._read = read
        self._found = found
        self._block = b""
        self._start = 0  # where the block begins

    def _varint(self, position: int) -> tuple[int, int]:
        """Returns a number and where it ends."""
        i = position - self._start
        if not 0 <= i <= len(self._block) - 10:  # ten bytes at most
            self._block, self._start, i = self._read(position, position + _BLOCK), position, 0
        value = shift = 0
        while True:
            byte = self._block[i]
            value |= (byte & 0x7F) << shift
            i += 1
            if byte < 0x80:
                return value, self._start + i
            shift += 7
            if shift > 63:
                raise _MalformedError

    def _field(self, position: int, end: int) -> tuple[int, int, int, int]:
        """Returns a field's number, its wire type (2: bytes), where its bytes begin, and where it ends."""
        tag, body = self._varint(position)
        number, wire = tag >> 3, tag & 7
        if wire == 2:
            length, body = self._varint(body)
            after = body + length
        elif wire == 0:
            _, after = self._varint(body)
        elif wire in (1, 5):
            after = body + (8 if wire == 1 else 4)
        else:
            raise _MalformedError
        if after > end:
            raise _MalformedError
        return number, wire, body, after

    def message(self, kind: _Kind, start: int, end: int, depth: int) -> bytes:
        """Returns a message without the data of the large tensors in it."""
        if depth > _DEEPEST:
            raise _MalformedError
        if kind is _Kind.TENSOR:
            return self._tensor(start, end)
        parts: list[bytes] = []
        kept = position = start
        while position < end:
            number, wire, body, after = self._field(position, end)
            child = _CHILDREN[kind].get(number)
            if child is not None and wire == 2 and after - body >= LARGE:
                inner = self.message(child, body, after, depth + 1)
                parts += [self._read(kept, position), _encoded(number << 3 | 2), _encoded(len(inner)), inner]
                kept = after
            position = after
        return b"".join([*parts, self._read(kept, end)])

    def _tensor(self, start: int, end: int) -> bytes:
        """Returns a tensor without its data, where it has one piece of them that is large; else as it is."""
        pieces: list[tuple[int, int, int, int]] = []
        data_type, position = 0, start
        for _ in range(_MOST_FIELDS):
            if position >= end:
                break
            number, wire, body, after = self._field(position, end)
            if number == _DATA_TYPE and wire == 0:
                data_type = self._varint(body)[0]
            elif number in _DATA:
                pieces.append((number, position, body, after))
            elif number in _OTHER_DATA:
                return self._read(start, end)
            position = after
        if position < end or len(pieces) != 1:
            return self._read(start, end)
        number, position, body, after = pieces[0]
        if after - body < LARGE or _DATA_OF_TYPE.get(number, data_type) != data_type:
            return self._read(start, end)
        replacement = self._found(body, after, _DATA[number])
        return self._read(start, position) + self._read(after, end) + replacement


def _encoded(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])
