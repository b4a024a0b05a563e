"""The ONNX ecosystem's backend interface (`onnx.backend.base`): NumPy in, NumPy out.

>>> import qonnx_torch.backend as backend
>>> backend.supports_device("CPU")
True

`backend.prepare(model, device).run(inputs)`, `backend.run_model(model, inputs)` and
`backend.run_node(node, inputs)` run a model as `qonnx_torch.import_model` reads it; the classes are
`QonnxTorchBackend` and `QonnxTorchBackendRep`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper
from onnx.backend.base import Backend, BackendRep, Device, DeviceType, namedtupledict
from torch import fx

from qonnx_torch.dtypes import PACKED_TYPES, element_type_name, element_type_of, from_array, to_array
from qonnx_torch.errors import InvalidModelError, UnsupportedModelError, VerificationError
from qonnx_torch.import_ import import_model
from qonnx_torch.registry import REGISTRY, canonical_domain

__all__ = [
    "QonnxTorchBackend",
    "QonnxTorchBackendRep",
    "is_compatible",
    "prepare",
    "run_model",
    "run_node",
    "supports_device",
]


class QonnxTorchBackendRep(BackendRep):
    """A model that is ready to run.

    Attributes:
        module: the imported `torch.fx.GraphModule`, on its device, in `eval()`.
    """

    def __init__(self, module: fx.GraphModule, model: ModelProto, device: torch.device) -> None:
        self.module = module
        self._device = device
        constants = {i.name for i in model.graph.initializer}
        self._inputs = {v.name: v.type for v in model.graph.input if v.name not in constants}
        self._outputs = [v.type for v in model.graph.output]
        names = [v.name for v in model.graph.output]
        self._names = [n if names.index(n) == i else f"{n}_{i}" for i, n in enumerate(names)]

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Returns the model's outputs as a named tuple of arrays (lists of them for sequences).

        The fields have the names of the outputs; one that is listed again has its position behind it.

        Args:
            inputs: arrays in graph-input order, a mapping of input names to arrays, or one array. A sequence
                is a list of arrays, an empty optional is None.
            **kwargs: none is known; for the interface.

        Raises:
            VerificationError: a wrong number of inputs, an unknown name, or an array that has another dtype
                or shape than the model declares.
        """
        if kwargs:
            raise VerificationError(f"run takes no option {next(iter(kwargs))!r}")
        with torch.no_grad():
            return self.arrays(self.module(*self.tensors(inputs)))

    def tensors(self, inputs: Any) -> tuple[Any, ...]:
        """Returns the arguments of the module that stand for `inputs`, which are as for `run`."""
        values = self._in_order(inputs)
        return tuple(self._tensor(v, *item) for v, item in zip(values, self._inputs.items(), strict=True))

    def arrays(self, results: Any) -> tuple[Any, ...]:
        """Returns what the module gives as `run` does: a named tuple of arrays."""
        results = results if len(self._outputs) != 1 else (results,)
        arrays = [_array(r, t) for r, t in zip(results, self._outputs, strict=True)]
        return namedtupledict("Outputs", self._names)(*arrays)

    def _in_order(self, inputs: Any) -> Sequence[Any]:
        if isinstance(inputs, Mapping):
            unknown = next((n for n in inputs if n not in self._inputs), None)
            missing = next((n for n in self._inputs if n not in inputs), None)
            if unknown is not None or missing is not None:
                problem = f"no input {unknown!r}" if missing is None else f"an input {missing!r}"
                raise VerificationError(f"the model has {problem}; its inputs are {list(self._inputs)}")
            return [inputs[n] for n in self._inputs]
        if isinstance(inputs, np.ndarray) or np.isscalar(inputs):
            inputs = [inputs]
        if len(inputs) != len(self._inputs):
            raise VerificationError(
                f"{len(inputs)} inputs are given; the model has {len(self._inputs)}: {list(self._inputs)}"
            )
        return list(inputs)

    def _tensor(self, value: Any, name: str, declared: TypeProto) -> Any:
        if value is None:
            return None
        if isinstance(value, (list, tuple)) and not declared.HasField("tensor_type"):
            return [self._tensor(v, name, declared) for v in value]
        array = np.asarray(value)
        known = element_type_of(declared)
        dims = declared.tensor_type.shape.dim if declared.tensor_type.HasField("shape") else None
        sizes = None if dims is None else [d.dim_value or None for d in dims]
        if known and array.dtype != helper.tensor_dtype_to_np_dtype(known):
            raise VerificationError(
                f"the input {name!r} is given as {array.dtype}; the model declares {element_type_name(known)}"
            )
        if sizes is not None and (
            len(sizes) != array.ndim
            or any(s not in (None, n) for s, n in zip(sizes, array.shape, strict=True))
        ):
            shown = [s or d.dim_param or "?" for s, d in zip(sizes, dims or (), strict=True)]
            raise VerificationError(
                f"the input {name!r} is given with the shape {list(array.shape)}; the model declares {shown}"
            )
        return from_array(array, known or None).to(self._device)


