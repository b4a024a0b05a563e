"""Shape values: Python numbers and tuples (of tuples) of them, computed on as NumPy computes on arrays.

What comes from a Shape stays Python, so that graphs keep symbolic sizes. A number is a 0-d array, a tuple of
n numbers has shape (n,), tuples of tuples have more dimensions. Ints are those of int64 and floats those of
float32, unless `number_type` says INT32 or DOUBLE. Values of other element types are tensors.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from onnx import TensorProto

from qonnx_torch.dtypes import torch_dtype
from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import as_tensor, is_shape_value

__all__ = [
    "NUMBER_TYPES",
    "along",
    "chosen",
    "computed",
    "dimensions",
    "each",
    "elements",
    "fitted",
    "in_floats",
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

NUMBER_TYPES = (
    TensorProto.INT64,
    TensorProto.INT32,
    TensorProto.BOOL,
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
)
"""The element types whose values may be Python numbers."""


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
    """Returns a float rounded to float32; other numbers as they are.

    Symbolic floats have no digits to round: `whole_below` and its likes allow for that.
    """
    if _is_symbolic(number) or type(number) is not float:
        return number
    with np.errstate(all="ignore"):
        return float(np.float32(number))


def fitted(number: Any, number_type: int | None = None) -> Any:
    """Returns what its element type makes of a number: integers wrap around, floats are rounded.

    Symbolic numbers stay as they are: a size that overflows is not one that a tensor has.

    Args:
        number: a number.
        number_type: INT32 or DOUBLE; absent for the other types, which the number shows.
    """
    if not torch.compiler.is_dynamo_compiling() and type(number) is int:
        half = 1 << (31 if number_type == TensorProto.INT32 else 63)
        return (number + half) % (2 * half) - half
    return number if number_type == TensorProto.DOUBLE else single(number)


def in_floats(compute: Callable[..., Any], *numbers: Any) -> Any:
    """Applies a function to floats as IEEE 754 has it: what is divided by 0 is infinite, say."""
    if any(map(_is_symbolic, numbers)) or any(isinstance(n, torch.SymInt) for n in numbers):
        return compute(*numbers)
    with np.errstate(all="ignore"):
        return float(compute(*map(np.float64, numbers)))


_NEARLY = 2.0**-25
"""Half of the distance of two neighbours in float32, at least, as a share of them."""


def _nearness(number: Any, number_type: int | None) -> float:
    """Returns how near an integer a float may be another one: symbolic ones are not rounded to float32."""
    return _NEARLY if _is_symbolic(number) and number_type != TensorProto.DOUBLE else 0.0


def whole_below(number: Any, number_type: int | None = None) -> Any:
    """Returns a float rounded down; a symbolic one that float32 does not tell from the next integer, up."""
    near = _nearness(number, number_type)
    return math.floor(number + near * torch.sym_max(number, -number) if near else number)


def whole_above(number: Any, number_type: int | None = None) -> Any:
    """Returns a float rounded up; a symbolic one that float32 does not tell from the last integer, down."""
    near = _nearness(number, number_type)
    return math.ceil(number - near * torch.sym_max(number, -number) if near else number)


def whole_towards_zero(number: Any, number_type: int | None = None, bits: int = 64) -> Any:
    """Returns a number truncated; a symbolic float that float32 does not tell from an integer is that one.

    Floats that no integer of so many bits has become the smallest one, as processors convert them.
    """
    if not isinstance(number, (float, torch.SymFloat)):
        return torch.sym_int(number)
    if not _is_symbolic(number):
        limit = 2.0 ** (bits - 1)
        return int(number) if -limit - 1 < number < limit else -(1 << (bits - 1))
    nearly: Any = 1 + _nearness(number, number_type)
    return torch.sym_int(number * nearly)


def computed(
    numbers: Callable[..., Any],
    tensors: Callable[..., torch.Tensor],
    *values: Any,
    number_type: int | None = None,
) -> torch.Tensor:
    """Applies an elementwise operation to shape values, or to tensors where any value is one.

    Args:
        numbers: the operation on Python numbers; its results are fitted to their element type.
        tensors: the operation on tensors.
        values: what is computed on.
        number_type: of the shape values; see the head of this file.
    """
    return chosen(
        lambda *given: fitted(numbers(*given), number_type), tensors, *values, number_type=number_type
    )


def chosen(
    numbers: Callable[..., Any],
    tensors: Callable[..., torch.Tensor],
    *values: Any,
    number_type: int | None = None,
) -> torch.Tensor:
    """Like `computed`, for operations that give a number that they are given, or a truth value."""
    if all(isinstance(v, torch.Tensor) for v in values):
        return tensors(*values)
    if all(is_shape_value(v) for v in values):
        return each(numbers, *values)  # type: ignore[no-any-return]
    device = next(v.device for v in values if isinstance(v, torch.Tensor))
    dtype = None if number_type is None else torch_dtype(number_type)
    made = (v if isinstance(v, torch.Tensor) else as_tensor(v, dtype, device=device) for v in values)
    return tensors(*made)
