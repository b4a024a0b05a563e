"""Inserts quantizers into a float model, by a declarative configuration."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from typing import Any, Literal

from onnx import ModelProto
from torch import Tensor, fx, nn

from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.lowering import declare, trace
from qonnx_torch.lowering.tracing import uncompiled
from qonnx_torch.passes.constants import nested_graphs
from qonnx_torch.passes.quantization.config import QuantizationConfig
from qonnx_torch.passes.quantization.initialization import calibrate_activations, train
from qonnx_torch.passes.quantization.insertion import Inserter
from qonnx_torch.provenance import NodeOrigin, fingerprint, provenance_of, value_names
from qonnx_torch.registry import REGISTRY

__all__ = ["quantize"]


def quantize(
    module: nn.Module,
    config: QuantizationConfig | None = None,
    args: Tensor | tuple[Any, ...] | None = None,
    calibration: Iterable[Any] | None = None,
    *,
    batch: Literal["dynamic", "keep"] = "dynamic",
    progress: bool = True,
) -> fx.GraphModule:
    """Returns a module with quantizers in it, ready to be trained further and exported as QONNX.

    A graph from `import_model` is copied; any other module goes through `trace` first. Quantizers are called
    after what they quantize: `conv1.weight_quant`, `layer1.0.relu_quant`, `x_quant`. Where they go:

    1. Constant inputs of a quantized operator (Conv, ConvTranspose, Gemm and MatMul, or what `op_types`
       says): at the parameter itself, before a Transpose or Identity behind it. The bias only where the
       configuration has `biases`.
    2. Computed inputs: as early as operators that only pass values on allow (MaxPool, Reshape, Flatten,
       Transpose, Concat, Slice, Gather, zero Pad, Dropout, ...): directly behind the Relu, the
       BatchNormalization or the input of the module that they come from. All readers of that value read
       it quantized.
       A constant that is only passed on (an embedding's table) is quantized as a weight.
    3. `residuals`: one quantizer, called at both inputs of the Add.
    4. `outputs` of an operator, or of the module: behind it, for all readers.
    5. `positions`: exactly at that input of that operator, or behind that output, instead of 1, 2 and 4.
    6. Nothing is quantized twice: a value that a quantizer gives, also through operators that only pass
       values on, stays as it is (but see 3), and so does what is not floating.

    Args:
        module: an imported module, also one with quantizers in it, or any `nn.Module` that torch.fx can
            trace. It is not changed, and the result shares nothing with it.
        config: what is quantized, and how; by default 8 bits for weights, activations and inputs.
        args: example inputs. They are needed for a module that is not imported, and are what scales are
            found on where there is no `calibration`.
        calibration: batches to find the scales of activations on: a DataLoader or any iterable, as
            `qonnx_torch.calibrate` takes them. The quantizers of weights are in place already then.
        batch: of a module that is not imported: "dynamic" leaves the leading dimension of the inputs free,
            "keep" keeps that of `args`, as clients need that execute at one size only (qonnx, FINN).
        progress: show a bar while calibrating, on a terminal.

    Returns:
        A GraphModule in the mode of the module. The quantizers train as their configuration says.

    Raises:
        QonnxTorchError: a rule that fits no operator; no data where a scale is to be found; values that are
            not finite; one value that two operators want quantized differently.
        UnsupportedModelError: a module that cannot be traced, or shapes that cannot be inferred.

    Warns:
        UserWarning: values that are all 0 (the range is -1 to 1 then), where nothing was quantized, and of
            operators in subgraphs (the branches of an If), which stay as they are.
    """
    config = config or QuantizationConfig()
    inputs = (args,) if isinstance(args, Tensor) else tuple(args) if args is not None else ()
    graph = _representation(module, inputs, batch)
    tensors = tuple(t for t in inputs if isinstance(t, Tensor))
    inserter = Inserter(graph, tensors)
    inserter.insert(config)
    _warn_of_subgraphs(graph, config)
    graph.recompile()
    data = calibration if calibration is not None else [tensors] if tensors else None
    calibrate_activations(graph, inserter.pending, data, progress=progress)
    for name, site in inserter.sites.items():
        train(name, site.quantizer, site.config, site.role)
    return _finished(graph)


def _representation(
    module: nn.Module, inputs: tuple[Any, ...], batch: Literal["dynamic", "keep"]
) -> fx.GraphModule:
    """Returns a copy of a module as a graph of operators, each node with its ONNX names in its meta."""
    module = uncompiled(module)
    provenance = provenance_of(module)
    if provenance is None or not isinstance(module, fx.GraphModule):
        if not inputs:
            raise QonnxTorchError(f"{type(module).__name__} is traced: give example inputs as args")
        return trace(module, inputs, batch=batch)
    graph = copy.deepcopy(module)
    names = value_names(graph)
    known = provenance.nodes if fingerprint(graph) == provenance.fingerprint else ()
    for i, (node, own) in enumerate(names.items()):
        operator = REGISTRY.of_target(node.target)
        unnamed = NodeOrigin(-1, node.name, operator.op_type if operator else "", own)
        node.meta["onnx"] = known[i] if known else node.meta.get("onnx", unnamed)
    return graph


def _warn_of_subgraphs(graph: fx.GraphModule, config: QuantizationConfig) -> None:
    left = []
    for prefix, subgraph, _ in list(nested_graphs(graph))[1:]:
        for node in subgraph.graph.nodes:
            operator = REGISTRY.of_target(node.target)
            if operator is not None and operator.op_type in config.op_types:
                left.append(f"{prefix}{node.name} ({operator.op_type})")
    if left:
        shown = ", ".join(left[:5]) + (", ..." if len(left) > 5 else "")
        warnings.warn(f"operators in subgraphs stay as they are: {shown}", UserWarning, stacklevel=3)


def _finished(graph: fx.GraphModule) -> fx.GraphModule:
    """Returns a graph declared as what it is now: no file's, but with the file's names, inputs and metadata.

    Its tensors stand in the order in which it reads them. So a re-import of its export has them, and the
    state of an optimizer goes by that order.
    """
    provenance = provenance_of(graph)
    assert provenance is not None
    header = ModelProto.FromString(provenance.skeleton)
    for entry in [o for o in header.opset_import if o.domain in ("", "ai.onnx")]:
        header.opset_import.remove(entry)
    ordered = fx.GraphModule(graph, graph.graph, class_name=type(graph).__name__)
    for module in ordered.modules():
        if module is ordered or type(module) is nn.Module:
            module.training = graph.training
    declare(ordered, header, provenance.tensors)
    return ordered
