"""A QONNX node with what is known there, and the checks of its attributes and inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto

from .pieces import FLOAT, ROUNDING
from .scopes import Scope

__all__ = ["Site"]

_SYNONYMS: Final = {"HALF_EVEN": "ROUND", "ROUND_TO_ZERO": "DOWN"}
"""Rounding modes that are others under a second name."""


@dataclass(frozen=True, slots=True)
class Site:
    """A QONNX node and the scope it stands in."""

    node: onnx.NodeProto
    scope: Scope

    def error(self, problem: str) -> ValueError:
        """Returns an error that names the node, its operator and domain."""
        name = self.node.name or (self.node.output[0] if self.node.output else "")
        return ValueError(f"{self.node.op_type} node '{name}' (domain '{self.node.domain}'): {problem}")

    def attribute(self, name: str) -> Any:
        """Returns the value of an attribute, or None if absent."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                if attribute.ref_attr_name:
                    raise self.error(
                        f"attribute '{name}' refers to a function's attribute, but must be known here"
                    )
                return onnx.helper.get_attribute_value(attribute)
        return None

    def flag(self, name: str, default: int | None = None) -> bool:
        """Returns an attribute that is 0 or 1."""
        value = self.attribute(name)
        if value is None:
            value = default
        if value not in (0, 1):
            found = "is missing" if value is None else f"is {value!r}"
            raise self.error(f"attribute '{name}' {found}, but must be 0 or 1")
        return bool(value)

    def mode(self, default: str) -> str:
        """Returns the rounding mode in capitals, synonyms resolved."""
        value = self.attribute("rounding_mode")
        written = default if value is None else value.decode("utf-8", "replace")
        mode = _SYNONYMS.get(written.upper(), written.upper())
        if mode not in ROUNDING:
            allowed = ", ".join([*ROUNDING, *_SYNONYMS])
            raise self.error(f"rounding_mode '{written}' is unknown; use one of {allowed}")
        return mode

    def need_inputs(self, *counts: int) -> int:
        """Returns the number of inputs after checking it."""
        inputs = list(self.node.input)
        if len(inputs) not in counts or not all(inputs):
            allowed = " or ".join(map(str, counts))
            raise self.error(f"has inputs {inputs}, but needs {allowed}, all of them given")
        return len(inputs)

    def types(self, *positions: int) -> tuple[np.dtype[Any], ...]:
        """Returns the NumPy types of some inputs; float32 for unknown ones and types NumPy lacks."""
        known = (self.scope.known(self.node.input[position]) for position in positions)
        dtypes = (onnx.helper.tensor_dtype_to_np_dtype(k.elem_type if k else FLOAT) for k in known)
        return tuple(dtype if dtype.kind in "iubf" else np.dtype(np.float32) for dtype in dtypes)

    def rank(self, position: int = 0) -> int | None:
        """Returns the rank of an input, if known."""
        known = self.scope.known(self.node.input[position])
        return known.rank if known else None

    def result_type(self) -> int:
        """Returns the declared element type of the output if it is a floating-point type, else float32."""
        declared = self.scope.declared(self.node.output[0])
        floats = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
        return declared.elem_type if declared and declared.elem_type in floats else FLOAT
