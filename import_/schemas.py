"""Nodes against the schemas of the onnx package: what the rest of the importer may rely on."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from qonnx_torch.dtypes import element_type_name, element_type_of
from qonnx_torch.element_types import ElementTypes, element_type
from qonnx_torch.errors import InvalidModelError, quoted, shortened
from qonnx_torch.registry import REGISTRY

__all__ = ["check_outputs", "check_schema", "check_types"]


_NUMERIC = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED, TensorProto.STRING}


@dataclass(frozen=True, slots=True)
class _Input:
    """An input of a schema.

    Attributes:
        name: what it is called.
        types: its element types; empty where it may have any.
        variable: equal in inputs that must have the same type; empty where there are none.
    """

    name: str
    types: frozenset[int]
    variable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Schema:
    inputs: range
    outputs: range
    attribute_types: Mapping[str, int]
    formal: tuple[_Input, ...]


def check_schema(node: NodeProto, domain: str, version: int) -> None:
    """Refuses a node that its operator's schema, in the file's operator set, does not allow.

    The types of attributes, the least number of inputs and the number of outputs are checked before older
    forms are rewritten; all else is checked on the newest form.

    Raises:
        InvalidModelError: the rule, and what the node has.
    """
    if not node.output:
        raise InvalidModelError(f"{_called(node, domain, version)} gives nothing")
    names = Counter(attribute.name for attribute in node.attribute)
    for name, count in names.items():
        if count > 1:
            called = _called(node, domain, version)
            raise InvalidModelError(f"{called}: its attribute {quoted(name)} is given {count} times")
    schema = _schema(node.op_type, version, domain)
    if schema is None:
        return
    for attribute in node.attribute:
        expected = schema.attribute_types.get(attribute.name)
        if expected is not None and attribute.type != expected and not attribute.ref_attr_name:
            given, wanted = (AttributeProto.AttributeType.Name(t) for t in (attribute.type, expected))
            raise InvalidModelError(
                f"{_called(node, domain, version)}: its attribute {quoted(attribute.name)} is of type "
                f"{given}, not {wanted}"
            )
    least, most = schema.inputs.start, schema.inputs.stop - 1
    if len(node.input) < least:
        raise InvalidModelError(
            f"{_called(node, domain, version)} has {len(node.input)} inputs instead of "
            f"{least if least == most else f'{least} to {most}'}"
        )
    if len(node.output) not in schema.outputs:
        least, most = schema.outputs.start, schema.outputs.stop - 1
        raise InvalidModelError(
            f"{_called(node, domain, version)} has {len(node.output)} outputs instead of "
            f"{least if least == most else f'{least} to {most}'}"
        )


def check_types(node: NodeProto, domain: str, version: int, types: ElementTypes) -> None:
    """Refuses a node with inputs of element types that its schema does not allow, as far as they are known.

    What a newer version of the operator allows is allowed: exporters are often ahead of the operator set that
    they name.

    Raises:
        InvalidModelError: the input, its type, and those that it may have.
    """
    schema = _schema(node.op_type, version, domain)
    if schema is None or not schema.formal:
        return
    bound: dict[tuple[str, ...], tuple[int, str]] = {}
    last = len(schema.formal) - 1
    for i, name in enumerate(node.input):
        given = types[name] if name else None
        if given is None or given not in _NUMERIC:  # not known, or refused for itself
            continue
        formal = schema.formal[min(i, last)]
        if formal.types and given not in formal.types:
            wanted = " or ".join(element_type_name(t) for t in sorted(formal.types))
            raise InvalidModelError(
                f"{_called(node, domain, version)}: its input {quoted(name)} ({formal.name}) is of type "
                f"{element_type_name(given)}, not {wanted}"
            )
        if not formal.variable:
            continue
        other, first = bound.setdefault(formal.variable, (given, name))
        if other != given:
            raise InvalidModelError(
                f"{_called(node, domain, version)}: its inputs {quoted(first)} and {quoted(name)} are of the "
                f"types {element_type_name(other)} and {element_type_name(given)}; they must have the same"
            )


def check_outputs(graph: GraphProto, types: ElementTypes) -> None:
    """Refuses outputs of a graph that are declared with another element type than they have.

    Raises:
        InvalidModelError: the output, the type that is declared and the one that is computed.
    """
    for value in graph.output:
        declared, computed = element_type_of(value.type), types[value.name]
        if declared and computed and declared != computed:
            raise InvalidModelError(
                f"graph output {quoted(value.name)} is declared as {element_type_name(declared)}; "
                f"it is of type {element_type_name(computed)}"
            )


def _called(node: NodeProto, domain: str, version: int) -> str:
    operator = REGISTRY.find(domain, node.op_type, version)
    return shortened(f"{domain or 'ai.onnx'}::{node.op_type}") if operator is None else str(operator)


def _number(kind: Any) -> int:
    """Returns the number that an AttributeProto has for a type of attribute."""
    return int(kind.value)


@functools.cache
def _schema(op_type: str, version: int, domain: str) -> _Schema | None:
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    return _Schema(
        range(schema.min_input, schema.max_input + 1),
        range(schema.min_output, schema.max_output + 1),
        {name: _number(attribute.type) for name, attribute in schema.attributes.items()},
        _formal_inputs(schema),
    )


def _formal_inputs(schema: onnx.defs.OpSchema) -> tuple[_Input, ...]:
    """Returns the inputs of a schema, as this or a newer version has them."""
    versions = [onnx.defs.get_schema(schema.name, schema.domain)]
    while versions[-1].since_version > schema.since_version:
        versions.append(onnx.defs.get_schema(schema.name, versions[-1].since_version - 1, schema.domain))
    types: dict[str, set[int]] = {formal.name: set() for formal in schema.inputs}
    spelled: dict[str, list[str]] = {formal.name: [] for formal in schema.inputs}
    for version in versions:
        allowed = {c.type_param_str: c.allowed_type_strs for c in version.type_constraints}
        for formal in version.inputs:
            if formal.name in types:
                types[formal.name].update(map(element_type, allowed.get(formal.type_str, [formal.type_str])))
                spelled[formal.name].append(formal.type_str if formal.is_homogeneous else "")
    return tuple(
        _Input(
            name,
            frozenset() if 0 in types[name] else frozenset(types[name]),
            () if "" in spelled[name] else tuple(spelled[name]),
        )
        for name in types
    )
