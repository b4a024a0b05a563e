"""ONNX element types of values, as far as the operators' schemas tell them.

A graph's torch dtypes show when it runs; what they cannot show is which values are narrower than a byte, and
which integer type a shape held as Python ints has.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import TensorProto

__all__ = ["ElementTypes", "element_type"]

_RESULT_ATTRIBUTES = ("to", "output_dtype", "dtype")


class ElementTypes:
    """Value name -> ONNX element type. Values whose type no schema tells are not in it."""

    def __init__(self, known: ElementTypes | None = None) -> None:
        self._types: dict[str, int] = {} if known is None else dict(known._types)

    def __getitem__(self, name: str) -> int | None:
        return self._types.get(name)

    def __setitem__(self, name: str, element_type: int | None) -> None:
        if element_type:
            self._types[name] = element_type

    def infer(
        self,
        op_type: str,
        version: int,
        inputs: Sequence[str],
        outputs: Sequence[str],
        attributes: Mapping[str, Any],
        domain: str = "",
    ) -> None:
        """Notes the types of the outputs of a node of ai.onnx, or of another domain that has schemas."""
        asked = next((attributes[a] for a in _RESULT_ATTRIBUTES if a in attributes), None)
        for i, (name, rule) in enumerate(zip(outputs, _rules(op_type, version, domain), strict=False)):
            if not name:
                continue
            if isinstance(rule, int):
                self[name] = rule
            elif i == 0 and type(asked) is int and asked:
                self[name] = asked
            else:
                known = (self._types.get(inputs[j]) for j in rule if j < len(inputs))
                self[name] = next((t for t in known if t), None)


@functools.cache
def _rules(op_type: str, version: int, domain: str) -> tuple[int | tuple[int, ...], ...]:
    """Returns for each output its only element type, or the positions of the inputs that have the same."""
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return ()
    allowed = {c.type_param_str: list(c.allowed_type_strs) for c in schema.type_constraints}
    rules: list[int | tuple[int, ...]] = []
    for output in schema.outputs:
        alike = [formal.is_homogeneous and formal.type_str == output.type_str for formal in schema.inputs]
        same = tuple(i for i, is_alike in enumerate(alike) if is_alike)
        types = {element_type(t) for t in allowed.get(output.type_str, [output.type_str])}
        only = types.pop() if len(types) == 1 else 0
        rules.append(only or same)
    return tuple(rules)


_BY_NAME: dict[str, int] = dict(TensorProto.DataType.items())


def element_type(spelled: str) -> int:
    """Returns the element type of `tensor(int64)`, `seq(tensor(float))`; 0 of anything else."""
    return _BY_NAME.get(spelled.rpartition("(")[2].rstrip(")").upper(), 0)
