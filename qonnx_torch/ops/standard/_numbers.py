"""Shape values: Python numbers and tuples (of tuples) of them, computed on as NumPy computes on arrays.

What comes from a Shape stays Python, so that graphs keep symbolic sizes. A number is a 0-d array, a tuple of
n numbers has shape (n,), tuples of tuples have more dimensions; floats are those of float32.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import as_tensor, is_shape_value

__all__ = [
    "along",
    "computed",
    "dimensions",
    "each",
    "elements",
    "integers",
    "joined",
    "moved",
    "reduced",
    "shaped",
    "single",
    "taken",
    "whole_above",
    "whole_below",
    "whole_towards_zero",
]


def integers(value: Any) -> list[Any]:
    """Returns a number, or the numbers of a tuple, as a list."""
    return list(value) if isinstance(value, (tuple, list)) else [value]


def dimensions(value: Any) -> tuple[int, ...]:
    """Returns the shape of a shape value; () of a number."""
    sizes = []
    while isinstance(value, (tuple, list)):
        sizes.append(len(value))
        value = value[0] if value else None
    return tuple(sizes)


def elements(value: Any) -> list[Any]:
    """Returns all numbers of a shape value, the last dimension changing fastest."""
    return [n for v in value for n in elements(v)] if isinstance(value, (tuple, list)) else [value]


def shaped(numbers: Sequence[Any], sizes: Sequence[int]) -> Any:
    """Returns numbers as a shape value of a shape; the inverse of `elements`."""
    if not sizes:
        return numbers[0]
    step = math.prod(sizes[1:])
    return tuple(shaped(numbers[i * step : (i + 1) * step], sizes[1:]) for i in range(sizes[0]))


def each(compute: Callable[..., Any], *values: Any) -> Any:
    """Applies a function of numbers to shape values, broadcast."""
    ranks = [len(dimensions(v)) for v in values]
    if not any(ranks):
        return compute(*values)
    top = max(ranks)
    rows = [v if rank == top else (v,) for v, rank in zip(values, ranks, strict=True)]
    lengths = {len(row) for row in rows}
    if len(lengths - {1}) > 1:
        raise InvalidModelError(f"shapes {[dimensions(v) for v in values]} do not broadcast")
    length = min(lengths) if 0 in lengths else max(lengths)
    return tuple(
        each(compute, *(row[0 if len(row) == 1 else i] for row in rows)) for i in range(length)
    )  # fmt: skip


def along(value: Any, axis: int, change: Callable[[Any], Any]) -> Any:
    """Applies a function of a tuple to each tuple that lies along an axis."""
    return change(value) if axis == 0 else tuple(along(v, axis - 1, change) for v in value)


def taken(value: Any, index: Any) -> Any:
    """Returns value[i], for each i of an index of any shape."""
    return tuple(taken(value, i) for i in index) if isinstance(index, (tuple, list)) else value[index]


def joined(values: Sequence[Any], axis: int) -> Any:
    """Returns shape values joined along an axis."""
    if axis == 0:
        return tuple(itertools.chain.from_iterable(values))
    return tuple(joined(rows, axis - 1) for rows in zip(*values, strict=True))


def moved(value: Any, perm: Sequence[int]) -> Any:
    """Returns a shape value with its dimensions permuted."""
    sizes = dimensions(value)
    after = [sizes[p] for p in perm]
    numbers = []
    for index in itertools.product(*map(range, after)):
        place = dict(zip(perm, index, strict=True))
        found = value
        for axis in range(len(sizes)):
            found = found[place[axis]]
        numbers.append(found)
    return shaped(numbers, after)


def reduced(compute: Callable[[Any, Any], Any], value: Any, axes: Sequence[int], keepdims: bool) -> Any:
    """Returns a shape value folded with a binary function along axes (counted from the front)."""

    def fold(row: Any) -> Any:
        result = row[0]
        for other in row[1:]:
            result = each(compute, result, other)
        return (result,) if keepdims else result

    for axis in sorted(axes, reverse=True):
        value = along(value, axis, fold)
    return value


def _is_symbolic(number: Any) -> bool:
    return isinstance(number, torch.SymFloat) or torch.compiler.is_compiling()


def single(number: Any) -> Any:
    """Returns a float rounded to float32, which is what ONNX computes on; other numbers as they are.

    Symbolic floats have no digits to round: `whole_below` and its likes allow for that.
    """
    if _is_symbolic(number) or type(number) is not float or not math.isfinite(number):
        return number
    mantissa, exponent = math.frexp(number)
    return math.ldexp(round(mantissa * (1 << 24)), exponent - 24)


_NEARLY = 2.0**-25
"""Half of the distance of two neighbours in float32, at least, as a share of them."""


def whole_below(number: Any) -> Any:
    """Returns a float rounded down; a symbolic one that float32 does not tell from the next integer, up."""
    return math.floor(number + _NEARLY * torch.sym_max(number, -number) if _is_symbolic(number) else number)


def whole_above(number: Any) -> Any:
    """Returns a float rounded up; a symbolic one that float32 does not tell from the last integer, down."""
    return math.ceil(number - _NEARLY * torch.sym_max(number, -number) if _is_symbolic(number) else number)


def whole_towards_zero(number: Any) -> Any:
    """Returns a number truncated; a symbolic float that float32 does not tell from an integer is that one."""
    nearly: Any = 1 + _NEARLY
    inexact = isinstance(number, (float, torch.SymFloat)) and _is_symbolic(number)
    return torch.sym_int(number * nearly if inexact else number)


def computed(numbers: Callable[..., Any], tensors: Callable[..., torch.Tensor], *values: Any) -> torch.Tensor:
    """Applies an elementwise operation to shape values, or to tensors where any value is one.

    Args:
        numbers: the operation on Python numbers.
        tensors: the operation on tensors.
        values: what is computed on.
    """
    if all(isinstance(v, torch.Tensor) for v in values):
        return tensors(*values)
    if all(is_shape_value(v) for v in values):
        return each(lambda *given: single(numbers(*given)), *values)  # type: ignore[no-any-return]
    device = next(v.device for v in values if isinstance(v, torch.Tensor))
    return tensors(*(as_tensor(v, device=device) for v in values))
