"""An fx graph written whole, in canonical form: what an edited graph, or one of unknown origin, becomes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from operator import getitem
from typing import Any

import numpy as np
import onnx
import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper, numpy_helper
from torch import fx

import qonnx_torch.nn as qnn
from qonnx_torch.dtypes import onnx_element_type, torch_dtype
from qonnx_torch.errors import ExportError
from qonnx_torch.names import Names
from qonnx_torch.ops import as_tensor
from qonnx_torch.ops.standard._axes import axis_of
from qonnx_torch.ops.standard.activation import (
    hardmax_coerced,
    log_softmax_coerced,
    p_relu_per_channel,
    softmax_coerced,
)
from qonnx_torch.ops.standard.movement import aligned
from qonnx_torch.ops.standard.scan import scan_8
from qonnx_torch.passes.shapes import ValueInfo
from qonnx_torch.provenance import provenance_of
from qonnx_torch.registry import QONNX_DOMAIN, REGISTRY, Operator
from qonnx_torch.type_names import type_of_name

from .foreign import FOREIGN
from .naming import output_values
from .values import Values
from .versions import attributes_at, name_at

__all__ = ["emit"]


def emit(module: fx.GraphModule, opset_version: int) -> tuple[ModelProto, dict[str, ValueInfo]]:
    """Returns the model of an fx graph at an ai.onnx operator set version, and its values' shapes and dtypes.

    The graph's nodes must carry `node.meta["value_info"]` (`infer_shapes` writes it).


    Each registered operator becomes its node in that version's form; a few torch functions and modules that
    users put into graphs by hand are known too.

    Raises:
        ExportError: lists every node that cannot be written.
    """
    emitter = _Emitter(module, opset_version)
    return emitter.emit(), emitter.values.infos


class _Emitter:
    """Writes a graph, or a subgraph: then `outer` writes the graph around it.

    Args:
        module: the graph.
        opset_version: of ai.onnx.
        outer: what writes the graph around it.
        prefix: the path of the subgraph in the module of that graph.
        captured: names of the values there that are the subgraph's last inputs.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        opset_version: int,
        outer: _Emitter | None = None,
        prefix: str = "",
        captured: Sequence[str] = (),
    ) -> None:
        self.module = module
        self.opset = opset_version
        self.values: Values = Values(module, None if outer is None else outer.values, prefix, captured)
        self.nodes: list[NodeProto] = []
        self.unknown: set[str] = set()
        self.versions: dict[str, int] = {QONNX_DOMAIN: 1} if outer is None else outer.versions
        self.node_names: Names = Names() if outer is None else outer.node_names

    def emit(self) -> ModelProto:
        """Returns the model."""
        model = ModelProto()
        model.CopyFrom(self.values.source)
        model.graph.CopyFrom(self.graph())
        if provenance_of(self.module) is None:
            model.graph.name = model.producer_name = "qonnx_torch"
        del model.opset_import[:]
        model.opset_import.append(helper.make_opsetid("", self.opset))
        for domain, version in self.versions.items():
            model.opset_import.append(helper.make_opsetid(domain, version))
        model.ir_version = 10
        self._declare_unknown_outputs(model)
        return model

    def _declare_unknown_outputs(self, model: ModelProto) -> None:
        """Declares outputs that depend on data as onnx infers them, else as in the file."""
        unknown = [v for v in model.graph.output if v.name in self.unknown]
        if not unknown:
            return
        bare = ModelProto()
        bare.CopyFrom(model)
        for value in bare.graph.output:
            value.ClearField("type")
        try:
            inferred = onnx.shape_inference.infer_shapes(bare)
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
            return
        found = {v.name: v.type for v in inferred.graph.output if v.type.WhichOneof("value")}
        for value in unknown:
            kind = found.get(value.name)
            if kind is not None and kind.HasField("tensor_type") and not kind.tensor_type.HasField("shape"):
                value.type.tensor_type.elem_type = kind.tensor_type.elem_type
            elif kind is not None:
                value.type.CopyFrom(kind)

    def graph(self) -> GraphProto:
        """Returns the graph, with the name that it has in the file."""
        inputs: list[onnx.ValueInfoProto] = []
        outputs: list[onnx.ValueInfoProto] = []
        problems: list[str] = []
        for node in self.module.graph.nodes:
            if node in self.values.captured:
                continue
            if node.op == "placeholder":
                inputs.append(self.values.value_info(node))
            elif node.op == "get_attr":
                self.values.of[node] = self.values.parameter(str(node.target))
            elif node.op == "output":
                outputs = self._outputs(node) if not problems else []
            else:
                try:
                    self._emit_node(node)
                except ExportError as error:
                    problems.append(f"  {node.name}: {error}")
                    self.values.of[node] = node.name
        if problems:
            raise ExportError(f"{len(problems)} nodes cannot be written:\n" + "\n".join(problems))
        file = self.values.source.graph
        graph = GraphProto(
            name=file.name or ("" if self.values.outer is None else "subgraph"), doc_string=file.doc_string
        )
        known = (
            {o for n in self.nodes for o in n.output}
            | set(self.values.initializers)
            | {i.name for i in inputs}
        )
        annotations = (a for a in file.quantization_annotation if a.tensor_name in known)
        graph.quantization_annotation.extend(annotations)
        graph.node.extend(self.nodes)
        graph.initializer.extend(self.values.initializers.values())
        graph.input.extend(inputs)
        graph.output.extend(outputs)
        if self.values.outer is not None:
            self._declare_values(graph)
        return graph

    def _declare_values(self, graph: GraphProto) -> None:
        """Declares what a subgraph computes, as far as it was inferred; `finalise` does it for the model."""
        ends = {v.name for v in graph.output}
        computed = dict.fromkeys(
            o for n in self.nodes for o in n.output if o in self.values.infos and o not in ends
        )
        for name in computed:
            info = self.values.infos[name]
            element_type = self.values.packed.get(name) or onnx_element_type(info.dtype)
            graph.value_info.append(helper.make_tensor_value_info(name, element_type, list(info.shape)))

    # -- values ------------------------------------------------------------------------------------

    def _outputs(self, node: fx.Node) -> list[onnx.ValueInfoProto]:
        outputs: list[onnx.ValueInfoProto] = []
        for i, result in enumerate(output_values(node)):
            wanted = self.values.names[node][i] if i < len(self.values.names[node]) else ""
            if isinstance(result, fx.Node):
                value = self.values.of[result]
            elif self.values.outer is None or result is None:
                raise ExportError(f"output {i} is the Python value {result!r}, not a tensor")
            else:
                value = self.values.input(
                    result, f"{wanted or node.name}_value", self.values.declared_dtype(i)
                )
            info = self.values.infos.get(value) or self.values.parameter_info(value)
            constant = not isinstance(result, fx.Node) or result.op in ("placeholder", "get_attr")
            if constant or value in {o.name for o in outputs}:
                # A graph output must be computed, and once: an input, a parameter or a repeat is passed on.
                name = self.values.fresh(wanted or value)
                self.nodes.append(helper.make_node("Identity", [value], [name], name=f"{name}_identity"))
                value = name
            if info is None:
                self.unknown.add(value)
                outputs.append(self.values.declared(value, self.values.source.graph.output, i))
                continue
            outputs.append(
                helper.make_tensor_value_info(value, onnx_element_type(info.dtype), list(info.shape))
            )
        return outputs

    # -- nodes -------------------------------------------------------------------------------------

    def _emit_node(self, node: fx.Node) -> None:
        if node.target is getitem:
            source, index = node.args
            assert isinstance(source, fx.Node)
            self.values.of[node] = self.values.names[source][index]  # type: ignore[index]
            return
        if node.target is as_tensor:
            self.values.of[node] = self.values.of[node.all_input_nodes[0]]
            return
        if node.target is aligned:
            value, other, axis = node.args
            ranks = [len(self.values.info(self.values.of[n]).shape) for n in (value, other)]  # type: ignore[index]
            behind = ranks[1] - axis_of(axis, ranks[1]) - ranks[0]  # type: ignore[arg-type]
            self.values.of[node] = self._extended(self.values.of[value], behind)  # type: ignore[index]
            return
        target = node.target
        if node.op == "call_module":
            submodule = self.module.get_submodule(str(target))
            operator = REGISTRY.of_target(type(submodule))
            if operator is None and type(submodule) in FOREIGN:
                self._emit_foreign(node, submodule, type(submodule))
                return
            if operator is None:
                raise ExportError(f"a module of type {type(submodule).__name__} has no ONNX operator")
            inputs = self._module_inputs(node, submodule, operator)
            attributes = operator.attributes_of(submodule)
            if isinstance(submodule, qnn.SubgraphOperator):
                attributes |= self._subgraphs(node, submodule, operator)
            self._append(node, operator, inputs, attributes)
            return
        operator = REGISTRY.of_target(target)
        if operator is None:
            if target in FOREIGN:
                self._emit_foreign(node, None, target)
                return
            raise ExportError(f"{getattr(target, '__name__', target)} has no ONNX operator")
        bound = inspect.signature(operator.target).bind(*node.args, **node.kwargs)
        arguments = bound.arguments
        inputs = []
        for slot in operator.inputs:
            if operator.variadic and slot == operator.inputs[-1]:
                inputs += [
                    self.values.input(v, f"{self.values.names[node][0]}_{slot}")
                    for v in arguments.get(slot, ())
                ]
            else:
                hint = f"{self.values.names[node][0]}_{slot}"
                like = self._constant_dtype(operator, slot, arguments)
                inputs.append(self.values.input(arguments.get(slot), hint, like))
        self._append(node, operator, inputs, {k: arguments[k] for k in operator.attributes if k in arguments})

    def _constant_dtype(
        self, operator: Operator, slot: str, arguments: Mapping[str, Any]
    ) -> torch.dtype | None:
        """Returns the dtype of a constant input: that of the tensors that must have the same, or float32."""
        if slot in ("roi", "scales", "ratio"):
            return torch.float32
        kinds = _type_variables(operator, self.opset)
        wanted = kinds.get(slot, slot)
        return self.values.common_dtype([v for s, v in arguments.items() if kinds.get(s, s) == wanted])

    def _subgraphs(
        self, node: fx.Node, module: qnn.SubgraphOperator, operator: Operator
    ) -> dict[str, GraphProto]:
        """Returns the graphs of an operator."""
        graphs = module.subgraphs()
        lost = sorted((operator.subgraphs & operator.required) - set(graphs))
        if lost:
            raise ExportError(f"its {lost[0]} is no torch.fx.GraphModule")
        if operator.target is scan_8:
            raise ExportError("Scan of operator set 8, with a batch, has no form in newer ones")
        captured = [
            self.values.input(v, f"{self.values.names[node][0]}_captured") for v in module.split(node.args)[1]
        ]
        return {
            name: _Emitter(graph, self.opset, self, f"{node.target}.{name}.", captured).graph()
            for name, graph in graphs.items()
        }

    def _subgraph_inputs(self, node: fx.Node, module: qnn.SubgraphOperator, operator: Operator) -> list[str]:
        """Returns the operator's inputs; numbers have the types of the body's inputs that they are for."""
        formal: list[onnx.ValueInfoProto] = []
        if operator.op_type == "Loop":
            provenance = provenance_of(module.subgraphs()["body"])
            formal = list(ModelProto.FromString(provenance.skeleton).graph.input) if provenance else []
        inputs = []
        for i, value in enumerate(module.split(node.args)[0]):
            hint = operator.inputs[min(i, len(operator.inputs) - 1)]
            element_type = formal[i].type.tensor_type.elem_type if i < len(formal) else 0
            like = torch_dtype(element_type) if element_type else None
            inputs.append(self.values.input(value, f"{self.values.names[node][0]}_{hint}", like))
        return inputs

    def _module_inputs(self, node: fx.Node, module: torch.nn.Module, operator: Operator) -> list[str]:
        if isinstance(module, qnn.SubgraphOperator):
            return self._subgraph_inputs(node, module, operator)
        if not isinstance(module, qnn.Quantizer):
            hints = operator.inputs
            return [
                self.values.input(v, f"{self.values.names[node][0]}_{h}")
                for v, h in zip(node.args, hints, strict=False)
            ]
        given = [*node.args[1:], *[None] * len(module.parameter_names)]
        inputs = [self.values.input(node.args[0], f"{node.name}_x")]
        for parameter, value in zip(module.parameter_names, given, strict=False):
            if value is not None:
                inputs.append(self.values.input(value, f"{node.name}_{parameter}"))
            elif getattr(module, parameter) is None:
                raise ExportError(f"its {parameter} is neither owned nor given")
            else:
                inputs.append(self.values.parameter(f"{node.target}.{parameter}"))
        return inputs

    def _append(
        self, node: fx.Node, operator: Operator, inputs: list[str], attributes: Mapping[str, Any]
    ) -> None:
        while inputs and not inputs[-1]:
            inputs.pop()
        if operator.target in (softmax_coerced, log_softmax_coerced, hardmax_coerced):
            self._append_coerced(node, operator.op_type, inputs[0], int(attributes.get("axis", 1)))
            return
        if operator.target is p_relu_per_channel:
            inputs = [inputs[0], self._aligned_slope(inputs[0], inputs[1])]
        # What a node of another domain was given stays: its own schema may require it, or default otherwise.
        foreign = operator.domain != "" and node.op == "call_function"
        written = {
            name: value
            for name, value in attributes.items()
            if value is not None
            and (foreign or value != operator.attributes[name] or name in operator.required)
        }
        if operator.domain:
            known = self.versions.get(operator.domain, 1)
            self.versions[operator.domain] = max(known, operator.since_version)
        if operator.domain == QONNX_DOMAIN:
            written = {k: v for k, v in attributes.items() if v is not None and v != ""}
        elif operator.domain == "":
            inputs, written = self._older_form(operator, inputs, written)
        outputs = self.values.names[node]
        self._check_outputs(operator, len(outputs))
        self.values.of[node] = outputs[0]
        proto = helper.make_node(
            name_at(operator, self.opset), inputs, outputs, name=self._node_name(node), domain=operator.domain
        )
        proto.attribute.extend(
            _attribute(k, v, operator.attribute_types.get(k, "")) for k, v in written.items()
        )
        self.nodes.append(proto)

    def _aligned_slope(self, x: str, slope: str) -> str:
        """Returns a per-channel PRelu slope (C,) as (C, 1, ...), as newer operator sets want it."""
        rank = len(self.values.infos[x].shape)
        known = self.values.initializers.get(slope)
        if rank < 3 or (known is not None and list(known.dims) in ([], [1])):
            return slope
        return self._extended(slope, rank - 2)

    def _extended(self, value: str, count: int) -> str:
        """Returns a value with `count` dimensions of 1 behind its own."""
        if count <= 0:
            return value
        extended = self.values.fresh(f"{value}_aligned")
        info = self.values.info(value)
        rank = len(info.shape)
        axes = self.values.input(tuple(range(rank, rank + count)), f"{extended}_axes")
        self.values.infos[extended] = ValueInfo((*info.shape, *[1] * count), info.dtype)
        self.nodes.append(helper.make_node("Unsqueeze", [value, axes], [extended], name=extended))
        return extended

    def _append_coerced(self, node: fx.Node, op_type: str, value: str, axis: int) -> None:
        """Writes a softmax over several dimensions at once, which newer operator sets spell in four nodes."""
        output, name = self.values.names[node][0], self._node_name(node)
        self.values.of[node] = output
        info = self.values.infos.get(value)
        rank = len(info.shape) if info else None
        if rank is not None and axis % rank == rank - 1:
            self.nodes.append(helper.make_node(op_type, [value], [output], name=name, axis=-1))
            return
        shape, matrix, result = (
            self.values.fresh(f"{output}_{part}") for part in ("shape", "matrix", "rows")
        )
        self.nodes += [
            helper.make_node("Shape", [value], [shape], name=f"{name}_shape"),
            helper.make_node("Flatten", [value], [matrix], name=f"{name}_flatten", axis=axis),
            helper.make_node(op_type, [matrix], [result], name=name, axis=-1),
            helper.make_node("Reshape", [result, shape], [output], name=f"{name}_reshape"),
        ]

    def _older_form(
        self, operator: Operator, inputs: list[str], attributes: dict[str, Any]
    ) -> tuple[list[str], dict[str, Any]]:
        """Returns inputs and attributes as the operator set asked for has them."""
        op_type = name_at(operator, self.opset)
        if not onnx.defs.has(op_type):
            return inputs, attributes  # onnxruntime has operators of its own in the default domain
        try:
            schema = onnx.defs.get_schema(op_type, self.opset)
        except onnx.defs.SchemaError:
            raise ExportError(
                f"{op_type} does not exist in opset {self.opset}; ask for a newer one"
            ) from None
        attributes = attributes_at(operator, attributes, self.opset, inputs, self.values.initializers)
        constant_axes = len(inputs) > 1 and inputs[1] in self.values.initializers
        if "axes" in schema.attributes and op_type.startswith("Reduce") and constant_axes:
            axes = onnx.numpy_helper.to_array(self.values.initializers.pop(inputs[1]))
            attributes = {**attributes, "axes": [int(a) for a in axes.reshape(-1)]}
            inputs = inputs[:1]
            attributes.pop("noop_with_empty_axes", None)
        if op_type == "Split" and "num_outputs" not in schema.attributes:
            attributes.pop("num_outputs", None)
        if op_type == "Reshape" and "allowzero" not in schema.attributes and self._has_no_zero(inputs[1]):
            attributes.pop("allowzero", None)
        unknown = [a for a in attributes if a not in schema.attributes]
        if unknown or len(inputs) > schema.max_input:
            what = f"attribute {unknown[0]}" if unknown else f"{len(inputs)} inputs"
            raise ExportError(f"{op_type} has no {what} in opset {self.opset}; ask for a newer one")
        return inputs, attributes

    def _check_outputs(self, operator: Operator, count: int) -> None:
        name = name_at(operator, self.opset)
        standard = not operator.domain and onnx.defs.has(name)
        if standard and count > onnx.defs.get_schema(name, self.opset).max_output:
            raise ExportError(f"{operator.op_type} has no {count} outputs in opset {self.opset}")

    def _has_no_zero(self, name: str) -> bool:
        return name in self.values.initializers and bool(
            onnx.numpy_helper.to_array(self.values.initializers[name]).all()
        )

    def _emit_foreign(self, node: fx.Node, module: torch.nn.Module | None, target: Any) -> None:
        op_type, inputs, attributes = FOREIGN[target](module, node)
        output = self.values.names[node][0]
        dtypes = [d for d in map(self.values.dtype, node.args) if d is not None]
        like = dtypes[0] if dtypes else None
        result = self.values.infos.get(output)
        if len({*dtypes, *([result.dtype] if result else [])}) > 1:
            given = ", ".join(map(str, dtypes))
            raise ExportError(
                f"{op_type} of {given} gives {result.dtype if result else 'another type'}: ONNX converts "
                "nothing by itself; convert the inputs to one type"
            )
        names = [self.values.input(v, f"{output}_{i}", like) for i, v in enumerate(inputs)]
        self.values.of[node] = output
        self.nodes.append(
            helper.make_node(op_type, names, [output], name=self._node_name(node), **attributes)
        )

    def _node_name(self, node: fx.Node) -> str:
        origin = node.meta.get("onnx")
        return self.node_names.fresh((origin.name if origin else "") or node.name)


