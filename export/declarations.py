"""What an exported graph declares of its values: inferred anew, and refused where it would not be true."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from torch import Tensor, fx

from qonnx_torch.dtypes import torch_dtype
from qonnx_torch.errors import ExportError, UnsupportedModelError
from qonnx_torch.graphs import is_constant, label, subgraphs
from qonnx_torch.nn.subgraphs import SubgraphOperator
from qonnx_torch.passes.shapes import (
    DataDependentShapeError,
    UndeclaredInputsError,
    ValueInfo,
    declared_inputs,
    infer_shapes,
)
from qonnx_torch.provenance import Provenance, provenance_of

from .finalise import constant_info
from .restore import is_quantizer_parameter

__all__ = ["TensorChange", "check_types", "has_wrong_types", "infer_values", "tensor_changes"]

_CONVERSIONS = {torch.float32: "float()", torch.float64: "double()", torch.float16: "half()"}


@dataclass(frozen=True, slots=True)
class TensorChange:
    """A tensor of the file that has another shape or dtype in the module.

    Attributes:
        path: where it lives in the module.
        file: its dtype in the file.
        module: its dtype in the module.
        own: whether it is a quantizer's own and keeps its shape, so that no other value's shape or type hangs
            on it: training turns a quantizer's integer zero point into a float.
    """

    path: str
    file: torch.dtype
    module: torch.dtype
    own: bool


def tensor_changes(
    module: fx.GraphModule, provenance: Provenance | None, state: Mapping[str, Tensor]
) -> list[TensorChange]:
    """Returns the tensors whose shape or dtype is not the file's; their values do not count."""
    if provenance is None:
        return []
    model = ModelProto.FromString(provenance.skeleton)
    headers = {i.name: (i.data_type, tuple(i.dims)) for i in model.graph.initializer}
    live = {origin.name for origin in provenance.tensors}
    for node in model.graph.node:
        if is_constant(node) and node.output and node.output[0] in live:
            info = constant_info(node).type.tensor_type
            headers[node.output[0]] = info.elem_type, tuple(d.dim_value for d in info.shape.dim)
    changes = []
    for origin in provenance.tensors:
        dtype, dims = torch_dtype(headers[origin.name][0]), headers[origin.name][1]
        for path in origin.paths:
            tensor = state.get(path)
            if tensor is not None and (tensor.dtype is not dtype or tuple(tensor.shape) != dims):
                own = tuple(tensor.shape) == dims and is_quantizer_parameter(module, path)
                changes.append(TensorChange(path, dtype, tensor.dtype, own))
    for prefix, graph in _subgraphs(module):
        within = {p.removeprefix(prefix): t for p, t in state.items() if p.startswith(prefix)}
        for change in tensor_changes(graph, provenance_of(graph), within):
            changes.append(replace(change, path=prefix + change.path))
    return changes


def _subgraphs(module: fx.GraphModule) -> Iterator[tuple[str, fx.GraphModule]]:
    """Yields the subgraphs of a graph's own nodes, with the prefix of their tensors' paths."""
    targets = dict.fromkeys(str(n.target) for n in module.graph.nodes if n.op == "call_module")
    for target in targets:
        operator = module.get_submodule(target)
        if isinstance(operator, SubgraphOperator):
            for name, graph in operator.subgraphs().items():
                yield f"{target}.{name}.", graph


