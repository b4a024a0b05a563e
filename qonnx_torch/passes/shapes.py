"""Shapes and dtypes of every value, by running the module on fake tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from onnx import ModelProto
from torch import Tensor, fx

from qonnx_torch.dtypes import element_type_of, torch_dtype
from qonnx_torch.element_types import ElementTypes
from qonnx_torch.errors import UnsupportedModelError
from qonnx_torch.ops import as_tensor, is_shape_value
from qonnx_torch.passes.propagation import DataDependentShapeError, FakeInterpreter, propagate
from qonnx_torch.passes.value_types import value_types
from qonnx_torch.provenance import provenance_of, value_names
from qonnx_torch.registry import REGISTRY

__all__ = [
    "DataDependentShapeError",
    "FakeInterpreter",
    "InputSpec",
    "UndeclaredInputsError",
    "ValueInfo",
    "declared_inputs",
    "infer_shapes",
    "propagate",
]


class UndeclaredInputsError(UnsupportedModelError):
    """Shapes were asked for, but those of the inputs are neither declared nor given."""


Dim = int | str | None
"""A dimension: its size, the name of a dynamic one, or None where it is unknown."""


@dataclass(frozen=True, slots=True)
class ValueInfo:
    """Shape and dtype of a value."""

    shape: tuple[Dim, ...]
    dtype: torch.dtype


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


def infer_shapes(module: fx.GraphModule, *args: Any, partial: bool = False) -> dict[str, ValueInfo]:
    """Returns shape and dtype of every value, by ONNX name; also written to `node.meta["value_info"]`.

    Values in subgraphs have it written as well, as far as it can be told, but are not returned; sequences and
    optionals have no shape.

    Args:
        module: an imported (or edited) module.
        *args: example inputs; where absent, the shapes that the file declares. Dynamic dimensions keep
            their names as far as they are passed through.
        partial: leave out values whose shapes depend on data, and those behind them, rather than raise.

    Returns:
        Value name -> ValueInfo, in graph order. A shape held as Python ints counts as the tensor it is in
        ONNX.

    Raises:
        UnsupportedModelError: a node cannot be inferred (it is named); `UndeclaredInputsError` where the
            inputs' shapes are unknown, `DataDependentShapeError` where a node's shape depends on data.
    """
    specs: list[InputSpec]
    if args:
        specs = [
            InputSpec(str(i), tuple(a.shape), a.dtype)
            if isinstance(a, Tensor)
            else InputSpec(str(i), None, torch.float32, a)
            for i, a in enumerate(args)
        ]
    else:
        specs = _declared_specs(module)
    for graph in module.modules():
        for node in graph.graph.nodes if isinstance(graph, fx.GraphModule) else ():
            node.meta.pop("value_info", None)
    runs = [FakeInterpreter(module, partial=partial) for _ in _sizes(specs)]
    for run, sizes in zip(runs, _sizes(specs), strict=True):
        propagate(module, sizes, run)
    symbols = _symbols(specs)
    types = value_types(module)
    for graph in runs[0].subgraphs:
        if all(graph in run.subgraphs for run in runs):
            _note(graph, [run.subgraphs[graph] for run in runs], symbols, types)
    return _note(module, runs, symbols, types)


def _note(
    module: fx.GraphModule,
    runs: Sequence[FakeInterpreter],
    symbols: dict[str, tuple[int, int]],
    types: Mapping[fx.GraphModule, ElementTypes],
) -> dict[str, ValueInfo]:
    """Writes the shapes and dtypes of a graph's values to its nodes; returns them by name."""
    infos: dict[str, ValueInfo] = {}
    own = types.get(module, ElementTypes())
    for node, names in value_names(module).items():
        if node.op == "output" or not all(node in run.results for run in runs):
            continue
        results = [run.results[node] for run in runs]
        parts = list(zip(*results, strict=True)) if _gives_several(module, node, results[0]) else [results]
        found = [None if _has_no_shape(part[0]) else _describe(part, symbols) for part in parts]
        if not any(found):
            continue
        for i, (part, info, name) in enumerate(zip(parts, found, names, strict=False)):
            if info is not None and is_shape_value(part[0]) and own[name]:
                found[i] = ValueInfo(info.shape, torch_dtype(own[name] or 0))
        varying = {axis for run in runs for axis in run.varying.get(node, ())}
        if varying and found[0] is not None:
            dims = (None if i in varying else size for i, size in enumerate(found[0].shape))
            found = [ValueInfo(tuple(dims), found[0].dtype)]
        node.meta["value_info"] = found[0] if len(found) == 1 else tuple(found)
        for name, info in zip(names, found, strict=False):
            if name and info is not None:
                infos.setdefault(name, info)
    return infos


