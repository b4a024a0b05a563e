"""Shapes and dtypes of every value, by running the module on fake tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx

from qonnx_torch.dtypes import torch_dtype
from qonnx_torch.element_types import ElementTypes
from qonnx_torch.ops import as_tensor, is_shape_value
from qonnx_torch.passes.inputs import Dim, Inputs, InputSpec, UndeclaredInputsError, declared_inputs
from qonnx_torch.passes.propagation import DataDependentShapeError, FakeInterpreter, propagate
from qonnx_torch.passes.trials import Trial, Trials
from qonnx_torch.passes.value_types import value_types
from qonnx_torch.provenance import value_names
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


@dataclass(frozen=True, slots=True)
class ValueInfo:
    """Shape and dtype of a value."""

    shape: tuple[Dim, ...]
    dtype: torch.dtype


def infer_shapes(
    module: fx.GraphModule, *args: Any, partial: bool = False, dynamic: bool = False
) -> dict[str, ValueInfo]:
    """Returns shape and dtype of every value, by ONNX name; also written to `node.meta["value_info"]`.

    Values in subgraphs have it written as well, as far as it can be told, but are not returned; sequences and
    optionals have no shape.

    Dynamic dimensions are tried out: the module runs at a few sizes of each that it takes (see
    `passes.trials`), small and large ones among them, and a dimension is a number or has a name where all
    runs agree; elsewhere it is None (`x[:10]` has 10 rows, or fewer). What has another number of dimensions
    only at a small size (a Squeeze without axes, at 1) is as it is at others.

    Args:
        module: an imported (or edited) module.
        *args: example inputs; where absent, the shapes that the file declares. Dynamic dimensions keep
            their names as far as they are passed through.
        partial: leave out values whose shapes depend on data, and those behind them, rather than raise.
        dynamic: the example inputs are only sizes that work: dimensions that the file declares dynamic stay
            so, unless the examples contradict (one name for two sizes).

    Returns:
        Value name -> ValueInfo, in graph order. A shape held as Python ints counts as the tensor it is in
        ONNX.

    Raises:
        UnsupportedModelError: a node cannot be inferred (it is named); `UndeclaredInputsError` where the
            inputs' shapes are unknown, `DataDependentShapeError` where a node's shape depends on data.
    """
    inputs = Inputs(module, args, dynamic=dynamic)
    for graph in module.modules():
        for node in graph.graph.nodes if isinstance(graph, fx.GraphModule) else ():
            node.meta.pop("value_info", None)
    trials = inputs.trials(partial=partial)
    types = value_types(module)
    for graph in trials.base[0].run.subgraphs:
        if all(graph in trial.run.subgraphs for trial in trials.base):
            _note(graph, trials.within(graph), types)
    placeholders = dict(
        zip((n for n in module.graph.nodes if n.op == "placeholder"), inputs.specs, strict=True)
    )
    return _note(module, trials, types, placeholders)


def _note(
    module: fx.GraphModule,
    trials: Trials,
    types: Mapping[fx.GraphModule, ElementTypes],
    placeholders: Mapping[fx.Node, InputSpec] = MappingProxyType({}),
) -> dict[str, ValueInfo]:
    """Writes the shapes and dtypes of a graph's values to its nodes; returns them by name."""
    infos: dict[str, ValueInfo] = {}
    own = types.get(module, ElementTypes())
    for node, names in value_names(module).items():
        if node.op == "output" or not all(node in trial.run.results for trial in trials.base):
            continue
        several = _gives_several(module, node, trials.base[0].run.results[node])
        found, first = _described(node, trials, several)
        if not any(found):
            continue
        for i, (part, info, name) in enumerate(zip(first, found, names, strict=False)):
            if info is not None and is_shape_value(part) and own[name]:
                found[i] = ValueInfo(info.shape, torch_dtype(own[name] or 0))
        runs = [trial.run for trial in (*trials.base, *trials.checks)]
        varying = {axis for run in runs for axis in run.varying.get(node, ())}
        if varying and found[0] is not None:
            dims = (None if i in varying else size for i, size in enumerate(found[0].shape))
            found = [ValueInfo(tuple(dims), found[0].dtype)]
        if node in placeholders and found[0] is not None and trials.base[0].sizes:
            found = [ValueInfo(placeholders[node].dims, found[0].dtype)]
        node.meta["value_info"] = found[0] if len(found) == 1 else tuple(found)
        for name, info in zip(names, found, strict=False):
            if name and info is not None:
                infos.setdefault(name, info)
    return infos


def _described(node: fx.Node, trials: Trials, several: bool) -> tuple[list[ValueInfo | None], list[Any]]:
    """Returns what is known of each value of a node, and the values in the first run."""
    base = [trial.run.results[node] for trial in trials.base]
    first = list(base[0]) if several else [base[0]]
    found: list[ValueInfo | None] = []
    for i in range(len(first)):
        parts = [(trial, _part(trial.run.results.get(node), i, several)) for trial in trials.base]
        parts += [(trial, _part(trial.run.results.get(node), i, several)) for trial in trials.checks]
        shapes = [(trial, _shape(part)) for trial, part in parts]
        ranks = {None if shape is None else len(shape) for _, shape in shapes[: len(trials.base)]}
        if None in ranks or len(ranks) > 1:
            found.append(None)
            continue
        agreeing = [(trial, shape) for trial, shape in shapes if shape is not None and len(shape) in ranks]
        dims = _dims(agreeing, apart=trials.apart)
        found.append(ValueInfo(dims, as_tensor(first[i]).dtype))
    return found, first


def _part(result: Any, index: int, several: bool) -> Any:
    if not several:
        return result
    return result[index] if isinstance(result, tuple) and index < len(result) else None


def _shape(value: Any) -> tuple[int, ...] | None:
    """Returns the sizes of a value, or None of a sequence, an empty optional, and tuples of tensors."""
    nested = isinstance(value, tuple) and any(isinstance(v, Tensor) for v in value)
    if value is None or isinstance(value, list) or nested:
        return None
    return tuple(map(int, (as_tensor(value) if is_shape_value(value) else value).shape))


def _dims(results: Sequence[tuple[Trial, tuple[int, ...]]], *, apart: bool) -> tuple[Dim, ...]:
    """Returns the dimensions behind the sizes that a value had in all trials."""
    names = results[0][0].sizes
    if not names:
        return results[0][1]
    if len(results) == 1:  # it says nothing of other sizes
        return (None,) * len(results[0][1])
    named: dict[tuple[int, ...], str | None] = {}
    for name in names:
        sizes = tuple(trial.sizes[name] for trial, _ in results)
        named[sizes] = named.get(sizes, name) if apart or sizes not in named else None
    dims: list[Dim] = []
    for sizes in zip(*(shape for _, shape in results), strict=True):
        dims.append(sizes[0] if len(set(sizes)) == 1 else named.get(sizes))
    return tuple(dims)


def _gives_several(module: fx.GraphModule, node: fx.Node, result: Any) -> bool:
    """Whether a node gives several values, rather than one that is a shape."""
    if isinstance(result, tuple) and any(isinstance(r, Tensor) for r in result):
        return True
    target = type(module.get_submodule(str(node.target))) if node.op == "call_module" else node.target
    operator = REGISTRY.of_target(target)
    return isinstance(result, tuple) and operator is not None and operator.outputs != 1
