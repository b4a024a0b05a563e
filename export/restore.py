"""An unchanged graph goes back node for node: the file's skeleton with the module's current tensors."""

from __future__ import annotations

import numpy as np
import torch
from onnx import AttributeProto, ModelProto, helper
from torch import fx

import qonnx_torch.nn as qnn
from qonnx_torch.errors import ExportError
from qonnx_torch.passes.tensors import named_tensors
from qonnx_torch.provenance import Provenance, TensorOrigin, computing_nodes

from .tensors import fill, tensor_proto

__all__ = ["is_quantizer_parameter", "restore", "state_of"]


def state_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Returns every parameter and buffer by path; of quantizers, what their learned parameters stand for."""
    state = named_tensors(module)
    for name, submodule in module.named_modules(remove_duplicate=False):
        if isinstance(submodule, qnn.Quantizer):
            state |= {f"{name}.{p}": value for p, value in submodule.current_parameters().items()}
    return state


def restore(module: fx.GraphModule, provenance: Provenance) -> ModelProto:
    """Returns the source model with the module's current tensors.

    A constant that quantizers shared in the file is shared again while they agree; where training has set
    them apart, the plain parameter that other nodes read keeps the name (without one: the first quantizer),
    and the others get names of their own.

    Raises:
        ExportError: a constant of the file is no longer among the module's parameters and buffers.
    """
    model = ModelProto()
    model.ParseFromString(provenance.skeleton)
    state = state_of(module)
    initializers = {i.name: i for i in model.graph.initializer}
    constants = {n.output[0]: n for n in model.graph.node if n.op_type == "Constant" and n.output}
    quantizers: dict[str, list[int]] = {}
    for node, place in zip(computing_nodes(module.graph), provenance.nodes, strict=True):
        if node.op == "call_module":
            quantizers.setdefault(str(node.target), []).append(place.index)
    taken = (
        set(initializers)
        | {o for n in model.graph.node for o in n.output}
        | {i.name for i in model.graph.input}
    )
    for origin in provenance.tensors:
        groups = _groups(origin, state, module)
        tensor = state[groups[0][0]]
        if origin.name in initializers:
            proto = initializers[origin.name]
            fill(proto, tensor, origin.encoding)
        else:
            _set_constant(constants[origin.name].attribute[0], tensor, origin.encoding)
        for paths in groups[1:]:
            name = _fresh(origin.name, taken)
            model.graph.initializer.append(tensor_proto(state[paths[0]], name))
            for path in paths:
                _repoint(model, module, quantizers, path, name)
    return model


def is_quantizer_parameter(module: fx.GraphModule, path: str) -> bool:
    """Returns whether a tensor is a quantizer's own, which its node alone reads."""
    return isinstance(module.get_submodule(path.rpartition(".")[0]), qnn.Quantizer)


def _groups(origin: TensorOrigin, state: dict[str, torch.Tensor], module: fx.GraphModule) -> list[list[str]]:
    """Returns the paths of a constant, those that hold equal tensors together.

    The group that keeps the name comes first: the plain parameter's, whose other users read it by name.
    """
    for path in origin.paths:
        if path not in state:
            raise ExportError(
                f"{path} ({origin.name!r} in the file) is no parameter or buffer of the module any more: "
                "put it back, or take the nodes that read it out of the graph"
            )
    groups: list[list[str]] = []
    for path in sorted(origin.paths, key=lambda p: is_quantizer_parameter(module, p)):  # stable
        for group in groups:
            a, b = state[group[0]], state[path]
            if a.dtype == b.dtype and a.shape == b.shape and _bits_equal(a, b):
                group.append(path)
                break
        else:
            groups.append([path])
    return groups


def _bits_equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or tensor_proto(a, "").raw_data == tensor_proto(b, "").raw_data


def _fresh(name: str, taken: set[str]) -> str:
    count = 1
    while f"{name}_{count}" in taken:
        count += 1
    taken.add(f"{name}_{count}")
    return f"{name}_{count}"


def _set_constant(attribute: AttributeProto, tensor: torch.Tensor, encoding: str) -> None:
    """Updates the value of a Constant node; one that still has its value keeps its form."""
    if attribute.name == "value":
        fill(attribute.t, tensor, encoding)
        return
    old = np.array(helper.get_attribute_value(attribute))
    if np.array_equal(old, tensor.detach().cpu().numpy(), equal_nan=True):
        return
    attribute.Clear()
    attribute.name, attribute.type = "value", AttributeProto.TENSOR
    attribute.t.CopyFrom(tensor_proto(tensor, ""))


def _repoint(
    model: ModelProto, module: fx.GraphModule, quantizers: dict[str, list[int]], path: str, name: str
) -> None:
    target, _, parameter = path.rpartition(".")
    quantizer = module.get_submodule(target)
    assert isinstance(quantizer, qnn.Quantizer)
    slot = 1 + quantizer.parameter_names.index(parameter)
    for index in quantizers[target]:
        model.graph.node[index].input[slot] = name
