"""ONNX graph to fx graph: one fx node per ONNX node, values keyed by ONNX value name."""

from __future__ import annotations

from collections.abc import Sequence
from operator import getitem
from typing import Any

import torch
from onnx import ModelProto, NodeProto
from torch import fx, nn

import qonnx_torch.nn as qnn
from qonnx_torch.errors import InvalidModelError, QonnxTorchError, UnsupportedModelError
from qonnx_torch.names import identifier, parameter_paths
from qonnx_torch.nn.tracing import RepresentationTracer
from qonnx_torch.ops import as_tensor
from qonnx_torch.ops.shape import shape, size
from qonnx_torch.ordering import label, sorted_nodes
from qonnx_torch.provenance import (
    TENSOR_ENCODINGS,
    NodeOrigin,
    Provenance,
    TensorOrigin,
    attach_provenance,
)
from qonnx_torch.registry import REGISTRY, Operator

from .constants import Constant, as_python, constant_value, is_constant
from .dialects import OperatorSets
from .forms import attributes_of, check_form
from .legacy import Literal, NodeForm, modernize

__all__ = ["build"]

_SMALL = 4096
"""Constants up to this many elements are followed through computations of shapes."""


def build(model: ModelProto) -> fx.GraphModule:
    """Returns the module of a model, in `eval()`, with its provenance attached.

    Raises:
        InvalidModelError: the graph breaks the specification.
        UnsupportedModelError: lists every node whose operator is not implemented.
    """
    return _Builder(model).build()


