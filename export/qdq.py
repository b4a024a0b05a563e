"""QuantizeDequantizeLinear, which no file contains, written as the nodes that it stands for.

1. QuantizeLinear, a Clip where the integers are not all those of their type, and DequantizeLinear; under the
   names that the nodes had in the file, where there are any.
2. Integers of a type that the operator set does not have, or of which it has no Clip, are held in bytes.
3. A scale is written as ONNX wants it: 0-d, 1-D along an axis, or one per block; the zero point in its shape
   and in the type of the integers.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from qonnx_torch.dtypes import INT2, UINT2, element_type_name, integer_range
from qonnx_torch.errors import ExportError
from qonnx_torch.graphs import default_opset, is_constant, label, subgraphs
from qonnx_torch.names import Names
from qonnx_torch.passes.shapes import ValueInfo
from qonnx_torch.registry import PROJECT_DOMAIN

__all__ = ["expand_quantizers", "least_opset"]

_OP_TYPE = "QuantizeDequantizeLinear"
_SINCE: dict[int, int] = {
    TensorProto.INT16: 21,
    TensorProto.UINT16: 21,
    TensorProto.INT4: 21,
    TensorProto.UINT4: 21,
    INT2: 25,
    UINT2: 25,
}
"""The operator set that first has QuantizeLinear to a type; 10 for bytes."""

_BYTES: dict[int, int] = {
    TensorProto.INT4: TensorProto.INT8,
    INT2: TensorProto.INT8,
    TensorProto.UINT4: TensorProto.UINT8,
    UINT2: TensorProto.UINT8,
}
_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_Array = np.ndarray[Any, Any]


def least_opset(model: ModelProto) -> int:
    """Returns the oldest ai.onnx operator set that can express a model's QuantizeDequantizeLinear nodes."""
    arrays = _constants(model.graph)
    return max((_Pair(node, arrays).least_opset() for _, node in _found(model.graph)), default=1)


def expand_quantizers(model: ModelProto, infos: Mapping[str, ValueInfo]) -> None:
    """Writes each QuantizeDequantizeLinear of a model, and of its subgraphs, as standard operators, in place.

    Args:
        model: nodes and initializers are complete.
        infos: shapes and dtypes of its values, as far as they are known.

    Raises:
        ExportError: the operator set has no such QuantizeLinear, or parameters in a shape that ONNX has not.
    """
    found = list(_found(model.graph))
    if not found:
        return
    opset = default_opset(model)
    writer = _Writer(model, opset, infos)
    for _, node in found:
        writer.note(node)
    for graph in {id(graph): graph for graph, _ in found}.values():
        nodes: list[NodeProto] = []
        for node in graph.node:
            nodes += writer.nodes(graph, node) if _is_quantizer(node) else [_copy(node)]
        del graph.node[:]
        graph.node.extend(nodes)


def _found(graph: GraphProto) -> Iterator[tuple[GraphProto, NodeProto]]:
    waiting = [graph]
    while waiting:
        graph = waiting.pop()
        for node in graph.node:
            waiting += subgraphs(node).values()
            if _is_quantizer(node):
                yield graph, node


def _is_quantizer(node: NodeProto) -> bool:
    return (node.domain, node.op_type) == (PROJECT_DOMAIN, _OP_TYPE)


