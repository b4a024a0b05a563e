"""Running sums and products along an axis."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qonnx_torch.ops._operator import operator
from qonnx_torch.ops.standard._axes import axis_of
from qonnx_torch.ops.standard._integers import on_bits
from qonnx_torch.ops.standard._numbers import integers

__all__: list[str] = []


def _running(
    x: Tensor, axis: int, exclusive: int, reverse: int, compute: Callable[[Tensor], Tensor], start: int
) -> Tensor:
    """Returns a running fold; `exclusive` shifts the input by one and begins with `start`."""
    x = x.flip(axis) if reverse else x
    if exclusive and x.shape[axis]:
        x = torch.constant_pad_nd(x, [0, 0] * (x.dim() - 1 - axis) + [1, -1], start)
    y = compute(x)
    return y.flip(axis) if reverse else y


@operator("CumSum", since_version=11, static=("axis",))
def cum_sum(x: Tensor, axis: int, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Returns the sum of the elements up to each along an axis.

    Args:
        x: any shape.
        axis: a number, or a tuple of one.
        exclusive: 1 leaves out the element itself.
        reverse: 1 sums from the end.

    Source: ONNX CumSum-14.
    """
    dim = axis_of(integers(axis)[0], x.dim())
    return on_bits(
        lambda t: _running(t, dim, exclusive, reverse, lambda u: u.cumsum(dim, dtype=u.dtype), 0), x
    )


@operator("CumProd", since_version=26, static=("axis",))
def cum_prod(x: Tensor, axis: int, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Returns the product of the elements up to each along an axis; else like `cum_sum`.

    Source: ONNX CumProd-26.
    """
    dim = axis_of(integers(axis)[0], x.dim())
    return on_bits(
        lambda t: _running(t, dim, exclusive, reverse, lambda u: u.cumprod(dim, dtype=u.dtype), 1), x
    )
