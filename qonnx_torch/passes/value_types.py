"""ONNX element types of a graph's values, where Python numbers do not show them."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import AttributeProto, ModelProto
from torch import fx

from qonnx_torch.dtypes import element_type_of
from qonnx_torch.element_types import ElementTypes
from qonnx_torch.graphs import default_opset, is_constant
from qonnx_torch.nn.subgraphs import SubgraphOperator
from qonnx_torch.provenance import provenance_of, value_names

__all__ = ["value_types"]


def value_types(module: fx.GraphModule) -> dict[fx.GraphModule, ElementTypes]:
    """Returns for a graph, and for the subgraphs in it, the element types of values as the file has them."""
    found: dict[fx.GraphModule, ElementTypes] = {}
    _collect(module, None, found)
    return found


def _collect(
    module: fx.GraphModule, outer: ElementTypes | None, found: dict[fx.GraphModule, ElementTypes]
) -> ElementTypes:
    types = found[module] = ElementTypes(outer)
    provenance = provenance_of(module)
    if provenance is None:
        return types
    model = ModelProto.FromString(provenance.skeleton)
    opset = default_opset(model) or 1
    operators = _operators(module)
    for initializer in model.graph.initializer:
        types[initializer.name] = initializer.data_type
    for value in model.graph.input:
        types[value.name] = element_type_of(value.type)
    for node in model.graph.node:
        operator = operators.get(tuple(node.output))
        if operator is not None:
            given = 1 if node.op_type == "Loop" else 0
            for graph in operator.subgraphs().values():
                inner = _collect(graph, types, found)
                ends = value_names(graph)[graph.graph.output_node()][given:]
                for name, end in zip(node.output, ends, strict=False):
                    types[name] = inner[end]
        elif node.domain not in ("", "ai.onnx"):
            continue
        elif is_constant(node) and node.attribute and node.attribute[0].HasField("t"):
            types[node.output[0]] = node.attribute[0].t.data_type
        else:
            attributes = {a.name: a.i for a in node.attribute if a.type == AttributeProto.INT}
            types.infer(node.op_type, opset, node.input, node.output, attributes)
    return types


def _operators(module: fx.GraphModule) -> Mapping[tuple[str, ...], SubgraphOperator]:
    """Returns the operators with subgraphs by the names of their outputs."""
    found = {}
    for node, names in value_names(module).items():
        operator = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(operator, SubgraphOperator):
            found[names] = operator
    return found
