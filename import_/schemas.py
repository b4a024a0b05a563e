"""Nodes against the schemas of the onnx package: what the rest of the importer may rely on."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import AttributeProto, NodeProto

from qonnx_torch.errors import InvalidModelError, quoted, shortened
from qonnx_torch.registry import REGISTRY

__all__ = ["check_schema"]


@dataclass(frozen=True, slots=True)
class _Schema:
    inputs: range
    outputs: range
    attribute_types: Mapping[str, int]


def check_schema(node: NodeProto, domain: str, version: int) -> None:
    """Refuses a node that its operator's schema, in the file's operator set, does not allow.

    The types of attributes, the least number of inputs and the number of outputs are checked before older
    forms are rewritten; all else is checked on the newest form.

    Raises:
        InvalidModelError: the rule, and what the node has.
    """
    if not node.output:
        raise InvalidModelError(f"{_called(node, domain, version)} gives nothing")
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
    )
