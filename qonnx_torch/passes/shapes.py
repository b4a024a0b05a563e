"""Shapes and dtypes of every value, by running the module on fake tensors."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from onnx import ModelProto
from torch import Tensor, fx
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from qonnx_torch.dtypes import torch_dtype
from qonnx_torch.errors import UnsupportedModelError
from qonnx_torch.ops import as_tensor, is_shape_value
from qonnx_torch.provenance import provenance_of, value_names

__all__ = [
    "DataDependentShapeError",
    "FakeInterpreter",
    "InputSpec",
    "UndeclaredInputsError",
    "ValueInfo",
    "declared_inputs",
    "infer_shapes",
]


class UndeclaredInputsError(UnsupportedModelError):
    """Shapes were asked for, but those of the inputs are neither declared nor given."""


class DataDependentShapeError(UnsupportedModelError):
    """A node's result depends on data, so that no inference can tell its shape."""


Dim = int | str | None
"""A dimension: its size, the name of a dynamic one, or None where it is unknown."""


@dataclass(frozen=True, slots=True)
class ValueInfo:
    """Shape and dtype of a value."""

    shape: tuple[Dim, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A graph input as declared: name, shape (None where the file gives none), dtype."""

    name: str
    shape: tuple[Dim, ...] | None
    dtype: torch.dtype


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
        tensor = value.type.tensor_type
        dims: tuple[Dim, ...] | None = None
        if tensor.HasField("shape"):
            dims = tuple(
                d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else (d.dim_param or None)
                for d in tensor.shape.dim
            )
        specs.append(InputSpec(value.name, dims, torch_dtype(tensor.elem_type)))
    return specs


class FakeInterpreter(fx.Interpreter):
    """Runs a module on fake tensors and keeps what each node gives.

    Raises:
        UnsupportedModelError: a node cannot be inferred; the message names it.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.extra_traceback = False  # fx would add the node's code and advice on its own tools to messages
        self.results: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node and records its result."""
        try:
            result = super().run_node(n)
        except Exception as error:
            origin = n.meta.get("onnx")
            name = f"{origin.name or origin.outputs[0]!r} ({origin.op_type})" if origin else n.name
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            depends = isinstance(error, (DataDependentOutputException, DynamicOutputShapeException))
            reason = "it depends on data" if depends else reason
            kind = DataDependentShapeError if depends else UnsupportedModelError
            raise kind(f"the shape of node {name} cannot be inferred: {reason}") from error
        self.results[n] = result
        return result


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch from logging the traceback of an inference that fails; the error says it all."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _evaluating(module: fx.GraphModule) -> Iterator[None]:
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for m, training in modes.items():
            m.training = training


def propagate(
    module: fx.GraphModule, inputs: Sequence[tuple[Sequence[int], torch.dtype]], interpreter: FakeInterpreter
) -> dict[fx.Node, Any]:
    """Returns what each node gives on fake inputs of these shapes and dtypes, in `eval()`."""
    with _evaluating(module), _quiet(), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        interpreter.run(*(torch.empty(tuple(shape), dtype=dtype) for shape, dtype in inputs))
    return interpreter.results


def infer_shapes(module: fx.GraphModule, *args: Tensor) -> dict[str, ValueInfo]:
    """Returns shape and dtype of every value, by ONNX name; also written to `node.meta["value_info"]`.

    Args:
        module: an imported (or edited) module.
        *args: example inputs; where absent, the shapes that the file declares. Dynamic dimensions keep
            their names as far as they are passed through.

    Returns:
        Value name -> ValueInfo, in graph order. A shape held as Python ints counts as the int64 tensor it
        is in ONNX.

    Raises:
        UnsupportedModelError: a node cannot be inferred (it is named); `UndeclaredInputsError` where the
            inputs' shapes are unknown, `DataDependentShapeError` where a node's shape depends on data.
    """
    specs: list[InputSpec]
    if args:
        specs = [InputSpec(str(i), tuple(a.shape), a.dtype) for i, a in enumerate(args)]
    else:
        specs = _declared_specs(module)
    runs = [propagate(module, sizes, FakeInterpreter(module)) for sizes in _sizes(specs)]
    symbols = _symbols(specs)
    infos: dict[str, ValueInfo] = {}
    for node, names in value_names(module).items():
        if node.op == "output":
            continue
        results = [run[node] for run in runs]
        if isinstance(results[0], (tuple, list)) and any(isinstance(r, Tensor) for r in results[0]):
            parts: list[list[Any]] = [list(part) for part in zip(*results, strict=True)]
        else:
            parts = [results]
        if any(isinstance(r, (tuple, list)) and any(isinstance(e, Tensor) for e in r) for (r, *_) in parts):
            continue  # a torch module that gives nested tuples (LSTM) is no ONNX operator
        found = [_describe(part, symbols) for part in parts]
        node.meta["value_info"] = found[0] if len(found) == 1 else tuple(found)
        for name, info in zip(names, found, strict=False):
            if name:
                infos.setdefault(name, info)
    return infos


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


def _sizes(specs: Sequence[InputSpec]) -> Iterator[list[tuple[list[int], torch.dtype]]]:
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
