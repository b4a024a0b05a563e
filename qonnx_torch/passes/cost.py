"""Inference cost: multiply-accumulates, bit operations and memory of the layers that multiply.

Counted: Conv (also channels last), ConvTranspose, Gemm and MatMul. Everything else counts nothing, and the
operators that the reference would call unsupported are named.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

import qonnx_torch.nn as qnn
from qonnx_torch.ops.qonnx import channels_last
from qonnx_torch.ops.qonnx import layers as qonnx_layers
from qonnx_torch.ops.standard import convolution, indexing, linear, movement, pool, shape
from qonnx_torch.ops.standard.elementwise import identity
from qonnx_torch.passes.constants import ConstantValues
from qonnx_torch.passes.inputs import Inputs
from qonnx_torch.passes.trials import shown
from qonnx_torch.registry import REGISTRY, Operator

__all__ = ["InferenceCost", "LayerCost", "inference_cost"]


@dataclass(frozen=True, slots=True)
class LayerCost:
    """The cost of one layer for one execution at the sizes that `inference_cost` counts.

    Attributes:
        name: ONNX node name.
        op_type: ONNX operator type.
        macs: multiply-accumulates [MAC]; with sparsity discounted, those with a weight that is not zero.
        weights: weight elements, likewise.
        outputs: output elements.
        input_type: QONNX datatype of the input; weight_type and output_type likewise.
    """

    name: str
    op_type: str
    macs: float
    weights: float
    outputs: float
    input_type: Datatype
    weight_type: Datatype
    output_type: Datatype

    @property
    def bops(self) -> float:
        """Bit operations: MACs times input bits times weight bits [BOP]."""
        return self.macs * self.input_type.bits * self.weight_type.bits

    def to_dict(self) -> dict[str, float]:
        """Returns the reference's keys."""
        costs = {
            f"op_mac_{self.input_type.name}_{self.weight_type.name}": self.macs,
            f"mem_w_{self.weight_type.name}": self.weights,
            f"mem_o_{self.output_type.name}": self.outputs,
        }
        return costs | {
            "total_macs": self.macs,
            "total_bops": self.bops,
            "total_mem_w_elems": self.weights,
            "total_mem_w_bits": self.weights * self.weight_type.bits,
            "total_mem_o_elems": self.outputs,
            "total_mem_o_bits": self.outputs * self.output_type.bits,
        }


@dataclass(frozen=True, slots=True)
class Datatype:
    """A QONNX datatype: its name and width."""

    name: str
    bits: int
    is_integer: bool = True


FLOAT32 = Datatype("FLOAT32", 32, is_integer=False)


