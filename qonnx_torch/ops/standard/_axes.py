"""Axes counted from the front."""

from __future__ import annotations

from collections.abc import Sequence

from qonnx_torch.errors import InvalidModelError

__all__ = ["axes_of", "axis_of"]


def axis_of(axis: int, rank: int) -> int:
    """Returns an axis of -rank to rank - 1 as one from 0.

    Raises:
        InvalidModelError: it is out of that range.
    """
    if not -rank <= axis < rank:
        raise InvalidModelError(f"axis {axis} is not one of a tensor of {rank} dimensions")
    return axis + rank if axis < 0 else axis


def axes_of(axes: Sequence[int] | int, rank: int) -> list[int]:
    """Returns one or several axes of -rank to rank - 1 as those from 0. Raises like `axis_of`."""
    return [axis_of(a, rank) for a in (axes if isinstance(axes, (tuple, list)) else (axes,))]
