"""ONNX graph to fx graph: one fx node per ONNX node, values keyed by ONNX value name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from operator import getitem
from typing import Any

import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from torch import fx

import qonnx_torch.nn as qnn
from qonnx_torch.dtypes import PACKED_TYPES
from qonnx_torch.errors import InvalidModelError, QonnxTorchError, UnsupportedModelError, quoted, shortened
from qonnx_torch.graphs import label, reads, sorted_nodes, subgraphs
from qonnx_torch.names import identifier
from qonnx_torch.ops.standard._numbers import NUMBER_TYPES
from qonnx_torch.provenance import NodeOrigin, Provenance, TensorOrigin, attach_provenance
from qonnx_torch.registry import REGISTRY, Operator

from .constants import is_constant
from .dialects import OperatorSets
from .following import computed
from .forms import attributes_of, check_form
from .legacy import Aligned, Literal, NodeForm, modernize
from .quantizers import quantizer_call
from .schemas import check_outputs, check_schema, check_types
from .scope import Scope
from .skeleton import skeleton
from .subgraphs import SubgraphBuilder, check_subgraphs, subgraph_call
from .tensors import TensorStore

__all__ = ["build"]

_MOST_LISTED = 1000
_LONGEST_REASON = 4000  # values out of the file may be in it


def build(model: ModelProto, tensors: TensorStore) -> fx.GraphModule:
    """Returns the module of a model, in `eval()`, with its provenance attached.

    Args:
        model: the model.
        tensors: the data of its large tensors.

    Raises:
        InvalidModelError: the graph breaks the specification.
        UnsupportedModelError: lists every node whose operator is not implemented.
    """
    sets = OperatorSets(model)
    _refuse_unknown(model.graph, sets)
    builder = _GraphBuilder(model, model.graph, sets, tensors)
    builder.convert()
    check_outputs(model.graph, builder.scope.types)
    builder.end()
    return builder.module().eval()


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
                operator = shortened(f"{domain or 'ai.onnx'}::{node.op_type}")
                refused.append(f"  {label(node)}: {operator} version {version}")
    if refused:
        more = [f"  and {len(refused) - _MOST_LISTED} more"] if len(refused) > _MOST_LISTED else []
        lines = "\n".join([*refused[:_MOST_LISTED], *more])
        raise UnsupportedModelError(
            f"{len(refused)} of {total} nodes have operators that are not supported:\n{lines}"
        )


class _GraphBuilder:
    """Builds the main graph of a model, or a subgraph of one of its nodes."""

    def __init__(
        self,
        model: ModelProto,
        graph: GraphProto,
        sets: OperatorSets,
        tensors: TensorStore,
        outer: Scope | None = None,
    ) -> None:
        self.model = model
        self.graph = graph
        self.sets = sets
        self.tensors = tensors
        self.scope = Scope(graph, tensors, outer)
        self.quantizers: dict[str, tuple[type[Any], dict[str, Any]]] = {}

    def convert(
        self,
        captured: Sequence[str] = (),
        numbers: Collection[str] = (),
        known: Mapping[str, Any] | None = None,
        types: Mapping[str, int | None] | None = None,
    ) -> None:
        """Converts the nodes. For the arguments, which are for subgraphs, see `SubgraphBuilder`."""
        graph, scope = self.graph, self.scope
        scope.declare_inputs(graph, numbers, known, types)
        scope.capture(captured)
        computing = [n for n in graph.node if not is_constant(n)]
        given = [*scope.constants, *scope.values]
        order = sorted_nodes(computing, given, (o.name for o in graph.output))
        positions = {id(n): i for i, n in enumerate(graph.node)}
        self.read = {name for n in computing for name in reads(n)} | {o.name for o in graph.output}
        for i in order:
            self._convert(computing[i], positions[id(computing[i])])

    def end(self, numbers: Sequence[bool] | None = None) -> None:
        """Ends the graph with its outputs. For numbers, which are for subgraphs, see `SubgraphBuilder`."""
        self.scope.output([o.name for o in self.graph.output], numbers)

    def module(self) -> fx.GraphModule:
        """Returns the module of the graph, with its provenance."""
        module = self.scope.root
        module.recompile()
        attach_provenance(module, self._provenance(module))
        return module

    def _convert(self, proto: NodeProto, index: int) -> None:
        try:
            self._convert_node(proto, index)
        except QonnxTorchError as error:
            text = shortened(str(error), _LONGEST_REASON)
            where = f"node {label(proto)}"
            raise type(error)(text if text.startswith("node ") else f"{where}: {text}") from None

    def _convert_node(self, proto: NodeProto, index: int) -> None:
        domain, version = self.sets.domain(proto), self.sets.version(proto)
        check_schema(proto, domain, version)
        check_types(proto, domain, version, self.scope.types)
        form = NodeForm(
            proto.op_type, [n or None for n in proto.input], attributes_of(proto), len(proto.output)
        )
        if domain == "":
            modernize(form, version)
        if domain in ("", "com.microsoft"):
            self._spell_out_types(form)
        operator = REGISTRY.get(domain, form.op_type, version)
        check_form(form, operator, strict=domain == "")
        check_subgraphs(proto, operator)
        module_class = REGISTRY.module_of(operator)
        on_shapes, results = False, None
        if module_class is not None and issubclass(module_class, qnn.Quantizer):
            node = quantizer_call(self.scope, self.quantizers, form, operator, module_class, proto)
        elif module_class is not None and operator.subgraphs:
            node, results = subgraph_call(
                self.scope, proto, operator, module_class, form.attributes, self._builder_of
            )
        else:
            args, on_shapes = self._arguments(form, operator)
            if module_class is not None:
                node = self._module_call(proto, form, operator, module_class, args)
            else:
                node = self._function_call(proto, form, operator, args, on_shapes)
        self.scope.place(node, NodeOrigin(index, proto.name, proto.op_type, tuple(proto.output)))
        self._name_outputs(node, proto, operator, form)
        if domain in ("", "ai.onnx.ml"):
            self.scope.types.infer(proto.op_type, version, proto.input, proto.output, form.attributes, domain)
        elif module_class is not None and issubclass(module_class, qnn.Quantizer):
            self.scope.types[proto.output[0]] = self.scope.types[proto.input[0]]
        if results is not None:
            self.scope.note_results(proto.output, results.numbers, results.types, results.known)

    def _spell_out_types(self, form: NodeForm) -> None:
        """Writes element types into attributes where values do not show them: below a byte, and numbers."""
        if form.op_type not in ("QuantizeLinear", "CastLike"):
            return
        source = form.inputs[-1] if form.op_type == "CastLike" else (*form.inputs, None, None)[2]
        element_type = self.scope.types[source] if isinstance(source, str) else None
        shown = element_type not in PACKED_TYPES
        if form.op_type == "CastLike" and element_type and self._are_shapes(form.inputs[:1]):
            shown = False
        if shown:
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
        counts = self._counts_elements(operator, form.inputs) and self._gives_number_type(form)
        if "number_type" in operator.python_only and (on_shapes or counts):
            number_type = self.scope.types[next(v for v in form.inputs if isinstance(v, str))]
            if number_type in (TensorProto.INT32, TensorProto.DOUBLE):  # numbers alone would not tell
                attributes = {**attributes, "number_type": number_type}
        if "of_max_pool" in operator.python_only and self._is_of_max_pool(args[1]):
            attributes = {**attributes, "of_max_pool": True}
        if "packed" in operator.python_only and self.scope.types[proto.input[0]] == TensorProto.UINT4:
            attributes = {**attributes, "packed": False}
        if counts and "as_numbers" in operator.python_only:
            attributes, on_shapes = {**attributes, "as_numbers": True}, True
        node = self.scope.graph.call_function(operator.target, tuple(args), attributes)
        if on_shapes or operator.gives_numbers:
            self.scope.shapes.add(node)
        if counts:
            self.scope.counts.add(node)
        if not operator.gives_numbers:
            self._follow(node, operator)
        if "like" in operator.python_only:
            node.kwargs = {**node.kwargs, "like": self.scope.first_tensor}
        return node

    def _is_of_max_pool(self, indices: Any) -> bool:
        picked = isinstance(indices, fx.Node) and indices.target is getitem
        operator = REGISTRY.of_target(indices.args[0].target) if picked else None
        return operator is not None and operator.op_type == "MaxPool"

    def _counts_elements(self, operator: Operator, inputs: Sequence[str | Literal | Aligned | None]) -> bool:
        """Whether a node counts elements of a shape or constant, or computes on such counts and constants.

        Their numbers do not change from run to run, so that also what is made of that many elements can be
        Python numbers.
        """
        names = [value for value in inputs if isinstance(value, str)]
        scope = self.scope
        if operator.gives_numbers:
            return bool(names) and (scope.is_shape(names[0]) or scope.shape_constant(names[0]) is not None)
        found = [scope.values.get(name) in scope.counts for name in names]
        rest = all(scope.shape_constant(n) is not None for n, c in zip(names, found, strict=True) if not c)
        return any(found) and rest

    def _module_call(
        self, proto: NodeProto, form: NodeForm, operator: Operator, module_class: type[Any], args: list[Any]
    ) -> fx.Node:
        name = identifier(proto.name or proto.output[0], self.scope.module_names, operator.op_type)
        attributes = dict(form.attributes)
        if operator.counts_outputs and self._wanted(proto) > 1:
            attributes["outputs"] = len(proto.output)
        try:
            module = module_class(**attributes)
        except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
            reason = shortened(str(error).partition("\n")[0])
            raise InvalidModelError(f"{operator}: its attributes do not fit each other ({reason})") from error
        self.scope.root.add_module(name, module)
        return self.scope.graph.call_module(name, tuple(args))

    def _builder_of(self, graph: GraphProto) -> SubgraphBuilder:
        return _GraphBuilder(self._header(), graph, self.sets, self.tensors, self.scope)

    def _header(self) -> ModelProto:
        """Returns a model without a graph, for the provenance of a subgraph."""
        return ModelProto(ir_version=self.model.ir_version, opset_import=self.model.opset_import)

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
                raise UnsupportedModelError(f"its output {quoted(read[0])} is not available")
            scope.values[names[0]] = node
            return
        for i, name in enumerate(names):
            if name:
                item = scope.graph.call_function(getitem, (node, i))
                scope.place(item, NodeOrigin(-1, "", "getitem", (name,)))
                scope.values[name] = item
                if node in scope.shapes:
                    scope.shapes.add(item)

    def _follow(self, node: fx.Node, operator: Operator) -> None:
        """Notes the value of a node where only small constants enter."""
        known = self.scope.known
        if any(n not in known for n in node.all_input_nodes):
            return
        args = fx.node.map_arg(node.args, lambda n: known[n])
        sizes = [a for slot, a in zip(operator.inputs, args, strict=False) if slot in operator.static]
        sizes += [value for name, value in node.kwargs.items() if name != "value"]
        if operator.op_type == "Slice":  # it clamps its bounds, which are often the largest number there is
            sizes = []
        result = computed(operator.target, args, node.kwargs, sizes)
        if isinstance(result, (int, float, bool, tuple, torch.Tensor)):
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
        numbers = operator.on_shapes and self._are_shapes(data)
        on_shapes = numbers and self._gives_number_type(form)
        if numbers and not on_shapes:
            return [self.scope.tensor(v) for v in form.inputs], False
        args = [
            self._argument(slot, value, operator, on_shapes)
            for slot, value in zip(slots, form.inputs, strict=False)
        ]
        while args and args[-1] is None:
            args.pop()
        return args, on_shapes

    def _argument(
        self, slot: str, value: str | Literal | Aligned | None, operator: Operator, on_shapes: bool
    ) -> Any:
        scope = self.scope
        if value is None or isinstance(value, Literal):
            return None if value is None else value.value
        if isinstance(value, Aligned):
            return scope.aligned(value.value, value.other, value.axis)
        if slot in operator.static:
            return scope.static(value)
        if on_shapes and not scope.is_shape(value):
            return scope.shape_constant(value)
        if slot in operator.numbers and (set(operator.inputs) > operator.numbers or scope.is_plain(value)):
            number = scope.number(value)
            if number is not None:
                return number
        return scope.values[value] if on_shapes else scope.argument(value)

    def _are_shapes(self, inputs: Sequence[str | Literal | Aligned | None]) -> bool:
        """Whether a node computes on Python numbers: one input is a shape value, the others constants."""
        names = [value for value in inputs if isinstance(value, str)]
        scope = self.scope
        return any(scope.is_shape(n) for n in names) and all(
            scope.is_shape(n) or (scope.may_be_numbers(n) and scope.shape_constant(n) is not None)
            for n in names
        )

    def _gives_number_type(self, form: NodeForm) -> bool:
        """Whether what a node makes of Python numbers has an element type that Python numbers can have."""
        kind = form.attributes.get("value" if form.op_type == "ConstantOfShape" else "to", TensorProto.INT64)
        return (kind[0] if isinstance(kind, tuple) else kind) in NUMBER_TYPES

    def _provenance(self, module: fx.GraphModule) -> Provenance:
        used = self.scope.used_constants()
        tensors = tuple(TensorOrigin(c.name, tuple(c.paths), c.encoding()) for c in used.values())
        nodes = tuple(self.scope.origins[n] for n in module.graph.nodes if n.op != "get_attr")
        rest = skeleton(self.model, used.keys(), self.graph, self.tensors)
        if self.sets.mixed:  # the nodes of no operator set: an export writes the graph whole, in one
            own = [entry for entry in rest.opset_import if entry.domain not in ("", "ai.onnx")]
            del rest.opset_import[:]
            rest.opset_import.extend(own)
        return Provenance(rest.SerializeToString(), nodes, tensors)
