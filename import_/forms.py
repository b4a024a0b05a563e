"""What a NodeProto says, as Python values, checked against the operator's signature."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from onnx import AttributeProto, NodeProto, helper

from qonnx_torch.errors import InvalidModelError, UnsupportedModelError, quoted
from qonnx_torch.ops import as_python
from qonnx_torch.registry import Operator
from qonnx_torch.type_names import type_name

from .attribute_values import check_values
from .legacy import NodeForm
from .tensors import tensor_of

__all__ = ["attributes_of", "check_form"]


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """Returns a node's attributes as Python values."""
    values: dict[str, Any] = {}
    for attribute in node.attribute:
        kind = attribute.type
        if kind == AttributeProto.GRAPH:
            continue  # a module of its own, see the builder
        if kind in (AttributeProto.GRAPHS, AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS):
            name = AttributeProto.AttributeType.Name(kind)
            raise UnsupportedModelError(f"attribute {quoted(attribute.name)} ({name}) is not supported")
        if attribute.ref_attr_name:
            raise InvalidModelError(f"attribute {quoted(attribute.name)} refers to a function's attribute")
        value = helper.get_attribute_value(attribute)
        if kind == AttributeProto.TENSOR:
            tensor = tensor_of(value, attribute.name)
            number = tensor.item() if tensor.numel() == 1 else as_python(tensor)
            value = (value.data_type, number)
        elif kind == AttributeProto.TYPE_PROTO:
            value = type_name(value)
        elif isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif kind in (AttributeProto.INTS, AttributeProto.FLOATS):
            value = tuple(value)
        elif kind == AttributeProto.STRINGS:
            value = tuple(v.decode("utf-8", "replace") for v in value)
        values[attribute.name] = value
    return values


def check_form(form: NodeForm, operator: Operator, *, strict: bool) -> None:
    """Refuses unknown or missing attributes and a wrong number of inputs."""
    unknown = sorted(set(form.attributes) - set(operator.attributes))
    if unknown:
        text = f"{operator} has no attribute {quoted(unknown[0])} (it has {sorted(operator.attributes)})"
        if strict:
            raise InvalidModelError(text)
        warnings.warn(f"{text}; ignored", stacklevel=2)
        for name in unknown:
            del form.attributes[name]
    for name, value in form.attributes.items():
        expected = operator.attribute_types[name]
        if not _fits(value, expected):
            shown = repr(value) if len(repr(value)) <= 100 else f"{repr(value)[:100]}..."
            raise InvalidModelError(f"{operator}: its attribute {name!r} is {shown}, not {expected}")
    check_values(operator, form.attributes)
    missing = sorted(operator.required - set(form.attributes) - operator.subgraphs)
    if missing:
        raise InvalidModelError(f"{operator} needs the attribute {missing[0]!r}")
    least = operator.needed_inputs
    if len(form.inputs) < least or (len(form.inputs) > len(operator.inputs) and not operator.variadic):
        raise InvalidModelError(
            f"{operator} has {len(form.inputs)} inputs instead of "
            f"{least if least == len(operator.inputs) else f'{least} to {len(operator.inputs)}'}"
        )
    for name, value in zip(operator.inputs[:least], form.inputs, strict=False):
        if value is None and not _may_be_absent(operator, name):
            raise InvalidModelError(f"{operator}: its input {name} cannot be left out")


def _may_be_absent(operator: Operator, name: str) -> bool:
    """Whether an input without a default may be absent all the same, with others behind it."""
    annotation = inspect.signature(operator.target).parameters[name].annotation
    return str(annotation).endswith("| None")


def _fits(value: Any, expected: str) -> bool:
    """Whether an attribute's value has the type that the operator's signature spells."""
    if expected.startswith("Sequence"):
        element = {"Sequence[int]": int, "Sequence[float]": float, "Sequence[str]": str}[expected]
        return isinstance(value, tuple) and all(type(v) is element for v in value)
    if expected.startswith("tuple"):  # a tensor of one element: its type and number
        return isinstance(value, tuple) and len(value) == 2
    kinds = {"int": int, "bool": int, "float": float, "str": str, "TypeName": str}
    return type(value) is kinds.get(expected)  # of the others, graphs, it is none