@dataclass(frozen=True, slots=True)
class InferenceCost:
    """The cost of a model: its layers, and what was left out.

    Attributes:
        layers: costs in graph order.
        uncounted: operator types without a cost formula that are not free either.
        discount_sparsity: whether zero weights were left out.
        sizes: the dynamic dimensions, by name, and the sizes that count.
    """

    layers: tuple[LayerCost, ...]
    uncounted: frozenset[str]
    discount_sparsity: bool
    sizes: Mapping[str, int] = field(default_factory=dict, hash=False)

    @property
    def macs(self) -> float:
        """Multiply-accumulates of all layers [MAC]."""
        return sum(layer.macs for layer in self.layers)

    @property
    def bops(self) -> float:
        """Bit operations of all layers [BOP]."""
        return sum(layer.bops for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Returns the cost by the reference's keys: total_cost, optype_cost, node_cost."""
        by_type: dict[str, list[dict[str, float]]] = defaultdict(list)
        nodes: dict[str, dict[str, float]] = {}
        for layer in self.layers:
            costs = layer.to_dict()
            nodes[layer.name] = costs
            by_type[layer.op_type].append(costs)
        total: dict[str, Any] = dict(_sum(list(nodes.values())))
        total["unsupported"] = sorted(self.uncounted)
        total["discount_sparsity"] = self.discount_sparsity
        optypes = {op_type: _sum(costs) for op_type, costs in by_type.items()}
        return {"total_cost": total, "optype_cost": optypes, "node_cost": nodes}

    def to_json(self) -> str:
        """Returns `to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=1, sort_keys=True)

    def table(self) -> str:
        """Returns a line for each layer, the totals, and the sizes of dynamic dimensions if any."""
        rows: list[tuple[str, ...]] = [
            ("layer", "operator", "input", "weight", "MACs", "BOPs", "weight bits")
        ]
        for layer in self.layers:
            bits = layer.weights * layer.weight_type.bits
            types = (layer.input_type.name, layer.weight_type.name)
            rows.append((layer.name, layer.op_type, *types, *map(_count, (layer.macs, layer.bops, bits))))
        bits = sum(layer.weights * layer.weight_type.bits for layer in self.layers)
        rows.append(("total", "", "", "", *map(_count, (self.macs, self.bops, bits))))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        align = "<<<<>>>"
        lines = [
            "  ".join(f"{cell:{a}{w}}" for cell, a, w in zip(row, align, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, f"at {shown(self.sizes)}"] if self.sizes else lines)


def _sum(costs: list[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = defaultdict(float)
    for entry in costs:
        for key, amount in entry.items():
            total[key] += amount
    return dict(total)


def _count(value: float) -> str:
    return f"{round(value):,}"


def inference_cost(module: fx.GraphModule, *args: Any, discount_sparsity: bool = True) -> InferenceCost:
    """Returns the cost of executing a module once, layer by layer.

    Without example inputs, the declared input shapes count. A dynamic dimension counts 1; where the module
    does not run so (a U-Net needs even sizes), the smallest of a list of sizes that works, first for all
    dynamic dimensions together, then for each. `InferenceCost.sizes` has them.

    Args:
        module: an imported module.
        *args: example inputs, whose shapes then count.
        discount_sparsity: leave out the MACs and weights that are zero.

    Raises:
        UnsupportedModelError: the input shapes are unknown, or a node's shape cannot be inferred.

    Source: qonnx 1.0.0, analysis.inference_cost, for the keys and the formulas of Conv, Gemm and MatMul.
    """
    trial = Inputs(module, args).smallest()
    values = trial.run.results
    constants = ConstantValues(module)
    types = _datatypes(module, constants)
    layers, uncounted = [], set()
    for node in module.graph.nodes:
        if node.op not in ("call_function", "call_module"):
            continue
        operator = REGISTRY.of_target(_target(module, node))
        if node.target in _MACS or (operator is not None and operator.macs is not None):
            attributes = node.kwargs
            if operator is not None and node.op == "call_module":
                attributes = operator.attributes_of(module.get_submodule(str(node.target)))
            layers.append(_layer(node, operator, attributes, values, constants, types, discount_sparsity))
        elif operator is not None and operator.op_type not in _FREE:
            uncounted.add(operator.op_type)
    return InferenceCost(tuple(layers), frozenset(uncounted), discount_sparsity, trial.sizes)


def _target(module: fx.GraphModule, node: fx.Node) -> Any:
    return type(module.get_submodule(str(node.target))) if node.op == "call_module" else node.target


def _layer(
    node: fx.Node,
    operator: Operator | None,
    attributes: dict[str, Any],
    values: dict[fx.Node, Any],
    constants: ConstantValues,
    types: dict[fx.Node, Datatype],
    discount_sparsity: bool,
) -> LayerCost:
    assert operator is not None
    tensors = [a for a in node.args if isinstance(a, fx.Node)]
    result = values[node]
    if operator.macs is not None:
        arguments = fx.node.map_arg(node.args, lambda n: values[n])
        macs = float(operator.macs(result, *arguments, **attributes))
    else:
        macs = _MACS[node.target](*(values[a] for a in tensors[:2]), result, attributes)
    x, others = tensors[0], tensors[1:]
    factors = [*others[:1], x] if operator.macs is None else [*others, x]
    weight = next((a for a in factors if constants.is_constant(a)), None)
    elements = float(values[weight].numel()) if weight is not None else 0.0
    if discount_sparsity and weight is not None:
        tensor = constants.value(weight)
        density = torch.count_nonzero(tensor).item() / max(1, tensor.numel())
        macs, elements = macs * density, elements * density
    origin = node.meta.get("onnx")
    return LayerCost(
        name=(origin.name if origin else "") or node.name,
        op_type=operator.op_type,
        macs=macs,
        weights=elements,
        outputs=float(sum(t.numel() for t in (result if isinstance(result, tuple) else (result,)))),
        input_type=types[x],
        weight_type=types[others[0]] if others else FLOAT32,
        output_type=types[node],
    )


def _conv_macs(x: Tensor, w: Tensor, y: Tensor, attributes: dict[str, Any]) -> float:
    """Output elements times the products behind each: channels per group times the kernel."""
    return float(y.numel() * math.prod(w.shape[1:]))


def _conv_transpose_macs(x: Tensor, w: Tensor, y: Tensor, attributes: dict[str, Any]) -> float:
    """Input elements times the products from each; those that padding cuts off count too."""
    return float(x.numel() * math.prod(w.shape[1:]))


def _gemm_macs(x: Tensor, w: Tensor, y: Tensor, attributes: dict[str, Any]) -> float:
    """Output elements times the inner dimension."""
    return float(y.numel() * x.shape[0 if attributes.get("transA") else -1])


_MACS: dict[Any, Callable[..., float]] = {
    convolution.conv: _conv_macs,
    channels_last.conv_channels_last: _conv_macs,
    convolution.conv_transpose: _conv_transpose_macs,
    linear.gemm: _gemm_macs,
    linear.mat_mul: _gemm_macs,
}

_FREE = frozenset(
    [
        "Quant",
        "BipolarQuant",
        "FloatQuant",
        "Trunc",
        "MultiThreshold",
        "QuantizeLinear",
        "QuantizeDequantizeLinear",
        "DequantizeLinear",
        "Clip",
        "MaxPool",
        "AveragePool",
        "Reshape",
        "Flatten",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Concat",
        "Pad",
        "Identity",
        "Dropout",
        "Shape",
        "Gather",
        "Slice",
        "Cast",
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "BatchNormalization",
        "Relu",
        "Elu",
        "Selu",
        "Sigmoid",
    ]
)
"""Not counted, and not reported either: data movement, and elementwise work next to a MAC layer."""

_SAME_TYPE = frozenset(
    {
        identity,
        pool.max_pool,
        channels_last.max_pool_channels_last,
        qonnx_layers.max_pool_nhwc,
        qonnx_layers.im2col,
        qonnx_layers.debug_marker,
        shape.flatten,
        shape.reshape,
        movement.transpose,
        shape.squeeze,
        shape.unsqueeze,
        indexing.slice_,
        indexing.gather,
    }
)


def _datatypes(module: fx.GraphModule, constants: ConstantValues) -> dict[fx.Node, Datatype]:
    """Returns the QONNX datatype of each node as far as quantizers tell; FLOAT32 elsewhere."""
    types: dict[fx.Node, Datatype] = {}
    for node in module.graph.nodes:
        inputs = node.all_input_nodes
        types[node] = FLOAT32
        if node.op == "call_module":
            types[node] = _quantized_type(module.get_submodule(str(node.target)))
        elif node.target in _SAME_TYPE:
            types[node] = types[inputs[0]]
        elif node.target in _MACS:
            sources = [types[i] for i in inputs]  # a float bias makes a float accumulator
            if all(t.is_integer for t in sources):
                scaled = any(t.name.startswith("SCALED") for t in sources)
                unsigned = all(t.name.startswith(("UINT", "BINARY")) for t in sources)
                name = "SCALEDINT<32>" if scaled else "UINT32" if unsigned else "INT32"
                types[node] = Datatype(name, 32)
    return types


def _quantized_type(module: torch.nn.Module) -> Datatype:
    if isinstance(module, qnn.BipolarQuant) and isinstance(module.scale, Tensor):
        return Datatype("BIPOLAR", 1) if bool((module.scale == 1).all()) else FLOAT32
    if isinstance(module, qnn.QuantizeDequantizeLinear):
        width = (module.high - module.low).bit_length()
        plain = isinstance(module.zero_point, Tensor) and not bool(module.zero_point.any())
        return Datatype(f"SCALEDINT<{width}>", width) if plain else FLOAT32
    if not isinstance(module, qnn.Quant) or not isinstance(module.bit_width, Tensor):
        return FLOAT32
    bits = float(module.bit_width.reshape(-1)[0])
    if bits != int(bits) or not isinstance(module.zero_point, Tensor) or bool((module.zero_point != 0).any()):
        return FLOAT32
    if not isinstance(module.scale, Tensor) or bool((module.scale != 1).any()):
        return Datatype(f"SCALEDINT<{int(bits)}>", int(bits))
    if bits == 1:
        return Datatype("BIPOLAR" if module.signed else "BINARY", 1)
    return Datatype(f"{'INT' if module.signed else 'UINT'}{int(bits)}", int(bits))