def infer_values(
    module: fx.GraphModule, args: tuple[Tensor, ...], changes: Sequence[TensorChange], *, required: bool
) -> dict[str, ValueInfo]:
    """Returns shape and dtype of every value, or nothing where the file's own declarations still hold.

    They hold where inference has too little to go on (the inputs' shapes are not, or not wholly, declared, or
    a shape depends on data) and no tensor has changed its shape or dtype. Without them, what depends on data
    is left out.

    Args:
        module: the module to write.
        args: example inputs, or none. They are sizes that work: dimensions that the file declares dynamic
            stay so, unless the examples contradict.
        changes: what `tensor_changes` gives.
        required: whether there are no declarations to fall back on.

    Raises:
        ExportError: a node cannot be inferred; the message names it.
    """
    try:
        return infer_shapes(module, *args, dynamic=True)
    except UnsupportedModelError as error:
        undeclared = isinstance(error, UndeclaredInputsError)
        depends = isinstance(error, DataDependentShapeError)
        dynamic = not args and not undeclared and _has_dynamic_inputs(module)
        other = [change.path for change in changes if not change.own]
        if not required and not other and (undeclared or depends or dynamic):
            return {}
        if depends and not other:
            return infer_shapes(module, *args, partial=True, dynamic=True)
        if undeclared:
            reason = "the shapes of the inputs are not declared; give example inputs as args"
        else:
            reason = str(error).partition("\n\n")[0]
            if depends and other:
                reason += f"; nor do the file's declarations hold: {other[0]} has another shape or dtype now"
        raise ExportError(f"the graph cannot be written: {reason}{_conversion(changes)}") from error


def _has_dynamic_inputs(module: fx.GraphModule) -> bool:
    specs = declared_inputs(module) or ()
    return any(not isinstance(d, int) for spec in specs for d in spec.shape or ())


def _conversion(changes: Sequence[TensorChange]) -> str:
    """Returns the advice for a module that was converted to another floating dtype."""
    for change in changes:
        floating = change.file.is_floating_point and change.module.is_floating_point
        if floating and change.file is not change.module:
            back = _CONVERSIONS.get(change.file, f"to({change.file})")
            return (
                f"; {change.path} is {change.module}, but {change.file} in the file: convert the module with "
                f"module.{back}, or give example inputs of the new type as args"
            )
    return ""


def check_types(model: ModelProto, changes: Sequence[TensorChange]) -> None:
    """Checks that the standard operators take the element types that reach them.

    torch promotes mixed types, ONNX does not: such a file would be refused wherever it is read.

    Raises:
        ExportError: lists every node with a wrong or mixed type.
    """
    problems = list(_problems(model.graph, model.opset_import[0].version, {}))
    if problems:
        raise ExportError(
            f"{len(problems)} nodes have inputs of a type that their operator does not take:\n"
            + "\n".join(problems)
            + _conversion(changes)
        )


def has_wrong_types(model: ModelProto) -> bool:
    """Returns whether a standard operator does not take an element type that reaches it."""
    return any(_problems(model.graph, model.opset_import[0].version, {}))


def _problems(graph: GraphProto, opset: int, outer: Mapping[str, int]) -> Iterator[str]:
    """Yields a line for each node, also in subgraphs, that has an input of a wrong type."""
    types = dict(outer)
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    types |= {i.name: i.data_type for i in graph.initializer}
    for node in graph.node:
        if node.domain == "":
            problems = list(_type_problems(node, opset, types))
            yield from (f"  node {label(node)}: {problem}" for problem in problems[:1])
        for subgraph in subgraphs(node).values():
            yield from _problems(subgraph, opset, types)


def _type_problems(node: NodeProto, opset: int, types: Mapping[str, int]) -> Iterator[str]:
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    bound: dict[str, tuple[str, str]] = {}
    for formals, names in ((schema.inputs, node.input), (schema.outputs, node.output)):
        for i, name in enumerate(names):
            formal = formals[min(i, len(formals) - 1)]
            if not types.get(name):
                continue
            found = TensorProto.DataType.Name(types[name]).lower()
            if f"tensor({found})" not in allowed.get(formal.type_str, {formal.type_str}):
                yield f"{name!r} is {found}, which is not allowed there"
            first, wanted = bound.setdefault(formal.type_str, (name, found))
            if found != wanted and formal.is_homogeneous:
                yield f"{first!r} is {wanted} and {name!r} is {found}; they must have one type"
