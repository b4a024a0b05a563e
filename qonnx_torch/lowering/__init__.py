"""Float `nn.Module` to the representation: one fx node per ONNX node, weights at their own names."""

from __future__ import annotations

import copy
import logging
from typing import Any, Literal

import torch
from onnx import GraphProto, ModelProto, ValueInfoProto, helper
from torch import Tensor, fx, nn

from qonnx_torch.dtypes import onnx_element_type
from qonnx_torch.errors import UnsupportedModelError
from qonnx_torch.lowering import activations, arithmetic, layers, pools, selecting, shaping
from qonnx_torch.lowering.emitter import Emitter
from qonnx_torch.lowering.tracing import LoweringTracer, uncompiled
from qonnx_torch.nn.tracing import RepresentationTracer
from qonnx_torch.provenance import NodeOrigin, Provenance, TensorOrigin, attach_provenance, computing_nodes

__all__ = ["TABLES", "declare", "trace"]

TABLES = (activations, arithmetic, layers, pools, selecting, shaping)
"""The files that say how calls are written; importing them fills the table."""

_LOGGER = logging.getLogger(__name__)
_BATCHES = (37, 41)


def trace(
    module: nn.Module, args: Tensor | tuple[Any, ...], *, batch: Literal["dynamic", "keep"] = "dynamic"
) -> fx.GraphModule:
    """Returns a module as a graph of ONNX operators, as `import_model` gives, with the same numbers.

    The module's own code runs once, as in `eval()`; each call of torch becomes ONNX operators that compute
    the same. Weights stay parameters at their `state_dict` keys (`conv1.weight`, `bn1.running_mean`); what
    nothing reads (`num_batches_tracked`) goes, and of tied weights the first key stays. Forward hooks and
    parametrizations are part of the code: pruned weights train through `weight_orig` and their mask, those of
    `weight_norm` through size and direction; `spectral_norm` keeps its last estimate. BatchNormalization
    and Dropout follow `train()` and `eval()`, also where the code calls `torch.nn.functional`. A call
    without a counterpart stays as it is: it runs and trains, a warning lists it, and `export_qonnx` refuses
    it by name.

    Where an operator is the same torch kernel (Conv, Gemm, MaxPool, Relu, ...) the result has the same bits;
    BatchNormalization in `eval()`, AveragePool, Linear of more than two dimensions, and functions that are
    written in several operators differ by float rounding.

    Args:
        module: any module that torch.fx can trace, also from `torch.compile`. It is not changed, and the
            result shares nothing with it.
        args: example inputs, one per positional argument of `forward`. Ranks and sizes other than the batch
            are taken from them; code that branches on them is followed. Arguments left out keep their
            defaults, and what is no tensor is a constant.
        batch: "dynamic" leaves the leading dimension free (of every input that has the first one's); code
            that works at one size only keeps it, with a warning. "keep" keeps the size of the examples.

    Returns:
        A GraphModule in the mode of the module. It exports with a dynamic batch, without example inputs.

    Raises:
        UnsupportedModelError: code that cannot be traced (it branches on data, say, or is TorchScript), or
            outputs that are neither a tensor nor a tuple of tensors.
    """
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise UnsupportedModelError(
                f"{name or type(module).__name__} is TorchScript, which cannot be traced: give the nn.Module "
                "that it was made of"
            )
    module = uncompiled(module)
    examples = (args,) if isinstance(args, Tensor) else tuple(args)
    if not any(isinstance(e, Tensor) for e in examples):
        raise UnsupportedModelError("args must hold at least one tensor: the example inputs of forward")
    if batch == "keep":
        return _lowered(module, examples, ())
    try:
        return _lowered(module, examples, _BATCHES)
    except UnsupportedModelError as error:
        lowered = _lowered(module, examples, ())  # refuses again where the batch is not the reason
        _LOGGER.warning("the batch size of %s stays as in args: %s", type(module).__name__, error)
        return lowered


