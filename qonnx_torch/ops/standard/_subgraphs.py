"""What the operators with subgraphs share: conditions, values that cannot be read, empty results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import as_tensor

__all__ = [
    "ElementType",
    "Subgraph",
    "alike",
    "fresh",
    "has_no_value",
    "integer",
    "is_symbolic",
    "no_elements",
    "refuse",
    "stacked",
    "truth",
]

Subgraph = Callable[..., Any]
"""Takes its formal inputs and the captured values, returns a tuple of its outputs."""

ElementType = tuple[torch.dtype | None, Sequence[int | str | None] | None]
"""dtype and dimensions (sizes or names) of a scan output's elements, None where they are not declared."""


def truth(condition: Any) -> bool:
    """Returns a condition of one element as a Python bool. Raises InvalidModelError for other shapes."""
    return bool(_only(condition, "condition"))


def integer(count: Any) -> int:
    """Returns a count of one element as a Python int. Raises InvalidModelError for other shapes."""
    value = _only(count, "number of iterations")
    return int(value) if isinstance(value, Tensor) else value  # a symbolic size stays one


def _only(value: Any, what: str) -> Any:
    while isinstance(value, (tuple, list)) and len(value) == 1:
        value = value[0]
    if isinstance(value, (tuple, list)) or (isinstance(value, Tensor) and value.numel() != 1):
        shape = tuple(value.shape) if isinstance(value, Tensor) else (len(value),)
        raise InvalidModelError(f"the {what} has shape {shape}; it must have one element")
    return value


def has_no_value(value: Any) -> bool:
    """Returns whether a value is a fake tensor of an inference of shapes."""
    return not torch.compiler.is_compiling() and isinstance(value, FakeTensor)


def is_symbolic(length: Any) -> bool:
    """Returns whether a length is a dynamic one of a graph that `torch.export` makes."""
    return torch.compiler.is_exporting() and isinstance(length, torch.SymInt)


def fresh(values: Iterable[Any]) -> tuple[Any, ...]:
    """Returns values as copies: what the body of an exported loop returns must not be one of its inputs."""
    return tuple(v.clone() if isinstance(v, Tensor) else v for v in values)


def refuse(value: Tensor) -> NoReturn:
    """Raises torch's error of a result that depends on the value of a fake tensor."""
    bool(value.reshape(-1)[:1].any())
    raise DataDependentOutputException(torch.ops.aten._local_scalar_dense.default)


def alike(values: Sequence[Any], others: Sequence[Any]) -> bool:
    """Returns whether values have equal types and shapes; Python numbers must be equal."""
    return len(values) == len(others) and all(map(_alike, values, others))


def _alike(value: Any, other: Any) -> bool:
    if isinstance(value, Tensor):
        return isinstance(other, Tensor) and value.dtype == other.dtype and value.shape == other.shape
    if isinstance(value, list):
        return isinstance(other, list) and alike(value, other)
    return type(value) is type(other) and bool(value == other)


def stacked(elements: Sequence[Any], axis: int = 0) -> Tensor:
    """Returns the elements of a scan output as one tensor, with a new dimension at `axis` of the result."""
    device = next((e.device for e in elements if isinstance(e, Tensor)), None)
    return torch.stack([as_tensor(e, device=device) for e in elements], axis)


def no_elements(
    body: Subgraph,
    arguments: Iterable[Any],
    carried: int,
    declared: Sequence[ElementType],
    axes: Sequence[int],
) -> list[Tensor]:
    """Returns the scan outputs of no iteration: the declared types and dimensions, with 0 along each axis.

    Dimensions that are not declared are what the body gives for the arguments, else 0 as in onnxruntime.

    Args:
        body: what would have run.
        arguments: of the first iteration; a scan has elements of the right shape there.
        carried: number of the body's outputs before the scan outputs.
        declared: dtype and dimensions of each scan output's elements.
        axes: along which each scan output is stacked.
    """
    arguments = list(arguments)
    device = next((a.device for a in arguments if isinstance(a, Tensor)), None)
    complete = all(
        dtype is not None and dims is not None and all(isinstance(d, int) for d in dims)
        for dtype, dims in declared
    )
    found = [] if complete else _results_on_fakes(body, arguments)[carried:]
    empty = []
    for i, ((dtype, dims), axis) in enumerate(zip(declared, axes, strict=True)):
        if i < len(found):
            dtype, dims = _type_of(found[i])
        sizes = [0 if size is None or isinstance(size, str) else size for size in dims or ()]
        sizes.insert(axis if axis >= 0 else len(sizes) + 1 + axis, 0)
        empty.append(torch.empty(sizes, dtype=dtype, device=device))
    return empty


def _type_of(value: Any) -> ElementType:
    if isinstance(value, Tensor):
        return value.dtype, value.shape
    numbers = as_tensor(value)
    return numbers.dtype, numbers.shape


def _results_on_fakes(body: Subgraph, arguments: Sequence[Any]) -> tuple[Any, ...]:
    """Returns what a body gives, without running it; nothing where that cannot be told."""
    if torch.compiler.is_compiling():
        return tuple(body(*arguments))  # no result is read, so it drops out of the graph
    with suppress(Exception), torch.no_grad():
        if any(isinstance(a, FakeTensor) for a in arguments):
            return tuple(body(*arguments))
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            return tuple(body(*_tree_map(mode.from_tensor, arguments)))
    return ()


def _tree_map(function: Callable[[Tensor], Any], values: Iterable[Any]) -> list[Any]:
    """Returns values with their tensors, also those in sequences, put through a function."""
    return [
        function(v) if isinstance(v, Tensor) else _tree_map(function, v) if isinstance(v, list) else v
        for v in values
    ]
