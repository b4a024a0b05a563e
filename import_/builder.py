"""ONNX graph to fx graph: one fx node per ONNX node, values keyed by ONNX value name."""

from __future__ import annotations

from collections.abc import Sequence
from operator import getitem
from typing import Any

import torch
from onnx import GraphProto, ModelProto, NodeProto
from torch import fx

import qonnx_torch.nn as qnn
from qonnx_torch.dtypes import PACKED_TYPES
from qonnx_torch.errors import QonnxTorchError, UnsupportedModelError
from qonnx_torch.names import identifier
from qonnx_torch.ordering import free_names, label, reads, sorted_nodes, subgraphs
from qonnx_torch.provenance import NodeOrigin, Provenance, TensorOrigin, attach_provenance
from qonnx_torch.registry import REGISTRY, Operator

from .constants import is_constant
from .dialects import OperatorSets
from .forms import attributes_of, check_form
from .legacy import Literal, NodeForm, modernize
from .quantizers import quantizer_call
from .scope import SMALL, Scope
from .skeleton import skeleton

__all__ = ["build"]


def build(model: ModelProto) -> fx.GraphModule:
    """Returns the module of a model, in `eval()`, with its provenance attached.

    Raises:
        InvalidModelError: the graph breaks the specification.
        UnsupportedModelError: lists every node whose operator is not implemented.
    """
    sets = OperatorSets(model)
    _refuse_unknown(model.graph, sets)
    return _GraphBuilder(model, sets).build().eval()


def _refuse_unknown(graph: GraphProto, sets: OperatorSets) -> None:
    refused: list[str] = []
    total = 0
    graphs = [graph]
    while graphs:
        for node in graphs.pop().node:
            if is_constant(node):
                continue
            total += 1
            graphs += subgraphs(node).values()
            domain, version = sets.domain(node), sets.version(node)
            if domain == "" and node.op_type == "Upsample" and version < 10:
                continue
            if REGISTRY.find(domain, node.op_type, version) is None:
                refused.append(f"  {label(node)}: {domain or 'ai.onnx'}::{node.op_type} version {version}")
    if refused:
        raise UnsupportedModelError(
            f"{len(refused)} of {total} nodes have operators that are not supported:\n" + "\n".join(refused)
        )