def _gives_several(module: fx.GraphModule, node: fx.Node, result: Any) -> bool:
    """Whether a node gives several values, rather than one that is a shape."""
    if isinstance(result, tuple) and any(isinstance(r, Tensor) for r in result):
        return True
    target = type(module.get_submodule(str(node.target))) if node.op == "call_module" else node.target
    operator = REGISTRY.of_target(target)
    return isinstance(result, tuple) and operator is not None and operator.outputs != 1


def _has_no_shape(value: Any) -> bool:
    """Whether a value is a sequence, an empty optional, or what no ONNX operator gives (nested tuples)."""
    nested = isinstance(value, tuple) and any(isinstance(v, Tensor) for v in value)
    return value is None or isinstance(value, list) or nested


def _declared_specs(module: fx.GraphModule) -> list[InputSpec]:
    """Returns what is declared of the inputs that the graph has now, in its order."""
    declared = {spec.name: spec for spec in declared_inputs(module) or ()}
    names = [own[0] for node, own in value_names(module).items() if node.op == "placeholder"]
    if any(name not in declared or declared[name].shape is None for name in names):
        raise UndeclaredInputsError("the shapes of the inputs are not declared: give example inputs")
    return [declared[name] for name in names]


_PRIMES = ((37, 41), (43, 47), (53, 59), (61, 67), (71, 73), (79, 83))


def _symbols(specs: Sequence[InputSpec]) -> dict[str, tuple[int, int]]:
    """Returns two sizes to try for each dynamic dimension; unnamed ones are named by input and axis."""
    names: dict[str, tuple[int, int]] = {}
    for spec in specs:
        for axis, dim in enumerate(spec.shape or ()):
            if not isinstance(dim, int):
                name = dim or f"{spec.name}_dim_{axis}"
                names.setdefault(name, _PRIMES[len(names) % len(_PRIMES)])
    return names


def _sizes(specs: Sequence[InputSpec]) -> Iterator[list[tuple[list[int], torch.dtype] | list[Tensor] | None]]:
    symbols = _symbols(specs)
    for trial in range(2 if symbols else 1):
        yield [
            (
                [
                    d if isinstance(d, int) else symbols[d or f"{s.name}_dim_{axis}"][trial]
                    for axis, d in enumerate(s.shape or ())
                ],
                s.dtype,
            )
            if s.shape is not None
            else s.value
            for s in specs
        ]


def _describe(results: Sequence[Any], symbols: dict[str, tuple[int, int]]) -> ValueInfo:
    """Returns the ValueInfo behind one value's results in one or two trials."""
    tensors = [as_tensor(r) if is_shape_value(r) else r for r in results]
    names = {sizes: name for name, sizes in symbols.items()}
    dims: list[Dim] = []
    for sizes in zip(*(t.shape for t in tensors), strict=True):
        same = len(set(sizes)) == 1
        dims.append(int(sizes[0]) if same else names.get((int(sizes[0]), int(sizes[-1]))))
    return ValueInfo(tuple(dims), tensors[0].dtype)