def _copy(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _constants(graph: GraphProto) -> dict[str, TensorProto]:
    """Returns the constants of a graph and its subgraphs by name."""
    found: dict[str, TensorProto] = {}
    waiting = [graph]
    while waiting:
        graph = waiting.pop()
        found |= {i.name: i for i in graph.initializer}
        for node in graph.node:
            waiting += subgraphs(node).values()
            if is_constant(node) and node.attribute and node.attribute[0].name == "value":
                found[node.output[0]] = node.attribute[0].t
    return found


class _Pair:
    """What a node asks of QuantizeLinear and DequantizeLinear.

    Attributes:
        scale: name of the scale.
        zero_point: name of the zero point.
        element_type: of the integers.
        bounds: smallest and largest integer.
        block_size: elements per block, 0 for none.
        axis: of parameters per axis or block, from the end; 0 where there is one for all.
        shape: of the parameters; None where they are computed.
    """

    def __init__(self, node: NodeProto, constants: Mapping[str, TensorProto]) -> None:
        numbers = {
            "element_type": int(TensorProto.INT8),
            "axis": -1,
            "block_size": 0,
            "low": -128,
            "high": 127,
        }
        numbers |= {a.name: a.i for a in node.attribute if a.name in numbers}
        _, self.scale, self.zero_point = node.input
        self.element_type, self.block_size = numbers["element_type"], numbers["block_size"]
        self.bounds = numbers["low"], numbers["high"]
        self.half = self.scale in constants and constants[self.scale].data_type in _HALF
        known = [tuple(constants[n].dims) for n in (self.scale, self.zero_point) if n in constants]
        self.axis = 0
        self.shape: tuple[int, ...] | None = None
        if known:
            self.axis, self.shape = _placed(known, numbers["axis"], self.block_size, node)

    def type_in(self, opset: int) -> int:
        """Returns the element type that holds the integers in an operator set."""
        known = opset >= _SINCE.get(self.element_type, 10)
        narrow = self.element_type in _BYTES and (
            not known or self.bounds != integer_range(self.element_type)
        )
        return _BYTES[self.element_type] if narrow else self.element_type

    def least_opset(self) -> int:
        """Returns the oldest operator set that has all that it asks for."""
        held = _BYTES.get(self.element_type, self.element_type)
        if self.block_size:
            return max(21, _SINCE.get(held, 10))
        clipped = self.bounds != integer_range(held)
        needs = [
            _SINCE.get(held, 10),
            12 if clipped else 10,
            13 if self.axis else 10,
            19 if self.half else 10,
        ]
        return max(needs)


def _placed(
    shapes: list[tuple[int, ...]], axis: int, block_size: int, node: NodeProto
) -> tuple[int, tuple[int, ...]]:
    """Returns the axis of parameters that broadcast to a tensor, and the shape that ONNX gives them."""
    shape = tuple(np.broadcast_shapes(*shapes))
    wide = [i - len(shape) for i, n in enumerate(shape) if n != 1]
    if not wide:
        return 0, shape if len(shape) == 1 else ()
    if block_size:
        rank = len(shape) - 1
        place = axis % rank
        if shape[place + 1] == 1:
            return place - rank, shape[: place + 1] + shape[place + 2 :]
    elif len(wide) == 1:
        return wide[0], (shape[wide[0]],)
    raise ExportError(
        f"node {label(node)}: QuantizeLinear has no parameters of shape {shape}; they are per tensor, per "
        "axis or per block"
    )


class _Writer:
    """Writes the nodes of one model.

    Attributes:
        readers: value name -> how many nodes read it.
        wanted: constant -> the types and shapes in which the nodes want it, one entry for each.
    """

    def __init__(self, model: ModelProto, opset: int, infos: Mapping[str, ValueInfo]) -> None:
        self.opset = opset
        self.infos = infos
        self.constants = _constants(model.graph)
        self.names = Names(v.name for v in (*model.graph.input, *model.graph.output))
        self.names.update(self.constants)
        self.node_names = Names()
        self.readers: Counter[str] = Counter()
        self.wanted: dict[str, list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
        self.made: dict[tuple[int, str, int, tuple[int, ...]], str] = {}
        waiting = [model.graph]
        while waiting:
            graph = waiting.pop()
            for node in graph.node:
                waiting += subgraphs(node).values()
                self.names.update((*node.input, *node.output))
                self.node_names.add(node.name)
                self.readers.update(set(node.input))

    def note(self, node: NodeProto) -> None:
        """Notes how a node wants its parameters, before any is written."""
        pair = _Pair(node, self.constants)
        if pair.least_opset() > self.opset:
            what = element_type_name(pair.element_type) + (" in blocks" if pair.block_size else "")
            raise ExportError(
                f"node {label(node)}: opset {self.opset} has no QuantizeLinear to {what}; ask for opset "
                f"{pair.least_opset()} or above"
            )
        for name, element_type in self._parameters(pair):
            if name in self.constants and pair.shape is not None:
                self.wanted[name].append((element_type, pair.shape))

    def _parameters(self, pair: _Pair) -> list[tuple[str, int]]:
        """Returns the parameters of a pair, with their element types."""
        scale_type = self.constants[pair.scale].data_type if pair.scale in self.constants else 0
        return [(pair.scale, scale_type), (pair.zero_point, pair.type_in(self.opset))]

    def nodes(self, graph: GraphProto, node: NodeProto) -> list[NodeProto]:
        """Returns the nodes that take the place of one; their constants are added to the graph."""
        pair = _Pair(node, self.constants)
        held = pair.type_in(self.opset)
        names = {p.key: p.value for p in node.metadata_props}
        x, y = node.input[0], node.output[0]
        parameters = [self._constant(graph, name, kind, pair.shape) for name, kind in self._parameters(pair)]
        attributes: dict[str, Any] = {"axis": pair.axis} if pair.axis else {}
        if pair.block_size and pair.axis:
            attributes["block_size"] = pair.block_size
        quantized = self._value(graph, names.get("quantize_output") or f"{y}_quantized", held, y)
        steps = [("QuantizeLinear", "quantize", [x, *parameters], quantized, attributes)]
        if pair.bounds != integer_range(held):
            clipped = self._value(graph, names.get("clip_output") or f"{y}_clipped", held, y)
            ends = [self._bound(graph, held, end) for end in pair.bounds]
            steps.append(("Clip", "clip", [quantized, *ends], clipped, {}))
            quantized = clipped
        steps.append(("DequantizeLinear", "dequantize", [quantized, *parameters], y, attributes))
        self.node_names.discard(node.name)
        stem = node.name.removesuffix(_OP_TYPE) if node.name.endswith(_OP_TYPE) else f"{node.name}_"
        result = []
        for op_type, key, inputs, output, own in steps:
            name = names.get(key) or (f"{stem}{op_type}" if node.name else "")
            name = self.node_names.fresh(name) if name else ""
            result.append(helper.make_node(op_type, inputs, [output], name=name, **own))
        return result

    def _constant(
        self, graph: GraphProto, name: str, element_type: int, shape: tuple[int, ...] | None
    ) -> str:
        """Returns a constant in a type and shape: a new one where others read it as it is."""
        if name not in self.constants or shape is None:
            return name
        tensor = self.constants[name]
        if (tensor.data_type, tuple(tensor.dims)) == (element_type, shape):
            return name
        alone = len(self.wanted[name]) == self.readers[name] and len(set(self.wanted[name])) == 1
        key = (id(graph), name, element_type, shape)
        if key not in self.made:
            array = _as_type(numpy_helper.to_array(tensor), element_type)
            placed = (
                array.reshape(shape) if array.size == math.prod(shape) else np.full(shape, array.reshape(()))
            )
            proto = numpy_helper.from_array(placed, name if alone else self.names.fresh(name))
            if alone:
                proto.name = tensor.name
                tensor.CopyFrom(proto)
                return name
            graph.initializer.append(proto)
            self.made[key] = proto.name
        return self.made[key]

    def _bound(self, graph: GraphProto, element_type: int, end: int) -> str:
        key = (id(graph), str(end), element_type, ())
        if key not in self.made:
            array = _as_type(np.array(end), element_type)
            name = self.names.fresh(f"{element_type_name(element_type).lower()}_{end}")
            graph.initializer.append(numpy_helper.from_array(array, name))
            self.made[key] = name
        return self.made[key]

    def _value(self, graph: GraphProto, wanted: str, element_type: int, like: str) -> str:
        """Returns the name of a new value of the shape of another, and declares it."""
        name = self.names.fresh(wanted)
        shape = list(self.infos[like].shape) if like in self.infos else None
        graph.value_info.append(helper.make_tensor_value_info(name, element_type, shape))
        return name


def _as_type(array: _Array, element_type: int) -> _Array:
    dtype = helper.tensor_dtype_to_np_dtype(element_type)
    return array if array.dtype == dtype else np.rint(array).astype(dtype)
