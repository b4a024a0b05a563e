"""The last step of every export: what a file must look like for its clients, whatever it computes.

1. Operator domains have today's names and are imported, ai.onnx first.
2. IR version 8 to 10, unless another is asked for or the operator set needs a newer one.
3. No initializer is listed among the inputs.
4. Nodes stand in an order in which every input exists.
5. Each intermediate value has exactly one value_info, inputs and outputs have none; outputs are declared with
   the shape and type that they have.
6. Rounding modes have QONNX names.
7. Operators that only imported graphs have are written as the standard ones that they stand for.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from qonnx_torch.dtypes import onnx_element_type
from qonnx_torch.errors import ExportError
from qonnx_torch.graphs import all_nodes, free_names, is_constant, sorted_nodes, subgraphs
from qonnx_torch.ops import resolve_rounding_mode
from qonnx_torch.passes.shapes import ValueInfo
from qonnx_torch.registry import CHANNELS_LAST_DOMAIN, QONNX_DOMAIN, canonical_domain, is_stray_qonnx

from .qdq import expand_quantizers
from .tensors import packed_types

__all__ = ["IR_CEILING", "OPSET_CEILING", "constant_info", "declare", "finalise"]

IR_FLOOR = 8
IR_CEILING = 10
OPSET_CEILING = 21


def finalise(model: ModelProto, infos: Mapping[str, ValueInfo], ir_version: int | None) -> None:
    """Applies the file-level rules to a model, in place.

    Args:
        model: nodes, initializers, inputs and outputs are complete.
        infos: shapes and dtypes of its values, as far as they are known.
        ir_version: the IR version to write; None for 8 to 10.

    Raises:
        ExportError: Trunc nodes of both versions, which no single import can express, or quantizers that the
            operator set has no QuantizeLinear for.
    """
    expand_quantizers(model, infos)
    for node in all_nodes(model.graph):
        _canonical_node(node)
    _set_imports(model)
    needed = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    own = max(min(max(model.ir_version, IR_FLOOR), IR_CEILING), needed)
    model.ir_version = own if ir_version is None else ir_version
    constants = {i.name for i in model.graph.initializer}
    for value in [v for v in model.graph.input if v.name in constants]:
        model.graph.input.remove(value)
    _sort(model.graph)
    _set_value_infos(model.graph, infos, packed_types(model))
    for node in all_nodes(model.graph):
        for subgraph in subgraphs(node).values():
            _set_value_infos(subgraph, {}, packed_types(model, subgraph))  # as they were declared


def _canonical_node(node: NodeProto) -> None:
    domain = canonical_domain(node.domain)
    if domain == "" and is_stray_qonnx(node.op_type):
        domain = QONNX_DOMAIN
    if domain != node.domain:
        node.domain = domain
    if domain == QONNX_DOMAIN:
        for attribute in node.attribute:
            # Brevitas' name of DOWN, which no other tool knows.
            if attribute.name == "rounding_mode" and attribute.s.upper() == b"ROUND_TO_ZERO":
                attribute.s = resolve_rounding_mode(attribute.s.decode()).encode()


def _set_imports(model: ModelProto) -> None:
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        domain = canonical_domain(entry.domain)
        versions[domain] = max(entry.version, versions.get(domain, 0))
    nodes = list(all_nodes(model.graph))
    used = {node.domain for node in nodes}
    truncs = {len(n.input) for n in nodes if (n.domain, n.op_type) == (QONNX_DOMAIN, "Trunc")}
    if len(truncs) > 1:
        raise ExportError(
            "the model has Trunc nodes of version 1 and of version 2; one import cannot say both"
        )
    default = versions.pop("")
    if truncs:
        versions[QONNX_DOMAIN] = 1 if truncs == {5} else max(2, versions.get(QONNX_DOMAIN, 2))
    versions.setdefault(QONNX_DOMAIN, 1)
    # A channels-last operator runs as the ai.onnx operator of the version under which its domain is imported.
    versions[CHANNELS_LAST_DOMAIN] = default
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", default))
    for domain in sorted(used - {""}):
        model.opset_import.append(helper.make_opsetid(domain, versions.get(domain, 1)))


def _sort(graph: GraphProto) -> None:
    """Sorts the nodes topologically, also in subgraphs; a file in order stays as it is."""
    for node in graph.node:
        for subgraph in subgraphs(node).values():
            _sort(subgraph)
    known = [i.name for i in (*graph.input, *graph.initializer)]
    order = sorted_nodes(graph.node, [*known, *free_names(graph)], (o.name for o in graph.output))
    if order != list(range(len(order))):
        copies = [NodeProto.FromString(graph.node[i].SerializeToString()) for i in order]
        del graph.node[:]
        graph.node.extend(copies)


def _set_value_infos(graph: GraphProto, infos: Mapping[str, ValueInfo], packed: Mapping[str, int]) -> None:
    declared = {v.name: v for v in graph.value_info}
    ends = {v.name for v in (*graph.input, *graph.output)}
    constants = {n.output[0]: constant_info(n) for n in graph.node if is_constant(n)}
    result: list[ValueInfoProto] = []
    optionals = _optionals(graph)
    for name in dict.fromkeys(o for n in graph.node for o in n.output if o):
        if name in ends:
            continue
        if name in infos and name not in optionals:
            result.append(_value_info(name, infos[name]))
        elif name in constants:
            result.append(constants[name])
        elif name in declared:
            result.append(ValueInfoProto.FromString(declared[name].SerializeToString()))
    del graph.value_info[:]
    graph.value_info.extend(result)
    for value in graph.output:
        if value.name in infos:
            declare(value, infos[value.name])
    for value in (*graph.value_info, *graph.output):
        if value.name in packed:
            value.type.tensor_type.elem_type = packed[value.name]


def _optionals(graph: GraphProto) -> set[str]:
    """Returns the values that a node makes optionals: here they are tensors, sequences or None."""
    found: set[str] = set()
    for node in graph.node:
        if node.op_type == "Optional" or (node.op_type == "Identity" and node.input[0] in found):
            found.update(node.output)
    return found


def declare(value: ValueInfoProto, info: ValueInfo) -> None:
    """Sets shape and element type of a graph input or output, in place.

    A declared shape that agrees (same rank, same sizes where both are known) keeps its names.
    """
    tensor = value.type.tensor_type
    tensor.elem_type = onnx_element_type(info.dtype)
    if tensor.HasField("shape") and len(tensor.shape.dim) == len(info.shape):
        pairs = zip(tensor.shape.dim, info.shape, strict=True)
        if all(size is None or not d.HasField("dim_value") or d.dim_value == size for d, size in pairs):
            return
    tensor.shape.CopyFrom(_value_info(value.name, info).type.tensor_type.shape)


def _value_info(name: str, info: ValueInfo) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx_element_type(info.dtype), list(info.shape))


def constant_info(node: NodeProto) -> ValueInfoProto:
    """Returns shape and type of a Constant node's output."""
    attribute = node.attribute[0]
    if attribute.name == "value":
        element_type, dims = attribute.t.data_type, list(attribute.t.dims)
    else:
        values = attribute.floats or attribute.ints
        element_type = TensorProto.FLOAT if "float" in attribute.name else TensorProto.INT64
        dims = [len(values)] if attribute.name.endswith("s") else []
    return helper.make_tensor_value_info(node.output[0], element_type, dims)