class _Builder:
    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.sets = OperatorSets(model)
        self.graph = fx.Graph(tracer_cls=RepresentationTracer)
        self.root = nn.Module()
        self.constants: dict[str, Constant] = {}
        self.values: dict[str, fx.Node] = {}
        self.known: dict[fx.Node, Any] = {}
        self.shapes: set[fx.Node] = set()
        self.attributes: dict[str, fx.Node] = {}
        self.origins: dict[fx.Node, NodeOrigin] = {}
        self.module_names: set[str] = set()
        self.quantizers: dict[str, tuple[type[Any], dict[str, Any]]] = {}

    def build(self) -> fx.GraphModule:
        graph = self.model.graph
        if graph.sparse_initializer:
            raise UnsupportedModelError(f"sparse initializer {graph.sparse_initializer[0].values.name!r}")
        self._collect_constants()
        nodes = list(graph.node)
        inputs = [i for i in graph.input if i.name not in self.constants]
        given = [*self.constants, *(i.name for i in inputs)]
        computing = [n for n in nodes if not is_constant(n)]
        order = sorted_nodes(computing, given, (o.name for o in graph.output))
        self._refuse_unknown(computing)

        self.paths = parameter_paths(self.constants)
        self.module_names.update(p.split(".")[0] for p in self.paths.values())
        self.statistics = self._running_statistics(computing)
        self.read = {i for n in computing for i in n.input} | {o.name for o in graph.output}
        placeholders: set[str] = set()
        for value in inputs:
            if value.name in self.values:
                raise InvalidModelError(f"graph input {value.name!r} is declared twice")
            if not value.type.HasField("tensor_type"):
                kind = value.type.WhichOneof("value") or "it has no type"
                raise UnsupportedModelError(f"graph input {value.name!r} is no tensor ({kind})")
            node = self.graph.placeholder(identifier(value.name, placeholders, "input"))
            self._place(node, NodeOrigin(-1, "", "", (value.name,)))
            self.values[value.name] = node
        positions = {id(n): i for i, n in enumerate(nodes)}
        for i in order:
            self._convert(computing[i], positions[id(computing[i])])
        self._output([o.name for o in graph.output])

        module = fx.GraphModule(self.root, self.graph, class_name="ImportedModel")
        attach_provenance(module, self._provenance(module))
        return module.eval()

    # -- constants ---------------------------------------------------------------------------------

    def _collect_constants(self) -> None:
        for proto in self.model.graph.initializer:
            if proto.name in self.constants:
                raise InvalidModelError(f"initializer {proto.name!r} occurs twice")
            self.constants[proto.name] = Constant(proto.name, proto)
        for node in self.model.graph.node:
            if is_constant(node):
                if len(node.output) != 1 or not node.output[0] or node.output[0] in self.constants:
                    raise InvalidModelError(f"Constant node {label(node)} needs one output with a new name")
                self.constants[node.output[0]] = Constant(node.output[0], constant_value(node))

    def _running_statistics(self, nodes: Sequence[NodeProto]) -> set[str]:
        return {n for node in nodes if node.op_type == "BatchNormalization" for n in node.input[3:5]}

    def _attribute(self, constant: Constant) -> fx.Node:
        """Returns the get_attr node of a constant, registering its parameter or buffer at first use."""
        node = self.attributes.get(constant.name)
        if node is None:
            path = self.paths[constant.name]
            tensor = constant.tensor()
            scope, _, leaf = path.rpartition(".")
            owner = self._scope(scope)
            if tensor.is_floating_point() and constant.name not in self.statistics:
                owner.register_parameter(leaf, nn.Parameter(tensor))
            else:
                owner.register_buffer(leaf, tensor)
            constant.paths.append(path)
            node = self.graph.create_node("get_attr", path)
            self.attributes[constant.name] = node
            if tensor.numel() <= _SMALL:
                self.known[node] = tensor
        return node

    # -- nodes -------------------------------------------------------------------------------------

    def _refuse_unknown(self, nodes: Sequence[NodeProto]) -> None:
        refused = []
        for node in nodes:
            domain, version = self.sets.domain(node), self.sets.version(node)
            if domain == "" and node.op_type == "Upsample" and version < 10:
                continue
            if REGISTRY.find(domain, node.op_type, version) is None:
                refused.append(f"  {label(node)}: {domain or 'ai.onnx'}::{node.op_type} version {version}")
        if refused:
            raise UnsupportedModelError(
                f"{len(refused)} of {len(nodes)} nodes have operators that are not supported:\n"
                + "\n".join(refused)
            )

    def _place(self, node: fx.Node, origin: NodeOrigin) -> None:
        self.origins[node] = origin
        node.meta["onnx"] = origin

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
        operator = REGISTRY.get(domain, form.op_type, version)
        check_form(form, operator, strict=domain == "")
        origin = NodeOrigin(index, proto.name, proto.op_type, tuple(proto.output))
        module_class = REGISTRY.module_of(operator)
        if module_class is not None and issubclass(module_class, qnn.Quantizer):
            node = self._quantizer(form, operator, module_class, proto)
        else:
            args, on_shapes = self._arguments(form, operator)
            if module_class is not None:
                name = identifier(proto.name or proto.output[0], self.module_names, operator.op_type)
                self.root.add_module(name, module_class(**form.attributes))
                node = self.graph.call_module(name, tuple(args))
            else:
                node = self.graph.call_function(operator.target, tuple(args), form.attributes)
                self._follow(node, on_shapes)
        self._place(node, origin)
        self._name_outputs(node, proto, operator, form)

    def _name_outputs(self, node: fx.Node, proto: NodeProto, operator: Operator, form: NodeForm) -> None:
        names = list(proto.output)
        if operator.outputs == 1 and not form.attributes.get("training_mode"):
            read = [name for name in names[1:] if name and name in self.read]
            if read:
                raise UnsupportedModelError(f"its output {read[0]!r} is not available")
            self.values[names[0]] = node
            return
        for i, name in enumerate(names):
            if name:
                item = self.graph.call_function(getitem, (node, i))
                self._place(item, NodeOrigin(-1, "", "getitem", (name,)))
                self.values[name] = item
                if node in self.shapes:
                    self.shapes.add(item)

    def _follow(self, node: fx.Node, on_shapes: bool) -> None:
        """Notes whether a node gives Python ints, and its value where only small constants enter."""
        if on_shapes or node.target in _SHAPE_SOURCES:
            self.shapes.add(node)
        inputs = node.all_input_nodes
        if node.target in _SHAPE_SOURCES or any(n not in self.known for n in inputs):
            return
        args = fx.node.map_arg(node.args, lambda n: self.known[n])
        try:
            with torch.no_grad():
                result = node.target(*args, **node.kwargs)  # type: ignore[operator]
        except (RuntimeError, ValueError, IndexError, TypeError):
            return  # it fails again, with its own message, when the module runs
        if not isinstance(result, torch.Tensor) or result.numel() <= _SMALL:
            self.known[node] = result

    def _arguments(self, form: NodeForm, operator: Operator) -> tuple[list[Any], bool]:
        """Returns the fx arguments, and whether they are shapes."""
        slots = list(operator.inputs)
        if operator.variadic:
            slots = slots[:-1] + [slots[-1]] * (len(form.inputs) - len(slots) + 1)
        tensor_inputs = [
            n
            for slot, n in zip(slots, form.inputs, strict=False)
            if slot not in operator.static and n is not None
        ]
        on_shapes = operator.on_shapes and self._are_shapes(tensor_inputs)
        args: list[Any] = []
        for slot, value in zip(slots, form.inputs, strict=False):
            if value is None or isinstance(value, Literal):
                args.append(None if value is None else value.value)
            elif slot in operator.static:
                args.append(self._static(value, slot))
            elif (on_shapes and value in self.constants) or (
                slot in operator.numbers and value in self.constants and not self.constants[value].proto.dims
            ):
                args.append(self.constants[value].python())
            elif value in self.constants:
                args.append(self._attribute(self.constants[value]))
            else:
                args.append(self.values[value])
        while args and args[-1] is None:
            args.pop()
        return args, on_shapes

    def _are_shapes(self, inputs: Sequence[str | Literal]) -> bool:
        """Whether a node computes on Python ints: one input is a shape value, the others constants."""
        found = False
        for value in inputs:
            if isinstance(value, Literal):
                continue
            if value in self.constants:
                constant = self.constants[value]
                if len(constant.proto.dims) > 1 or constant.numel() > _SMALL:
                    return False
            elif self.values[value] in self.shapes:
                found = True
            else:
                return False
        return found

    def _static(self, name: str, slot: str) -> Any:
        if name in self.constants:
            return self.constants[name].python()
        node = self.values[name]
        if node in self.known:
            return as_python(self.known[node])
        if node in self.shapes:
            return node
        raise UnsupportedModelError(
            f"its input {slot} ({name!r}) is computed from data; it must be a constant or come from a Shape"
        )

    def _quantizer(
        self,
        form: NodeForm,
        operator: Operator,
        module_class: type[Any],
        proto: NodeProto,
    ) -> fx.Node:
        common = self._common_path(form, module_class)
        x = self._tensor_value(form.inputs[0])
        if common is not None and self.quantizers.get(common) == (module_class, form.attributes):
            return self.graph.call_module(common, (x,))
        if common in self.quantizers:
            common = None
        name = common or identifier(proto.name or proto.output[0], self.module_names, operator.op_type)
        owned: dict[str, torch.Tensor | None] = {}
        args: list[Any] = []
        for parameter, value in zip(module_class.parameter_names, form.inputs[1:], strict=True):
            if isinstance(value, str) and value in self.constants:
                constant = self.constants[value]
                owned[parameter] = constant.tensor().clone()
                constant.paths.append(f"{name}.{parameter}")
                args.append(None)
            else:
                owned[parameter] = None
                args.append(self._tensor_value(value))
        while args and args[-1] is None:
            args.pop()
        owner, _, leaf = name.rpartition(".")
        self._scope(owner).add_module(leaf, module_class(**owned, **form.attributes))
        if common and not args:
            self.quantizers[common] = (module_class, form.attributes)
        return self.graph.call_module(name, (x, *args))

    def _common_path(self, form: NodeForm, module_class: type[Any]) -> str | None:
        """Returns P where all constants of a quantizer are called P.scale, P.zero_point, ...; None else.

        So they are called in what this package exports of a module of one's own, whose `state_dict` keys come
        back with it; several nodes of one P are one quantizer, called several times.
        """
        names = zip(module_class.parameter_names, form.inputs[1:], strict=True)
        own = {p: self.paths[v] for p, v in names if isinstance(v, str) and v in self.constants}
        found = {path.removesuffix(f".{p}") if path.endswith(f".{p}") else "" for p, path in own.items()}
        return found.pop() if len(found) == 1 and "" not in found else None

    def _scope(self, path: str) -> nn.Module:
        """Returns the module at a path, made where there is none."""
        owner = self.root
        for scope in path.split(".") if path else ():
            if scope not in owner._modules:
                owner.add_module(scope, nn.Module())
            owner = owner.get_submodule(scope)
        return owner

    def _tensor_value(self, value: str | Literal | None) -> fx.Node:
        if not isinstance(value, str):
            raise InvalidModelError("a quantizer's inputs cannot be left out")
        if value in self.constants:
            return self._attribute(self.constants[value])
        node = self.values[value]
        return self._materialize(node) if node in self.shapes else node

    def _materialize(self, node: fx.Node) -> fx.Node:
        tensor = self.graph.call_function(as_tensor, (node,))
        self._place(tensor, NodeOrigin(-1, "", "as_tensor", self.origins[node].outputs))
        return tensor

    def _output(self, names: Sequence[str]) -> None:
        results = [self._tensor_value(name) for name in names]
        node = self.graph.output(results[0] if len(results) == 1 else tuple(results))
        self._place(node, NodeOrigin(-1, "", "", tuple(names)))

    def _provenance(self, module: fx.GraphModule) -> Provenance:
        tensors = [
            TensorOrigin(c.name, tuple(c.paths), c.encoding()) for c in self.constants.values() if c.paths
        ]
        live = {t.name for t in tensors}
        skeleton = ModelProto()
        skeleton.CopyFrom(self.model)
        for proto in skeleton.graph.initializer:
            if proto.name in live:
                for encoding in TENSOR_ENCODINGS:
                    proto.ClearField(encoding)
        nodes = tuple(self.origins[n] for n in module.graph.nodes if n.op != "get_attr")
        return Provenance(skeleton.SerializeToString(), nodes, tuple(tensors))


_SHAPE_SOURCES = frozenset({shape, size})
