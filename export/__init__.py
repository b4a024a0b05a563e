"""`torch.fx.GraphModule` to ONNX."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, fx, nn

from qonnx_torch.dtypes import torch_dtype
from qonnx_torch.errors import ExportError
from qonnx_torch.graphs import all_nodes, default_opset
from qonnx_torch.nn import Quantizer
from qonnx_torch.nn.scales import has_collapsed
from qonnx_torch.passes.shapes import ValueInfo
from qonnx_torch.passes.training import update_statistics
from qonnx_torch.provenance import Provenance, fingerprint, provenance_of
from qonnx_torch.registry import REGISTRY

from .declarations import TensorChange, check_types, has_wrong_types, infer_values, tensor_changes
from .emitter import emit
from .finalise import OPSET_CEILING, declare, finalise
from .qdq import least_opset
from .restore import restore, state_of
from .writing import write_model

__all__ = ["export_qonnx"]

_OPSETS = (6, onnx.defs.onnx_opset_version())
_IR_VERSIONS = (4, onnx.IR_VERSION)
_CANONICAL_FLOOR = 13
_FUNCTIONS_FLOOR = 15


def export_qonnx(
    module: nn.Module,
    path: str | os.PathLike[str] | None = None,
    *,
    args: Tensor | tuple[Tensor, ...] = (),
    functions: bool = False,
    opset_version: int | None = None,
    ir_version: int | None = None,
) -> ModelProto:
    """Returns a module as a QONNX model, and writes it where a path is given.

    An imported module whose graph is unchanged (trained weights are no change) comes back at its own operator
    set with the same nodes, names and, where a tensor is unmodified, the same initializer bytes. An edited
    graph is written whole, in canonical form. Either way the file has: today's domain names, imported, the
    default one first; IR 8 to 10 and opset at most 21; sorted nodes; no initializer among the inputs; one
    value_info for each intermediate value and none for inputs and outputs. Inputs and outputs are declared as
    they are now; where that agrees with the file, the file's names of dimensions stay.

    Args:
        module: a GraphModule from `import_model`, possibly edited.
        path: where to write; the file is written beside and renamed. None writes nothing.
        args: example inputs, needed only where the module no longer knows its input shapes, or takes only
            certain sizes. Where they differ from what the file declares (shape or dtype), they are what is
            declared; dimensions that the file declares dynamic stay so.
        functions: give every QONNX operator a function body, so that plain onnxruntime runs the file.
            Needs opset 15; a graph from an older one is then written in canonical form.
        opset_version: ai.onnx operator set to write, 6 to onnx's newest; None keeps the file's own, up to 21,
            which clients know, or beyond where only newer sets have its operators.
        ir_version: IR version to write, from 4 to onnx's newest; None for 8 to 10.

    Returns:
        The model that was written.

    Raises:
        ExportError: nodes without an ONNX operator (all are listed), an operator set that cannot express
            the graph, a version that does not exist, shapes or types that do not fit together, a parameter or
            module that is gone, an unusable path, or a module that is no GraphModule.
    """
    if not isinstance(module, fx.GraphModule):
        raise ExportError(
            f"{type(module).__name__} is no torch.fx.GraphModule: what can be exported is a module that "
            "import_model returned, also with an edited graph"
        )
    _check_version("opset_version", opset_version, _OPSETS)
    _check_version("ir_version", ir_version, _IR_VERSIONS)
    _check_targets(module)
    _check_states(module)
    args = (args,) if isinstance(args, Tensor) else args
    update_statistics(module)
    provenance = provenance_of(module)
    if provenance is not None and fingerprint(module) != provenance.fingerprint:
        provenance = None
    _warn_of_collapsed_scales(module)
    changes = tensor_changes(module, provenance_of(module), state_of(module))
    infos = infer_values(module, args, changes, required=provenance is None)
    model = None
    if provenance is not None:
        given = infos if args else {}
        model = _restored(module, provenance, infos, given, functions, opset_version, ir_version)
    if model is not None and changes:
        check_types(model, changes)
    if model is None:
        if opset_version is not None and opset_version < _CANONICAL_FLOOR:
            raise ExportError(
                f"opset {opset_version}: a graph is written whole only at opset {_CANONICAL_FLOOR} or above"
            )
        if not infos:
            infer_values(module, args, changes, required=True)
        model = _written(module, changes, opset_version, ir_version)
    if functions:
        model = _with_functions(model, ir_version)
    if path is not None:
        write_model(model, path)
    return model


def _restored(
    module: fx.GraphModule,
    provenance: Provenance,
    infos: Mapping[str, ValueInfo],
    given: Mapping[str, ValueInfo],
    functions: bool,
    opset_version: int | None,
    ir_version: int | None,
) -> ModelProto | None:
    """Returns an unchanged graph as its file has it, or None where the operator set rules that out."""
    model = _unchanged(module, provenance, functions, opset_version)
    if model is None:
        return None
    _declare_inputs(model, given)
    finalise(model, infos, ir_version)
    own = default_opset(ModelProto.FromString(provenance.skeleton))
    if opset_version is None and default_opset(model) < own and has_wrong_types(model):
        return _restored(module, provenance, infos, given, functions, own, ir_version)
    return model


def _written(
    module: fx.GraphModule,
    changes: Sequence[TensorChange],
    opset_version: int | None,
    ir_version: int | None,
) -> ModelProto:
    """Returns a graph written whole, complete.

    Where the operator set is free, it is the first that has all operators and takes all types, of: the newest
    that clients know (if the file's nodes mean the same there); the file's own; onnx's newest.
    """
    provenance = provenance_of(module)
    file = ModelProto.FromString(provenance.skeleton) if provenance is not None else ModelProto()
    versions = [opset_version or OPSET_CEILING]
    if opset_version is None:
        own = default_opset(file)
        if own > OPSET_CEILING and not all(_same_schema(n, own, versions[0]) for n in all_nodes(file.graph)):
            versions = []
        versions += [own, _OPSETS[1]] if own >= _CANONICAL_FLOOR else [_OPSETS[1]]
        versions = list(dict.fromkeys(versions))
    *others, last = versions
    for version in others:
        with suppress(ExportError):
            return _written_at(module, changes, version, ir_version)
    return _written_at(module, changes, last, ir_version)


def _written_at(
    module: fx.GraphModule, changes: Sequence[TensorChange], version: int, ir_version: int | None
) -> ModelProto:
    model, infos = emit(module, version)
    finalise(model, infos, ir_version)
    check_types(model, changes)
    return model


def _warn_of_collapsed_scales(module: fx.GraphModule) -> None:
    quantizers = ((name, m) for name, m in module.named_modules() if isinstance(m, Quantizer))
    collapsed = [name for name, m in quantizers if has_collapsed(m.scale_training)]
    if collapsed:
        warnings.warn(
            f"training has brought the scales of {', '.join(collapsed)} down to zero or below; 1e-10 is "
            "written, as they compute; qt.parameter_groups gives scales a lower learning rate",
            stacklevel=3,
        )


def _check_version(name: str, version: int | None, known: tuple[int, int]) -> None:
    lowest, highest = known
    if version is not None and not lowest <= version <= highest:
        raise ExportError(f"{name}={version}: it must be from {lowest} to {highest}, or None to choose")


def _declare_inputs(model: ModelProto, infos: Mapping[str, ValueInfo]) -> None:
    """Declares the inputs as the example inputs are; what is dynamic in the file and in `infos` stays so."""
    for value in model.graph.input:
        info = infos.get(value.name)
        if info is None:
            continue
        tensor = value.type.tensor_type
        if all(isinstance(d, int) for d in info.shape):
            tensor.ClearField("shape")
        element_type = tensor.elem_type
        declare(value, info)
        if element_type and torch_dtype(element_type) is info.dtype:
            tensor.elem_type = element_type  # packed types have no dtype of their own


def _check_targets(module: fx.GraphModule) -> None:
    """Checks that the module has what its graph and the graphs in it read."""
    modules = dict(module.named_modules(remove_duplicate=False))
    graphs = {f"{name}." if name else "": m for name, m in modules.items() if isinstance(m, fx.GraphModule)}
    nodes = [(prefix + str(n.target), n) for prefix, graph in graphs.items() for n in graph.graph.nodes]
    missing = [path for path, n in nodes if n.op == "call_module" and path not in modules]
    for name, quantizer in modules.items():
        if isinstance(quantizer, Quantizer):
            missing += [f"{name}.{p}" for p in quantizer.parameter_names if not hasattr(quantizer, p)]
    if not missing:
        state = state_of(module)
        read = (path for path, n in nodes if n.op == "get_attr" and n.users)
        missing = [path for path in dict.fromkeys(read) if path not in state]
    if missing:
        raise ExportError(
            f"the graph reads what is no parameter, buffer or module any more: {', '.join(missing)}; "
            "put it back, or take the nodes that read it out of the graph"
        )


def _check_states(module: fx.GraphModule) -> None:
    """Checks that modules of operators that users registered are what their attributes make of them."""
    for name, child in module.named_modules():
        operator = REGISTRY.of_target(type(child))
        if operator is None or operator.target is not type(child):
            continue
        state = child.state_dict()
        made = type(child)(**operator.attributes_of(child)).state_dict() if state else {}
        lost = [key for key, value in state.items() if not _equal(value, made.get(key))]
        if lost:
            raise ExportError(
                f"module {name!r} ({operator}) holds {', '.join(lost)}, which its attributes do not give and "
                "a file cannot hold: make each an input of forward (an initializer in the file), or put it "
                f"into attributes by {type(child).__name__}.onnx_attributes()"
            )


def _equal(value: object, other: object) -> bool:
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        return torch.equal(value.detach().cpu(), other.detach().cpu())
    return value is other


def _unchanged(
    module: fx.GraphModule, provenance: Provenance, functions: bool, opset_version: int | None
) -> ModelProto | None:
    """Returns the file's graph with the current tensors, or None where the operator set rules it out."""
    if not default_opset(ModelProto.FromString(provenance.skeleton)):
        return None  # of no file, but traced
    model = restore(module, provenance)
    default = next(o for o in model.opset_import if o.domain in ("", "ai.onnx"))
    own = default.version
    wanted = min(own, OPSET_CEILING) if opset_version is None else opset_version
    if functions and wanted < _FUNCTIONS_FLOOR:
        if opset_version is not None:
            raise ExportError(
                f"opset {opset_version}: function bodies need opset {_FUNCTIONS_FLOOR} or above"
            )
        return None
    if wanted != own and not all(_same_schema(n, own, wanted) for n in all_nodes(model.graph)):
        if opset_version is not None:
            return None
        wanted = own  # its operators mean something else, or do not exist, in the sets that clients know
    if least_opset(model) > wanted:
        return None
    default.version = wanted
    return model


def _same_schema(node: onnx.NodeProto, own: int, wanted: int) -> bool:
    """Whether a node means the same in two operator sets, as it stands."""
    if node.domain not in ("", "ai.onnx"):
        return True
    try:
        old, new = (onnx.defs.get_schema(node.op_type, v) for v in (own, wanted))
    except onnx.defs.SchemaError:
        # Either a QONNX operator that an old exporter left in the default domain, or one that is too new.
        return not onnx.defs.has(node.op_type, own)
    if old.since_version == new.since_version:
        return True
    if any(a.name == "ceil_mode" and a.i for a in node.attribute):
        return False  # before opset 22 the last window of a pool could lie in the padding
    # From 21 on operator sets have added element types, not changed what a node without new attributes means.
    return (
        min(own, wanted) >= OPSET_CEILING
        and len(node.input) <= new.max_input
        and all(a.name in new.attributes for a in node.attribute)
        and all(
            a.default_value == old.attributes[n].default_value
            for n, a in new.attributes.items()
            if n in old.attributes
        )
    )


def _with_functions(model: ModelProto, ir_version: int | None) -> ModelProto:
    from .functions import attach_functions

    try:
        result = attach_functions(model)
    except ValueError as error:
        raise ExportError(str(error)) from error
    if ir_version is not None and ir_version < result.ir_version:
        raise ExportError(f"IR {ir_version}: function overloads need IR {result.ir_version}")
    return result
