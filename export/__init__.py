"""`torch.fx.GraphModule` to ONNX."""

from __future__ import annotations

import os
from collections.abc import Mapping

import onnx
from onnx import ModelProto
from torch import Tensor, fx, nn

from qonnx_torch.errors import ExportError, UnsupportedModelError
from qonnx_torch.passes.shapes import ValueInfo, infer_shapes
from qonnx_torch.provenance import Provenance, fingerprint, provenance_of

from .emitter import emit
from .finalise import OPSET_CEILING, finalise
from .restore import restore
from .writing import write_model

__all__ = ["export_qonnx"]

_CANONICAL_FLOOR = 13
_FUNCTIONS_FLOOR = 15


def export_qonnx(
    module: nn.Module,
    path: str | os.PathLike[str] | None = None,
    *,
    args: tuple[Tensor, ...] = (),
    functions: bool = False,
    opset_version: int | None = None,
    ir_version: int | None = None,
) -> ModelProto:
    """Returns a module as a QONNX model, and writes it where a path is given.

    An imported module whose graph is unchanged (trained weights are no change) comes back at its own operator
    set with the same nodes, names and, where a tensor is unmodified, the same initializer bytes. An edited
    graph is written whole, in canonical form. Either way the file has: today's domain names, imported, the
    default one first; IR 8 to 10 and opset at most 21; sorted nodes; no initializer among the inputs; one
    value_info for each intermediate value and none for inputs and outputs.

    Args:
        module: a GraphModule from `import_model`, possibly edited.
        path: where to write; the file is written beside and renamed. None writes nothing.
        args: example inputs, needed only where the module no longer knows its input shapes.
        functions: give every QONNX operator a function body, so that plain onnxruntime runs the file.
            Needs opset 15; a graph from an older one is then written in canonical form.
        opset_version: ai.onnx operator set to write; None keeps the file's own, up to 21.
        ir_version: IR version to write; None for 8 to 10.

    Returns:
        The model that was written.

    Raises:
        ExportError: nodes without an ONNX operator (all are listed), an operator set that cannot express
            the graph, an unusable path, or a module that is no GraphModule.
    """
    if not isinstance(module, fx.GraphModule):
        raise ExportError(
            f"{type(module).__name__} is no torch.fx.GraphModule; import_model gives one, and modules built "
            "in PyTorch can be traced with torch.fx.symbolic_trace"
        )
    provenance = provenance_of(module)
    if provenance is not None and fingerprint(module) != provenance.fingerprint:
        provenance = None
    infos = _value_infos(module, args, required=provenance is None)
    model = _unchanged(module, provenance, functions, opset_version) if provenance is not None else None
    if model is None:
        version = opset_version or OPSET_CEILING
        if version < _CANONICAL_FLOOR:
            raise ExportError(
                f"opset {version}: a graph is written whole only at opset {_CANONICAL_FLOOR} or above"
            )
        if not infos:
            _value_infos(module, args, required=True)
        model, infos = emit(module, version)
    finalise(model, infos, ir_version)
    if functions:
        model = _with_functions(model, ir_version)
    if path is not None:
        write_model(model, path)
    return model


def _value_infos(
    module: fx.GraphModule, args: tuple[Tensor, ...], *, required: bool
) -> Mapping[str, ValueInfo]:
    try:
        return infer_shapes(module, *args)
    except UnsupportedModelError as error:
        if required:
            raise ExportError(f"the graph cannot be written: {error}; give example inputs as args") from error
        return {}  # the file's own value_info stays


def _unchanged(
    module: fx.GraphModule, provenance: Provenance, functions: bool, opset_version: int | None
) -> ModelProto | None:
    """Returns the file's graph with the current tensors, or None where the operator set rules it out."""
    model = restore(module, provenance)
    default = next((o for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
    if default is None:
        return None
    own = default.version
    wanted = opset_version or min(own, OPSET_CEILING)
    if functions and wanted < _FUNCTIONS_FLOOR:
        if opset_version is not None:
            raise ExportError(
                f"opset {opset_version}: function bodies need opset {_FUNCTIONS_FLOOR} or above"
            )
        return None
    if wanted != own:
        if not all(_same_schema(n, own, wanted) for n in model.graph.node):
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