class _GraphBuilder:
    """Builds the main graph of a model, or a subgraph of one of its nodes."""

    def __init__(self, model: ModelProto, sets: OperatorSets) -> None:
        self.model = model
        self.sets = sets
        graph = model.graph
        if graph.sparse_initializer:
            raise UnsupportedModelError(f"sparse initializer {graph.sparse_initializer[0].values.name!r}")
        self.scope = Scope(graph)
        self.quantizers: dict[str, tuple[type[Any], dict[str, Any]]] = {}

    def build(
        self, captured: Sequence[str] = (), outer: Scope | None = None, numbers: int = 0
    ) -> fx.GraphModule:
        """Returns the module of the graph.

        Args:
            captured: values of the graph around this one, which become inputs after its own.
            outer: the scope of the graph around this one.
            numbers: how many of the leading inputs are Python numbers (a Loop's iteration).
        """
        graph, scope = self.model.graph, self.scope
        scope.declare_inputs(graph)
        for value in graph.input[:numbers]:
            scope.shapes.add(scope.values[value.name])
        if outer is not None:
            scope.capture(captured, outer)
        computing = [n for n in graph.node if not is_constant(n)]
        given = [*scope.constants, *scope.values]
        order = sorted_nodes(computing, given, (o.name for o in graph.output))
        positions = {id(n): i for i, n in enumerate(graph.node)}
        self.read = {name for n in computing for name in reads(n)} | {o.name for o in graph.output}
        for i in order:
            self._convert(computing[i], positions[id(computing[i])])
        scope.output([o.name for o in graph.output])
        module = scope.root
        module.recompile()
        attach_provenance(module, self._provenance(module))
        return module

    def _convert(self, proto: NodeProto, index: int) -> None:
        try:
            self._convert_node(proto, index)
        except QonnxTorchError as error:
            text = str(error)
            where = f"node {label(proto)}"
            raise type(error)(text if text.startswith("node ") else f"{where}: {text}") from None

    def _convert_node(self, proto: NodeProto, index: int) -> None:
        domain, version = self.sets.domain(proto), self.sets.version(proto)
        form = NodeForm(
            proto.op_type, [n or None for n in proto.input], attributes_of(proto), len(proto.output)
        )
        if domain == "":
            modernize(form, version)
            self._spell_out_types(form)
        operator = REGISTRY.get(domain, form.op_type, version)
        check_form(form, operator, strict=domain == "")
        module_class = REGISTRY.module_of(operator)
        on_shapes = False
        if module_class is not None and issubclass(module_class, qnn.Quantizer):
            node = quantizer_call(self.scope, self.quantizers, form, operator, module_class, proto)
        else:
            args, on_shapes = self._arguments(form, operator)
            if module_class is not None:
                node = self._module_call(proto, form, operator, module_class, args)
            else:
                node = self._function_call(proto, form, operator, args, on_shapes)
        self.scope.place(node, NodeOrigin(index, proto.name, proto.op_type, tuple(proto.output)))
        self._name_outputs(node, proto, operator, form)
        if domain == "":
            self.scope.types.infer(proto.op_type, version, proto.input, proto.output, form.attributes)
        elif module_class is not None and issubclass(module_class, qnn.Quantizer):
            self.scope.types[proto.output[0]] = self.scope.types[proto.input[0]]

    def _spell_out_types(self, form: NodeForm) -> None:
        """Writes element types narrower than a byte into attributes: the tensors do not show them."""
        if form.op_type not in ("QuantizeLinear", "CastLike"):
            return
        source = form.inputs[-1] if form.op_type == "CastLike" else (*form.inputs, None, None)[2]
        element_type = self.scope.types[source] if isinstance(source, str) else None
        if element_type not in PACKED_TYPES:
            return
        if form.op_type == "QuantizeLinear":
            form.attributes["output_dtype"] = element_type
        else:
            form.op_type = "Cast"
            form.attributes["to"] = element_type
            form.inputs = form.inputs[:1]

    def _function_call(
        self, proto: NodeProto, form: NodeForm, operator: Operator, args: list[Any], on_shapes: bool
    ) -> fx.Node:
        attributes = form.attributes
        if operator.counts_outputs and self._wanted(proto) > 1:
            attributes = {**attributes, "outputs": len(proto.output)}
        node = self.scope.graph.call_function(operator.target, tuple(args), attributes)
        if on_shapes or operator.gives_numbers:
            self.scope.shapes.add(node)
        if not operator.gives_numbers:
            self._follow(node)
        return node

    def _module_call(
        self, proto: NodeProto, form: NodeForm, operator: Operator, module_class: type[Any], args: list[Any]
    ) -> fx.Node:
        name = identifier(proto.name or proto.output[0], self.scope.module_names, operator.op_type)
        attributes = dict(form.attributes)
        graphs = subgraphs(proto)
        if graphs:
            captured = list(dict.fromkeys(n for g in graphs.values() for n in free_names(g)))
            args += [None] * (len(proto.input) - len(args))
            args += [self.scope.argument(n) for n in captured]
            for key, graph in graphs.items():
                attributes[key] = self._child(proto, graph, captured)
            attributes["captured"] = len(captured)
        elif operator.counts_outputs and self._wanted(proto) > 1:
            attributes["outputs"] = len(proto.output)
        self.scope.root.add_module(name, module_class(**attributes))
        return self.scope.graph.call_module(name, tuple(args))

    def _child(self, proto: NodeProto, graph: GraphProto, captured: Sequence[str]) -> fx.GraphModule:
        model = ModelProto(ir_version=self.model.ir_version, opset_import=self.model.opset_import)
        model.graph.CopyFrom(graph)
        numbers = 1 if proto.op_type == "Loop" else 0
        return _GraphBuilder(model, self.sets).build(captured, self.scope, numbers)

    def _wanted(self, proto: NodeProto) -> int:
        """Returns the position of the last output that something reads, from 1."""
        return max((i for i, name in enumerate(proto.output, 1) if name in self.read), default=1)

    def _name_outputs(self, node: fx.Node, proto: NodeProto, operator: Operator, form: NodeForm) -> None:
        names = list(proto.output)
        scope = self.scope
        several = operator.outputs != 1 or form.attributes.get("training_mode")
        if operator.counts_outputs:
            several = self._wanted(proto) > 1
        if not several:
            read = [name for name in names[1:] if name and name in self.read]
            if read:
                raise UnsupportedModelError(f"its output {read[0]!r} is not available")
            scope.values[names[0]] = node
            return
        for i, name in enumerate(names):
            if name:
                item = scope.graph.call_function(getitem, (node, i))
                scope.place(item, NodeOrigin(-1, "", "getitem", (name,)))
                scope.values[name] = item
                if node in scope.shapes:
                    scope.shapes.add(item)

    def _follow(self, node: fx.Node) -> None:
        """Notes the value of a node where only small constants enter."""
        known = self.scope.known
        if any(n not in known for n in node.all_input_nodes):
            return
        args = fx.node.map_arg(node.args, lambda n: known[n])
        try:
            with torch.no_grad():
                result = node.target(*args, **node.kwargs)  # type: ignore[operator]
        except Exception:  # whatever it is: it fails again, with its own message, when the module runs
            return
        if isinstance(result, (int, float, bool, tuple)) or (
            isinstance(result, torch.Tensor) and result.numel() <= SMALL
        ):
            known[node] = result

    def _arguments(self, form: NodeForm, operator: Operator) -> tuple[list[Any], bool]:
        """Returns the fx arguments, and whether they are shapes."""
        slots = list(operator.inputs)
        if operator.variadic:
            slots = slots[:-1] + [slots[-1]] * (len(form.inputs) - len(slots) + 1)
        data = [
            n
            for slot, n in zip(slots, form.inputs, strict=False)
            if slot not in operator.static and n is not None
        ]
        on_shapes = operator.on_shapes and self._are_shapes(data)
        args = [
            self._argument(slot, value, operator, on_shapes)
            for slot, value in zip(slots, form.inputs, strict=False)
        ]
        while args and args[-1] is None:
            args.pop()
        return args, on_shapes

    def _argument(self, slot: str, value: str | Literal | None, operator: Operator, on_shapes: bool) -> Any:
        scope = self.scope
        if value is None or isinstance(value, Literal):
            return None if value is None else value.value
        if slot in operator.static:
            return scope.static(value)
        if on_shapes and not scope.is_shape(value):
            return scope.shape_constant(value)
        number = scope.number(value) if slot in operator.numbers else None
        if number is not None:
            return number
        return scope.values[value] if on_shapes else scope.argument(value)

    def _are_shapes(self, inputs: Sequence[str | Literal]) -> bool:
        """Whether a node computes on Python numbers: one input is a shape value, the others constants."""
        names = [value for value in inputs if isinstance(value, str)]
        return any(self.scope.is_shape(n) for n in names) and all(
            self.scope.is_shape(n) or self.scope.shape_constant(n) is not None for n in names
        )

    def _provenance(self, module: fx.GraphModule) -> Provenance:
        used = self.scope.used_constants()
        tensors = tuple(TensorOrigin(c.name, tuple(c.paths), c.encoding()) for c in used.values())
        nodes = tuple(self.scope.origins[n] for n in module.graph.nodes if n.op != "get_attr")
        return Provenance(skeleton(self.model, used.keys()).SerializeToString(), nodes, tensors)