def _type_variables(operator: Operator, opset: int) -> dict[str, str]:
    """Returns the type variable of each input of a standard operator: inputs with the same have one type."""
    if operator.domain or operator.variadic:
        return {}
    try:
        schema = onnx.defs.get_schema(operator.op_type, opset)
    except onnx.defs.SchemaError:
        return {}
    return {slot: formal.type_str for slot, formal in zip(operator.inputs, schema.inputs, strict=False)}


def _attribute(name: str, value: Any, kind: str) -> onnx.AttributeProto:
    if isinstance(value, GraphProto):
        return helper.make_attribute(name, value)
    if kind.startswith("tuple"):  # a tensor: its element type, and a number or nested tuples of them
        element_type, numbers = value
        array = np.array(numbers, dtype=helper.tensor_dtype_to_np_dtype(element_type))
        return helper.make_attribute(name, numpy_helper.from_array(array if array.ndim else array.reshape(1)))
    if kind == "TypeName":
        return helper.make_attribute(name, type_of_name(value))
    if isinstance(value, bool):
        value = int(value)
    if kind == "float":
        value = float(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        types = {"int": AttributeProto.INTS, "float": AttributeProto.FLOATS, "str": AttributeProto.STRINGS}
        element = kind.removeprefix("Sequence[").removesuffix("]")
        return helper.make_attribute(name, list(value), attr_type=types.get(element))
    return helper.make_attribute(name, value)
