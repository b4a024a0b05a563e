"""An unchanged graph goes back node for node: the file's skeleton with the module's current tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper, numpy_helper
from torch import fx

import qonnx_torch.nn as qnn
from qonnx_torch.dtypes import PACKED_TYPES
from qonnx_torch.errors import ExportError
from qonnx_torch.graphs import is_constant
from qonnx_torch.names import Names
from qonnx_torch.nn.subgraphs import SubgraphOperator
from qonnx_torch.passes.tensors import named_tensors
from qonnx_torch.provenance import (
    Provenance,
    TensorOrigin,
    computing_nodes,
    provenance_of,
    value_names,
)

from .finalise import declare
from .naming import infos_by_name
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
    graph = _Graph(model.graph, module, provenance)
    graph.fill(state_of(module), graph.names())
    return model


class _Graph:
    """A graph of the file, with the module that has its tensors; subgraphs are put back into their nodes."""

    def __init__(self, proto: GraphProto, module: fx.GraphModule, provenance: Provenance) -> None:
        self.proto = proto
        self.module = module
        self.tensors = provenance.tensors
        self.calls: dict[str, list[int]] = {}
        self.subgraphs: dict[str, _Graph] = {}
        for node, place in zip(computing_nodes(module.graph), provenance.nodes, strict=True):
            if node.op == "call_module":
                self.calls.setdefault(str(node.target), []).append(place.index)
        for target, (index, *_) in self.calls.items():
            operator = module.get_submodule(target)
            if isinstance(operator, SubgraphOperator):
                self._put_back(proto.node[index], target, operator)

    def _put_back(self, node: NodeProto, target: str, operator: SubgraphOperator) -> None:
        for name, child in operator.subgraphs().items():
            provenance = provenance_of(child)
            attribute = next(a for a in node.attribute if a.name == name)
            if provenance is None:
                raise ExportError(f"{target}.{name} is no graph of the file any more")
            attribute.g.CopyFrom(ModelProto.FromString(provenance.skeleton).graph)
            self.subgraphs[f"{target}.{name}."] = _Graph(attribute.g, child, provenance)

    def names(self) -> Names:
        """Returns the names that are taken, here and in subgraphs."""
        graph = self.proto
        names = Names(v.name for v in (*graph.initializer, *graph.input))
        names.update(o for n in graph.node for o in n.output)
        names.update(*(child.names() for child in self.subgraphs.values()))
        return names

    def fill(self, state: Mapping[str, torch.Tensor], taken: Names) -> None:
        """Writes the tensors of a state, by path, into the graph and its subgraphs."""
        for prefix, child in self.subgraphs.items():
            within = {p.removeprefix(prefix): t for p, t in state.items() if p.startswith(prefix)}
            child.fill(within, taken)
            child.declare_values()
        self.fill_attributes()
        initializers = {i.name: i for i in self.proto.initializer}
        constants = {n.output[0]: n for n in self.proto.node if is_constant(n) and n.output}
        for origin in self.tensors:
            groups = _groups(origin, state, self.module)
            tensor = state[groups[0][0]]
            if origin.name in initializers:
                fill(initializers[origin.name], tensor, origin.encoding)
            else:
                _set_constant(constants[origin.name].attribute[0], tensor, origin.encoding)
            for paths in groups[1:]:
                name = taken.fresh(origin.name)
                self.proto.initializer.append(tensor_proto(state[paths[0]], name))
                for path in paths:
                    self.repoint(path, name)

    def fill_attributes(self) -> None:
        """Writes parameters that the file has as attributes into their nodes, where they have changed."""
        for target, indices in self.calls.items():
            operator = self.module.get_submodule(target)
            if isinstance(operator, qnn.LearnedOperator):
                current = operator.learned_attributes()
                for index in indices:
                    for attribute in self.proto.node[index].attribute:
                        if attribute.name in current:
                            _set_attribute(attribute, current[attribute.name])

    def declare_values(self) -> None:
        """Declares a subgraph's values as they are now, as far as that was inferred."""
        infos = infos_by_name(value_names(self.module))
        ends = (*self.proto.input, *self.proto.output)
        known = {v.name: v for v in (*self.proto.value_info, *ends)}
        computed = [o for node in self.proto.node for o in node.output]
        for name in dict.fromkeys([*(v.name for v in ends), *computed]):
            if name not in infos:
                continue
            value = known[name] if name in known else self.proto.value_info.add(name=name)
            if value.type.tensor_type.elem_type not in PACKED_TYPES:
                declare(value, infos[name])

    def repoint(self, path: str, name: str) -> None:
        """Lets a quantizer, here or in a subgraph, read its parameter at `path` from another initializer."""
        for prefix, child in self.subgraphs.items():
            if path.startswith(prefix):
                child.repoint(path.removeprefix(prefix), name)
                return
        target, _, parameter = path.rpartition(".")
        quantizer = self.module.get_submodule(target)
        assert isinstance(quantizer, qnn.Quantizer)
        slot = 1 + quantizer.parameter_names.index(parameter)
        for index in self.calls[target]:
            self.proto.node[index].input[slot] = name


def is_quantizer_parameter(module: fx.GraphModule, path: str) -> bool:
    """Returns whether a tensor is a quantizer's own, which its node alone reads."""
    return isinstance(module.get_submodule(path.rpartition(".")[0]), qnn.Quantizer)


def _groups(
    origin: TensorOrigin, state: Mapping[str, torch.Tensor], module: fx.GraphModule
) -> list[list[str]]:
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


def _set_attribute(attribute: AttributeProto, value: Any) -> None:
    """Updates an attribute of floats, or a tensor (element type and numbers), that has another value."""
    if attribute.type == AttributeProto.FLOATS:
        if list(attribute.floats) != list(value):
            attribute.floats[:] = value
        return
    old = numpy_helper.to_array(attribute.t)
    new = np.array(value[1], old.dtype).reshape(old.shape)
    if not np.array_equal(old, new):
        attribute.t.CopyFrom(numpy_helper.from_array(new, attribute.t.name))


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
