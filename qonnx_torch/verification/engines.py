"""The programs that execute a model as a reference: onnxruntime and qonnx."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, helper

from qonnx_torch.errors import VerificationError
from qonnx_torch.export import export_qonnx
from qonnx_torch.export.functions import attach_functions
from qonnx_torch.graphs import all_nodes
from qonnx_torch.import_ import import_model
from qonnx_torch.import_.dialects import OperatorSets
from qonnx_torch.registry import CHANNELS_LAST_DOMAIN, QONNX_DOMAIN

from .data import Array
from .graph import GraphValue

__all__ = ["OnnxRuntime", "Qonnx", "Values"]

_FUNCTIONS_OPSET = 15
"""Local functions with the operators that the bodies use need this opset."""


@dataclass(frozen=True, slots=True)
class Values:
    """What a reference has for one batch: outputs in order (None: not given), intermediate values by name."""

    outputs: Sequence[Array | None]
    inner: Mapping[str, Array]


def _fixed_batch(model: ModelProto) -> int | None:
    constants = {t.name for t in model.graph.initializer}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in constants and len(dims):
            return dims[0].dim_value or None
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _plain_domains(model: ModelProto) -> tuple[ModelProto, bool]:
    """Returns a copy with today's domain on every QONNX node, imported, and whether there is such a node."""
    sets = OperatorSets(model)
    copy = ModelProto()
    copy.CopyFrom(model)
    used = set()
    for node in all_nodes(copy.graph):
        domain = sets.domain(node)
        if domain in (QONNX_DOMAIN, CHANNELS_LAST_DOMAIN):
            used.add(domain)
            node.domain = domain
            if node.op_type == "Trunc":
                sets.versions[domain] = max(sets.versions[domain], sets.version(node))
            for attribute in node.attribute:
                if attribute.name == "rounding_mode" and attribute.s.upper() == b"ROUND_TO_ZERO":
                    attribute.s = b"DOWN"  # Brevitas' name for it, which no other tool knows
    del copy.opset_import[:]
    others = set(sets.versions) - {QONNX_DOMAIN, CHANNELS_LAST_DOMAIN}
    for domain in sorted({"", *used, *others}):
        # qonnx reads the channels-last domain's version as that of the operators in it.
        version = sets.versions["" if domain == CHANNELS_LAST_DOMAIN else domain]
        copy.opset_import.append(helper.make_opsetid(domain, version))
    return copy, bool(used)


def _for_onnxruntime(model: ModelProto) -> ModelProto:
    """Returns the model as plain onnxruntime runs it: QONNX nodes get function bodies."""
    plain, has_qonnx = _plain_domains(model)
    if not has_qonnx:
        return plain
    opset = {o.domain: o.version for o in plain.opset_import}[""]
    if opset >= _FUNCTIONS_OPSET:
        return attach_functions(plain)
    return export_qonnx(import_model(model), None, functions=True)


