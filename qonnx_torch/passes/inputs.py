"""The inputs of a module, as its file declares them or as examples are, at any sizes that they may have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from onnx import ModelProto
from torch import Tensor, fx

from qonnx_torch.dtypes import element_type_of, torch_dtype
from qonnx_torch.errors import UnsupportedModelError
from qonnx_torch.passes.dimensions import Dimensions
from qonnx_torch.passes.propagation import DataDependentShapeError, FakeInterpreter, propagate
from qonnx_torch.passes.trials import Search, Trial, Trials
from qonnx_torch.provenance import provenance_of, value_names

__all__ = ["Dim", "InputSpec", "Inputs", "UndeclaredInputsError", "declared_inputs"]


class UndeclaredInputsError(UnsupportedModelError):
    """Shapes were asked for, but those of the inputs are neither declared nor given."""


Dim = int | str | None
"""A dimension: its size, the name of a dynamic one, or None where it is unknown."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A graph input as declared: name, shape (None where the file gives none), dtype.

    Attributes:
        value: of an example input that is no tensor: a sequence of tensors, or an empty optional.
    """

    name: str
    shape: tuple[Dim, ...] | None
    dtype: torch.dtype
    value: list[Tensor] | None = None

    @property
    def dims(self) -> tuple[int | str, ...]:
        """The shape; a dynamic dimension without a name is named by input and axis."""
        dims = enumerate(self.shape or ())
        return tuple(f"{self.name}_dim_{axis}" if dim is None else dim for axis, dim in dims)


def declared_inputs(module: fx.GraphModule) -> list[InputSpec] | None:
    """Returns what the source file declares of the graph inputs, or None for a module without provenance."""
    provenance = provenance_of(module)
    if provenance is None:
        return None
    model = ModelProto.FromString(provenance.skeleton)
    constants = {i.name for i in model.graph.initializer}
    specs = []
    for value in model.graph.input:
        if value.name in constants:
            continue
        if not value.type.HasField("tensor_type"):  # a sequence or an optional
            specs.append(InputSpec(value.name, None, torch_dtype(element_type_of(value.type) or 1)))
            continue
        tensor = value.type.tensor_type
        dims: tuple[Dim, ...] | None = None
        if tensor.HasField("shape"):
            dims = tuple(
                d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else (d.dim_param or None)
                for d in tensor.shape.dim
            )
        specs.append(InputSpec(value.name, dims, torch_dtype(tensor.elem_type)))
    return specs


class Inputs:
    """The inputs of a module: what is declared, or example inputs.

    Args:
        module: the module.
        args: example inputs, or none for what the file declares.
        dynamic: dimensions that the file declares dynamic are so, and the examples are sizes that work.

    Attributes:
        specs: the inputs in the graph's order.

    Raises:
        UndeclaredInputsError: there are no examples, and the file does not say all shapes.
    """

    def __init__(self, module: fx.GraphModule, args: Sequence[Any] = (), *, dynamic: bool = False) -> None:
        self._module = module
        self._example: Mapping[str, int] | None = None
        self.specs = [_spec_of(str(i), a) for i, a in enumerate(args)] if args else _declared_specs(module)
        self._dimensions = _dimensions(self.specs)
        if args and dynamic:
            specs = _with_names(module, self.specs)
            dimensions = _dimensions(specs)
            example = _sizes_of(specs, self.specs, dimensions)
            if example:
                self.specs, self._dimensions, self._example = specs, dimensions, example

    def trials(self, *, partial: bool = False) -> Trials:
        """Returns runs that say what the shapes are; see `Search.find` for what is tried and raised."""
        if not self._dimensions.symbols:
            return Trials((self._static(partial),))
        try:
            return self._search(self._dimensions, partial).find(self._example)
        except DataDependentShapeError:
            raise
        except UnsupportedModelError:
            if self._dimensions.expressions and self._example is None:
                names = (name for spec in self.specs for name in spec.dims if isinstance(name, str))
                try:  # what reads like an expression may be a mere name
                    return self._search(Dimensions(names, evaluate=False), partial).find()
                except UnsupportedModelError:
                    pass
            raise

    def smallest(self) -> Trial:
        """Returns a run at the smallest sizes; see `Search.smallest`."""
        return self._search(self._dimensions).smallest() if self._dimensions.symbols else self._static()

    def _static(self, partial: bool = False) -> Trial:
        run = FakeInterpreter(self._module, partial=partial)
        propagate(self._module, self._at({}), run)
        return Trial({}, run)

    def _search(self, dimensions: Dimensions, partial: bool = False) -> Search:
        return Search(self._module, dimensions, self._at, partial=partial)

    def _at(self, sizes: Mapping[str, int]) -> list[tuple[list[int], torch.dtype] | list[Tensor] | None]:
        return [
            ([dim if isinstance(dim, int) else sizes[dim] for dim in spec.dims], spec.dtype)
            if spec.shape is not None
            else spec.value
            for spec in self.specs
        ]


def _dimensions(specs: Sequence[InputSpec]) -> Dimensions:
    return Dimensions(dim for spec in specs for dim in spec.dims if isinstance(dim, str))


def _declared_specs(module: fx.GraphModule) -> list[InputSpec]:
    """Returns what is declared of the inputs that the graph has now, in its order."""
    declared = {spec.name: spec for spec in declared_inputs(module) or ()}
    names = [own[0] for node, own in value_names(module).items() if node.op == "placeholder"]
    if any(name not in declared or declared[name].shape is None for name in names):
        raise UndeclaredInputsError("the shapes of the inputs are not declared: give example inputs")
    return [declared[name] for name in names]


def _spec_of(name: str, value: Any) -> InputSpec:
    """Returns an example input, which may be a sequence or an empty optional, as it is."""
    if isinstance(value, Tensor):
        return InputSpec(name, tuple(value.shape), value.dtype)
    return InputSpec(name, None, torch.float32, value)


def _with_names(module: fx.GraphModule, examples: Sequence[InputSpec]) -> list[InputSpec]:
    """Returns example inputs with those dimensions dynamic that the file declares so."""
    declared = {spec.name: spec for spec in declared_inputs(module) or ()}
    names = [own[0] for node, own in value_names(module).items() if node.op == "placeholder"]
    specs = []
    for name, example in zip(names, examples, strict=False):
        spec = declared.get(name)
        if (
            spec is None
            or spec.shape is None
            or example.shape is None
            or len(spec.shape) != len(example.shape)
        ):
            specs.append(example)
            continue
        dims = (n if isinstance(d, int) else d for d, n in zip(spec.dims, example.shape, strict=True))
        specs.append(InputSpec(name, tuple(dims), example.dtype))
    return specs if len(specs) == len(examples) else list(examples)


def _sizes_of(
    specs: Sequence[InputSpec], examples: Sequence[InputSpec], dimensions: Dimensions
) -> Mapping[str, int] | None:
    """Returns the sizes of the symbols in the examples, or None where these contradict what is declared."""
    sizes: dict[str, int] = {}
    for spec, example in zip(specs, examples, strict=True):
        for dim, size in zip(spec.dims, example.dims, strict=True):
            if isinstance(dim, str) and isinstance(size, int) and sizes.setdefault(dim, size) != size:
                return None
    return dimensions.assignment(sizes)
