"""A copy for inference: what depends on parameters only is computed once."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

import qonnx_torch.nn as qnn
from qonnx_torch.errors import QonnxTorchError
from qonnx_torch.ops.standard.movement import transpose
from qonnx_torch.passes.constants import ConstantValues, nested_graphs
from qonnx_torch.passes.tensors import TensorTable
from qonnx_torch.passes.training import update_statistics

__all__ = ["fold_for_inference"]


def fold_for_inference(module: fx.GraphModule) -> fx.GraphModule:
    """Returns a copy that quantizes weights and biases once, and computes the same as the module in `eval()`.

    Also in subgraphs (the branches of an If, the body of a Loop):

    1. Every tensor that depends on parameters only becomes a buffer, named after the node that gave it.
    2. What quantizers learn (a threshold, a logarithm) becomes the plain scale it stands for; quantizers
       that are disabled, or still delayed, are taken out.
    3. All parameters become buffers: the copy has nothing to train. Train the module and fold it again.

    The results have the same bits. The copy shares no tensor with the module; it is in `eval()`, can be
    compiled, saved and exported (quantized weights as constants).

    Raises:
        QonnxTorchError: the module is no GraphModule.
    """
    if not isinstance(module, fx.GraphModule):
        raise QonnxTorchError(
            f"{type(module).__name__} is no torch.fx.GraphModule: fold what import_model returned, inside it"
        )
    folded = copy.deepcopy(module).eval()
    update_statistics(folded)
    for _, graph, _ in list(nested_graphs(folded)):
        _take_out_switched_off(graph)
    for _, graph, constants in reversed(list(nested_graphs(folded))):  # a subgraph asks the graph around it
        _fold_constants(graph, constants)
        graph.graph.lint()
        graph.recompile()
    for submodule in folded.modules():
        if isinstance(submodule, qnn.Quantizer):
            submodule.train_parameters()  # nothing
    _make_buffers(folded)
    return folded


def _take_out_switched_off(module: fx.GraphModule) -> None:
    for node in list(module.graph.nodes):
        quantizer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(quantizer, qnn.Quantizer):
            continue
        if quantizer.delay is not None and int(quantizer.delay.remaining) > 0:
            quantizer.disable()
        if quantizer.enabled:
            quantizer.enable()  # without a delay that is over
        else:
            node.replace_all_uses_with(node.all_input_nodes[0])
            module.graph.erase_node(node)
    module.delete_all_unused_submodules()


def _fold_constants(module: fx.GraphModule, constants: ConstantValues) -> None:
    tensors = TensorTable(module)
    given = ("get_attr", "placeholder")
    inner = [n for n in module.graph.nodes if n.op not in given and constants.is_constant(n)]
    # A transpose in front of a product stays, since it is only a view: as a tensor of its own it would make
    # torch choose another kernel, whose rounding differs.
    views: set[fx.Node] = set()
    for node in reversed(inner):
        if node.target is transpose and not all(
            constants.is_constant(u) and u not in views for u in node.users
        ):
            views.add(node)
    for node in inner:
        if node in views or all(constants.is_constant(u) and u not in views for u in node.users):
            continue
        value = constants.value(node)
        if isinstance(value, Tensor):
            path = tensors.new_path(node.name)
            module.register_buffer(path, value.detach().clone())
            with module.graph.inserting_before(node):
                buffer = module.graph.get_attr(path)
            buffer.meta.update(node.meta)
            node.replace_all_uses_with(buffer)
    read = [n for n in module.graph.nodes if n.op == "get_attr"]
    for node in reversed(inner):
        if not node.users:
            module.graph.erase_node(node)
    tensors.drop_unread(read)
    module.delete_all_unused_submodules()


def _make_buffers(module: nn.Module) -> None:
    """Turns every parameter into a buffer; one that lives at several paths stays one tensor."""
    buffers: dict[nn.Parameter, Tensor] = {}
    for owner in module.modules():
        for name, parameter in list(owner._parameters.items()):
            if parameter is not None:
                delattr(owner, name)
                owner.register_buffer(name, buffers.setdefault(parameter, torch.clone(parameter.detach())))
