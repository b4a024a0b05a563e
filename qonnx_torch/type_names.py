"""ONNX types as the text that the specification writes: `tensor(float)`, `seq(tensor(int64))`."""

from __future__ import annotations

from typing import TypeAlias

from onnx import TensorProto, TypeProto

from qonnx_torch.errors import InvalidModelError, UnsupportedModelError

__all__ = ["TypeName", "type_name", "type_of_name"]

TypeName: TypeAlias = str
"""How a signature spells an attribute that is a type."""

_CONTAINERS = {"seq": "sequence_type", "optional": "optional_type"}
_TENSORS = {"tensor": "tensor_type", "sparse_tensor": "sparse_tensor_type"}


def type_name(proto: TypeProto) -> str:
    """Returns the text of a type, without shapes.

    Raises:
        InvalidModelError: the type is empty.
        UnsupportedModelError: a map or an opaque type.
    """
    kind = proto.WhichOneof("value")
    for name, field in _TENSORS.items():
        if kind == field:
            return f"{name}({TensorProto.DataType.Name(getattr(proto, field).elem_type).lower()})"
    for name, field in _CONTAINERS.items():
        if kind == field:
            return f"{name}({type_name(getattr(proto, field).elem_type)})"
    if kind is None:
        raise InvalidModelError("a type without a value: it must be a tensor, a sequence or an optional")
    raise UnsupportedModelError(f"the type {kind} is not supported")


def type_of_name(name: str) -> TypeProto:
    """Returns the type that a text names: the inverse of `type_name`.

    Raises:
        InvalidModelError: no such type.
    """
    outer, _, rest = name.removesuffix(")").partition("(")
    proto = TypeProto()
    if outer in _CONTAINERS:
        getattr(proto, _CONTAINERS[outer]).elem_type.CopyFrom(type_of_name(rest))
    elif outer in _TENSORS and rest.upper() in TensorProto.DataType.keys():  # noqa: SIM118 (no mapping)
        getattr(proto, _TENSORS[outer]).elem_type = TensorProto.DataType.Value(rest.upper())
    else:
        raise InvalidModelError(f"{name!r} is no type; one is written like 'seq(tensor(float))'")
    return proto