@dataclass(slots=True)
class OnnxRuntime:
    """onnxruntime on the CPU: one thread, graph optimisations off, every wanted value an output."""

    session: Any
    outputs: list[str]
    inner: list[str]
    batch: int | None
    name: str = "onnxruntime"
    lenient: bool = False

    @classmethod
    def of(cls, model: ModelProto, values: Sequence[GraphValue]) -> OnnxRuntime:
        """Returns a session that also gives the wanted values.

        Raises:
            VerificationError: onnxruntime is not installed or does not load the model.
            QonnxTorchError: the model is below opset 15 and cannot be brought to it.
        """
        try:
            import onnxruntime
        except ImportError:
            raise VerificationError(
                "onnxruntime is not installed; install it with: pip install 'qonnx-torch[ort]'"
            ) from None
        try:
            runnable = _for_onnxruntime(model)
        except ValueError as error:
            raise VerificationError(
                f"the model has no form that onnxruntime runs: {_first_line(error)}"
            ) from error
        outputs = [o.name for o in runnable.graph.output]
        computed = {n for node in runnable.graph.node for n in node.output if n}
        inner = [v.name for v in values if v.name in computed and v.name not in outputs]
        runnable.graph.output.extend(onnx.ValueInfoProto(name=n) for n in inner)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(
                runnable.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions have no common base but Exception
            raise VerificationError(f"onnxruntime does not load the model: {_first_line(error)}") from error
        return cls(session, outputs, inner, _fixed_batch(runnable))

    def values(self, inputs: Sequence[Array], rows: slice) -> Values:
        """Returns the values for one batch. Raises VerificationError where onnxruntime fails."""
        names = [i.name for i in self.session.get_inputs()]
        try:
            results = self.session.run([*self.outputs, *self.inner], dict(zip(names, inputs, strict=True)))
        except Exception as error:
            raise VerificationError(f"onnxruntime does not run the model: {_first_line(error)}") from error
        count = len(self.outputs)
        return Values(list(results[:count]), dict(zip(self.inner, results[count:], strict=True)))


@contextmanager
def _quiet_onnxruntime() -> Iterator[None]:
    """Keeps back the warnings of the many sessions that qonnx makes (its channels-last Conv uses opset 1)."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)  # errors
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(2)  # warnings: onnxruntime's default, which cannot be read


@dataclass(slots=True)
class Qonnx:
    """qonnx' node-by-node execution after the steps of its `cleanup_model` that keep value names."""

    model: ModelProto
    inputs: list[str]
    outputs: list[str]
    batch: int | None
    name: str = "qonnx"
    lenient: bool = False
    _prepared: dict[tuple[tuple[int, ...], ...], Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: ModelProto) -> Qonnx:
        """Returns the execution of a model. Raises VerificationError where qonnx is not installed."""
        try:
            import qonnx.core.onnx_exec  # noqa: F401
        except ImportError:
            raise VerificationError(
                "qonnx is not installed; install it with: pip install 'qonnx-torch[test]'"
            ) from None
        plain, _ = _plain_domains(model)
        constants = {t.name for t in plain.graph.initializer}
        inputs = [i.name for i in plain.graph.input if i.name not in constants]
        return cls(plain, inputs, [o.name for o in plain.graph.output], _fixed_batch(plain))

    def _prepare(self, shapes: tuple[tuple[int, ...], ...]) -> Any:
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.transformation import general
        from qonnx.transformation.fold_constants import FoldConstants
        from qonnx.transformation.infer_shapes import InferShapes

        model = ModelProto()
        model.CopyFrom(self.model)
        free = False
        for value in model.graph.input:
            if value.name in self.inputs:
                dims = value.type.tensor_type.shape.dim
                for dim, size in zip(dims, shapes[self.inputs.index(value.name)], strict=True):
                    free = free or dim.dim_value == 0
                    dim.dim_value = size
        if free:
            # Written for the free batch: qonnx trusts what is declared.
            del model.graph.value_info[:]
            for output in model.graph.output:
                output.type.tensor_type.ClearField("shape")
        wrapper = ModelWrapper(model)
        # As cleanup_model, without the steps that rename values or replace a weight by its transpose.
        for step in (
            InferShapes(),
            general.GiveUniqueParameterTensors(),
            FoldConstants(exclude_op_types=["Quant", "BipolarQuant", "QuantizeLinear", "DequantizeLinear"]),
            general.RemoveUnusedTensors(),
            general.RemoveStaticGraphInputs(),
        ):
            wrapper = wrapper.transform(step)
        return wrapper

    def values(self, inputs: Sequence[Array], rows: slice) -> Values:
        """Returns the values for one batch. Raises VerificationError where qonnx fails."""
        from qonnx.core.onnx_exec import execute_onnx

        shapes = tuple(a.shape for a in inputs)
        try:
            with _quiet_onnxruntime():
                if shapes not in self._prepared:
                    self._prepared[shapes] = self._prepare(shapes)
                context = execute_onnx(
                    self._prepared[shapes],
                    dict(zip(self.inputs, inputs, strict=True)),
                    return_full_exec_context=True,
                )
        except Exception as error:  # it raises plain Exception
            raise VerificationError(f"qonnx does not execute the model: {_first_line(error)}") from error
        outputs = [np.asarray(context[n]) for n in self.outputs]
        return Values(outputs, {n: np.asarray(v) for n, v in context.items() if n not in self.outputs})
