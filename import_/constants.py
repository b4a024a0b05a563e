"""The tensors of a file: initializers, and the values of Constant nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from onnx import AttributeProto, NodeProto, TensorProto, helper

from qonnx_torch.errors import InvalidModelError, UnsupportedModelError, quoted
from qonnx_torch.graphs import is_constant, label
from qonnx_torch.ops import as_python

from .tensors import TensorStore, element_count

__all__ = ["TRAINED_TYPES", "Constant", "constant_value", "is_constant"]

TRAINED_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
"""Element types of initializers that are parameters: floats fine enough for the steps of a training.

The values of narrower ones lie on a grid, which a step leaves; torch has no sum of gradients in most of them.
"""

_MOST_NUMBERS = 1 << 16


@dataclass(slots=True)
class Constant:
    """A tensor of the file: an initializer, or the value of a Constant node.

    Attributes:
        of_node: whether a Constant node has it.
    """

    name: str
    proto: TensorProto
    tensors: TensorStore
    of_node: bool = False
    paths: list[str] = field(default_factory=list)
    _tensor: torch.Tensor | None = None

    def tensor(self) -> torch.Tensor:
        """Returns the tensor, read once."""
        if self._tensor is None:
            self._tensor = self.tensors.tensor(self.proto, self.name)
        return self._tensor

    def numel(self) -> int:
        """Returns the number of elements."""
        return element_count(self.proto.dims)

    def trains(self) -> bool:
        """Returns whether it is a parameter: floats are, but for the single numbers of Constant nodes.

        Those are what a formula has in it (the epsilon of a normalization that is written out, the 0.5 of a
        GELU); exporters make learned scalars initializers.
        """
        return self.proto.data_type in TRAINED_TYPES and not (self.of_node and self.numel() == 1)

    def encoding(self) -> str:
        """Returns the TensorProto field that holds the data."""
        return self.tensors.field(self.proto)

    def python(self) -> Any:
        """Returns the value as Python numbers: one number, or a tuple (of tuples).

        Raises:
            InvalidModelError: they are complex.
            UnsupportedModelError: there are too many of them.
        """
        if self.numel() > _MOST_NUMBERS:
            raise UnsupportedModelError(
                f"its input {quoted(self.name)} has {self.numel()} elements; as a shape, list of axes or the "
                f"like it may have {_MOST_NUMBERS}"
            )
        tensor = self.tensor()
        if tensor.is_complex():
            raise InvalidModelError(f"its input {quoted(self.name)} cannot be complex")
        return as_python(tensor)


_ATTRIBUTE_TYPES = {
    "value": AttributeProto.TENSOR,
    "value_float": AttributeProto.FLOAT,
    "value_floats": AttributeProto.FLOATS,
    "value_int": AttributeProto.INT,
    "value_ints": AttributeProto.INTS,
}


def constant_value(node: NodeProto) -> TensorProto:
    """Returns the tensor of a Constant node.

    Raises:
        InvalidModelError: not exactly one attribute.
        UnsupportedModelError: a string or sparse constant.
    """
    if len(node.attribute) != 1:
        raise InvalidModelError(f"Constant node {label(node)} needs exactly one attribute")
    attribute = node.attribute[0]
    name = node.output[0]
    expected = _ATTRIBUTE_TYPES.get(attribute.name)
    if expected is not None and attribute.type != expected:
        given, wanted = (AttributeProto.AttributeType.Name(t) for t in (attribute.type, expected))
        raise InvalidModelError(
            f"Constant node {label(node)}: its attribute {attribute.name} is of type {given}, not {wanted}"
        )
    if attribute.name == "value":
        tensor: TensorProto = attribute.t
        return tensor
    number = {"value_float": TensorProto.FLOAT, "value_int": TensorProto.INT64}.get(attribute.name)
    if number is not None:
        return helper.make_tensor(
            name, number, (), [attribute.f if attribute.name == "value_float" else attribute.i]
        )
    numbers = {"value_floats": TensorProto.FLOAT, "value_ints": TensorProto.INT64}.get(attribute.name)
    if numbers is not None:
        values = list(attribute.floats if attribute.name == "value_floats" else attribute.ints)
        return helper.make_tensor(name, numbers, (len(values),), values)
    raise UnsupportedModelError(f"Constant node {label(node)}: {attribute.name} is not supported")