def _lowered(module: nn.Module, examples: tuple[Any, ...], batch_sizes: tuple[int, ...]) -> fx.GraphModule:
    kind = type(module).__name__
    tracer = LoweringTracer(examples, batch_sizes)
    try:
        tracer.lower(_copied(module))
    except Exception as error:  # whatever the module's own code raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnsupportedModelError(f"{kind} cannot be traced: {reason}") from error
    emitter, results = tracer.emitter, tracer.graph.output_node().args[0]
    outputs: list[Any] = list(results) if isinstance(results, (tuple, list)) else [results]
    if not outputs or not all(emitter.is_tensor(r) for r in outputs):
        raise UnsupportedModelError(
            f"{kind} returns {results}; a graph returns a tensor or a tuple of tensors"
        )
    graph = fx.Graph(tracer_cls=RepresentationTracer)
    copies: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(tracer.graph, copies)
    own = [copies[r] for r in outputs]
    end = graph.output(tuple(own) if isinstance(results, (tuple, list)) else own[0])
    end.meta["onnx"] = NodeOrigin(-1, "", "", tuple(_value_name(n) for n in own))
    for node in reversed(graph.nodes):  # sizes that were read and not used, say
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)
    lowered = fx.GraphModule(_root(emitter), graph, class_name=f"Traced{kind}")
    lowered.training = module.training
    inputs = [_declaration(n, emitter) for n in tracer.graph.nodes if n.op == "placeholder"]
    declare(lowered, ModelProto(graph=GraphProto(name=kind, input=inputs), producer_name="qonnx_torch"))
    _report(kind, {copies[n]: reason for n, reason in emitter.kept.items()}, graph)
    return lowered


def _copied(module: nn.Module) -> nn.Module:
    """Returns a copy. What hooks left in attributes (a pruned weight) torch copies only without gradients."""
    held = (value for part in module.modules() for value in vars(part).values())
    computed = [value for value in held if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(module, {id(value): value.detach().clone() for value in computed})


def declare(module: fx.GraphModule, header: ModelProto, tensors: tuple[TensorOrigin, ...] = ()) -> None:
    """Attaches names and declared inputs to a module that stands for no file, or no more.

    Args:
        module: its nodes carry their ONNX names in `meta["onnx"]`.
        header: a model with the declared inputs. It imports no default operator set, which tells the export
            that there are no nodes to go back to.
        tensors: the names of tensors that are not called as they are in the module.
    """
    nodes = tuple(n.meta["onnx"] for n in computing_nodes(module.graph))
    attach_provenance(module, Provenance(header.SerializeToString(), nodes, tensors))


def _value_name(node: fx.Node) -> str:
    return str(node.target) if node.op == "get_attr" else str(node.meta["onnx"].outputs[0])


def _declaration(node: fx.Node, emitter: Emitter) -> ValueInfoProto:
    """Returns the declaration of a graph input; what differs between the trials is the batch."""
    dims = ["batch" if n is None else n for n in emitter.sizes(node)]
    return helper.make_tensor_value_info(_value_name(node), onnx_element_type(emitter.dtype(node)), dims)


def _root(emitter: Emitter) -> nn.Module:
    """Returns a tree of plain modules with the tensors and modules of the graph at their places."""
    root = nn.Module()
    for path, module in emitter.modules.items():
        owner, leaf = _owner(root, path)
        owner.add_module(leaf, module)
    for path, tensor in emitter.tensors.items():
        owner, leaf = _owner(root, path)
        if isinstance(tensor, nn.Parameter):
            owner.register_parameter(leaf, tensor)
        else:
            owner.register_buffer(leaf, tensor)
    return root


def _owner(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    *scopes, leaf = path.split(".")
    for scope in scopes:
        if scope not in root._modules:
            root.add_module(scope, nn.Module())
        root = root.get_submodule(scope)
    return root, leaf


def _report(kind: str, kept: dict[fx.Node, str], graph: fx.Graph) -> None:
    left = [f"{n.meta['onnx'].name} ({kept[n]})" for n in graph.nodes if n in kept]
    if left:
        _LOGGER.warning(
            "%s: calls without a counterpart (%d) stay as they are, and an export refuses them: %s",
            kind,
            len(left),
            "; ".join(left),
        )