def _declared(name: str, value: Any) -> ValueInfoProto:
    """Returns the declaration of an input as a value has it: an array, or a list of arrays."""
    if isinstance(value, (list, tuple)) and all(isinstance(v, np.ndarray) for v in value):
        element_type = helper.np_dtype_to_tensor_dtype(value[0].dtype) if value else TensorProto.FLOAT
        return helper.make_tensor_sequence_value_info(name, element_type, None)
    array = np.asarray(value)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def _array(value: Any, declared: TypeProto) -> Any:
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        return [_array(v, declared) for v in value]
    element_type = element_type_of(declared)
    return to_array(value, element_type if element_type in PACKED_TYPES else None)


class QonnxTorchBackend(Backend):
    """Runs ONNX and QONNX models with torch. Source: onnx.backend.base of onnx 1.23."""

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Returns whether the model can be imported, and the device exists."""
        try:
            import_model(model)
        except (InvalidModelError, UnsupportedModelError):
            return False
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> QonnxTorchBackendRep:
        """Returns the model, ready to run.

        Args:
            model: a ModelProto.
            device: "CPU", "CUDA" or "CUDA:1".
            **kwargs: options of `qonnx_torch.import_model`.

        Raises:
            InvalidModelError, UnsupportedModelError: as `import_model`.
            VerificationError: the device does not exist.
        """
        if not cls.supports_device(device):
            raise VerificationError(f"device {device!r} is not available")
        place = _torch_device(device)
        return QonnxTorchBackendRep(import_model(model, **kwargs).to(place), model, place)

    @classmethod
    def run_node(
        cls,
        node: NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Returns the outputs of one node.

        Args:
            node: the node.
            inputs: arrays, one for each input that has a name; a list of arrays is a sequence.
            device: as for `prepare`.
            outputs_info: dtype and shape of each output, where known.
            **kwargs: `opset_version` of the node's domain (the newest where absent), and those of `prepare`.
        """
        domain = canonical_domain(node.domain)
        newest = onnx.defs.onnx_opset_version()
        if domain:
            newest = max((o.since_version for o in REGISTRY if o.domain == domain), default=1)
        versions = {"": onnx.defs.onnx_opset_version(), domain: int(kwargs.pop("opset_version", newest))}
        names = [n for n in dict.fromkeys(node.input) if n]
        given = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
        if len(given) != len(names):
            raise VerificationError(f"{len(given)} inputs are given; the node has {len(names)}: {names}")
        declared = [_declared(n, v) for n, v in zip(names, given, strict=True)]
        outputs = [helper.make_empty_tensor_value_info(n) for n in node.output if n]
        for value, (dtype, shape) in zip(outputs, outputs_info or (), strict=False):
            value.CopyFrom(
                helper.make_tensor_value_info(value.name, helper.np_dtype_to_tensor_dtype(dtype), shape)
            )
        sets = [helper.make_opsetid(*pair) for pair in versions.items()]
        graph = helper.make_graph([node], "node", declared, outputs)
        return cls.run_model(helper.make_model(graph, opset_imports=sets), given, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Returns whether "CPU", "CUDA" or "CUDA:n" is there."""
        try:
            wanted = Device(device)
        except (AttributeError, ValueError):
            return False
        if wanted.type == DeviceType.CPU:
            return True
        return torch.cuda.is_available() and wanted.device_id < torch.cuda.device_count()


def _torch_device(device: str) -> torch.device:
    wanted = Device(device)
    return torch.device("cpu") if wanted.type == DeviceType.CPU else torch.device("cuda", wanted.device_id)


is_compatible = QonnxTorchBackend.is_compatible
prepare = QonnxTorchBackend.prepare
run_model = QonnxTorchBackend.run_model
run_node = QonnxTorchBackend.run_node
supports_device = QonnxTorchBackend.supports_device
