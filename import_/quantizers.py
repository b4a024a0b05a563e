"""A quantizer node as a module that owns its scale, zero point and bit width."""

from __future__ import annotations

from typing import Any

import torch
from onnx import NodeProto
from torch import fx

from qonnx_torch.errors import quoted
from qonnx_torch.names import identifier
from qonnx_torch.registry import Operator

from .legacy import NodeForm
from .scope import Scope

__all__ = ["quantizer_call"]


def quantizer_call(
    scope: Scope,
    named: dict[str, tuple[type[Any], dict[str, Any]]],
    form: NodeForm,
    operator: Operator,
    module_class: type[Any],
    proto: NodeProto,
) -> fx.Node:
    """Returns the call of a quantizer's module, which it adds to the scope.

    Args:
        scope: the graph under construction.
        named: path -> class and attributes of the quantizers that stand at the path that their constants are
            called after, and own all of them.
        form: the node's inputs and attributes.
        operator: what it computes.
        module_class: the quantizer's class.
        proto: the node.
    """
    common = _common_path(scope, form, module_class)
    x = scope.tensor(form.inputs[0])
    owns_all = all(value in scope.constants for value in form.inputs[1:])
    if owns_all and common is not None and named.get(common) == (module_class, form.attributes):
        return scope.graph.call_module(common, (x,))
    if common is not None and not scope.is_free(common):
        common = None
    name = common or identifier(proto.name or proto.output[0], scope.module_names, operator.op_type)
    owned: dict[str, torch.Tensor | None] = {}
    args: list[Any] = []
    for parameter, value in zip(module_class.parameter_names, form.inputs[1:], strict=True):
        constant = scope.quantizer_constant(value, f"{name}.{parameter}")
        if constant is not None:
            tensor = constant.tensor()
            constant.tensors.charge(tensor.nbytes, f"its {parameter} {quoted(constant.name)}")
            owned[parameter] = tensor.clone()
            args.append(None)
        else:
            owned[parameter] = None
            args.append(scope.tensor(value))
    while args and args[-1] is None:
        args.pop()
    owner, _, leaf = name.rpartition(".")
    scope.module(owner).add_module(leaf, module_class(**owned, **form.attributes))
    if common and not args:
        named[common] = (module_class, form.attributes)
    return scope.graph.call_module(name, (x, *args))


def _common_path(scope: Scope, form: NodeForm, module_class: type[Any]) -> str | None:
    """Returns P where all constants of a quantizer are called P.scale, P.zero_point, ...; None else.

    So they are called in what this package exports of a module of one's own, whose `state_dict` keys come
    back with it; several nodes of one P are one quantizer, called several times.
    """
    names = zip(module_class.parameter_names, form.inputs[1:], strict=True)
    own = {p: scope.paths[v] for p, v in names if isinstance(v, str) and v in scope.constants}
    found = {path.removesuffix(f".{p}") if path.endswith(f".{p}") else "" for p, path in own.items()}
    return found.pop() if len(found) == 1 and "" not in found else None
