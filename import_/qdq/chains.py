"""Constants that a file computes from constants: Identity, Cast, Reshape, Exp, ... of an initializer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnx import NodeProto
from torch import Tensor

from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.graphs import subgraphs
from qonnx_torch.ops import as_python
from qonnx_torch.registry import REGISTRY, Operator

from ..following import SMALL, computed
from ..forms import attributes_of, check_form
from ..legacy import Aligned, Literal, NodeForm, modernize

__all__ = ["MOST_ELEMENTS", "made_of_constants"]

MOST_ELEMENTS = 1 << 16
"""Constants up to this many elements are followed through computations: a scale per row of a large table."""


def made_of_constants(
    node: NodeProto, version: int, constant: Callable[[str], Tensor | None]
) -> tuple[Tensor | None, ...] | None:
    """Returns what an ai.onnx node makes of constants; None where not all its inputs are such, or it fails.

    Args:
        node: the node.
        version: the ai.onnx operator set.
        constant: gives the value of a constant, None of any other value.
    """
    if node.domain not in ("", "ai.onnx") or subgraphs(node):
        return None
    try:
        form = NodeForm(node.op_type, [n or None for n in node.input], attributes_of(node), len(node.output))
        modernize(form, version)
        operator = REGISTRY.find("", form.op_type, version)
        if operator is None or REGISTRY.module_of(operator) is not None:
            return None
        check_form(form, operator, strict=True)
        args = _arguments(form, operator, constant)
    except QonnxTorchError:
        return None  # the builder says what is wrong with it
    if args is None:
        return None
    sizes = [a for slot, a in zip(operator.inputs, args, strict=False) if slot in operator.static]
    sizes += [value for name, value in form.attributes.items() if name != "value"]
    result = computed(operator.target, args, form.attributes, sizes, MOST_ELEMENTS)
    results = result if isinstance(result, tuple) else (result,)
    return tuple(r if isinstance(r, Tensor) else None for r in results)


def _arguments(
    form: NodeForm, operator: Operator, constant: Callable[[str], Tensor | None]
) -> list[Any] | None:
    slots = list(operator.inputs)
    if operator.variadic:
        slots = slots[:-1] + [slots[-1]] * (len(form.inputs) - len(slots) + 1)
    args: list[Any] = []
    for slot, value in zip(slots, form.inputs, strict=False):
        if isinstance(value, Aligned):
            return None
        if value is None or isinstance(value, Literal):
            args.append(None if value is None else value.value)
            continue
        found = constant(value)
        if found is None or found.numel() > (SMALL if slot in operator.static else MOST_ELEMENTS):
            return None
        args.append(as_python(found) if slot in operator.static else found)
    return args if any(isinstance(a, torch.Tensor) for a in args) else None
