"""What a module is compared with: given values, another module, or a program that executes the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from onnx import ModelProto
from torch import fx, nn

from qonnx_torch.errors import QonnxTorchError, VerificationError
from qonnx_torch.export import export_qonnx
from qonnx_torch.import_ import ModelSource, import_model
from qonnx_torch.import_.reading import read_model
from qonnx_torch.ops import as_tensor, is_shape_value

from .data import Array, Data, arrays_by_name, input_specs, read_arrays, to_tensor
from .engines import OnnxRuntime, Qonnx, Values
from .graph import GraphValue, graph_values, output_names
from .runner import execute, faithful, on_device

__all__ = ["Given", "Reference", "Values", "reference_for"]


class Reference(Protocol):
    """Gives the expected values of one batch."""

    @property
    def name(self) -> str:
        """What the report calls it."""
        ...

    @property
    def batch(self) -> int | None:
        """The only batch size that it runs, or None for any."""
        ...

    @property
    def lenient(self) -> bool:
        """Whether a value of another shape is just another value, which has the same name by chance."""
        ...

    def values(self, inputs: Sequence[Array], rows: slice) -> Values:
        """Returns the values for a batch: rows `rows` of the data."""
        ...


# -- given values ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Given:
    """Values computed earlier, for the whole data.

    Attributes:
        outputs: by name; those left out are not compared.
        inner: intermediate values by name.
        order: names of the module's outputs.
        static: names of values that do not depend on the data.
        samples: rows of the data.
    """

    outputs: Mapping[str, Array]
    inner: Mapping[str, Array]
    order: Sequence[str]
    static: frozenset[str]
    samples: int
    name: str = "expected values"
    batch: int | None = None
    lenient: bool = False

    def values(self, inputs: Sequence[Array], rows: slice) -> Values:
        """Returns the part of each value that belongs to the rows of the data."""

        def part(name: str, array: Array) -> Array:
            if name in self.static or array.ndim == 0 or rows.stop - rows.start == self.samples:
                return array
            per_sample, rest = divmod(array.shape[0], self.samples)
            if rest:
                raise VerificationError(
                    f"expected {name!r}: shape {array.shape} given, whose first dimension is no multiple of "
                    f"the {self.samples} samples of the inputs"
                )
            return array[rows.start * per_sample : rows.stop * per_sample]

        return Values(
            [part(n, self.outputs[n]) if n in self.outputs else None for n in self.order],
            {n: part(n, a) for n, a in self.inner.items()},
        )

    @classmethod
    def of(cls, module: nn.Module, expected: Data | None, intermediates: Data | None, samples: int) -> Given:
        """Returns given values, sorted into outputs and intermediate values.

        Raises:
            VerificationError: unknown names, a wrong number of arrays, or nothing that can be compared.
        """
        values = graph_values(module) if isinstance(module, fx.GraphModule) else []
        known = frozenset(v.name for v in values)
        if isinstance(module, fx.GraphModule):
            names = output_names(module)
        else:  # outputs without names: as many as are given
            arrays = [] if expected is None else read_arrays(expected)
            names = list(arrays) if isinstance(arrays, dict) else [f"out{i}" for i in range(len(arrays))]
        given = {} if expected is None else arrays_by_name(expected, names, "output", also=known)
        inner = {n: a for n, a in given.items() if n not in names}
        if intermediates is not None:
            more = read_arrays(intermediates)
            found = {n: a for n, a in more.items() if n in known} if isinstance(more, dict) else {}
            if not found:
                raise VerificationError(
                    "none of the intermediate values has the name of a value in the graph"
                )
            inner.update(found)
        static = frozenset(v.name for v in values if v.static)
        return cls({n: a for n, a in given.items() if n in names}, inner, names, static, samples)


# -- another module --------------------------------------------------------------------------------


@dataclass(slots=True)
class _Module:
    """Another module, run on the CPU or where it is; values are matched by name and operator type."""

    module: nn.Module
    name: str
    like: Mapping[str, str]
    batch: int | None = None
    lenient: bool = True

    def values(self, inputs: Sequence[Array], rows: slice) -> Values:
        module, place = on_device(self.module, None)
        same = [
            v
            for v in (graph_values(module) if isinstance(module, fx.GraphModule) else [])
            if self.like.get(v.name) == v.op_type
        ]
        with faithful(module):
            results, environment = execute(module, [to_tensor(a, place) for a in inputs], keep=bool(same))
        inner = {
            v.name: as_tensor(environment[v.node]).detach().cpu().numpy()
            for v in same
            if _usable(environment, v)
        }
        return Values([t.detach().cpu().numpy() for t in results.values()], inner)


def _usable(environment: Mapping[fx.Node, Any], value: GraphValue) -> bool:
    result = environment[value.node]
    return not isinstance(result, (tuple, list)) or is_shape_value(result)


def _other_module(module: nn.Module, name: str, values: Sequence[GraphValue]) -> Reference:
    specs = input_specs(module)
    shape = specs[0].shape if specs else None
    return _Module(module, name, {v.name: v.op_type for v in values}, shape[0] if shape else None)


def reference_for(
    reference: str | os.PathLike[str] | ModelProto | nn.Module | Callable[..., Any],
    module: nn.Module,
    model: ModelSource | None,
    values: Sequence[GraphValue],
) -> Reference:
    """Returns a reference by what the caller named.

    Args:
        reference: "onnxruntime", "qonnx", a model (file) or a module.
        module: the module to verify.
        model: the model that onnxruntime or qonnx execute; by default the module, exported.
        values: the intermediate values that are wanted.

    Raises:
        VerificationError: a missing package, or a model that the reference cannot execute.
        QonnxTorchError: the reference model cannot be read or imported, or the module cannot be exported.
    """
    if isinstance(reference, nn.Module):
        return _other_module(reference, type(reference).__name__, values)
    if reference in ("onnxruntime", "qonnx"):
        if model is None:
            proto = export_qonnx(module, None)
        else:
            proto = read_model(model)
        return Qonnx.of(proto) if reference == "qonnx" else OnnxRuntime.of(proto, values)
    if isinstance(reference, ModelProto):
        return _other_module(import_model(reference), "another model", values)
    if isinstance(reference, (str, os.PathLike)):
        try:
            return _other_module(import_model(reference), str(reference), values)
        except QonnxTorchError as error:
            raise VerificationError(f"reference, neither 'onnxruntime' nor 'qonnx': {error}") from error
    raise VerificationError(
        f"a reference of type {type(reference).__name__} cannot be used; give a model or a module"
    )
